"""kill -9 at random moments of runs and scorings with several workers: is anything lost, doubled, corrupt, different?

    python -m benchmarks.kill_workers [--kills 200] [--launcher all|processes|ranks] [--stage all|answer|score|judge]

answer  a model that sleeps answers 120 samples; every sample must be there once, equal to a run of one process, and
        each whole row that stood on disk at a kill must stand there still and, where it counted then, count in the end
score   annotators that sleep read the texts of a run (the second one reads what the first one says); nothing that was
        handed over at a kill may be annotated again, and summary.json must be that of one process, byte by byte
judge   the same with a judge behind a real HTTP server: nothing that was kept may be asked again; in the summary only
        latencies, and how many answers were asked for by the last command, may differ

A command is started with 2 to 4 workers and killed at a random moment, or when what it has written has reached a random
size: a worker, the coordinator, or every process at once. The coordinator starts a killed worker again, and two or
three kills may fall into one command; otherwise the same command goes on with another number of workers. With `ranks`
there is no coordinator: every process is started by itself with RANK and WORLD_SIZE, as torchrun does it; one that was
killed alone is started again beside the others. Kills of Ray's actors, nodes and drivers: benchmarks.kill_ray.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

from cxrbench.judges.store import told_of
from cxrbench.store import RunFolder
from tests.chat_server import ChatServer, answer
from tests.judges.answers import chexprompt_answer
from tests.workers.trial import (
    JUDGED,
    Scoring,
    Trial,
    annotated,
    bytes_of_shards,
    end,
    handed_over,
    kept_keys,
    parts_in,
    scorers_of,
    size,
    workers_of,
)

SAMPLES = 120
Process = subprocess.Popen[str]


class Stage(Protocol):
    """What is killed: where it happens, how it is started, what it has written, and what must hold in the end."""

    name: str
    life: float
    """Seconds it takes, about: moments are drawn from them."""
    most: int
    """Bytes it writes, about: sizes are drawn from them."""

    def new(self, number: int) -> Path: ...

    def start(self, place: Path, *words: str, environment: dict[str, str] | None = None) -> Process: ...

    def size(self, place: Path) -> int: ...

    def workers(self, place: Path) -> list[int]: ...

    def state(self, place: Path) -> Any: ...

    def check(self, place: Path, states: list[Any], found: Counter[str]) -> None: ...


class Answering:
    """`cxrbench run`."""

    name, life, most = "answer", 4.0, 9000

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        trial.finish(trial.place / "whole")
        self.whole = trial.answers(trial.place / "whole")

    def new(self, number: int) -> Path:
        return self.trial.place / f"run-{number}"

    def start(self, place: Path, *words: str, environment: dict[str, str] | None = None) -> Process:
        return self.trial.start(place, *words, environment=environment)

    def size(self, place: Path) -> int:
        return size(place)

    def workers(self, place: Path) -> list[int]:
        return workers_of(place) if (place / "manifest.json").exists() else []

    def state(self, place: Path) -> Any:
        return bytes_of_shards(place), self.trial.answers(place) if (place / "manifest.json").exists() else {}

    def check(self, place: Path, states: list[Any], found: Counter[str]) -> None:
        rows, now = bytes_of_shards(place), self.trial.answers(place)  # doubles are an error of reading
        for before, counted in states:
            found["lost"] += sum(not rows.get(name, b"").startswith(body) for name, body in before.items())
            found["lost"] += sum(now.get(key) != row for key, row in counted.items())
        found["missing"] += len(self.whole.keys() - now.keys())
        found["different"] += sum(now.get(key) != row for key, row in self.whole.items() if key in now)
        files = (file for file in (place / "predictions").glob("*.jsonl") if file.stat().st_size)
        found["torn shards"] += sum(not file.read_bytes().endswith(b"\n") for file in files)
        found["rows behind a seal"] += sum(b.count(b"\n") for b in rows.values()) - len(RunFolder(place).predictions())


class Annotating:
    """`cxrbench score --metrics slow`."""

    name, life, most = "score", 4.0, 16_000

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        whole = scoring.place("scored")
        scoring.finish(whole)
        self.summary = (whole / "run" / "summary.json").read_bytes()
        self.keys = set(annotated(whole))

    def new(self, number: int) -> Path:
        return self.scoring.place(f"scoring-{number}")

    def start(self, place: Path, *words: str, environment: dict[str, str] | None = None) -> Process:
        return self.scoring.start(place, *words, environment=environment)

    def size(self, place: Path) -> int:
        return handed_over(place)

    def workers(self, place: Path) -> list[int]:
        return scorers_of(place)

    def state(self, place: Path) -> Any:
        kept = kept_keys(place)  # first: what is annotated meanwhile is not in it
        return kept, len(annotated(place))

    def check(self, place: Path, states: list[Any], found: Counter[str]) -> None:
        log, now = annotated(place), kept_keys(place)
        for kept, seen in states:
            found["lost"] += len(kept - now)
            found["doubled"] += len(kept & set(log[seen:]))
        found["missing"] += len(self.keys - now)
        found["annotated twice"] += len(log) - len(set(log))  # blocks in flight
        found["different"] += (place / "run" / "summary.json").read_bytes() != self.summary
        found["parts left"] += len(parts_in(place).files())


class Judging:
    """`cxrbench score --metrics chexprompt`: each answer has a number, so that a kept one is known again."""

    name, life, most = "judge", 4.0, 60_000

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.bodies: list[bytes] = []
        self.server = ChatServer(self._behave)
        self.server.__enter__()
        whole = scoring.place("judged")
        self._end_of(whole)
        self.summary = self._summary(whole)
        self.asked = set(self.bodies)

    def _end_of(self, place: Path) -> None:
        code, said = end(self.start(place))
        if code:
            raise SystemExit(f"judging {place} exits {code}\n{said}")

    def _behave(self, heard: Any) -> Any:
        if heard.method == "GET":
            return answer()
        self.bodies.append(heard.body)
        reply = answer(chexprompt_answer((len(heard.body) % 3, 0, 0, 1, 0, 0)), model=f"judge-{len(self.bodies) - 1}")

        async def slowly(writer: Any, server: Any) -> None:
            await asyncio.sleep(0.05)
            await reply(writer, server)

        return slowly

    def new(self, number: int) -> Path:
        return self.scoring.place(f"judging-{number}")

    def start(self, place: Path, *words: str, environment: dict[str, str] | None = None) -> Process:
        few = ("--judge-set", "concurrency=4")
        return self.scoring.start(place, *JUDGED, self.server.url, *few, *words, environment=environment)

    def size(self, place: Path) -> int:
        return handed_over(place)

    def workers(self, place: Path) -> list[int]:
        return scorers_of(place)

    def state(self, place: Path) -> Any:
        kept = self._kept(place)
        return kept, len(self.bodies)

    def check(self, place: Path, states: list[Any], found: Counter[str]) -> None:
        now = self._kept(place)
        for kept, seen in states:
            found["lost"] += len(kept - now)
            found["doubled"] += len(kept & set(self.bodies[seen:]))
        found["missing"] += len(self.asked - now)
        found["different"] += self._summary(place) != self.summary
        found["parts left"] += len(parts_in(place).files())

    def _kept(self, place: Path) -> set[bytes]:
        """The requests whose answers are kept, in parts or in the store."""
        models: set[str] = set()
        for file in parts_in(place).files():
            with suppress(FileNotFoundError):
                models |= {each.answer.model or "" for each in told_of(file) if each.answer is not None}
        store = place / "xdg" / "cxrbench" / "judges" / "phantom" / "judges.sqlite"
        if store.exists():
            with closing(sqlite3.connect(store, timeout=60)) as base, suppress(sqlite3.OperationalError):
                models |= {row[0] for row in base.execute("SELECT model FROM answer UNION SELECT model FROM earlier")}
        return {self.bodies[int(model.removeprefix("judge-"))] for model in models}

    @staticmethod
    def _summary(place: Path) -> Any:
        """The summary without latencies, how many answers were asked for now, and the numbers of the answers."""
        text = (place / "run" / "summary.json").read_text()
        text = re.sub(r"latency p50 [\d.e-]+ s|\d+ of them asked for now", "", text)
        body = json.loads(text)
        body["notes"] = [note for note in body["notes"] if "served by" not in note]
        return body


def start(stage: Stage, place: Path, launcher: str, workers: int) -> dict[int, Process]:
    """The processes of a command, by rank; with a coordinator there is one."""
    if launcher == "processes":
        return {0: stage.start(place, "--workers", str(workers))}
    return {rank: rank_of(stage, place, rank, workers) for rank in range(workers)}


def rank_of(stage: Stage, place: Path, rank: int, workers: int) -> Process:
    given = {"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank)}
    return stage.start(place, environment=given)


def wait(stage: Stage, place: Path, running: dict[int, Process], draw: random.Random) -> None:
    """Until a random moment, or a random size; the folder is watched without a pause that would matter."""
    until = time.monotonic() + stage.life
    moment, wanted = until + 60, stage.size(place) + draw.randrange(1, stage.most // 3)
    if draw.random() < 0.4:
        moment, wanted = time.monotonic() + draw.uniform(0, stage.life), 1 << 40
    while any(each.poll() is None for each in running.values()) and time.monotonic() < moment:
        if stage.size(place) >= wanted:
            return
        time.sleep(0.002)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command(
    stage: Stage, place: Path, launcher: str, kills: int, draw: random.Random, found: Counter[str]
) -> tuple[bool, list[Any]]:
    """One command with at most so many kills; whether it came to its end, and what was there at each of them."""
    workers = draw.randint(2, 4)
    running, states = start(stage, place, launcher, workers), []
    while kills:
        wait(stage, place, running, draw)
        alive = {rank: each for rank, each in running.items() if each.poll() is None}
        if not alive:
            found["late"] += 1
            break
        victim = draw.choice(["worker", "worker", "coordinator" if launcher == "processes" else "all", "all"])
        rank = draw.choice(list(alive))
        at_work = stage.workers(place) if launcher == "processes" else []
        if victim == "worker" and launcher == "processes" and not at_work:
            victim = "coordinator"
        if victim == "worker":
            kill([draw.choice(at_work) if at_work else alive[rank].pid])
        else:
            kill([each.pid for each in alive.values()] + (at_work if victim == "all" else []))
        states.append(stage.state(place))
        kills -= 1
        found["kills"] += 1
        found[f"kills of {victim}"] += 1
        if victim != "worker":
            break
        if launcher == "ranks":
            end(alive[rank])
            running[rank] = rank_of(stage, place, rank, workers)
    said = [end(each) for each in running.values()]
    found["gave up"] += sum("died 3 times" in text for _, text in said)
    for code, text in said:
        if code not in (0, -9) and "died 3 times" not in text:
            found["other ends"] += 1
            print(f"  ended with {code}: {text[-2000:]}", flush=True)
    return all(code == 0 for code, _ in said), states


def chain(stage: Stage, place: Path, launcher: str, draw: random.Random, found: Counter[str]) -> None:
    """Two to five kills on one folder, then the end."""
    kills, states, ended = draw.randint(2, 5), [], False
    while kills > 0 and not ended:
        ended, more = command(stage, place, launcher, kills, draw, found)
        states += more
        kills -= len(more)
    if not ended:
        for each in start(stage, place, launcher, draw.randint(1, 4)).values():
            code, said = end(each)
            if code:
                raise SystemExit(f"the last command on {place} exits {code}\n{said}")
    stage.check(place, states, found)
    found["chains"] += 1


STAGES = ("answer", "score", "judge")
COUNTED = (
    "kills", "kills of worker", "kills of coordinator", "kills of all", "late", "chains", "gave up", "other ends",
    "torn shards", "rows behind a seal", "annotated twice", "parts left", "lost", "doubled", "missing", "different",
)  # fmt: skip
BAD = ("lost", "doubled", "missing", "different", "torn shards", "parts left", "other ends")


def stages(place: Path, names: list[str]) -> list[Stage]:
    trial = Trial(place, samples=SAMPLES, seconds=0.02)
    made: list[Stage] = []
    answering = Answering(trial)
    scoring = Scoring(trial, place / "whole", sleep=0.03)
    if "answer" in names:
        made.append(answering)
    if "score" in names:
        made.append(Annotating(scoring))
    if "judge" in names:
        made.append(Judging(scoring))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--launcher", choices=["all", "processes", "ranks"], default="all")
    parser.add_argument("--stage", choices=["all", *STAGES], default="all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    launchers = ["processes", "ranks"] if given.launcher == "all" else [given.launcher]
    tables: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    begun, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        made = stages(Path(folder), list(STAGES) if given.stage == "all" else [given.stage])
        turns = [(stage, launcher) for stage in made for launcher in launchers]
        while sum(table["kills"] for table in tables.values()) < given.kills:
            stage, launcher = turns[number % len(turns)]
            name = f"{stage.name}, {launcher}"
            table = tables.setdefault(name, Counter())
            started = time.monotonic()
            chain(stage, stage.new(number), launcher, draw, table)
            seconds[name] += time.monotonic() - started
            number += 1
            if any(table[each] for each in BAD):
                print(
                    f"  chain {number} ({name}): { ({each: table[each] for each in BAD if table[each]}) }", flush=True
                )
    print(f"{'':22}" + "".join(f"{name:>20}" for name in tables))
    for each in COUNTED:
        print(f"{each:22}" + "".join(f"{table[each]:>20}" for table in tables.values()))
    paces = [f"{seconds[name] / max(table['kills'], 1):.1f}" for name, table in tables.items()]
    print(f"{'seconds a kill':22}" + "".join(f"{pace:>20}" for pace in paces))
    whole = sum((table for table in tables.values()), Counter())
    print(
        f"{whole['kills']} kills in {time.monotonic() - begun:.0f} s; rows of a sample twice: 0 (reading refuses them)"
    )
    if any(whole[each] for each in BAD):
        raise SystemExit("missed: something was lost, doubled, missing, different or left")


if __name__ == "__main__":
    main()
