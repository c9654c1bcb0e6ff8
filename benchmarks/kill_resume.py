"""kill -9 during `cxrbench run` at random moments, then the same command again: is anything lost, doubled or different?

    python -m benchmarks.kill_resume [--kills 50] [--seed 0] [--cases random-report,nearest-image,hf-sampling]

Every case is first run without interruption. Then real processes of the same command are killed: half at a moment
drawn from the whole life of a process (imports, data, batches, scoring), half when the predictions file has reached a
drawn size, which is where little time and much danger is. A run is killed one to six times before its command may
finish. Then every sample must be there once, equal to the uninterrupted run (outcome, text, finish reason, tokens,
inputs, batch), with equal scores; and what stood in the file at a kill must stand there in the end, byte for byte. A
process that was done before its kill came does not count as killed.

`hf-sampling` is a tiny LLaVA-shaped checkpoint with random weights, drawing at temperature 0.8 in batches of four.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.store import differences
from tests.small_task import write_small

SAMPLES = 36
COMPARED = ("outcome", "text", "finish_reason", "prompt_tokens", "image_tokens", "output_tokens", "inputs", "batch")
PHASES = ("no run folder yet", "run folder, no row", "some rows", "all rows, no summary")
LONGEST = 300.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True, slots=True)
class Case:
    """One command to be killed, without its --out."""

    name: str
    words: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """What the kills of one case came to."""

    phases: Counter[str] = field(default_factory=Counter)
    chains: Counter[int] = field(default_factory=Counter)
    torn: int = 0
    late: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    scores: int = 0


def cases(place: Path, wanted: Sequence[str]) -> Iterator[Case]:
    """The commands, with the files they need."""
    common = ("--task", str(write_small(place, test=SAMPLES)), "--replicates", "100")
    if "random-report" in wanted:
        yield Case("random-report", ("--model", "random-report", "--batch-size", "1", *common))
    if "nearest-image" in wanted:
        yield Case("nearest-image", ("--model", "nearest-image", "--batch-size", "3", *common))
    if "hf-sampling" in wanted:
        from tests.tiny_llava import make

        drawn = ("--set", "temperature=0.8", "--set", "max_new_tokens=24", "--batch-size", "4", "--device", "cpu")
        yield Case("hf-sampling", ("--model", f"hf:{make(place / 'tiny')}", *drawn, *common))


def start(case: Case, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cxrbench", "run", *case.words, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(case: Case, out: Path) -> float:
    """Run the command to its end; returns its seconds."""
    started = time.monotonic()
    child = start(case, out)
    _, said = child.communicate(timeout=LONGEST)
    if child.returncode:
        raise SystemExit(f"{case.name}: the command exits {child.returncode}\n{said.decode()}")
    return time.monotonic() - started


def rows_file(out: Path) -> Path:
    return out / "predictions" / "0000.jsonl"


def body(out: Path) -> bytes:
    return rows_file(out).read_bytes() if rows_file(out).exists() else b""


def kill(case: Case, out: Path, *, seconds: float | None, size: int | None) -> bool:
    """Start the command, kill it after so many seconds or at so many bytes of predictions; False: it was done before.

    The file is watched without a pause, so that the kill comes within microseconds of the write.
    """
    started = time.monotonic()
    child = start(case, out)
    while child.poll() is None:
        passed = time.monotonic() - started
        if (seconds is not None and passed >= seconds) or (size is not None and len_of(out) >= size):
            child.kill()
            child.wait()
            break
        if passed > LONGEST:
            child.kill()
            raise SystemExit(f"{case.name}: the process hangs")
        time.sleep(0.0005)
    assert child.stderr is not None
    child.stderr.close()
    return child.returncode == -9


def len_of(out: Path) -> int:
    try:
        return rows_file(out).stat().st_size
    except FileNotFoundError:
        return 0


def phase(out: Path) -> str:
    """Where the killed process was, told from what it left."""
    rows = body(out).count(b"\n")
    if not (out / "manifest.json").exists():
        return PHASES[0]
    if rows == 0:
        return PHASES[1]
    return PHASES[2] if rows < SAMPLES else PHASES[3]


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body(out).splitlines()]


def compare(out: Path, whole: Path, kept: Sequence[bytes], found: Found) -> None:
    """Add to `found` what differs from the uninterrupted run."""
    mine, theirs = answers(out), {row["sample_id"]: row for row in answers(whole)}
    ids = [row["sample_id"] for row in mine]
    found.doubled += len(ids) - len(set(ids))
    found.lost += len(theirs.keys() - set(ids)) + sum(not body(out).startswith(part) for part in kept)
    found.different += sum(
        any(row.get(key) != theirs.get(row["sample_id"], {}).get(key) for key in COMPARED) for row in mine
    )
    metrics = [json.loads((each / "summary.json").read_text())["metrics"] for each in (out, whole)]
    changed = differences(metrics[1], metrics[0])
    found.scores += bool(changed)
    if changed:
        print("  other scores: " + "; ".join(changed[:4]))


def trial(case: Case, place: Path, kills: int, rng: random.Random) -> Found:
    """Kill `kills` processes of one case."""
    found, whole = Found(), place / f"{case.name}-whole"
    life = finish(case, whole)
    final = len(body(whole))
    print(f"\n{case.name}: {SAMPLES} samples, {final} bytes, uninterrupted in {life:.1f} s", flush=True)
    number = 0
    while sum(found.phases.values()) < kills:
        number += 1
        out, kept, hit = place / f"{case.name}-{number}", [], 0
        for _ in range(rng.randint(1, 6)):
            by_size = rng.random() < 0.5
            died = kill(
                case,
                out,
                seconds=None if by_size else rng.uniform(0, life),
                size=rng.randint(1, final) if by_size else None,
            )
            if not died:
                found.late += 1
                break
            at_kill = body(out)
            found.phases[phase(out)] += 1
            found.torn += not at_kill.endswith(b"\n") and bool(at_kill)
            kept.append(at_kill[: at_kill.rfind(b"\n") + 1])
            hit += 1
            if sum(found.phases.values()) == kills:
                break
        found.chains[hit] += 1
        finish(case, out)
        compare(out, whole, kept, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of every case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default="random-report,nearest-image,hf-sampling")
    given = parser.parse_args()
    rng, wrong = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name), given.cases.split(",")):
            found = trial(case, Path(name), given.kills, rng)
            print("  killed with     " + ", ".join(f"{each}: {found.phases[each]}" for each in PHASES))
            print("  kills per run   " + ", ".join(f"{n}: {found.chains[n]} runs" for n in sorted(found.chains)))
            print(f"  torn last lines {found.torn}; done before the kill came (not counted) {found.late}")
            print(
                f"  lost {found.lost}, doubled {found.doubled}, different {found.different}, "
                f"runs with other scores {found.scores}",
                flush=True,
            )
            wrong += found.lost + found.doubled + found.different + found.scores
    if wrong:
        raise SystemExit("missed: a killed run differs from an uninterrupted one")


if __name__ == "__main__":
    main()
