"""Tokenizers of published checkpoints, the LLaVA way of putting an image between tokens, and a stand-in for speed.

transformers is imported inside functions.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models import stock
from cxrbench.models.adapter import IMAGE
from cxrbench.models.checkpoint import read_json

CLASSES = ("LlamaTokenizer", "CodeGenTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "PreTrainedTokenizerFast")
"""Tokenizers of transformers that a tokenizer_config.json may name where there is no tokenizer.json."""


def read_tokenizer(folder: Path, *, bos: bool) -> Any:
    """The tokenizer of a checkpoint folder; its configuration is not asked, so an unknown model type does no harm.

    Args:
        folder: where its files lie.
        bos: whether the model was trained on texts that begin with BOS.

    Raises:
        CxrbenchError: its files are missing or damaged, need packages that are not here, or treat BOS otherwise.
    """
    import transformers

    name = _class_name(folder)
    if name != "PreTrainedTokenizerFast" and (folder / "tokenizer.model").is_file():
        missing = [each for each in ("sentencepiece", "google.protobuf") if _lacks(each)]
        if missing:
            raise CxrbenchError(
                f"tokenizer.model needs sentencepiece and protobuf, and {' and '.join(missing)} is not here",
                where=str(folder),
                fix="pip install sentencepiece protobuf, or put the model's tokenizer.json into the folder",
            )
    # transformers 4 put BOS before a LLaMA's text unless tokenizer_config.json said no, transformers 5 if it says yes.
    said = {"add_bos_token": True} if name == "LlamaTokenizer" and bos and not _says(folder, "add_bos_token") else {}
    with stock._reading(folder, "tokenizer"):
        made = getattr(transformers, name).from_pretrained(folder, local_files_only=True, **said)
    leads = made.bos_token_id is not None and made("x")["input_ids"][:1] == [made.bos_token_id]
    if leads != bos:
        raise CxrbenchError(
            f"the tokenizer {'begins' if leads else 'does not begin'} a text with BOS, and the model was trained"
            f" {'with' if bos else 'without'} it",
            where=str(folder),
            fix="copy the tokenizer files of the published checkpoint",
        )
    return made


def read_bert(folder: Path, whose: str) -> Any:
    """BERT's tokenizer, from tokenizer.json or vocab.txt; `whose` files they should be, for the message.

    Raises:
        CxrbenchError: there is neither, or they cannot be read.
    """
    import transformers

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise CxrbenchError(
            "there is no tokenizer: neither tokenizer.json nor vocab.txt",
            where=str(folder),
            fix=f"copy the tokenizer files of {whose}",
        )
    with stock._reading(folder, "tokenizer"):
        return transformers.BertTokenizer.from_pretrained(folder, local_files_only=True)


def _says(folder: Path, key: str) -> bool:
    file = folder / "tokenizer_config.json"
    return file.is_file() and key in read_json(file)


def _lacks(package: str) -> bool:
    try:
        return find_spec(package) is None
    except ModuleNotFoundError:  # the parent of a dotted name
        return True


def _class_name(folder: Path) -> str:
    if (folder / "tokenizer.json").is_file():
        return "PreTrainedTokenizerFast"
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        raise CxrbenchError(
            "there is no tokenizer: neither tokenizer.json nor tokenizer_config.json",
            where=str(folder),
            fix="copy the tokenizer files of the checkpoint",
        )
    named = str(read_json(file).get("tokenizer_class", "")).removesuffix("Fast")
    if named not in CLASSES:
        raise CxrbenchError(
            f"the tokenizer class {named!r} is not one that is read here",
            where=str(file),
            fix="put the model's tokenizer.json into the folder",
        )
    return named


def around_images(tokenizer: Any, prompt: str, image_token: int, count: int) -> list[int]:
    r"""Token ids of a prompt whose pieces around <image> are tokenized one by one, with one leading BOS at most.

    As in LLaVA's `tokenizer_image_token` (llava/mm_utils.py): a tokenizer that starts every text with BOS starts every
    piece with it, and all but the first are taken away. A SentencePiece tokenizer also starts every piece with its
    space mark, which stays: "\n" after an image becomes two tokens.

    Args:
        tokenizer: called with a text, gives `input_ids`.
        prompt: text with `<image>` markers.
        image_token: the id that stands for one patch.
        count: patches per image.
    """
    pieces = [list(tokenizer(piece)["input_ids"]) for piece in prompt.split(IMAGE)]
    bos = tokenizer.bos_token_id
    leads = bool(pieces[0]) and pieces[0][0] == bos
    ids = list(pieces[0])
    for piece in pieces[1:]:
        ids += [image_token] * count + piece[1 if leads else 0 :]
    return ids


CLEANED: tuple[tuple[str, str], ...] = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)


def cleaned(text: str) -> str:
    """What `decode` of transformers 4 did to a text unless told otherwise, and that of 5 does not any more.

    tokenization_utils_base.py of 4.36.2, clean_up_tokenization, whose order this is.

    >>> cleaned("no effusion , clear lungs .")
    'no effusion, clear lungs.'
    """
    for before, after in CLEANED:
        text = text.replace(before, after)
    return text


@dataclass(frozen=True, slots=True)
class StandIn:
    """Gives a text about as many tokens as a real tokenizer, for speed with random weights where there is none.

    Words are cut into pieces of up to six letters; ids are hashes of them, away from the special ones.
    """

    vocabulary: int
    bos_token_id: int | None
    eos_token_id: int
    reserved: frozenset[int]

    @classmethod
    def of(cls, config: Any) -> StandIn:
        """For the vocabulary of a network's configuration."""
        text = config.get_text_config(decoder=True)
        eos = text.eos_token_id if isinstance(text.eos_token_id, int) else 0
        image = getattr(config, "image_token_id", None)
        kept = frozenset(each for each in (text.bos_token_id, eos, image, 0) if each is not None)
        return cls(int(text.vocab_size), None, eos, kept)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self._id(piece) for piece in re.findall(r"\w{1,6}|[^\w\s]|\n", text)]}

    def _id(self, piece: str) -> int:
        made = zlib.crc32(piece.encode()) % self.vocabulary
        while made in self.reserved:
            made = (made + 1) % self.vocabulary
        return made

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        """Numbers in words' places."""
        return " ".join(f"t{token}" for token in tokens if token != self.eos_token_id)
