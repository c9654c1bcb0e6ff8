"""What is seen of a run from outside: how far it is, who is at work, who has died, what to type. Changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrbench.claims import Beat, Claim, Epoch, shard_name, this_machine
from cxrbench.lock import Holder, holder_elsewhere, holder_here, looks
from cxrbench.parts import Parts
from cxrbench.rows import row_heads
from cxrbench.store import RunFolder
from cxrbench.types import EMPTY, OK, Manifest
from cxrbench.workers.signs import Sign, signs_of


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard and its writer.

    `state`: working, loading (no batch yet), done, stopped (asked to end), failed, dead (its process is gone), silent
    (elsewhere, and no heartbeat came), closed (of an earlier epoch, or of one process). `answered` and `failed` (no
    report) count rows; `left` is what this writer still had to do, None where nobody knows. `rate` in samples per
    second, `beat` in seconds since the last heartbeat.
    """

    shard: str
    epoch: int
    rank: int | None
    host: str
    pid: int | None
    state: str
    answered: int
    failed: int
    left: int | None
    rate: float | None
    beat: float | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShareView:
    """A worker of a scoring: `done` of `total` annotations of its share; `stage` is the annotator it is at.

    `state` and `beat` as in `ShardView`.
    """

    rank: int
    world: int
    host: str
    pid: int
    state: str
    stage: str
    done: int
    total: int
    rate: float | None
    beat: float
    note: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run. `late` rows were written by a worker after its share was taken over, and do not count.

    `holder` is a process of this machine that holds the folder's lock: it may not have begun to answer, or be scoring.
    `elsewhere` names host and process where another machine's does, by whose sign of life it is known.
    `scoring` are the workers of a scoring that has not come to its end.
    """

    run: str
    task: str
    model: str
    n_expected: int
    answered: int
    failed: int
    left: int
    rate: float
    seconds_left: float | None
    workers: int
    dead: int
    late: int
    scored: bool
    holder: int | None
    elsewhere: str
    todo: str
    shards: tuple[ShardView, ...]
    scoring: tuple[ShareView, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        shards, scoring = ([asdict(each) for each in found] for found in (self.shards, self.scoring))
        return {**asdict(self), "shards": shards, "scoring": scoring}


def look(run: RunFolder, parts: Parts | None = None) -> RunView:
    """Look at a run folder, for some seconds where its workers are on other machines.

    `parts` is where workers that score it hand over, in this user's cache.

    Raises:
        CxrbenchError: there is no run, or a file of it is damaged.
    """
    manifest = run.manifest()
    seals, claims = run.claims.seals(), run.claims.claims()
    last = run.claims.last_epoch()
    outcomes: dict[str, str] = {}
    counts: dict[str, Counter[bool]] = {}
    late = 0
    for file in run.shards("predictions"):
        counts[file.stem] = Counter()
        for sample_id, outcome in row_heads(file, seals.get(file.stem)):
            outcomes[sample_id] = outcome
            counts[file.stem][outcome in (OK, EMPTY)] += 1
        if file.stem in seals:
            late += _late(file, sum(counts[file.stem].values()))
    lock = run.path / "lock"
    holder = holder_here(lock)
    elsewhere = holder_elsewhere(lock) if holder is None else None
    alone = _of_one_process(counts, holder, elsewhere, at_work=last is None)
    shards = [*alone, *_of_workers(run, claims, last, counts)]
    scoring = _of_scoring(parts) if parts is not None else []
    scored_by = [each for each in scoring if each.state in ("working", "loading")]
    working = [each for each in shards if each.state in ("working", "loading")]
    rate = sum(each.rate or 0.0 for each in working)
    left = manifest.n_expected - len(outcomes)
    return RunView(
        run=str(run.path),
        task=manifest.identity["task"]["name"],
        model=manifest.identity["model"].get("name", ""),
        n_expected=manifest.n_expected,
        answered=len(outcomes),
        failed=sum(outcome not in (OK, EMPTY) for outcome in outcomes.values()),
        left=left,
        rate=rate,
        seconds_left=left / rate if rate else None,
        workers=len(working),
        dead=sum(each.state in ("dead", "silent") for each in shards),
        late=late,
        scored=(run.path / "summary.json").exists(),
        holder=holder,
        elsewhere=f"{elsewhere.place.host} {elsewhere.place.pid}" if elsewhere is not None else "",
        todo=_todo(
            run,
            manifest,
            left,
            at_work=bool(working or scored_by or holder is not None or elsewhere is not None),
            last=last,
        ),
        shards=tuple(shards),
        scoring=tuple(scoring),
    )


def _late(file: Path, counted: int) -> int:
    with file.open("rb") as handle:
        return sum(line.endswith(b"\n") for line in handle) - counted


def _todo(run: RunFolder, manifest: Manifest, left: int, *, at_work: bool, last: Epoch | None) -> str:
    if at_work:
        return "wait: it is at work"
    if not left:
        return (
            f"cxrbench runs show {run.path}" if (run.path / "summary.json").exists() else f"cxrbench score {run.path}"
        )
    if not any(part.get("command") for part in manifest.circumstances):  # it ended before the first worker said so
        model, task = manifest.identity["model"].get("name", ""), manifest.identity["task"]["name"]
        return f"repeat the command that began it (cxrbench run --model {model} --task {task} ... --out {run.path})"
    workers = f" --workers {last.world}" if last is not None and last.world > 1 else ""
    return f"cxrbench run --resume {run.path}{workers}"


def _of_one_process(
    counts: Mapping[str, Counter[bool]], here: int | None, elsewhere: Holder | None, *, at_work: bool
) -> list[ShardView]:
    """Shard 0 belongs to a process that holds the folder's lock and keeps no heartbeat but that of the lock."""
    name = shard_name(0)
    if name not in counts:
        return []
    rows = counts[name]
    host, pid = (elsewhere.place.host, elsewhere.place.pid) if elsewhere is not None else ("", here)
    state = "working" if at_work and pid is not None else "closed"
    if state == "closed":
        host, pid = "", None
    return [
        ShardView(name, 0, None, host, pid, state, rows.total(), rows[False], None, None, None)
    ]  # fmt: skip


def _of_workers(
    run: RunFolder, claims: Sequence[Claim], last: Epoch | None, counts: Mapping[str, Counter[bool]]
) -> list[ShardView]:
    beats = {claim.shard: run.claims.beat(claim.shard) for claim in claims}
    newest = {(claim.epoch, claim.rank): claim.shard for claim in claims}
    open_ = [
        claim
        for claim in claims
        if last is not None and claim.epoch == last.number and newest[claim.epoch, claim.rank] == claim.shard
    ]
    elsewhere = [claim for claim in open_ if claim.place.machine != this_machine() and _at_work(beats[claim.shard])]
    ticking = _watch(run, elsewhere)
    return [
        _shard(claim, beats[claim.shard], counts.get(shard_name(claim.shard), Counter()), claim in open_, ticking)
        for claim in claims
    ]


def _at_work(beat: Beat | None) -> bool:
    return beat is None or beat.state == "working"


def _watch(run: RunFolder, claims: Sequence[Claim]) -> set[int]:
    """The shards whose heartbeat comes in while we watch."""
    before = {claim.shard: run.claims.beat(claim.shard) for claim in claims}
    found: set[int] = set()
    for _ in looks() if before else ():
        found |= {shard for shard, beat in before.items() if run.claims.beat(shard) != beat}
        if len(found) == len(before):
            break
    return found


def _shard(claim: Claim, beat: Beat | None, rows: Counter[bool], is_open: bool, ticking: set[int]) -> ShardView:
    state = _state(claim, beat, is_open, ticking)
    here = claim.place.machine == this_machine()
    seconds = beat.clock - claim.place.clock if beat is not None else 0.0
    age = None
    if beat is not None:
        age = max(0.0, time.monotonic() - beat.clock if here else time.time() - beat.wall)
    return ShardView(
        shard=shard_name(claim.shard),
        epoch=claim.epoch,
        rank=claim.rank,
        host=claim.place.host,
        pid=claim.place.pid,
        state=state,
        answered=rows.total(),
        failed=rows[False],
        left=max(0, beat.samples - rows.total()) if beat is not None and is_open else None,
        rate=beat.answered / seconds if beat is not None and seconds > 0 and beat.answered else None,
        beat=age,
        error=str(beat.error.get("what", "")) if beat is not None and state == "failed" else "",
    )


def _of_scoring(parts: Parts) -> list[ShareView]:
    """The workers of a scoring; of those on other machines it is seen whether a sign of life comes in."""
    before = {sign.rank: sign for sign in signs_of(parts)}
    elsewhere = {
        rank for rank, sign in before.items() if sign.state == "working" and sign.place.machine != this_machine()
    }
    ticking: set[int] = set()
    for _ in looks() if elsewhere else ():
        ticking |= {sign.rank for sign in signs_of(parts) if sign.rank in elsewhere and sign != before[sign.rank]}
        if ticking == elsewhere:
            break
    return [_scoring_share(sign, ticking) for sign in signs_of(parts)]


def _scoring_share(sign: Sign, ticking: set[int]) -> ShareView:
    here = sign.place.machine == this_machine()
    state: str = sign.state
    seconds = sign.clock - sign.place.clock
    if state == "working" and (sign.place.alive() is False or (not here and sign.rank not in ticking)):
        state = "dead" if here else "silent"
    elif state == "working" and not sign.stage:
        state = "loading"
    return ShareView(
        rank=sign.rank,
        world=sign.world,
        host=sign.place.host,
        pid=sign.place.pid,
        state=state,
        stage=sign.stage,
        done=sign.done,
        total=sign.total,
        rate=sign.made / seconds if seconds > 0 and sign.made else None,
        beat=max(0.0, time.monotonic() - sign.clock if here else time.time() - sign.wall),
        note=sign.note,
    )


def _state(claim: Claim, beat: Beat | None, is_open: bool, ticking: set[int]) -> str:
    if not is_open:
        return "closed"
    if beat is not None and beat.state != "working":
        return beat.state
    alive = claim.place.alive()
    if alive is False:
        return "dead"
    if alive is None and claim.shard not in ticking:
        return "silent"
    return "working" if beat is not None and beat.answered else "loading"
