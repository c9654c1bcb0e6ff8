r"""Key maps: how the tensor names of a published checkpoint become those of the installed stock class. Never torch.

A checkpoint's own layout is described by a table, one row per kind of tensor, that a reader can hold against the
authors' code:

    RULES = (
        to(r"model\.embed_tokens\.weight", "model.language_model.embed_tokens.weight"),
        to(r"(model\.layers\.\d+)\.self_attn\.query_key_value\.(weight|bias)",
           r"model.language_model.\1.q_proj.\2", r"...k_proj.\2", r"...v_proj.\2", change=heads_apart(32)),
        Drop(r".*\.rotary_emb\.inv_freq", "worked out from the configuration"),
    )

`source` is a regular expression that matches a whole name; the first row that matches wins. `targets` are templates
(`\1` for a group) of names in the `state_dict()` of the *installed* class, so that a renaming in transformers is an
error that names the tensor instead of a wrong model. `plan` is strict: a source name no row knows, a stock name
nothing fills and a stock name filled twice are errors.

How an adapter is put together (slava.py is the shortest example, llava_rad.py the richest):

    keys.py      this file: rows, tensor changes, `plan`, and `Source`, the protocol of everything that gives tensors
    shards.py    sources: sharded safetensors, pickles read with weights_only, and sums of sources (deltas, LoRA)
    network.py   `build` a stock class on the meta device, `fill` it from a source by its rows, `randomise` it
    converted.py the converted form: config.json, safetensors, tokenizer files, cxrbench.json; `write` and `read` it
    recognise.py what a folder seems to be, for the sentence that refuses it
    released.py  `ReleasedModel`, the base of the adapters: folders, hashes, tokens, pixels, presets, loading

A new adapter subclasses `ReleasedModel` and gives `CARD`, `reference`, `open_original`, `full_size`, `ask`, `wrap`,
`tokens` and `transform`; a model that is no LLaVA overrides `tensors`, `image_tokens` or `finish` as well. It adds its
line to registry.py and to `recognise.SIGNS`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cxrbench.errors import CxrbenchError

Tensor = Any
"""A torch tensor; this room does not import torch to say so."""

Change = Callable[[Tensor], Any]
"""Tensor -> tensor, or tensor -> a tuple with one tensor per target."""


class Source(Protocol):
    """Named tensors on the CPU, read one at a time. `where` is what an error names."""

    @property
    def where(self) -> str:
        """The folder or file."""

    def names(self) -> Sequence[str]:
        """All names, in the order in which reading them opens each file once."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it where the format allows."""

    def read(self, name: str) -> Tensor:
        """One tensor, which the caller may keep."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of tensor: a pattern over source names, templates of stock names, and what happens in between."""

    source: str
    targets: tuple[str, ...]
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Tensors that are not part of the network; `why` is told wherever they are left out.

    `keep` is the file beside the converted weights that preserves them, empty for what can be worked out again.
    """

    source: str
    why: str
    keep: str = ""


@dataclass(frozen=True, slots=True)
class Unset:
    """Stock tensors no checkpoint of this kind has and the network never reads; they become zeros."""

    target: str
    why: str


Row = Rule | Drop | Unset


def to(source: str, *targets: str, change: Change | None = None) -> Rule:
    """A row of a table: tensors whose name matches `source` become `targets`."""
    return Rule(source, targets, change)


def same(pattern: str = ".*") -> Rule:
    """A row for names that are stock names already."""
    return Rule(f"({pattern})", (r"\1",))


@dataclass(frozen=True, slots=True)
class Step:
    """One source tensor and what it becomes."""

    source: str
    targets: tuple[str, ...]
    change: Change | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion, decided before a tensor is read. `left_out` and `kept` map source names to reason and file."""

    steps: tuple[Step, ...]
    unset: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, int]:
        """How many tensors are left out, by reason."""
        return dict(Counter(self.left_out.values()))


def plan(names: Iterable[str], rows: Sequence[Row], stock: Iterable[str], where: str) -> Plan:
    r"""Decide what every source tensor becomes.

    Args:
        names: source names.
        rows: the key map.
        stock: names of the installed class's `state_dict()`.
        where: what an error names.

    Raises:
        CxrbenchError: a source name no row knows, a stock name that nothing fills, or one that is filled twice.

    >>> rows = (to(r"a\.(.*)", r"b.\1"), Drop("old", "not used"))
    >>> plan(["a.x", "old"], rows, ["b.x"], "here").steps
    (Step(source='a.x', targets=('b.x',), change=None),)
    """
    compiled = [(re.compile(row.source), row) for row in rows if not isinstance(row, Unset)]
    steps: list[Step] = []
    left_out: dict[str, str] = {}
    kept: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        match, row = next(
            ((found, row) for pattern, row in compiled if (found := pattern.fullmatch(name))), (None, None)
        )
        if match is None or row is None:
            unknown.append(name)
        elif isinstance(row, Drop):
            left_out[name] = row.why
            if row.keep:
                kept[name] = row.keep
        else:
            steps.append(Step(name, tuple(match.expand(target) for target in row.targets), row.change))
    known = set(stock)
    filled = Counter(target for step in steps for target in step.targets)
    unset = tuple(name for name in sorted(known - set(filled)) if _may_be_unset(name, rows))
    _refuse(unknown, "are in the checkpoint and in no row of the key map", where)
    _refuse(sorted(set(filled) - known), "would be made, which the installed class does not have", where)
    _refuse(sorted(known - set(filled) - set(unset)), "are missing from the checkpoint", where)
    _refuse(sorted(name for name, count in filled.items() if count > 1), "would be filled twice", where)
    return Plan(tuple(steps), unset, left_out, kept)


def _may_be_unset(name: str, rows: Sequence[Row]) -> bool:
    return any(isinstance(row, Unset) and re.fullmatch(row.target, name) for row in rows)


def _refuse(names: Sequence[str], what: str, where: str) -> None:
    if names:
        raise CxrbenchError(
            f"{len(names)} weights {what}: {listed(names)}",
            where=where,
            fix="config.json and the weights must be those of this model; copy both from one place",
        )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# What happens to a tensor on its way.


def heads_apart(heads: int) -> Change:
    """Undo a fused query_key_value laid out [head, (q, k, v), head_dim, ...].

    Gives (q, k, v), each [head * head_dim, ...].

    transformers 4.36.2, models/phi/modeling_phi.py, PhiAttention: `view(batch, length, heads, 3, head_dim)`.
    """

    def change(fused: Tensor) -> tuple[Tensor, ...]:
        rest = tuple(fused.shape[1:])
        apart = fused.reshape(heads, 3, -1, *rest)
        return tuple(apart[:, part].reshape(-1, *rest) for part in range(3))

    return change


def thirds(fused: Tensor) -> tuple[Tensor, ...]:
    """Cut a fused qkv laid out [(q, k, v), ...] along its first axis: gives (q, k, v).

    timm, models/vision_transformer.py, Attention: `reshape(batch, length, 3, heads, head_dim)`.
    """
    return tuple(fused.chunk(3, dim=0))
