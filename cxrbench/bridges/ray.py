"""`cxrbench run --launcher ray`, and `score`: workers as Ray actors, on one machine or on the nodes of a cluster.

Ray starts processes, tells when one is gone and finds a place for its successor; exactly-once is the run folder's
(claims.py). What travels is the command line: ids and paths. Every node must see the run folder and the data under the
same paths, and have the same cxrbench. Needs the extra `ray`.

Plain actors and not Ray Data: in our trials Ray Data kept nothing of 60 % of a pipeline whose driver died.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.workers.supervise import Ended

Command = Callable[[Sequence[str]], None]
"""Runs `cxrbench WORDS` in this process; a function of a module, because Ray sends its name."""


def start_ray(address: str, workers: int) -> Any:
    """Connect to a cluster, or start one of this machine with room for all workers (`local`); returns the module `ray`.

    Raises:
        CxrbenchError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise CxrbenchError(
            "Ray is not installed", where="--launcher ray", fix="pip install 'cxrbench[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers} if address == "local" else {}
    # Ray reports the use of a cluster to its makers unless it is told not to before it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **quiet)
    except Exception as error:  # where its processes do not start in time, Ray raises nothing more special
        local = address == "local"
        raise CxrbenchError(
            "Ray did not start on this machine" if local else "there is no Ray cluster that answers",
            where=f"--ray-address {address}",
            fix="repeat, or --launcher processes" if local else "ray status; --ray-address local starts one here",
            code=Exit.INFRASTRUCTURE,
        ) from error
    return ray


class _Worker:
    """The actor: one worker process."""

    def work(self, command: Command, words: Sequence[str], folder: str) -> None:
        """Run the command as a worker, in the folder it was typed in."""
        os.chdir(folder)
        sys.argv = ["cxrbench", *words]
        try:
            command(words)
        except CxrbenchError:
            raise
        except Exception as error:
            # The message of a foreign exception may quote a report, and Ray prints and keeps messages.
            raise CxrbenchError(
                f"a worker broke off: {type(error).__name__}",
                fix="the same command with --launcher none --debug shows more",
                code=Exit.INFRASTRUCTURE,
            ) from None


class Actors:
    """A crew of Ray actors: one logical CPU each, and one GPU each where the cluster has GPUs.

    `number` is what a worker is told besides its rank: the epoch of a run, the number of shares of a scoring.
    """

    def __init__(self, command: Command, words: Sequence[str], number: int, world: int, address: str) -> None:
        self._ray = start_ray(address, world)
        self._command, self._words, self._number = command, tuple(words), number
        gpus = 1 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0
        # Whom to start again, and when to give up, the supervisor decides: a new actor must claim a new shard.
        self._kind = self._ray.remote(_Worker).options(
            num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )  # fmt: skip
        self._running: dict[Any, tuple[int, Any]] = {}

    def start(self, rank: int) -> None:
        """Put an actor where there is room; it waits where there is none."""
        actor = self._kind.remote()
        words = [*self._words, "--as-worker", f"{rank}/{self._number}/ray"]
        task = actor.work.remote(self._command, words, str(Path.cwd()))
        self._running[task] = (rank, actor)

    def ended(self) -> list[Ended]:
        """Those whose task has come back, with or without its actor."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0.05)
        return [self._what_became(task, *self._running.pop(task)) for task in ready]

    def _what_became(self, task: Any, rank: int, actor: Any) -> Ended:
        errors = self._ray.exceptions
        try:
            self._ray.get(task)
            return Ended(rank, "done")
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, CxrbenchError) and not cause.what.startswith("stopped"):
                return Ended(rank, "failed", error=cause)
            return Ended(rank, "died", "it was asked to end" if isinstance(cause, CxrbenchError) else "its task broke")
        except errors.RayError as error:
            return Ended(rank, "died", type(error).__name__)
        finally:
            self._ray.kill(actor)  # gives back its place to those that wait

    def stop(self) -> None:
        """Kill what is left and leave the cluster."""
        for _, actor in self._running.values():
            self._ray.kill(actor)
        self._running.clear()
        self._ray.shutdown()
