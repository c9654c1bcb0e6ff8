"""Sources of tensors: sharded safetensors, pickles opened with weights_only, and sources made of other sources.

Files are opened one at a time and tensors read one at a time, so a 7B checkpoint needs the memory of its largest
tensor. A pickle is never allowed to run code. torch and safetensors are imported inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import inside, read_header, read_json
from cxrbench.models.keys import Source, Tensor, listed

STEMS = ("model", "pytorch_model")
"""How the weights of a transformers checkpoint are called, without their ending."""


def find_files(folder: Path, stems: Sequence[str] = STEMS) -> tuple[Path, ...]:
    """The weight files of a folder, complete by its index; safetensors before pickles.

    Raises:
        CxrbenchError: there are none, the index cannot be read, or it names files that are not there.
    """
    for ending in ("safetensors", "bin"):
        for stem in stems:
            if (folder / f"{stem}.{ending}").is_file():
                return (folder / f"{stem}.{ending}",)
            index = folder / f"{stem}.{ending}.index.json"
            if index.is_file():
                return _complete(index)
    looked = ", ".join(f"{stem}.safetensors, {stem}.bin" for stem in stems)
    raise CxrbenchError(
        f"there are no weights: none of {looked} or their index",
        where=str(folder),
        fix="copy the weights, or measure speed alone with --load-format dummy",
    )


def _index(file: Path) -> dict[str, str]:
    table = read_json(file).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CxrbenchError("the index names no weights", where=str(file), fix="copy the file again")
    return {str(name): str(shard) for name, shard in table.items()}


def _complete(index: Path) -> tuple[Path, ...]:
    names = sorted(inside(index, _index(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CxrbenchError(
            f"{len(missing)} of {len(names)} weight files are missing: {listed(missing, 3)}",
            where=str(index.parent),
            fix="copy or download the missing files",
        )
    return tuple(index.parent / name for name in names)


class Shards:
    """Tensors of one or more files, see `Source`. `inner` is the key under which a pickle holds its tensors.

    Raises:
        CxrbenchError: a file that is cut short, a pickle that wants to run code, a name that two files hold, or names
            in the index that no file holds.
    """

    def __init__(self, files: Sequence[Path], inner: str = "") -> None:
        self.files = tuple(files)
        self._inner = inner
        self._place: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: tuple[Path, Any] | None = None
        for file in self.files:
            for name, shape in self._list(file):
                if name in self._place:
                    raise CxrbenchError(f"two files hold the weight {name}", where=str(file.parent))
                self._place[name], self._shapes[name] = file, shape
        self._check_index()

    @property
    def where(self) -> str:
        """The file, or the folder of several."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)

    def names(self) -> Sequence[str]:
        """File by file."""
        return tuple(self._place)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header."""
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        """One tensor; another file than the last one is opened, and that one closed."""
        file = self._place[name]
        if self._open is None or self._open[0] != file:
            self._open = (file, _open_safetensors(file) if file.suffix == ".safetensors" else self._unpickled(file))
        opened = self._open[1]
        return opened.get_tensor(name) if file.suffix == ".safetensors" else opened[name]

    def _list(self, file: Path) -> Iterable[tuple[str, tuple[int, ...]]]:
        if file.suffix == ".safetensors":
            header, _ = read_header(file)
            return [(name, tuple(body["shape"])) for name, body in header.items()]
        opened = self._unpickled(file)
        self._open = (file, opened)
        return [(name, tuple(tensor.shape)) for name, tensor in opened.items()]

    def _unpickled(self, file: Path) -> dict[str, Tensor]:
        body = _unpickle(file)
        tensors = body[self._inner] if self._inner and isinstance(body, dict) and self._inner in body else body
        import torch

        if not isinstance(tensors, Mapping) or not all(isinstance(each, torch.Tensor) for each in tensors.values()):
            raise CxrbenchError("the file is no table of weights", where=str(file), fix="copy the right file")
        return dict(tensors)

    def _check_index(self) -> None:
        """Names of the index that are in none of its files: a shard of another checkpoint."""
        index = next(
            (found for stem in STEMS if (found := self._index_file(stem)).is_file() and len(self.files) > 1), None
        )
        if index is None:
            return
        absent = sorted(set(_index(index)) - set(self._place))
        if absent:
            raise CxrbenchError(
                f"{len(absent)} weights of the index are in none of its files: {listed(absent)}",
                where=str(index),
                fix="copy all weight files and the index from one place",
            )

    def _index_file(self, stem: str) -> Path:
        return self.files[0].parent / f"{stem}{self.files[0].suffix}.index.json"


def _open_safetensors(file: Path) -> Any:
    from safetensors import safe_open

    return safe_open(str(file), framework="pt", device="cpu")


def _unpickle(file: Path) -> Any:
    """The content of a pickle: tensors and plain containers only, mapped into memory where the format allows."""
    import pickle

    import torch

    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(file, map_location="cpu", weights_only=True)  # the format of torch before 1.6
    except pickle.UnpicklingError as error:
        raise CxrbenchError(
            "the file holds more than tensors, or is damaged: it is not opened, because that could run code",
            where=str(file),
            fix="copy the file again; if it is whole, save its tensors alone as safetensors where you trust it",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CxrbenchError(
            "the file is cut short or no torch file", where=str(file), fix="copy the file again"
        ) from error


class Together:
    """Several sources as one; every name gets the prefix of its source."""

    def __init__(self, parts: Mapping[str, Source]) -> None:
        self.parts = dict(parts)

    @property
    def where(self) -> str:
        """All places."""
        return ", ".join(dict.fromkeys(part.where for part in self.parts.values()))

    def names(self) -> Sequence[str]:
        """Source by source."""
        return tuple(f"{prefix}{name}" for prefix, part in self.parts.items() for name in part.names())

    def shape(self, name: str) -> tuple[int, ...]:
        """As the part has it."""
        part, inner = self._find(name)
        return part.shape(inner)

    def read(self, name: str) -> Tensor:
        """As the part has it."""
        part, inner = self._find(name)
        return part.read(inner)

    def _find(self, name: str) -> tuple[Source, str]:
        prefix = next(prefix for prefix in self.parts if name.startswith(prefix))
        return self.parts[prefix], name.removeprefix(prefix)


class Deltas:
    """Weights published as differences: base + delta, in float32, then in the delta's own precision.

    As in microsoft/LLaVA-Med v1.0.0, llava/model/apply_delta.py: a table that has more rows than the base's keeps the
    extra ones as they are, and `alone` names what the base does not have.

    Raises:
        CxrbenchError: the base lacks a weight, has one the delta does not touch, or has another shape.
    """

    def __init__(self, delta: Source, base: Source, *, alone: str, grows: str, ignored: str) -> None:
        self.delta, self.base = delta, base
        self._alone = re.compile(alone)
        self._shared = set(delta.names()) & set(base.names())
        mine, theirs = set(delta.names()), {name for name in base.names() if not re.fullmatch(ignored, name)}
        lacking = sorted(
            name for name in mine - theirs if not self._alone.fullmatch(name) and not re.fullmatch(ignored, name)
        )
        _refuse_base(lacking, "are in the delta and not in the base", base.where)
        _refuse_base(sorted(theirs - mine), "are in the base and not in the delta", base.where)
        _refuse_base(
            [name for name in sorted(mine & theirs) if not self._fits(name, grows)], "have other shapes", base.where
        )

    def _fits(self, name: str, grows: str) -> bool:
        mine, theirs = self.delta.shape(name), self.base.shape(name)
        return mine == theirs or (
            re.fullmatch(grows, name) is not None and mine[1:] == theirs[1:] and mine[0] >= theirs[0]
        )

    @property
    def where(self) -> str:
        """The delta."""
        return self.delta.where

    def names(self) -> Sequence[str]:
        """Those of the delta."""
        return self.delta.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """As in the delta."""
        return self.delta.shape(name)

    def read(self, name: str) -> Tensor:
        """The sum."""
        value = self.delta.read(name)
        if name not in self._shared:
            return value
        base = self.base.read(name)
        made = value.float().clone()
        made[: base.shape[0]] += base.float()
        return made.to(value.dtype)


def _refuse_base(names: Sequence[str], what: str, where: str) -> None:
    if names:
        raise CxrbenchError(
            f"this is not the base the weights were made for: {len(names)} weights {what}: {listed(names)}",
            where=where,
            fix="name the base model's folder: cxrbench models add NAME --path DIR --base DIR",
        )


LORA = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")


class LoraMerged:
    """A base with low-rank updates merged: W + scale * B @ A, in float32, then in the precision of W.

    peft, tuners/lora/layer.py, Linear.get_delta_weight. `scale` is alpha / r.

    Raises:
        CxrbenchError: an update for a weight the base does not have, half a pair, or a tensor that is no update.
    """

    def __init__(self, base: Source, updates: Source, scale: float) -> None:
        self.base, self.updates, self.scale = base, updates, scale
        self._pairs: dict[str, dict[str, str]] = {}
        odd = []
        for name in updates.names():
            found = LORA.fullmatch(name)
            if found is None:
                odd.append(name)
            else:
                self._pairs.setdefault(f"{found[1]}.weight", {})[found[2]] = name
        _refuse_base(sorted(set(self._pairs) - set(base.names())), "are updated and not in it", base.where)
        odd += [part for pair in self._pairs.values() if len(pair) < 2 for part in pair.values()]
        if odd:
            raise CxrbenchError(
                f"{len(odd)} weights are no pair of low-rank updates: {listed(sorted(odd))}", where=updates.where
            )

    @property
    def where(self) -> str:
        """Base and updates."""
        return f"{self.base.where}, {self.updates.where}"

    def names(self) -> Sequence[str]:
        """Those of the base."""
        return self.base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """As in the base."""
        return self.base.shape(name)

    def read(self, name: str) -> Tensor:
        """The merged weight."""
        value = self.base.read(name)
        pair = self._pairs.get(name)
        if pair is None:
            return value
        low, high = (self.updates.read(pair[part]).float() for part in "AB")
        if (high.shape[0], low.shape[1]) != tuple(value.shape):
            raise CxrbenchError(
                f"the update of {name} is {high.shape[0]} x {low.shape[1]}, the weight {tuple(value.shape)}",
                where=self.where,
                fix="base and updates must be of the same model size",
            )
        return (value.float() + self.scale * (high @ low)).to(value.dtype)
