"""Continuous batching over one window of requests: finished slots are refilled from those that wait.

`Loop.run` alternates prefills, in chunks of a given number of tokens, and steps of all occupied slots. Occupied slots
are the first ones of the pool, so a step costs what its rows cost: the last row moves into a slot that became free and
is not filled. Imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cxrbench.engines.batching import collate, shape_key
from cxrbench.engines.sampling import SeededSampler
from cxrbench.engines.slots_rules import Rules, rules_of
from cxrbench.engines.slots_source import Source

if TYPE_CHECKING:
    from cxrbench.engines.device import Clock
    from cxrbench.engines.slots_cache import Pool
    from cxrbench.engines.slots_feed import Feeder
    from cxrbench.engines.slots_steps import Steps
    from cxrbench.models.adapter import Encoded, Network
    from cxrbench.models.base import Prepared
    from cxrbench.types import Generation

BAD = -1
"""Stands for the next token of a row whose largest score is NaN or infinite."""

SHARE = 8
"""A prefill waits until one in so many slots is free: a call costs the same overhead for one row as for several."""


@dataclass(slots=True)
class Row:
    """A request in a slot; `begun` is when its prefill began, `length` how many of its positions are filled.

    Its text ends after `most` tokens at the latest.
    """

    prepared: Prepared
    begun: float
    length: int
    most: int
    rules: Rules | None
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Spent:
    """Seconds by stage; `encode` is what the image tower's hooks collect."""

    encode: list[float]
    prefill: float = 0.0
    decode: float = 0.0


Done = Callable[[Row, bool], None]
"""Called when a row ends, with whether it ended on a NaN or infinite score."""


class Loop:
    """Answers requests of one generation setting on a pool; `lengths` ends texts of some samples earlier."""

    def __init__(
        self,
        network: Network,
        pool: Pool,
        steps: Steps,
        feeder: Feeder,
        clock: Clock,
        generation: Generation,
        chunk: int,
        spent: Spent,
        done: Done,
        lengths: Mapping[str, int],
    ) -> None:
        self.network = network
        self.pool = pool
        self.steps = steps
        self.feeder = feeder
        self.clock = clock
        self.generation = generation
        self.chunk = chunk
        self.spent = spent
        self.done = done
        self.lengths = lengths
        self._held: dict[int, Prepared] = {}
        self._eos = frozenset(network.eos)
        self._rows: list[Row | None] = []
        self._source = Source((), clock.now)
        self._chunk: list[Prepared] = []
        self._sampler = SeededSampler(generation, (), network.entry) if generation.temperature > 0 else None

    @property
    def in_hand(self) -> list[Prepared]:
        """What is being answered; after an exception, what was."""
        return list(self._held.values())

    def run(self, source: Source) -> None:
        """Answer all of the loop's generation setting, in no particular order."""
        self._source = source
        self._chunk = self._next_chunk()
        while self._chunk or self._occupied:
            if self._chunk and self._worth_a_prefill():
                self._prefill()
            if not (
                self.steps.graphs and self._chunk
            ):  # a graph computes empty rows anyway, and the gap is soon filled
                self._close_gaps()
            if self._occupied:
                self._step()

    @property
    def _occupied(self) -> int:
        return len(self._rows) - self._rows.count(None)

    def _worth_a_prefill(self) -> bool:
        occupied = self._occupied
        wanted = min(len(self._chunk), max(1, self.pool.slots // SHARE))
        return not occupied or self.pool.slots - occupied >= wanted

    def _next_chunk(self) -> list[Prepared]:
        """The next requests that make one call: equal shapes, at most `chunk` tokens with padding, or a single one."""
        key, longest = None, 0
        found: list[Prepared] = []
        for each in self._source:
            encoded = each.payload.encoded
            if each.request.generation != self.generation:
                continue
            key = key or shape_key(encoded)
            if shape_key(encoded) != key:
                continue
            longest = max(longest, encoded.prompt_tokens)
            if found and (len(found) + 1) * longest > self.chunk:
                break
            found.append(each)
            if len(found) == self.pool.slots:
                break
        return found

    def _prefill(self) -> None:
        """Put waiting requests into free slots, and choose their first tokens."""
        begun, before = self.clock.now(), sum(self.spent.encode) + self._source.waited
        gaps = [slot for slot, row in enumerate(self._rows) if row is None]
        free = [*gaps, *range(len(self._rows), self.pool.slots)]
        taken = self._chunk[: len(free)]
        self._held |= {id(each): each for each in taken}
        self._source.take(taken)
        self.pool.make_room(max(each.payload.encoded.prompt_tokens for each in taken) + self.generation.max_new_tokens)
        slots = free[: len(taken)]
        prompts = [self.feeder.take(each.payload.encoded) for each in taken]
        rows = [self._row(each, begun) for each in taken]
        scores = self._first_scores(prompts, slots)
        self._chunk = self._next_chunk()
        self.feeder.ahead(each.payload.encoded for each in self._chunk)
        self._rows += [None] * (max(slots) + 1 - len(self._rows))
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row
        chosen, tokens = self._choose(scores, rows)
        place = torch.tensor(slots, device=chosen.device)
        self.pool.tokens[place, 0] = chosen
        self.pool.positions[place, 0] = torch.tensor([row.length for row in rows], device=chosen.device)
        self.spent.prefill += self.clock.now() - begun - (sum(self.spent.encode) + self._source.waited - before)
        self._accept(slots, rows, tokens)

    def _row(self, prepared: Prepared, begun: float) -> Row:
        encoded, entry = prepared.payload.encoded, self.network.entry
        rules = rules_of(self.generation, self.network, encoded.tensors["input_ids"].to(entry))
        generator = torch.Generator(entry).manual_seed(prepared.request.seed) if self._sampler is not None else None
        most = self.lengths.get(prepared.request.sample_id, self.generation.max_new_tokens)
        return Row(prepared, begun, encoded.prompt_tokens, most, rules, generator)

    def _first_scores(self, prompts: Sequence[Encoded], slots: Sequence[int]) -> torch.Tensor:
        """Scores (rows, vocabulary) at the last token of every prompt."""
        network = self.network
        inputs: dict[str, Any] = collate(prompts, network.pad, "right", network.entry, network.module.dtype)
        inputs.pop("attention_mask", None)
        last = torch.tensor([prompt.prompt_tokens - 1 for prompt in prompts])
        keep, which = torch.unique(last, return_inverse=True)
        logits = self.pool.prefill(
            network.module,
            torch.tensor(slots, device=network.entry),
            (last + 1).to(network.entry),
            keep.to(network.entry),
            inputs,
        )
        scores: torch.Tensor = logits[torch.arange(len(prompts)), which]
        return scores.float()

    def _step(self) -> None:
        """One token for every occupied slot."""
        begun = self.clock.now()
        slots = [slot for slot, row in enumerate(self._rows) if row is not None]
        rows = [row for row in self._rows if row is not None]
        scores = self.steps(len(self._rows), max(row.length for row in rows) + 1)
        place: Any = slice(len(rows))
        if len(rows) < len(self._rows):
            place = torch.tensor(slots, device=scores.device)
        chosen, tokens = self._choose(scores[place].float(), rows)
        self.pool.tokens[place, 0] = chosen
        self.pool.positions[place] += 1
        for row in rows:
            row.length += 1
        self.spent.decode += self.clock.now() - begun
        self._accept(slots, rows, tokens)

    def _choose(self, scores: torch.Tensor, rows: Sequence[Row]) -> tuple[torch.Tensor, list[int]]:
        """The next tokens, on the device and as numbers; `BAD` among the numbers where a row's scores are.

        As in generate(): penalties and token rules first, then the draw, then the largest.
        """
        largest = scores.max(dim=-1)
        chosen = largest.indices
        if rows[0].rules is not None or self._sampler is not None:
            scores = torch.stack(
                [row.rules(each) if row.rules else each for row, each in zip(rows, scores, strict=True)]
            )
            if self._sampler is not None:
                self._sampler.generators = [row.generator for row in rows if row.generator is not None]
                scores = self._sampler(chosen, scores)
            chosen = scores.argmax(dim=-1)
        return chosen, torch.where(largest.values.isfinite(), chosen, BAD).tolist()

    def _accept(self, slots: Sequence[int], rows: Sequence[Row], tokens: Sequence[int]) -> None:
        """Add the tokens to their rows; rows that end leave their slots."""
        for slot, row, token in zip(slots, rows, tokens, strict=True):
            if token != BAD:
                row.tokens.append(token)
                if row.rules is not None:
                    row.rules.append(token)
                if token not in self._eos and len(row.tokens) < row.most:
                    continue
            else:
                self.pool.clean(slot)
            if self.steps.graphs:
                self.pool.leave(slot)
            self._rows[slot] = None
            del self._held[id(row.prepared)]
            self.done(row, token == BAD)

    def _close_gaps(self) -> None:
        """Make the occupied slots the first ones."""
        rows = self._rows
        while rows and rows[-1] is None:
            rows.pop()
        for slot in range(len(rows)):
            if slot >= len(rows):
                break
            if rows[slot] is None:
                self.pool.move(len(rows) - 1, slot)
                rows[slot] = rows.pop()
                while rows and rows[-1] is None:
                    rows.pop()
