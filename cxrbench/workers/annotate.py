"""Workers of a scoring: each annotates its share of the texts and asks its share of the judge's questions.

What costs when a run is scored is done by annotators and judges, and both keep what they make under a key of everything
that decides it. So the workers need no list: each walks over the run's pairs like a scoring, makes what the stores do
not hold and the key gives to it (`parts.Share`), and hands it over in a part of its own (parts.py). The coordinator
merges the parts and scores as one process does, finding everything there. What needs others' annotations first
(vectors of entities that have to be found) is made in a further round. Nothing that is handed over is made again,
whoever dies: workers that start look into all parts, and so does every later scoring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cxrbench import registry
from cxrbench.atomic import disk_error
from cxrbench.errors import CxrbenchError
from cxrbench.features.store import SharedStore, Store, keys_of
from cxrbench.judges.ask import PENDING, Divisible
from cxrbench.judges.engine import Hands, Judge
from cxrbench.judges.feature import JudgeFeature
from cxrbench.judges.store import JudgeStore, Told, told_of
from cxrbench.parts import HandOverError, Part, Parts
from cxrbench.scoring import Ahead, Progress
from cxrbench.shares import ElsewhereError, Plan, Share, even, fair, owner
from cxrbench.workers.share import ORPHANS, Check, StoppedError, stopped
from cxrbench.workers.signs import Life, Sign, signs_of
from cxrbench.workers.supervise import Crew, Watched, see_through

if TYPE_CHECKING:
    from cxrbench.features.base import Feature, FeatureRequest, Resources
    from cxrbench.store import RunFolder


@dataclass(frozen=True, slots=True)
class Open:
    """What the stores do not hold: keys of annotations, and questions to the judge."""

    texts: frozenset[bytes] = frozenset()
    questions: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return len(self.texts) + len(self.questions)

    def within(self, other: Open) -> bool:
        """Whether nothing here is new beside the other."""
        return self.texts <= other.texts and self.questions <= other.questions

    def plan(self, world: int, judging: int, told: Iterable[Told] = ()) -> Plan:
        """Shares for so many workers, of which so many ask the judge; `told` is what came of questions so far."""
        failed = sorted(each.question.hex() for each in told if each.reason)
        return Plan(fair(self.texts, world), fair(self.questions, max(1, judging)), tuple(failed))

    def ranks(self, plan: Plan) -> set[int]:
        """The workers that have something to do."""
        given = [(self.texts, plan.texts), (self.questions, plan.questions)]
        return {owner(key, begins) for keys, begins in given for key in keys}


WHOLE = Plan((0,), (0,))
"""One share."""


def parts_of(run: RunFolder, resources: Resources) -> Parts | None:
    """Where workers of this run's scoring hand over; None where nothing is kept."""
    return Parts(resources.store.file.parent, run.path) if resources.store is not None else None


def judging_workers(judge: Any, world: int) -> int:
    """How many of so many workers ask the judge; 0 where one process has to, or its answers are not worth keeping."""
    if not isinstance(judge, Judge) or not judge.asker.keeps:
        return 0
    return judge.asker.workers(world) if isinstance(judge.asker, Divisible) else world


def metrics_shared(ahead: Ahead) -> list[str]:
    """Keys of the metrics that rest on something workers can share."""
    return [key for key, requests in ahead.needs.items() if any(_feature(each).shared for each in requests)]


def take_over(run: RunFolder, resources: Resources) -> dict[bytes, Told]:
    """Merge what workers of this run's scoring handed over into the stores; what judges said, by question.

    Call it with the run's lock held. Workers that lost their coordinator get some seconds to end.

    Raises:
        CxrbenchError: a part is damaged, or a store cannot be written.
    """
    parts = _writable(run, resources)
    if parts is None:
        return {}
    _wait_for_orphans(parts)
    told = _merged(parts, resources)
    parts.clear()
    return told


def _writable(run: RunFolder, resources: Resources) -> Parts | None:
    """Where workers of this run's scoring handed over; None where nothing is, or where it is not ours to change."""
    parts, store = parts_of(run, resources), resources.store
    return parts if parts is not None and store is not None and parts.exists() and store.usable() else None


def _wait_for_orphans(parts: Parts) -> None:
    """Let workers whose coordinator died end: what they are told after their part is merged would be lost."""
    until = time.monotonic() + ORPHANS
    while time.monotonic() < until and any(at_work(sign) for sign in signs_of(parts)):
        time.sleep(0.1)


def at_work(sign: Sign) -> bool:
    """Whether the process of a sign is at work on this machine, as far as can be told."""
    return sign.state == "working" and sign.place.alive() is True


def _merged(parts: Parts, resources: Resources) -> dict[bytes, Told]:
    """Merge all parts, each in one transaction and then removed: after a kill in between, once more changes nothing."""
    told: dict[bytes, Told] = {}
    assert resources.store is not None
    for part in parts.files():
        said = list(told_of(part))  # first: nothing is kept of a part that is damaged
        resources.store.merge(part)
        add_told(told, said)
        if said and isinstance(resources.judge, Judge):
            with JudgeStore(resources.judge.folder) as store:
                store.merge(part)
        elif any(each.answer is not None for each in said):
            continue  # this scoring has no judge: its answers wait for one that has
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, part) from error
    return told


def add_told(told: dict[bytes, Told], said: Iterable[Told]) -> None:
    """Add what judges said: a verdict counts, whatever else a process before or after was told."""
    for each in said:
        before = told.get(each.question)
        if before is None or before.reason:
            told[each.question] = each


def came_to_its_end(run: RunFolder, resources: Resources, scoring: str) -> None:
    """A scoring is complete: a rank that begins from now on begins another one.

    Call it with the run's lock held. What cannot be removed stays: the scoring is written.
    """
    parts = _writable(run, resources)
    if parts is not None:
        parts.forget(scoring)


def even_plan(ahead: Ahead, world: int) -> Plan:
    """Equally wide shares, for workers without a coordinator."""
    return Plan(even(world), even(max(1, judging_workers(_judge(ahead), world))))


def look_ahead(ahead: Ahead, told: Mapping[bytes, Told], plan: Plan = WHOLE, rank: int | None = None) -> Open:
    """What the stores do not hold of the share of a worker, or of all; makes nothing and asks nothing."""
    texts, questions = Share(rank, plan.texts, dry=True), Share(rank, plan.questions, dry=True)
    resources = _resources(ahead, texts, None, lambda _: None, Hands(questions, told))
    _walk(ahead, _requests(ahead, len(plan.texts)), resources, lambda _: None)
    return Open(frozenset(texts.open), frozenset(questions.open))


def annotate_share(
    ahead: Ahead, parts: Parts, rank: int, plan: Plan, check: Check, progress: Progress, *, anew: bool = False
) -> list[str]:  # fmt: skip
    """Make a worker's share and hand it over; returns what could not be made, which scoring will try and tell.

    `anew`: this is a command of its own and not a further try of a coordinator's, so it asks again what came to nothing
    before.

    Raises:
        CxrbenchError: it was stopped, or the disk is full. Everything handed over before is kept.
    """
    parts.make()
    life = Life(parts, rank, len(plan.texts))
    try:
        notes = _annotate(ahead, parts, rank, plan, life, check, progress, anew=anew)
    except BaseException as error:
        life.end("stopped" if isinstance(error, StoppedError | KeyboardInterrupt) else "failed")
        raise
    life.note = "; ".join(notes)
    life.end("done")
    return notes


def _annotate(
    ahead: Ahead, parts: Parts, rank: int, plan: Plan, life: Life, check: Check, progress: Progress, *, anew: bool
) -> list[str]:  # fmt: skip
    world = len(plan.texts)
    told = {question: Told(question, None, None, PENDING) for question in plan.failed_questions()}
    for file in parts.files():
        add_told(told, (each for each in told_of(file) if not (anew and each.reason)))
    held = {key for file in parts.files() for key in keys_of(file)}
    need = look_ahead(ahead, {}, plan, rank)
    life.total, life.done = len(need), len(need.texts & held) + len(need.questions & told.keys())
    part = parts.new(rank)

    def moved(count: int) -> None:
        life.done += count
        life.made += count
        progress(f"annotating, share {rank} of {world}", life.done, life.total)
        check()
        if part.gone():
            raise stopped("another process has taken over this share")

    def keep(each: Told) -> None:
        part.put([each.row()])
        moved(1)

    ahead = _with_part_of_limits(ahead, rank, len(plan.questions))
    hands = Hands(Share(rank, plan.questions), told, keep)
    resources = _resources(ahead, Share(rank, plan.texts, held), part, moved, hands)

    def stage(name: str) -> None:
        life.stage = name
        check()

    try:
        broken = _walk(ahead, _requests(ahead, world), resources, stage)
    finally:
        part.close()
    lost = _judge(ahead).asker.stopped() if isinstance(_judge(ahead), Judge) else ""
    return list(dict.fromkeys([*(error.what for error in broken), *([lost] if lost else [])]))


def _with_part_of_limits(ahead: Ahead, rank: int, judging: int) -> Ahead:
    """The same with a judge that asks within this worker's part of the connections and rates."""
    judge = _judge(ahead)
    if rank >= judging or not isinstance(judge, Judge) or not isinstance(judge.asker, Divisible):
        return ahead
    divided = replace(judge, asker=judge.asker.divided(rank, judging))
    return replace(ahead, resources=replace(ahead.resources, judge=divided))


def _judge(ahead: Ahead) -> Any:
    return ahead.resources.judge


def _resources(
    ahead: Ahead, share: Share, part: Part | None, moved: Callable[[int], None], hands: Hands
) -> Resources:  # fmt: skip
    """The resources of a walk that makes a share, or only counts it: nothing that the scoring itself will count."""
    given = ahead.resources
    assert given.store is not None
    judge = replace(given.judge, hands=hands, usage={}) if isinstance(given.judge, Judge) else given.judge
    return replace(given, store=SharedStore(given.store, share, part, moved), judge=judge)


def _feature(request: FeatureRequest) -> Feature:
    made: Feature = registry.load("features", request.name)()
    return made


def _requests(ahead: Ahead, world: int) -> list[FeatureRequest]:
    """What workers can share of what the metrics need, each once."""
    asked = dict.fromkeys(each for requests in ahead.needs.values() for each in requests)
    judging = judging_workers(_judge(ahead), world) > 0
    made = [(each, _feature(each)) for each in asked]
    return [each for each, feature in made if feature.shared and (judging or not isinstance(feature, JudgeFeature))]


def _walk(
    ahead: Ahead, requests: Iterable[FeatureRequest], resources: Resources, stage: Callable[[str], None]
) -> list[CxrbenchError]:  # fmt: skip
    """Compute every feature of all pairs as far as this process can; the errors of those that broke."""
    broken: dict[FeatureRequest, CxrbenchError] = {}
    requests = list(requests)
    for pairs in ahead.pairs() if requests else ():
        for request in requests:
            if request in broken:
                continue
            stage(request.name)
            try:
                with suppress(ElsewhereError):
                    _feature(request).extract(pairs, dict(request.settings), resources)
            except (StoppedError, HandOverError):
                raise
            except CxrbenchError as error:  # the scoring meets it again, and says for which metric
                broken[request] = error
    return list(broken.values())


StartCrew = Callable[[Iterable[str], int], Crew]
"""Makes a crew for the metrics named, of so many workers."""


def annotate_with_workers(
    run: RunFolder, ahead: Ahead, world: int, crew_of: StartCrew, check: Check, progress: Progress,
    note: Callable[[str], None],
) -> Resources:  # fmt: skip
    """Have workers make all that a scoring needs; returns the resources with which it finds everything.

    `note` is told in one sentence why there are no workers (nothing can be kept here), or what they could not make.

    Raises:
        CxrbenchError: a worker failed (it sees another cache, say) or died again and again; it was stopped.
    """
    take_over(run, ahead.resources)
    if not metrics_shared(ahead):
        return ahead.resources
    parts, store = parts_of(run, ahead.resources), ahead.resources.store
    if parts is None or store is None or not store.usable():
        note(_no_store(store))
        return ahead.resources
    told: dict[bytes, Told] = {}
    noted: list[str] = []
    before: Open | None = None
    while True:
        progress("looking for what is to be annotated", 0, 0)
        open_ = look_ahead(ahead, told)
        if not open_ or (before is not None and open_.within(before)):
            break
        before = open_
        plan = open_.plan(world, judging_workers(_judge(ahead), world), told.values())
        parts.write_plan(plan)
        _round(run, parts, open_.ranks(plan), len(open_), crew_of(metrics_shared(ahead), world), check, progress)
        noted += [f"worker {sign.rank}: {sign.note}" for sign in signs_of(parts) if sign.note]
        add_told(told, _merged(parts, ahead.resources).values())
        parts.clear()
    if open_ and not noted:
        noted.append(
            f"{len(open_)} annotations that workers made are not those that are needed here, and are made again: do "
            "all run on the same kind of device? --device says on which"
        )
    for line in noted:
        note(line)
    judge = _judge(ahead)
    return replace(ahead.resources, judge=replace(judge, hands=Hands(told=told)) if told else judge)


def _round(
    run: RunFolder, parts: Parts, ranks: set[int], total: int, crew: Crew, check: Check, progress: Progress
) -> None:  # fmt: skip
    def show(at_work: int) -> None:
        done = sum(sign.done for sign in signs_of(parts))
        progress(f"annotating, {at_work} workers" if at_work else "annotating", min(done, total), total)

    see_through(crew, ranks, Watched(run.path, parts.size, show), check)


def _no_store(store: Store | None) -> str:
    place = f" ({store.file.parent})" if store is not None else ""
    return (
        f"no workers annotate: they would hand over beside the feature store, which cannot be written{place}; "
        "XDG_CACHE_HOME=DIR names a folder that can"
    )
