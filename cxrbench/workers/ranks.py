"""Which share of a run this process answers, told from what Slurm, torchrun or Kubernetes put into its environment.

A process that was started as one of many answers its share and no more, so each rule asks for every variable that
makes the case certain: a Slurm batch script that uses no `srun` has SLURM_NTASKS and SLURM_PROCID as well and is still
alone. Standard library and errors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrbench.errors import CxrbenchError


@dataclass(frozen=True, slots=True)
class Rank:
    """Share `rank` of `world`, counted from 0; `source` says who said so; `local` is the rank on this machine."""

    rank: int
    world: int
    source: str
    local: int | None = None


def rank_of(environment: Mapping[str, str], workers: int | None = None) -> Rank | None:
    """The rank that a scheduler gave this process; None where it was started by itself.

    `workers` is the number on the command line: Kubernetes tells an index and not of how many.

    Raises:
        CxrbenchError: a rank without a number of ranks, one out of range, or another number on the command line.
    """
    for read in (_nested, _exported, _kubernetes):
        found = read(environment, workers)
        if found is None or found.world == 1:
            continue  # one of one divides nothing: a site may want every command under `srun`
        if workers is not None and workers != found.world:
            raise CxrbenchError(
                f"--workers {workers}, but {found.source} started {found.world}",
                fix="leave --workers out; where each has a run of its own, --launcher processes (with --workers), or "
                "--launcher none",
            )
        return found
    return None


def _nested(environment: Mapping[str, str], workers: int | None) -> Rank | None:
    """An array, the tasks of a step (`srun`) in it, torchrun in these: each of the outer has as many of the inner."""
    levels = [_array(environment), _step(environment)]
    if "TORCHELASTIC_RUN_ID" in environment:
        if _number(environment, "GROUP_WORLD_SIZE", 1) > 1:
            levels[1] = None  # the tasks of the step are the nodes of this one torchrun, which counts through them
        levels.append(_exported(environment, workers))
    whole = None
    for inner in filter(None, levels):
        whole = inner if whole is None else _within(whole, inner)
    return whole


def _within(outer: Rank, inner: Rank) -> Rank:
    rank, world = outer.rank * inner.world + inner.rank, outer.world * inner.world
    return Rank(rank, world, f"{outer.source} and {inner.source}", inner.local)


def _array(environment: Mapping[str, str]) -> Rank | None:
    if "SLURM_ARRAY_TASK_ID" not in environment or "SLURM_ARRAY_TASK_COUNT" not in environment:
        return None
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    position, off = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - first, max(step, 1))
    if off or step < 1 or last != first + (count - 1) * step:
        raise CxrbenchError(
            f"the Slurm array is a list ({count} numbers from {first} to {last}); Slurm tells no task its place in one",
            where="SLURM_ARRAY_TASK_ID",
            fix=f"--array=0-{count - 1} divides anew what a run has left, `scontrol requeue` starts tasks of an array "
            "again; --launcher none where each task has a run of its own",
        )
    return _checked(Rank(position, count, "Slurm (SLURM_ARRAY_TASK_ID)"))


def _step(environment: Mapping[str, str]) -> Rank | None:
    if "SLURM_PROCID" not in environment or "SLURM_STEP_ID" not in environment:
        return None
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
    local = _number(environment, "SLURM_LOCALID", 0)
    return _checked(Rank(_number(environment, "SLURM_PROCID"), tasks, "srun (SLURM_PROCID)", local))


def _exported(environment: Mapping[str, str], workers: int | None) -> Rank | None:
    """What torchrun sets, and other launchers after it."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    local = _number(environment, "LOCAL_RANK", 0) if "LOCAL_RANK" in environment else None
    return _checked(Rank(_number(environment, "RANK"), _number(environment, "WORLD_SIZE"), "torchrun (RANK)", local))


def _kubernetes(environment: Mapping[str, str], workers: int | None) -> Rank | None:
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    source = "Kubernetes (JOB_COMPLETION_INDEX)"
    if workers is None and "WORLD_SIZE" not in environment:
        raise CxrbenchError(
            "an indexed job tells its index, but not of how many",
            where="JOB_COMPLETION_INDEX",
            fix="--workers N with the job's `completions`, or --launcher none to answer everything in this process",
        )
    world = workers if workers is not None else _number(environment, "WORLD_SIZE")
    return _checked(Rank(_number(environment, "JOB_COMPLETION_INDEX"), world, source))


def _checked(found: Rank) -> Rank:
    if not 0 <= found.rank < found.world:
        raise CxrbenchError(
            f"there is no rank {found.rank} among {found.world}, which are counted from 0",
            where=found.source,
            fix="--launcher none to do everything in this process",
        )
    return found


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise CxrbenchError(f"{name}={text!r} is no number", where="the environment", fix="--launcher none") from None
