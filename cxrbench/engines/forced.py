"""Texts of forced length, for speed: no text ends by itself, or each row ends where a trace says.

Both change what an adapter loads and nothing else, so the engine's own code is what is measured. Lengths are asserted
from the answers afterwards. torch and transformers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.adapter import Adapter, LoadSettings, Network


def never_end(adapter: Adapter) -> None:
    """The token that ends a text lies outside the vocabulary from now on: texts run to `max_new_tokens`."""
    stock = adapter.load

    def load(settings: LoadSettings) -> Network:
        network = stock(settings)
        vocabulary = network.module.config.get_text_config(decoder=True).vocab_size
        return replace(network, eos=(int(vocabulary),))

    adapter.load = load  # type: ignore[method-assign]


class Announced(Protocol):
    """Ends each text after its own number of tokens."""

    def announce(self, lengths: Mapping[str, int]) -> None:
        """Tokens by sample id of the next batch, in its order."""


def end_rows(adapter: Adapter, engine: Any) -> Announced:
    """Make texts end where they are announced to, on an engine that has not loaded its network yet.

    Raises:
        CxrbenchError: the engine cannot.
    """
    if hasattr(engine, "lengths"):
        never_end(adapter)
        return SlotLengths(engine)
    if engine.name != "transformers":
        raise CxrbenchError(
            f"engine {engine.name} cannot end each row by a trace",
            fix="engine transformers or slots, or --lengths equal-tokens",
        )
    rows = RowLengths()
    rows.apply(adapter)
    return rows


@dataclass
class SlotLengths:
    """On slots: the loop itself knows each text's length."""

    engine: Any

    def announce(self, lengths: Mapping[str, int]) -> None:
        """See `Announced`."""
        self.engine.lengths = dict(lengths)


@dataclass
class RowLengths:
    """With generate(): a rule of the whole batch ends its rows."""

    lengths: list[int] = field(default_factory=list)

    def announce(self, lengths: Mapping[str, int]) -> None:
        """See `Announced`."""
        self.lengths = list(lengths.values())

    def apply(self, adapter: Adapter) -> None:
        """Make what the adapter loads end rows so."""
        stock = adapter.load

        def load(settings: LoadSettings) -> Network:
            network = stock(settings)
            network.module.generate = self._around(network.module.generate, network.eos[0])
            return network

        adapter.load = load  # type: ignore[method-assign]

    def _around(self, stock: Callable[..., Any], eos: int) -> Callable[..., Any]:
        def generate(**inputs: Any) -> Any:
            rows, start = inputs["input_ids"].shape
            if rows != len(self.lengths):
                raise CxrbenchError(
                    f"a batch of {len(self.lengths)} lengths ran in parts of {rows}: rows cannot be told apart",
                    fix="images of one size, and a batch that fits into memory",
                    code=Exit.UNDECIDED,
                )
            inputs["logits_processor"].append(_ender(self.lengths, start, eos, inputs["input_ids"].device))
            return stock(**inputs)

        return generate


def _ender(lengths: Sequence[int], start: int, eos: int, device: Any) -> Any:
    """A logits processor that lets no row end before its length, and every row there."""
    import torch
    from transformers import LogitsProcessor

    ends = torch.tensor(list(lengths), device=device)

    class Ender(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            now = (ends == input_ids.shape[1] - start + 1)[:, None]
            column = torch.arange(scores.shape[1], device=scores.device) == eos
            return scores.masked_fill(now ^ column, -torch.inf)

    return Ender()
