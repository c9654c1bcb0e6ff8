"""Which share of a run this process answers, told from what Slurm, torchrun or Kubernetes put into its environment.

A process that was started as one of many answers its share and no more, so each rule asks for every variable that
makes the case certain: a Slurm batch script that uses no `srun` has SLURM_NTASKS as well and is still alone. Standard
library and errors only.
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
    for read in (_slurm, _torchrun, _kubernetes):
        found = read(environment, workers)
        if found is not None:
            if not 0 <= found.rank < found.world:
                raise CxrbenchError(
                    f"there is no rank {found.rank} among {found.world}, which are counted from 0",
                    where=found.source,
                    fix="--launcher none to do everything in this process",
                )
            if workers is not None and workers != found.world:
                raise CxrbenchError(
                    f"--workers {workers}, but {found.source} started {found.world}",
                    fix="leave --workers out, or --launcher none to answer everything in this process",
                )
            return found if found.world > 1 else None
    return None


def _slurm(environment: Mapping[str, str], workers: int | None) -> Rank | None:
    """An array, the tasks of a step (`srun`), or both: every task of the array then has as many steps."""
    rank, world, local = 0, 1, None
    said = []
    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
        step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
        position, off = divmod(_number(environment, "SLURM_ARRAY_TASK_ID") - first, max(step, 1))
        if off or step < 1:
            raise CxrbenchError(
                "the numbers of the Slurm array are not evenly spaced", where="SLURM_ARRAY_TASK_ID",
                fix="--array=0-N, or --launcher none",
            )  # fmt: skip
        rank, world = position, _number(environment, "SLURM_ARRAY_TASK_COUNT")
        said.append("SLURM_ARRAY_TASK_ID")
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        tasks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
        rank, world = rank * tasks + _number(environment, "SLURM_PROCID"), world * tasks
        local = _number(environment, "SLURM_LOCALID", 0)
        said.append("SLURM_PROCID")
    return Rank(rank, world, f"Slurm ({', '.join(said)})", local) if said else None


def _torchrun(environment: Mapping[str, str], workers: int | None) -> Rank | None:
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    local = _number(environment, "LOCAL_RANK", 0) if "LOCAL_RANK" in environment else None
    return Rank(_number(environment, "RANK"), _number(environment, "WORLD_SIZE"), "torchrun (RANK)", local)


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
    return Rank(_number(environment, "JOB_COMPLETION_INDEX"), world, source)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise CxrbenchError(f"{name}={text!r} is no number", where="the environment", fix="--launcher none") from None
