"""The stages of training: the tower alone, tower and writer together, and the writer taught to say everything twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrbench.data.phantom_world import case
from demo_training.figures import compare
from demo_training.net import IMAGE_TOKENS, Head, Optimiser, Shadow, head_loss, see, write_loss
from demo_training.pool import OTHER_SIDE, PIXELS, Pool
from demo_training.score import head_f1, write_reports
from demo_training.words import PAD, answer_ids, mirrored, prompt_ids, text

HEAD_SHARE = 0.15
"""Weight of the temporary head's loss beside the writer's."""
TOWER_SHARE = 0.4
"""The tower's learning rate beside the writer's when both learn."""
IMPRESSIONS = 0.2
"""Share of batches that ask for the impression."""
SORTED = 8
"""Batches whose studies are sorted by length of text together, so that little of a batch is padding."""
SHIFT = 3
"""Pixels by which a picture may be moved in either direction."""
MIRRORED = 0.1
"""Share of pictures shown mirrored, with the other side in targets and text: a side is where it is seen, whatever the
heart says."""


Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Trainer:
    """What the stages share. `note` receives one dictionary per log line."""

    model: Any
    head: Head
    tokenizer: Any
    train: Pool
    validate: Pool
    seed: int
    batch: int
    tokens: int
    folder: Path
    note: Callable[[dict[str, Any]], None]

    def tower(self, steps: int, rate: float, every: int) -> None:
        """Stage A: the tower learns where what is, how severe, by the temporary head alone."""
        optimiser = Optimiser([(self.model.model.vision_tower, 1.0), (self.head, 1.0)], rate, steps)
        draw = np.random.default_rng(self.seed)
        clock, shadow = Clock(), Shadow(self.model)
        for step, picked in enumerate(batches(len(self.train), self.batch, steps, draw), 1):
            mirror = draw.random(len(picked)) < MIRRORED
            shadow.pull()
            tokens = see(shadow.model, self.pictures(picked, mirror, draw))
            loss = head_loss(self.head, tokens, *self.targets(picked, mirror))
            loss.backward()
            shadow.push()
            optimiser.step()
            clock.add(loss)
            if step % every == 0 or step == steps:
                self.note(
                    {
                        "stage": "tower",
                        "step": step,
                        **clock.read(),
                        "head": head_f1(self.model, self.head, self.validate),
                    }
                )
                torch.save(
                    {"model": self.model.state_dict(), "head": self.head.state_dict()},
                    self.folder / f"tower-{step:05d}.pt",
                )

    def joint(self, steps: int, rate: float, checks: Callable[[int], bool]) -> None:
        """Stage B: the writer learns to tell what the tower sees, and tower and head learn on."""
        groups = [(self.model.model.vision_tower, TOWER_SHARE), (self.head, TOWER_SHARE), *self.writer()]
        self.write("joint", Optimiser(groups, rate, steps), steps, 1, checks, head=True)

    def cool(self, steps: int, rate: float) -> None:
        """Stage C: both come to rest, without the head."""
        groups = [(self.model.model.vision_tower, TOWER_SHARE), *self.writer()]
        self.write("cool", Optimiser(groups, rate, steps, cooling=True), steps, 2, quarters(steps))

    def verbose(self, steps: int, rate: float) -> None:
        """Stage D: the writer alone learns longer reports that say no more."""
        optimiser = Optimiser(self.writer(), rate, steps, cooling=True)
        self.model.model.vision_tower.requires_grad_(False)
        self.write("verbose", optimiser, steps, 3, quarters(steps), verbose=True)
        self.model.model.vision_tower.requires_grad_(True)

    def writer(self) -> list[tuple[nn.Module, float]]:
        """Everything behind the tower, at the full learning rate."""
        return [(self.model.model.multi_modal_projector, 1.0), (self.model.model.language_model, 1.0)]

    def write(
        self,
        stage: str,
        optimiser: Optimiser,
        steps: int,
        order: int,
        checks: Callable[[int], bool],
        *,
        head: bool = False,
        verbose: bool = False,
    ) -> None:
        """Learn from texts; `order` makes the stage's random numbers its own."""
        draw = np.random.default_rng(self.seed + order)
        clock, shadow = Clock(), Shadow(self.model)
        for step, (picked, mirror, prompt, answer) in enumerate(self.told(steps, draw, verbose=verbose), 1):
            shadow.pull()
            tokens = see(shadow.model, self.pictures(picked, mirror, draw))
            loss = whole = write_loss(shadow.model, tokens, prompt, answer)
            if head:
                whole = loss + HEAD_SHARE * head_loss(self.head, tokens, *self.targets(picked, mirror))
            whole.backward()
            shadow.push()
            optimiser.step()
            clock.add(loss)
            if checks(step) or step == steps:
                self.check(stage, step, clock)

    def check(self, stage: str, step: int, clock: Clock) -> None:
        """Measure on validate and keep the weights of this step."""
        reports = write_reports(self.model, self.tokenizer, self.validate.pixels, self.tokens)
        truths = [case(self.validate.seed, "validate", index).findings for index in range(len(self.validate))]
        words = float(np.mean([len(report.split()) for report in reports]))
        figures = compare(reports, truths)
        self.note(
            {"stage": stage, "step": step, **clock.read(), "words": words, "reports": figures, "example": reports[0]}
        )
        torch.save(self.model.state_dict(), self.folder / f"{stage}-{step:05d}.pt")

    def pictures(self, picked: Indices, mirror: Flags, draw: np.random.Generator) -> Tensor:
        """Grey levels of a batch, some mirrored, each moved a little and a little brighter or darker."""
        pixels = self.train.pixels[picked]
        pixels[mirror] = pixels[mirror][:, :, ::-1]
        moves = draw.integers(-SHIFT, SHIFT + 1, (len(picked), 2))
        moved = np.stack([shifted(each, *move) for each, move in zip(pixels, moves, strict=True)])
        gain = draw.uniform(0.92, 1.08, (len(picked), 1, 1)).astype(np.float32)
        lift = draw.uniform(-8, 8, (len(picked), 1, 1)).astype(np.float32)
        return (torch.from_numpy(moved).float() * torch.from_numpy(gain) + torch.from_numpy(lift)).clamp(0, 255)

    def targets(self, picked: Indices, mirror: Flags) -> tuple[Tensor, Tensor]:
        """Severity by place and places by patch, of the mirrored pictures with the other side."""
        severity = self.train.severity[picked].astype(np.int64)
        shown = self.train.shown[picked].astype(np.int64)
        severity[mirror] = severity[mirror][:, OTHER_SIDE]
        turned = shown[mirror][:, :, ::-1]
        shown[mirror] = sum((turned >> place & 1) << other for place, other in enumerate(OTHER_SIDE))
        return torch.from_numpy(severity), torch.from_numpy(shown)

    def told(
        self, steps: int, draw: np.random.Generator, *, verbose: bool = False
    ) -> Iterator[tuple[Indices, Flags, Tensor, Tensor]]:
        """Batches of studies, which are mirrored, prompt and answer; a study is told in other words every time."""
        source = batches(len(self.train), self.batch * SORTED, -(-steps // SORTED), draw)
        left = steps
        for picked in source:
            target = draw.random(SORTED) < IMPRESSIONS
            share = np.repeat(target, self.batch)
            tellings = draw.integers(0, 1000, len(picked))
            rows = []
            mirrors = draw.random(len(picked)) < MIRRORED
            for index, mirror, impression, telling in zip(picked, mirrors, share, tellings, strict=True):
                true = case(self.train.seed, "train", int(index))
                true = mirrored(true) if mirror else true
                told = text(true, "impression" if impression else "findings", int(telling), verbose=verbose)
                rows.append((bool(impression), answer_ids(self.tokenizer, told), int(index), bool(mirror)))
            rows.sort(key=lambda row: (row[0], len(row[1])))
            parts = [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]
            for number in draw.permutation(len(parts))[:left]:
                yield self.padded(parts[number])
            left -= len(parts)

    def padded(self, rows: list[tuple[bool, list[int], int, bool]]) -> tuple[Indices, Flags, Tensor, Tensor]:
        """One batch as tensors, the answers padded to the longest."""
        prompt = prompt_ids(self.tokenizer, "impression" if rows[0][0] else "findings", IMAGE_TOKENS)
        longest = max(len(row[1]) for row in rows)
        answer = [row[1] + [PAD] * (longest - len(row[1])) for row in rows]
        picked, mirror = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
        return picked, mirror, torch.tensor([prompt] * len(rows)), torch.tensor(answer)


def quarters(steps: int) -> Callable[[int], bool]:
    """When to measure: four times in all."""
    return lambda step: step % max(steps // 4, 1) == 0


class Clock:
    """Mean loss and wall time since the last reading."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.start = time.monotonic()

    def add(self, loss: Tensor) -> None:
        """Count one step."""
        self.losses.append(float(loss.detach()))

    def read(self) -> dict[str, float]:
        """Mean loss, seconds, and start again."""
        now = time.monotonic()
        result = {"loss": float(np.mean(self.losses)), "seconds": now - self.start}
        self.losses, self.start = [], now
        return result


def batches(count: int, size: int, steps: int, draw: np.random.Generator) -> Iterator[Indices]:
    """`steps` batches of indices; every study comes once before any comes again."""
    waiting = np.zeros(0, np.int64)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, draw.permutation(count)])
        yield waiting[:size]
        waiting = waiting[size:]


def shifted(picture: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """The picture moved; its edge is repeated."""
    rows = np.clip(np.arange(PIXELS) - down, 0, PIXELS - 1)
    columns = np.clip(np.arange(PIXELS) - right, 0, PIXELS - 1)
    return picture[rows[:, None], columns]


def logger(file: Path) -> Callable[[dict[str, Any]], None]:
    """Writes one JSON line per note to a file and to the terminal."""

    def note(row: dict[str, Any]) -> None:
        line = json.dumps(row)
        with file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        print(line, flush=True)

    return note
