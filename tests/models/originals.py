"""Small checkpoints in the authors' own file layout, with what the authors' own code answered on them.

A golden (`golden_originals/NAME.json`) holds no weights: each tensor follows from its name by the rule of
`seeded`, so the checkpoint folder can be written anywhere and is the same everywhere. The format is described in
`golden_originals/README.md`. This module needs numpy; torch and safetensors only where files are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden_originals"
FORMAT = 1


def seeded(label: str, shape: Sequence[int], offset: float, scale: float) -> np.ndarray:
    """`offset + scale * u` with u in [-1, 1) from the label alone; float32, the same on every machine and version.

    PCG64's raw 64-bit stream is fixed by its algorithm, unlike the distributions of `numpy.random.Generator`. The
    top 24 bits of each draw fill a float32 exactly; then one product and one sum are rounded.
    """
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape, dtype=np.int64)))
    u = ((raw >> np.uint64(40)).astype(np.int64) - 2**23).astype(np.float32) * np.float32(2.0**-23)
    return (np.float32(offset) + np.float32(scale) * u).reshape(tuple(shape))


PICTURES = {"wide-grey": (301, 417, 1), "tall-colour": (640, 523, 3)}  # height, width, channels


def picture(name: str) -> np.ndarray:
    """A test picture by formula: (height, width) or (height, width, 3) uint8, with slopes, curves and hard edges."""
    height, width, channels = PICTURES[name]
    y, x, channel = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    squares = 60 * ((x // 24 + y // 17 + channel) % 2)
    values = (2 * x + 3 * y + x * y // 97 + 40 * channel) % 160 + squares + 20
    return values.astype(np.uint8)[..., 0] if channels == 1 else values.astype(np.uint8)


def _inverse_frequencies(shape: Sequence[int], base: float) -> np.ndarray:
    steps = np.arange(shape[0], dtype=np.float32) * np.float32(2) / np.float32(2 * shape[0])
    return (np.float32(1) / np.float32(base) ** steps).astype(np.float32)


def _sines_and_cosines(places: int, width: int) -> np.ndarray:
    """(grid * grid, width): of the column, then of the row, each sines before cosines; float64 until the end."""
    grid = round(places**0.5)
    frequency = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4))
    column, row = np.tile(np.arange(grid), grid), np.repeat(np.arange(grid), grid)
    halves = [wave(place[:, None] * frequency) for place in (column, row) for wave in (np.sin, np.cos)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def tensor(label: str, shape: Sequence[int], rule: Sequence[Any]) -> np.ndarray:
    """One tensor of a checkpoint: rule is [offset, scale] or a named buffer that old releases stored beside weights.

    Raises:
        ValueError: a rule this module does not know.
    """
    if not isinstance(rule[0], str):
        return seeded(label, shape, *rule)
    kind, *arguments = rule
    if kind == "inv_freq":
        return _inverse_frequencies(shape, *arguments)
    if kind == "sincos":
        return _sines_and_cosines(*shape)
    if kind == "causal":
        return np.tril(np.ones(shape, dtype=np.bool_))
    if kind == "arange":
        return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(tuple(shape))
    if kind == "full":
        return np.full(tuple(shape), arguments[0], dtype=np.float32)
    raise ValueError(f"{label}: unknown rule {rule!r}; known: [offset, scale], inv_freq, sincos, causal, arange, full")


def floats(values: Mapping[str, Any]) -> np.ndarray:
    """An array stored as {"shape", "values"}; the shortest decimals that give the same float32 back."""
    return np.array(values["values"], dtype=np.float32).reshape(values["shape"])


@dataclass(frozen=True)
class Golden:
    """One recorded original: how to write its checkpoint, and what it answered.

    Attributes:
        name: The file's stem, such as `slava`.
        data: The JSON document (format in `golden_originals/README.md`).
    """

    name: str
    data: dict[str, Any]

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """Inputs and recorded outputs, by case name."""
        return {case["name"]: case for case in self.data["cases"]}

    def tensors(self, path: str) -> dict[str, np.ndarray]:
        """The tensors of one file of the layout, by the authors' names.

        Raises:
            KeyError: the layout has no such file with tensors.
        """
        for file in self.data["files"]:
            if file["path"] == path and "tensors" in file:
                seed = f"{self.data['seed']}/{path}/"
                return {key: tensor(seed + key, shape, rule) for key, shape, rule in file["tensors"]}
        raise KeyError(f"{self.name}: no file {path!r} with tensors")

    def materialise(self, folder: Path) -> Path:
        """Write every file of the layout under `folder` and return it; the parts are its sub-folders."""
        for file in self.data["files"]:
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            _WRITERS[file["kind"]](self, file, path)
        return folder

    def input(self, case: str, name: str) -> np.ndarray:
        """An input of a case: token ids as int64, or an array made by the seed rule as float32."""
        spec = self.cases[case]["inputs"][name]
        if isinstance(spec, Mapping):
            return seeded(f"{self.data['seed']}/{spec['label']}", spec["shape"], spec["offset"], spec["scale"])
        return np.array(spec, dtype=np.int64)

    def output(self, case: str, name: str) -> np.ndarray:
        """A recorded array such as `image_features`."""
        return floats(self.cases[case]["outputs"][name])

    def sampled_gap(self, case: str, name: str, array: np.ndarray) -> float:
        """The largest absolute difference of an array from the values that were kept of it.

        Raises:
            ValueError: another shape than was recorded.
        """
        kept = self.cases[case]["outputs"][name]
        if list(array.shape) != kept["shape"]:
            raise ValueError(f"{self.name}/{case}/{name}: shape {list(array.shape)}, recorded {kept['shape']}")
        return float(np.abs(array.ravel()[:: kept["every"]] - np.array(kept["values"], dtype=np.float32)).max())

    def logits_gap(self, case: str, logits: np.ndarray) -> float:
        """The largest absolute difference of `logits` (positions, vocabulary) from what was recorded.

        Compared: the sampled columns of every recorded position, the log-sum-exp over the first `width` columns (the
        authors' vocabulary) of each, and where the maximum lies (a differing place counts as infinite).

        Raises:
            ValueError: fewer positions or columns than were recorded.
        """
        kept = self.cases[case]["outputs"]["logits"]
        positions, columns = np.array(kept["positions"]), np.array(kept["columns"])
        if logits.ndim != 2 or logits.shape[0] != kept["length"] or logits.shape[1] < kept["width"]:
            raise ValueError(
                f"{self.name}/{case}: logits have shape {logits.shape}, recorded ({kept['length']}, {kept['width']})"
            )
        rows = np.asarray(logits, dtype=np.float64)[positions, : kept["width"]]
        if (rows.argmax(axis=1) != np.array(kept["argmax"])).any():
            return float("inf")
        sampled = np.abs(rows[:, columns] - np.array(kept["values"]).reshape(len(positions), -1)).max()
        return float(max(sampled, np.abs(log_sum_exp(rows) - np.array(kept["log_sum_exp"])).max()))


def log_sum_exp(rows: np.ndarray) -> np.ndarray:
    """log(sum(exp(row))) of each row, in float64 and shifted by the maximum."""
    top = rows.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(rows - top).sum(axis=1, keepdims=True)))[:, 0]


def load(name: str) -> Golden:
    """The golden of that name.

    Raises:
        FileNotFoundError: no such golden.
        ValueError: written by another version of the recorder.
    """
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if data["format"] != FORMAT:
        raise ValueError(f"{name}: format {data['format']}, this loader reads {FORMAT}; record it anew")
    return Golden(name, data)


def names() -> list[str]:
    """Every golden that holds a checkpoint, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if '"files"' in path.read_text(encoding="utf-8"))


def _as_torch(golden: Golden, path: str) -> dict[str, Any]:
    import torch

    return {key: torch.from_numpy(value) for key, value in golden.tensors(path).items()}


def _write_json(golden: Golden, file: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(file["content"], indent=2), encoding="utf-8")


def _write_text(golden: Golden, file: Mapping[str, Any], path: Path) -> None:
    path.write_text(file["content"], encoding="utf-8")


def _write_safetensors(golden: Golden, file: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(_as_torch(golden, file["path"]), path, metadata={"format": "pt"})


def _write_torch(golden: Golden, file: Mapping[str, Any], path: Path) -> None:
    import torch

    state: dict[str, Any] = _as_torch(golden, file["path"])
    if "inside" in file:
        state = {**file.get("beside", {}), file["inside"]: state}
    torch.save(state, path)


def _write_index(golden: Golden, file: Mapping[str, Any], path: Path) -> None:
    folder = Path(file["path"]).parent
    shards = {shard: golden.tensors(str(folder / shard)) for shard in file["shards"]}
    size = sum(value.nbytes for tensors in shards.values() for value in tensors.values())
    weight_map = {key: shard for shard, tensors in shards.items() for key in tensors}
    path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}), encoding="utf-8")


_WRITERS = {
    "json": _write_json,
    "text": _write_text,
    "safetensors": _write_safetensors,
    "torch": _write_torch,
    "index": _write_index,
}
