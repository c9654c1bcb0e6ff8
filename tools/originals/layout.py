"""Describes a checkpoint folder in the authors' layout and what their code answered; the weights follow by seed rule.

Shared by every recorder here. Nothing in it knows an architecture.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
MARGIN = 1e-3  # the best logit leads by more than this at every recorded position, so that "same token" has a meaning

Shapes = Mapping[str, Sequence[int]]
Rule = Sequence[Any]


def loader() -> ModuleType:
    """`tests/models/originals.py`, the one place that knows the seed rule and writes files from it."""
    if "originals_loader" in sys.modules:
        return sys.modules["originals_loader"]
    spec = importlib.util.spec_from_file_location("originals_loader", REPOSITORY / "tests" / "models" / "originals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["originals_loader"] = module
    spec.loader.exec_module(module)
    return module


def rule(key: str, shape: Sequence[int]) -> Rule:
    """[offset, scale] that keeps activations near one: norms around 1, small biases, matrices by their fan-in."""
    if key.endswith("inv_freq"):
        return ["inv_freq", 10000.0]
    if key.endswith("position_ids"):
        return ["arange"]
    last = key.rsplit(".", 1)[-1]
    if last in ("gamma", "lambda1"):
        return [0.6, 0.3]
    if any(part in key for part in ("embed_tokens", "embed_in", "word_embeddings", "token_embedding")):
        return [0.0, 1.0]
    if len(shape) < 2:
        norm = last == "weight"
        return [1.0, 0.2] if norm else [0.0, 0.1]
    if "pos" in key or "cls" in key or "class_embedding" in key or "query_tokens" in key:
        return [0.0, 0.5]
    return [0.0, float(f"{math.sqrt(3 / math.prod(shape[1:])):.4g}")]


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's state dict, in its own order."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def split(shapes: Shapes, parts: int) -> list[dict[str, Sequence[int]]]:
    """The tensors in `parts` consecutive runs of about equal count, as shards cut them."""
    keys, size = list(shapes), math.ceil(len(shapes) / parts)
    return [{key: shapes[key] for key in keys[at : at + size]} for at in range(0, len(keys), size)]


class Layout:
    """A golden under construction: files of the checkpoint first, then cases with inputs and outputs."""

    def __init__(self, name: str, what: str, packages: Iterable[str]) -> None:
        self.name = name
        self.data: dict[str, Any] = {
            "format": loader().FORMAT,
            "name": name,
            "what": what,
            "seed": f"cxrbench/originals/{name}",
            "recorded_with": {package: version(package) for package in packages},
            "files": [],
            "cases": [],
        }

    def json(self, path: str, content: Mapping[str, Any]) -> None:
        """A JSON file, such as a config."""
        self.data["files"].append({"path": path, "kind": "json", "content": json.loads(json.dumps(content))})

    def text(self, path: str, content: str) -> None:
        """A text file, such as a YAML config."""
        self.data["files"].append({"path": path, "kind": "text", "content": content})

    def tensors(
        self,
        path: str,
        shapes: Shapes,
        rules: Callable[[str, Sequence[int]], Rule] = rule,
        inside: str | None = None,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        """One file of tensors; `inside` is the outer key of a training checkpoint, `beside` what stands next to it."""
        kind = "safetensors" if path.endswith(".safetensors") else "torch"
        entry: dict[str, Any] = {"path": path, "kind": kind}
        if inside is not None:
            entry |= {"inside": inside, "beside": dict(beside or {})}
        entry["tensors"] = [[key, list(shape), list(rules(key, shape))] for key, shape in shapes.items()]
        self.data["files"].append(entry)

    def shards(
        self,
        folder: str,
        stem: str,
        suffix: str,
        shapes: Shapes,
        parts: int,
        rules: Callable[[str, Sequence[int]], Rule] = rule,
    ) -> None:
        """`parts` shards named as the hub names them, with their index."""
        names = [f"{stem}-{at:05d}-of-{parts:05d}{suffix}" for at in range(1, parts + 1)]
        for name, part in zip(names, split(shapes, parts), strict=True):
            self.tensors(f"{folder}/{name}", part, rules)
        self.data["files"].append({"path": f"{folder}/{stem}{suffix}.index.json", "kind": "index", "shards": names})

    def golden(self) -> Any:
        """The loader's view of what is described so far."""
        return loader().Golden(self.name, self.data)

    def case(self, name: str, inputs: Mapping[str, Any], note: str = "") -> None:
        """Opens a case; its inputs can be read through `golden().input`."""
        self.data["cases"].append({"name": name, "note": note, "inputs": dict(inputs), "outputs": {}})

    def image_case(self, name: str, ids: list[int], label: str, size: int, images: int = 1) -> torch.Tensor:
        """Opens a case with token ids and `images` square pictures made from `label`; returns the pictures."""
        self.case(name, {"input_ids": ids, "pixel_values": made(label, (images, 3, size, size))})
        return torch.from_numpy(self.golden().input(name, "pixel_values"))

    def output(self, name: str, value: Any) -> None:
        """Adds an output to the case opened last."""
        self.data["cases"][-1]["outputs"][name] = value


def words(rng: np.random.Generator, count: int, low: int, high: int) -> list[int]:
    """Token ids in [low, high)."""
    found: list[int] = rng.integers(low, high, count).tolist()
    return found


def made(label: str, shape: Sequence[int], offset: float = 0.0, scale: float = 2.0) -> dict[str, Any]:
    """An input array that follows from its label by the seed rule, such as pixel values."""
    return {"label": label, "shape": list(shape), "offset": offset, "scale": scale}


def short(value: float | np.floating[Any]) -> float:
    """The float whose decimal is the shortest one that gives the same float32 back."""
    return float(np.format_float_scientific(np.float32(value), unique=True))


def array(values: torch.Tensor | np.ndarray) -> dict[str, Any]:
    """A float32 array as it is stored: {"shape", "values"}."""
    kept = np.asarray(values.detach().numpy() if isinstance(values, torch.Tensor) else values, dtype=np.float32)
    return {"shape": list(kept.shape), "values": [short(value) for value in kept.ravel()]}


def sampled(values: torch.Tensor, every: int) -> dict[str, Any]:
    """Every so many values of a large float32 array in C order: {"shape", "every", "values"}."""
    kept = values.detach().numpy().astype(np.float32)
    return {"shape": list(kept.shape), "every": every, "values": [short(value) for value in kept.ravel()[::every]]}


def logits(values: torch.Tensor, columns: int = 32, special: Sequence[int] = (), every: int = 1) -> dict[str, Any]:
    """What is kept of logits (positions, vocabulary): some columns, argmax and log-sum-exp of some positions.

    Positions are every `every`-th, counted so that the last is among them.

    Raises:
        ValueError: two tokens of one position lie closer than `MARGIN`, so the argmax would be luck.
    """
    whole = values.detach().numpy().astype(np.float64)
    length, width = whole.shape
    positions = list(range((length - 1) % every, length, every))
    rows = whole[positions]
    chosen = sorted({int(at) for at in np.linspace(0, width - 1, columns)} | set(special))
    best = np.sort(rows, axis=1)[:, -2:]
    if (best[:, 1] - best[:, 0]).min() < MARGIN:
        raise ValueError(f"two logits within {MARGIN} of each other at the top; change the seed")
    return {
        "length": length,
        "width": width,
        "positions": positions,
        "columns": chosen,
        "argmax": rows.argmax(axis=1).tolist(),
        "values": [short(value) for value in rows[:, chosen].ravel()],
        "log_sum_exp": [short(value) for value in loader().log_sum_exp(rows)],
    }
