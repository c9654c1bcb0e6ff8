"""The converted form: a folder in stock layout that an adapter loads without the original.

    config.json                      the stock class's configuration
    model-0000N-of-0000M.safetensors stock names, with their index
    tokenizer files                  as they were
    cxrbench.json                    which adapter, made of which weights, with which choices, what was left out
    NAME.safetensors                 tensors a `Drop` row keeps (a text tower for retrieval), under their own names

Written to a folder beside the target and renamed at the end: what is there is whole. torch is imported inside
functions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbench.atomic import replacing_folder
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models import network
from cxrbench.models.checkpoint import read_json
from cxrbench.models.keys import Plan, Row, Source

CARD_FILE = "cxrbench.json"
FORMAT = 1
SHARD_BYTES = 4 << 30
COPIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
)
"""Files that go along as they are."""

Progress = Callable[[int, int], None]


def read_card(folder: Path) -> dict[str, Any] | None:
    """What cxrbench.json of a folder says; None where the folder is no converted checkpoint.

    Raises:
        CxrbenchError: the file is damaged, or of a later format.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        return None
    body = read_json(file)
    if body.get("format") != FORMAT or not isinstance(body.get("model"), str):
        raise CxrbenchError(
            f"the folder was converted in a form this version does not read ({body.get('format')!r})",
            where=str(file),
            fix="convert the original again: cxrbench models convert NAME --path DIR --out DIR",
        )
    return body


def write(
    out: Path,
    kind: Any,
    config: Any,
    source: Source,
    rows: Sequence[Row],
    card: Mapping[str, Any],
    tokenizer: Path,
    progress: Progress | None = None,
) -> Plan:
    """Convert a checkpoint into the folder `out`, which must not exist or be empty.

    Raises:
        CxrbenchError: the folder is in use, the disk is full, or names, shapes or values do not fit.
    """
    if out.exists() and not out.is_dir():
        raise CxrbenchError("there is a file of this name", where=str(out), fix="name a new folder")
    if out.exists() and any(out.iterdir()):
        raise CxrbenchError(
            "the folder is not empty", where=str(out), fix="name a new folder, or delete this one first"
        )
    from safetensors import SafetensorError

    try:
        with replacing_folder(out) as part:
            module = network.build(kind, config)
            made = network.steps(module, source, rows)
            _write_weights(part, module, source, made, progress)
            _write_kept(part, source, made)
            _write_small(part, kind, config, card, made, tokenizer)
    except (OSError, SafetensorError) as error:  # a full disk is the latter while weights are written
        said = (error.strerror if isinstance(error, OSError) else None) or error
        raise CxrbenchError(
            f"the converted checkpoint cannot be written: {said}",
            where=str(out),
            code=Exit.INFRASTRUCTURE,
        ) from error
    return made


def _write_weights(part: Path, module: Any, source: Source, made: Plan, progress: Progress | None) -> None:
    import torch
    from safetensors.torch import save_file

    waiting: dict[str, Any] = {}
    shards: list[dict[str, int]] = []
    size = 0

    def flush() -> None:
        nonlocal size
        shards.append({name: value.nbytes for name, value in waiting.items()})
        save_file(waiting, part / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        waiting.clear()
        size = 0

    total = sum(len(step.targets) for step in made.steps)
    first = None
    for number, (name, value) in enumerate(network.converted(module, source, made.steps), start=1):
        first = first or value.dtype
        if waiting and size + value.nbytes > SHARD_BYTES:
            flush()
        waiting[name] = value.detach().clone().contiguous()
        size += value.nbytes
        if progress is not None:
            progress(number, total)
    for name in made.unset:
        waiting[name] = torch.zeros(module.state_dict()[name].shape, dtype=first)
    flush()
    table: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (part / f"{number}.safetensors").rename(part / file)
        table |= dict.fromkeys(shard, file)
    body = {"metadata": {"total_size": sum(sum(shard.values()) for shard in shards)}, "weight_map": table}
    (part / "model.safetensors.index.json").write_text(json.dumps(body, indent=1), encoding="utf-8")


def _write_kept(part: Path, source: Source, made: Plan) -> None:
    from safetensors.torch import save_file

    for file in sorted(set(made.kept.values())):
        names = [name for name, kept in made.kept.items() if kept == file]
        save_file({name: source.read(name).clone().contiguous() for name in names}, part / file, {"format": "pt"})


def _write_small(part: Path, kind: Any, config: Any, card: Mapping[str, Any], made: Plan, tokenizer: Path) -> None:
    from cxrbench import __version__

    config.architectures = [kind.__name__]
    config.save_pretrained(part)
    for pattern in COPIED:
        for file in sorted(tokenizer.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, part / file.name)
    body = {"format": FORMAT, **card, "left_out": made.told(), "cxrbench": __version__}
    (part / CARD_FILE).write_text(json.dumps(body, indent=1), encoding="utf-8")
