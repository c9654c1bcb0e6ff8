"""Byte-level BPE tokenizers whose class is code in the checkpoint, read from vocab.json, merges.txt and their tags.

transformers and tokenizers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import read_json
from cxrbench.models.tokens import read_tokenizer


def read_tagged(folder: Path, tags: Sequence[str], end: str, *, bos: bool) -> Any:
    """A GPT-2-like tokenizer: the added tokens of the files, then those of `tags` that are not there yet.

    Args:
        folder: with tokenizer.json, or vocab.json and merges.txt.
        tags: special tokens the checkpoint's own class adds.
        end: ends texts.
        bos: whether the model was trained on texts that begin with BOS, for a tokenizer.json.

    Raises:
        CxrbenchError: files are missing or damaged, or added tokens do not follow the vocabulary without a gap.
    """
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder, bos=bos)
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing:
        raise CxrbenchError(
            f"there is no tokenizer: neither tokenizer.json nor {' and '.join(missing)}",
            where=str(folder),
            fix="copy the tokenizer files of the checkpoint",
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    try:
        made = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CxrbenchError(
            f"vocab.json or merges.txt cannot be read: {str(error)[:100]}", where=str(folder), fix="copy them again"
        ) from error
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    for place, text, special in _added(folder):
        made.add_tokens([AddedToken(text, special=special, normalized=False)])
        if made.token_to_id(text) != place:
            raise CxrbenchError(
                f"the added token {text!r} would be {made.token_to_id(text)}, and the files say {place}",
                where=str(folder),
                fix="copy all tokenizer files from one place",
            )
    made.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in (end, *tags)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end, unk_token=end)


def _added(folder: Path) -> list[tuple[int, str, bool]]:
    """Added tokens by id, with whether they are special: tokenizer_config.json, else added_tokens.json."""
    file = folder / "tokenizer_config.json"
    decoder = read_json(file).get("added_tokens_decoder") if file.is_file() else None
    if decoder:
        found = [(int(place), str(each["content"]), bool(each.get("special"))) for place, each in decoder.items()]
    else:
        file = folder / "added_tokens.json"
        found = [(int(place), text, False) for text, place in (read_json(file) if file.is_file() else {}).items()]
    return sorted(found)
