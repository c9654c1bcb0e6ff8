"""Keys and values of all slots in one fixed block of memory, behind the cache interface of stock attention modules.

A slot is one row. Two kinds of call go through it: `prefill` writes whole prompts into named slots and attends within
the prompts alone; `step` writes one token into each of the first n slots, at a place of its own, and attends to
everything written there before. Positions of a slot count from 0, without padding on the left, so a prompt sits in any
slot as it would alone. Imports torch and transformers: import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

STEP = 64
"""Slots have a multiple of so many positions, so that windows of nearly equal lengths share a pool."""


@dataclass(slots=True)
class Place:
    """Where the next call writes; one object for all layers.

    `rows` are the slots of a prefill, None in a step. In a step row i writes at `positions[i]`, and the first `length`
    positions are read. `padding` (rows, 1, tokens, 1) is True behind the prompts of a prefill: in fp16 it may overflow,
    and a masked NaN spreads, so its keys and values become zeros.
    """

    rows: torch.Tensor | None
    index: torch.Tensor
    positions: torch.Tensor
    length: int
    padding: torch.Tensor | None = None


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One decoder layer: keys and values (slots, heads, positions, head size), allocated at the first call."""

    is_sliding = False

    def __init__(self, place: Place, slots: int, room: int) -> None:
        super().__init__()
        self.place = place
        self.slots = slots
        self.room = room

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate; zeros, since a NaN in a masked place would still spread."""
        shape = (self.slots, key_states.shape[1], self.room)
        self.keys = key_states.new_zeros((*shape, key_states.shape[-1]))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values (rows, heads, tokens, head size); returns what these rows attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place, rows = self.place, key_states.shape[0]
        if place.rows is not None:
            tokens = key_states.shape[-2]
            if place.padding is not None and key_states.dtype == torch.float16:
                key_states = key_states.masked_fill(place.padding, 0)
                value_states = value_states.masked_fill(place.padding, 0)
            self.keys[place.rows, :, :tokens] = key_states
            self.values[place.rows, :, :tokens] = value_states
            return key_states, value_states
        index, positions = place.index[:rows], place.positions[:rows]
        self.keys[index, :, positions] = key_states[:, :, 0]
        self.values[index, :, positions] = value_states[:, :, 0]
        return self.keys[:rows, :, : place.length], self.values[:rows, :, : place.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys a prefill attends to, and their offset; a step brings its own mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """A prefill starts at 0; a step brings its own positions."""
        return 0

    def get_max_length(self) -> int:
        """Positions of a slot."""
        return self.room

    def make_room(self, room: int) -> None:
        """More positions; what is in the slots stays."""
        if self.keys is not None and self.values is not None:
            more = (0, 0, 0, room - self.room)
            self.keys = torch.nn.functional.pad(self.keys, more)
            self.values = torch.nn.functional.pad(self.values, more)
        self.room = room

    def move(self, source: int, target: int) -> None:
        """Copy a slot's contents."""
        if self.keys is not None and self.values is not None:
            self.keys[target].copy_(self.keys[source])
            self.values[target].copy_(self.values[source])

    def clean(self, slot: int) -> None:
        """Forget a slot's contents."""
        if self.keys is not None and self.values is not None:
            self.keys[slot].zero_()
            self.values[slot].zero_()


class Pool:
    """`slots` rows of `room` positions for every layer, and the tensors of a step, all allocated once.

    Args:
        layers: number of decoder layers.
        slots: rows.
        room: positions of a row: the longest prompt with its new tokens, rounded up to a multiple of `STEP`.
        window: positions a token attends to, itself included; None for all before it.
        device: of the decoder's inputs.
        dtype: of the mask: the network's.
    """

    def __init__(self, layers: int, slots: int, room: int, window: int | None, device: Any, dtype: torch.dtype) -> None:
        room = -(-room // STEP) * STEP
        self.slots = slots
        self.room = room
        self.window = window
        self.dtype = dtype
        self.tokens = torch.zeros((slots, 1), dtype=torch.int64, device=device)
        self.positions = torch.zeros((slots, 1), dtype=torch.int64, device=device)
        self._places = torch.arange(room, device=device)
        index = torch.arange(slots, device=device)
        self.place = Place(None, index, self.positions[:, 0], room)
        self.layers = [SlotLayer(self.place, slots, room) for _ in range(layers)]
        self.cache = Cache(layers=self.layers)

    def prefill(
        self,
        module: torch.nn.Module,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        keep: torch.Tensor,
        inputs: dict[str, Any],
    ) -> Any:
        """Put prompts of these `lengths`, padded on the right, into `slots`.

        No mask is given: a causal decoder does not look to the right, and what the padding leaves in a slot is
        overwritten before it is ever read. Logits (rows, len(keep), vocabulary) of the positions `keep`.
        """
        longest = inputs["input_ids"].shape[1]
        self.place.rows = slots
        self.place.padding = (self._places[:longest] >= lengths[:, None])[:, None, :, None]
        try:
            return module(
                **inputs,
                position_ids=self._places[None, :longest],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            ).logits
        finally:
            self.place.rows = self.place.padding = None

    def step(self, module: torch.nn.Module, rows: int, length: int) -> torch.Tensor:
        """Logits (rows, vocabulary) after the `tokens` at the `positions` of the first `rows` slots.

        `length` is above the largest of these positions; equal shapes are equal sequences of kernels, so that a step
        can be recorded as a graph.
        """
        self.place.length = length
        positions = self.positions[:rows]
        logits: torch.Tensor = module(
            input_ids=self.tokens[:rows],
            attention_mask=self._mask(positions, length),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def _mask(self, positions: torch.Tensor, length: int) -> torch.Tensor:
        """What each row attends to: (rows, 1, 1, length), 0 where it may look, else the most negative number."""
        places = self._places[:length]
        hidden = places > positions
        if self.window is not None:
            hidden |= places <= positions - self.window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
        return mask.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None, None]

    def make_room(self, room: int) -> None:
        """At least so many positions; not for recorded steps, which know addresses."""
        if room <= self.room:
            return
        self.room = -(-room // STEP) * STEP
        self._places = torch.arange(self.room, device=self._places.device)
        for layer in self.layers:
            layer.make_room(self.room)

    def move(self, source: int, target: int) -> None:
        """Move what is in a slot to another."""
        self.tokens[target] = self.tokens[source]
        self.positions[target] = self.positions[source]
        self.leave(source)
        for layer in self.layers:
            layer.move(source, target)

    def leave(self, slot: int) -> None:
        """Nothing is in a slot any more: what a recorded step still writes there goes where the next prompt begins.

        In fp16 that may be NaN, which would spread from any place the next prompt leaves as it is.
        """
        self.positions[slot] = 0

    def clean(self, slot: int) -> None:
        """Forget what is in a slot, where it holds NaN: a masked NaN would spread to the slot's next prompt."""
        for layer in self.layers:
            layer.clean(slot)
