"""Runs an experiment and puts together what it found, as one JSON object. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cxrbench import __version__
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.anatomy import anatomy_entry, dissect, ratio_entry
from cxrbench.throughput.arm import Arm
from cxrbench.throughput.bench import Bench
from cxrbench.throughput.configuration import Configuration
from cxrbench.throughput.device_state import shared
from cxrbench.throughput.energy import cost_per_report, energy_entry, measurable
from cxrbench.throughput.experiment import ExperimentSpec, ModeSpec, configuration
from cxrbench.throughput.facts import Gpu
from cxrbench.throughput.figures import figures, used
from cxrbench.throughput.protocol import Progress, Session, measure, silent

FORMAT = 1


def _forgotten(result: dict[str, Any]) -> None:
    """Nobody keeps it."""


CURVE = tuple(1 << power for power in range(10))
"""Batch sizes at which the roofline is drawn."""


@dataclass
class Conductor:
    """An experiment on a bench. `ceilings` gives the device's measured figures at a precision, None for none."""

    spec: ExperimentSpec
    bench: Bench
    ceilings: Callable[[str], Gpu | None]
    memory: float = 0
    """Bytes of the device, for the largest batch that fits; 0 where it is not known."""
    idle_load: int | None = None
    """Percent of load before we gave the device anything."""
    folder: Path = Path()
    progress: Progress = silent
    keep: Callable[[dict[str, Any]], None] = _forgotten
    """Given the result so far after every session, so that a stopped experiment leaves what it had."""

    def run(self) -> dict[str, Any]:
        """Measure everything.

        Raises:
            CxrbenchError: something cannot be measured; or energy was asked for and no figure could be made.
        """
        now = self.bench.monitor.read()
        if self.spec.energy:
            measurable(now, self.spec.rules.block_seconds)
        unseen = self.bench.monitor.warning
        warnings = [*([unseen] if unseen else []), *shared(now, self.idle_load)]
        sessions: list[Session] = []
        modes: list[dict[str, Any]] = []
        anatomies: list[dict[str, Any]] = []
        for mode in self.spec.modes:
            for batch in mode.batches or (None,):
                modes.append(self._mode(mode, batch, sessions))
                self.keep(self._result(warnings, modes, anatomies, sessions, complete=False))
        for each in self.spec.anatomies:
            ends = [self._configuration(name) for name in (each.slow, each.fast)]
            rules = self.spec.rules.rules()
            found = dissect(ends[0], ends[1], each.order, self.bench.arms, rules, self.progress, self.bench.fit)
            sessions += found.sessions
            anatomies.append({"name": each.name, "about": each.about, **anatomy_entry(found)})
            self.keep(self._result(warnings, modes, anatomies, sessions, complete=False))
        return self._result(warnings, modes, anatomies, sessions, complete=True)

    def _result(
        self,
        warnings: Sequence[str],
        modes: Sequence[dict[str, Any]],
        anatomies: Sequence[dict[str, Any]],
        sessions: Sequence[Session],
        *,
        complete: bool,
    ) -> dict[str, Any]:
        """All there is so far, as JSON."""
        lines = [*warnings, *shared(self.bench.monitor.read())]
        lines += [line for session in sessions for line in _shared(session)]
        lines += [line for session in sessions for line in _partly(session)]
        lines += [_unstable(arm) for arm in _once(sessions) if not arm.stable]
        return {
            "format": FORMAT,
            "kind": "throughput",
            "name": self.spec.name,
            "about": self.spec.about,
            "cxrbench": __version__,
            "task": self.spec.task,
            "images": self.spec.images,
            "rules": asdict(self.spec.rules.rules()),
            "complete": complete,
            "warnings": list(dict.fromkeys(lines)),
            "modes": list(modes),
            "anatomies": list(anatomies),
            "sessions": [_blocks(session) for session in sessions],
        }

    def _configuration(self, name: str, scenario: str = "offline") -> Configuration:
        return configuration(name, self.spec.configurations[name], self.folder, scenario=scenario)

    def _mode(self, mode: ModeSpec, batch: int | None, sessions: list[Session]) -> dict[str, Any]:
        """A mode at one batch size; None for those of its configurations."""
        wanted = [self._configuration(name, mode.scenario) for name in mode.configurations]
        if batch is not None:
            wanted = [replace(each, batch=batch) for each in wanted]
        arms = self.bench.arms(wanted, alone=mode.alone)
        session = measure(arms, self.spec.rules.rules(), self.progress)
        sessions.append(session)
        return {
            "mode": mode.name,
            "about": mode.about,
            "scenario": mode.scenario,
            "alone": any(arm.settle for arm in arms),
            "arms": [self._arm(arm, session) for arm in arms],
            "ratios": ratios(session),
            "discarded": len(session.discarded),
        }

    def _arm(self, arm: Arm, session: Session) -> dict[str, Any]:
        blocks = session.of(arm.name)
        found = figures(blocks)
        entry = {
            "name": arm.name,
            "batch": arm.batch,
            "dtype": arm.dtype,
            "configuration": arm.configuration.describe(),
            "loaded": {key: value for key, value in arm.about.items() if not key.startswith("checkpoint")},
            "stable": arm.stable,
            "spread": arm.spread,
            **found,
            "roofline": self._roofline(arm, found, blocks),
        }
        if self.spec.energy:
            entry["energy"] = energy_entry(blocks)
            if entry["energy"]["joules_per_report"] is None:
                raise CxrbenchError(
                    f"energy was asked for and cannot be given: {entry['energy']['why_not']}",
                    where=arm.name,
                    fix="leave --energy out, or mend the cause",
                    code=Exit.UNDECIDED,
                )
        if self.spec.price_per_hour is not None:
            entry["cost_per_report"] = cost_per_report(found["reports_per_s"], self.spec.price_per_hour)
        return entry

    def _roofline(self, arm: Arm, found: Mapping[str, Any], blocks: Sequence[Any]) -> dict[str, Any] | None:
        """The ceiling for this configuration on this device, and how much of it was reached by the engine alone."""
        gpu = self.ceilings(arm.dtype)
        if arm.shape is None or gpu is None:
            return None
        load = roof.Load(found["tokens_per_report"], arm.dtype, prompt=round(found["prompt_tokens"]))
        ceiling = roof.reports_per_second(arm.shape, gpu, arm.batch, load)
        return {
            "bandwidth": gpu.bandwidth,
            "flops": gpu.flops * roof.RATE[arm.dtype],
            "floor_step": roof.floor_step(arm.shape, gpu, arm.dtype),
            "step": roof.step_seconds(
                arm.shape, gpu, arm.batch, roof.mean_context(load.prompt or 0, load.new_tokens), arm.dtype
            ),
            "largest_batch": roof.largest_batch(arm.shape, self.memory, load) if self.memory else None,
            "reports_per_s": ceiling,
            "reached": found["engine_reports_per_s"] / ceiling,
            "curve": [[size, roof.reports_per_second(arm.shape, gpu, size, load)] for size in CURVE],
            **used(blocks, arm.shape, replace(gpu, flops=gpu.flops * roof.RATE[arm.dtype]), arm.dtype),
        }


def ratios(session: Session) -> list[dict[str, Any]]:
    """The first arm over each other one, end to end and engine alone."""
    first, *others = (arm.name for arm in session.arms)
    return [
        {
            "fast": first,
            "slow": other,
            **ratio_entry(session.ratio(first, other)),
            "engine": ratio_entry(session.ratio(first, other, engine=True)),
        }
        for other in others
    ]


def _shared(session: Session) -> list[str]:
    """A line per arm during whose blocks somebody else held memory of the device."""
    counts = {arm.name: sum(block.shared for block in session.of(arm.name)) for arm in session.arms}
    return [
        f"{name}: somebody else was on the device in {count} of {len(session.rounds)} blocks"
        for name, count in counts.items()
        if count
    ]


def _partly(session: Session) -> list[str]:
    """Arms whose batches were not all full, or could have been larger: both make a model slower than it is."""
    found = []
    for arm in session.arms:
        reports = session.of(arm.name)[0].reports
        if reports % arm.batch:
            found.append(f"{arm.name}: blocks of {reports} reports are no whole batches of {arm.batch}")
        if arm.about.get("fitting", 0) > arm.batch:
            fitting = arm.about["fitting"]
            found.append(f"{arm.name}: a batch of {fitting} fits, {arm.batch} was measured: --images {fitting} or more")
    return found


def _unstable(arm: Arm) -> str:
    return f"{arm.name}, batch {arm.batch}: not stable after warming up (last blocks {arm.spread or 0:.1%} apart)"


def _once(sessions: Sequence[Session]) -> list[Arm]:
    return [arm for session in sessions for arm in session.arms]


def _blocks(session: Session) -> dict[str, Any]:
    """All blocks of a session, the discarded ones with their reasons."""
    valid = [block for turn in session.rounds for block in turn.values()]
    return {
        "arms": [arm.name for arm in session.arms],
        "blocks": [block.as_json() for block in sorted(valid, key=lambda block: block.order)],
        "discarded": [block.as_json() for block in session.discarded],
    }
