"""A checkpoint folder before anything is loaded: is it whole, may it be loaded, and which weights are they?

Standard library only, so that a broken folder is refused in milliseconds. Weights are read from safetensors files
alone: a pickle can run code while it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import private_file
from cxrbench.reading import read_regular

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CHUNK = 1 << 22
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as the reference implementation has it."""

LARGEST_JSON = 64 << 20
"""Bytes of a configuration or an index; the index of a model of 400 billion parameters has some 200,000."""

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
"""Files beside the weights that decide what is read and written."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed the checks. `config` and `generation` are the JSON files as they stand."""

    folder: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[Path, ...] = ()


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CxrbenchError: unreadable, not JSON, or not an object.
    """
    try:
        body = json.loads(read_regular(file, LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise CxrbenchError(
            f"{file.name} cannot be read: {said}", where=str(file), fix="copy the folder again"
        ) from error
    if not isinstance(body, dict):
        raise CxrbenchError(f"{file.name} is not a JSON object", where=str(file), fix="copy the folder again")
    return body


def named_folder(argument: str) -> Path:
    """The place an argument names, with a `~` in front spelled out; whether a folder is there is not looked at.

    Raises:
        CxrbenchError: the name is one that no file system takes.
    """
    folder = Path(os.path.expanduser(argument))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    try:
        folder.is_dir()
    except OSError as error:
        raise CxrbenchError(
            f"a folder cannot be called {argument[:40]!r}...: {error.strerror}", where="--model", fix="check the path"
        ) from error
    return folder


def open_folder(argument: str, *, need_weights: bool = True) -> Checkpoint:
    """Check a checkpoint folder: config.json, and every safetensors file it names, whole.

    Args:
        argument: path of the folder, as given after `hf:`.
        need_weights: False for `--load-format dummy`, which needs no weights.

    Raises:
        CxrbenchError: not a model folder, weights only as pickles, a shard missing or cut short.
    """
    if not argument:
        raise CxrbenchError("hf needs a checkpoint folder", where="--model hf", fix="--model hf:DIR")
    folder = named_folder(argument)
    if not folder.is_dir():
        raise CxrbenchError(
            f"there is no folder {argument!r}",
            where="--model",
            fix="hf:DIR names a folder on this machine; fetch a checkpoint with `hf download REPO --local-dir DIR`",
        )
    if not (folder / "config.json").is_file():
        raise CxrbenchError(
            "not a model folder: it has no config.json", where=str(folder), fix="name the folder that holds config.json"
        )
    extra = folder / "generation_config.json"
    return Checkpoint(
        folder=folder,
        config=read_json(folder / "config.json"),
        generation=read_json(extra) if extra.is_file() else {},
        weights=_weights(folder) if need_weights else (),
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files stock loading would read, each checked to be whole."""
    if (folder / SINGLE).is_file():
        names = [SINGLE]
    elif (folder / INDEX).is_file():
        table = read_json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise CxrbenchError("the index names no weights", where=str(folder / INDEX), fix="copy the folder again")
        names = sorted(inside(folder / INDEX, table.values()))
    else:
        raise _no_weights(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CxrbenchError(
            f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:3])}",
            where=str(folder),
            fix="copy or download the missing files",
        )
    files = tuple(folder / name for name in names)
    for file in files:
        read_header(file)
    return files


def inside(index: Path, names: Iterable[object]) -> set[str]:
    """The files an index names, which lie in its own folder: a file there may be a link (the hub's cache is made so).

    Raises:
        CxrbenchError: a name with a folder in it, or none.
    """
    found = {str(name) for name in names}
    if any("/" in name or "\\" in name or "\0" in name or name in ("", ".", "..") for name in found):
        raise CxrbenchError(
            "the index names a file outside its folder", where=str(index), fix="get the checkpoint from whom you trust"
        )
    return found


def _no_weights(folder: Path) -> CxrbenchError:
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
    if pickles:
        return CxrbenchError(
            f"the weights are pickles ({pickles[0].name}), which can run code when opened; only safetensors are read",
            where=str(folder),
            fix="convert them once where you trust them: load with transformers, then model.save_pretrained(DIR)",
        )
    return CxrbenchError(
        f"no weights: neither {SINGLE} nor {INDEX}",
        where=str(folder),
        fix="copy the weights, or measure speed alone with --load-format dummy",
    )


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """Read a safetensors header: (tensor name -> dtype, shape, data_offsets; byte at which the data begin).

    Layout: 8 bytes little-endian length, that many bytes of JSON, then the data
    (https://github.com/huggingface/safetensors, "Format").

    Raises:
        CxrbenchError: not a safetensors file, shorter than its header says, or with a header that contradicts itself.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= size - 8:
            raise CxrbenchError("not a whole safetensors file", where=str(file), fix="copy the file again")
        if length > LARGEST_HEADER:
            what = f"the safetensors header has {length:,} bytes, and {LARGEST_HEADER:,} are the format's limit"
            raise CxrbenchError(what, where=str(file), fix="copy the file again")
        try:
            header = json.loads(handle.read(length))
            tensors = {name: body for name, body in header.items() if name != "__metadata__"}
            end = max((_end(body) for body in tensors.values()), default=0)
            "".join(tensors).encode()  # half a surrogate is in no name, and could not be hashed
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise CxrbenchError("the safetensors header is damaged", where=str(file), fix="copy it again") from error
    if 8 + length + end != size:
        raise CxrbenchError(
            f"the file is cut short or damaged: {size:,} bytes where its header says {8 + length + end:,}",
            where=str(file),
            fix="copy the file again",
        )
    return tensors, 8 + length


def _end(body: Mapping[str, Any]) -> int:
    """Where the data of a tensor end, by a header that says for each tensor what the format asks for."""
    begin, end = body["data_offsets"]
    numbers = [begin, end, *body["shape"]]
    kind = body["dtype"]
    if type(kind) is not str or not kind.isascii() or any(type(each) is not int or each < 0 for each in numbers):
        raise ValueError("no header of a tensor")
    if begin > end:
        raise ValueError("data that end before they begin")
    return int(end)


def _tensor_digests(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, SHA-256 over dtype, shape and bytes) for every tensor of a file, in the order of the data.

    Any other file than safetensors is one entry: its name, and SHA-256 over its bytes.
    """
    if file.suffix != ".safetensors":
        with file.open("rb") as handle:
            yield file.name, hashlib.file_digest(handle, "sha256").digest()
        return
    tensors, start = read_header(file)
    with file.open("rb") as handle:
        for name, body in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = body["data_offsets"]
            digest = hashlib.sha256(f"{body['dtype']}{body['shape']}".encode())
            handle.seek(start + begin)
            left = end - begin
            while left:
                block = handle.read(min(CHUNK, left))
                digest.update(block)
                left -= len(block)
            yield name, digest.digest()


def hash_weights(files: Sequence[Path], cache: Path | None = None) -> str:
    """16 hex digits that name the weights, however they are cut into files.

    SHA-256 over the tensors in order of name, each by dtype, shape and bytes. Reading costs about a second per
    gigabyte, so the result is remembered under the files' paths, sizes and times.

    Args:
        files: safetensors files; other files (pickles) count by name and bytes.
        cache: JSON file of remembered hashes; by default `weights.json` in the user's cache folder.
    """
    memory = cache or cache_dir() / "weights.json"
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()
    known = _remembered(memory)
    if key not in known:
        with ThreadPoolExecutor(max_workers=4) as pool:
            found = sorted(pair for part in pool.map(lambda file: list(_tensor_digests(file)), files) for pair in part)
        digest = hashlib.sha256()
        for name, value in found:
            digest.update(name.encode() + b"\0" + value)
        known[key] = digest.hexdigest()[:16]
        _remember(memory, known)
    return known[key]


def _remembered(memory: Path) -> dict[str, str]:
    try:
        body = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # a cache that is not there or damaged only costs the time to hash again
    return body if isinstance(body, dict) else {}


def _remember(memory: Path, known: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError):  # a home that cannot be written only costs the time to hash again
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_name(f"{memory.name}.{os.getpid()}")
        with open(part, "w", encoding="utf-8", opener=private_file) as file:
            file.write(json.dumps(known))
        part.replace(memory)


def hash_small_files(folder: Path) -> str:
    """16 hex digits over configuration, tokenizer, processor and chat template: what else decides the text."""
    files = sorted({file for pattern in SMALL_FILES for file in folder.glob(pattern) if file.is_file()})
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def hash_or_error(checkpoint: Checkpoint) -> str:
    """Hash the weights of a checkpoint; a file that vanished or cannot be read becomes an error with its path."""
    try:
        return hash_weights(checkpoint.weights)
    except OSError as error:
        raise CxrbenchError(
            f"the weights cannot be read: {error.strerror}", where=str(checkpoint.folder), code=Exit.INFRASTRUCTURE
        ) from error
