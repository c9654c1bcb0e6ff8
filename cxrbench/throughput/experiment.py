"""Speed experiments as YAML: what is measured, in which modes, and which speed-ups are taken apart. No torch.

An error names file, line and key. docs/throughput.md explains every key; baselines/throughput/ holds ready-made ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.shipped import shipped
from cxrbench.throughput.configuration import Configuration, Trace, chain, changed
from cxrbench.throughput.protocol import Rules
from cxrbench.yaml_file import read_yaml

DOCS = "docs/throughput.md explains every key"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DrawnTrace(_Strict):
    """Lengths that are drawn; `file` instead names a run folder or predictions file with recorded ones."""

    mean: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    cv: Annotated[float, Field(ge=0, le=100)] = 0.45
    seed: int = 0
    file: Path | None = None


class ConfigurationSpec(_Strict):
    """Keys of a configuration; see `configuration.Configuration`."""

    model: str
    engine: str = "transformers"
    preset: str = "matched"
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    batch: Annotated[int, Field(ge=1)] | Literal["max"] = 1
    lengths: Literal["equal-tokens", "equal-chars", "natural", "trace"] = "equal-tokens"
    tokens: Annotated[int, Field(ge=2)] = 100
    chars: Annotated[int, Field(ge=1)] | None = None
    trace: DrawnTrace | None = None
    image_tokens: Annotated[int, Field(ge=1)] | None = None
    load_format: Literal["auto", "dummy"] = "auto"
    settings: dict[str, str] = {}
    generation: dict[str, float | int] = {}


class ModeSpec(_Strict):
    """Configurations measured in turns in one session; `batches` repeats the session at each batch size.

    `alone`: each has the device to itself while it is measured; a batch `max` makes it so.
    """

    name: str
    configurations: Annotated[tuple[str, ...], Field(min_length=1)]
    batches: tuple[Annotated[int, Field(ge=1)], ...] = ()
    scenario: Literal["offline", "single-stream"] = "offline"
    alone: bool = False
    about: str = ""


class AnatomySpec(_Strict):
    """A speed-up to take apart."""

    name: str
    slow: str
    fast: str
    order: Annotated[tuple[str, ...], Field(min_length=1)]
    about: str = ""


class RulesSpec(_Strict):
    """See `protocol.Rules`."""

    blocks: Annotated[int, Field(ge=2)] = 10
    seconds: Annotated[float, Field(ge=0)] = 60.0
    block_seconds: Annotated[float, Field(gt=0)] = 2.0
    agreeing: Annotated[int, Field(ge=2)] = 3
    within: Annotated[float, Field(gt=0)] = 0.02
    warm_most: Annotated[int, Field(ge=2)] = 12

    def rules(self) -> Rules:
        """As the protocol takes them."""
        return Rules(**self.model_dump())


class ExperimentSpec(_Strict):
    """A whole experiment."""

    name: str
    about: str = ""
    task: str = "demo-findings"
    images: Annotated[int, Field(ge=1)] = 64
    readers: Annotated[int, Field(ge=1)] = 2
    rules: RulesSpec = RulesSpec()
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    energy: bool = False
    configurations: Annotated[dict[str, ConfigurationSpec], Field(min_length=1)]
    modes: tuple[ModeSpec, ...] = ()
    anatomies: tuple[AnatomySpec, ...] = ()


def only(spec: ExperimentSpec, names: Sequence[str]) -> ExperimentSpec:
    """The modes and anatomies with these names, and the configurations they need.

    Raises:
        CxrbenchError: there is none of that name.
    """
    known = [*(each.name for each in spec.modes), *(each.name for each in spec.anatomies)]
    for name in names:
        if name not in known:
            raise CxrbenchError(
                f"the experiment has no mode or anatomy {name!r}{suggest(name, known)}",
                where="--only",
                fix=f"one of: {'; '.join(known)}",
            )
    modes = tuple(each for each in spec.modes if each.name in names)
    anatomies = tuple(each for each in spec.anatomies if each.name in names)
    used = {name for each in modes for name in each.configurations}
    used |= {name for each in anatomies for name in (each.slow, each.fast)}
    kept = {name: each for name, each in spec.configurations.items() if name in used}
    return spec.model_copy(update={"modes": modes, "anatomies": anatomies, "configurations": kept})


def find_experiment(wanted: Path) -> Path:
    """The file; by name alone one of those that travel with cxrbench, as `slava-6x`.

    Raises:
        CxrbenchError: there is neither.
    """
    if wanted.exists():
        return wanted
    ready = {file.stem: file for file in sorted((shipped("baselines") / "throughput").glob("*.yaml"))}
    if str(wanted) in ready:
        return ready[str(wanted)]
    raise CxrbenchError(
        f"there is no speed experiment {str(wanted)!r}{suggest(str(wanted), ready)}",
        where="--experiment",
        fix=f"a YAML file, or one of: {', '.join(ready)}",
    )


def read_experiment(file: Path) -> ExperimentSpec:
    """Read and check an experiment.

    Raises:
        CxrbenchError: naming file, line and key; a mode of unknown configurations; an order that leaves a factor out.
    """
    spec = read_yaml(file, ExperimentSpec, "a speed experiment", DOCS)
    if not spec.modes and not spec.anatomies:
        raise CxrbenchError("nothing is to be measured", where=f"{file}, keys modes and anatomies", fix=DOCS)
    try:
        spec.rules.rules()
    except CxrbenchError as error:
        raise CxrbenchError(error.what, where=f"{file}, key rules", fix=error.fix) from error
    for mode in spec.modes:
        _known(spec, mode.configurations, f"{file}, mode {mode.name!r}, key configurations")
        _one_at_a_time(spec, mode, f"{file}, mode {mode.name!r}")
    for each in spec.anatomies:
        _known(spec, (each.slow, each.fast), f"{file}, anatomy {each.name!r}, keys slow and fast")
        _fixed_batches(spec, each, f"{file}, anatomy {each.name!r}")
    for name, configuration in spec.configurations.items():
        _built(file, name, configuration)
    for each in spec.anatomies:
        ends = [_built(file, name, spec.configurations[name]) for name in (each.slow, each.fast)]
        try:
            if not changed(*ends):
                raise CxrbenchError(f"{each.slow} and {each.fast} are the same configuration")
            chain(ends[0], ends[1], each.order)
        except CxrbenchError as error:
            raise CxrbenchError(error.what, where=f"{file}, anatomy {each.name!r}, key order", fix=error.fix) from error
    return spec


def _known(spec: ExperimentSpec, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in spec.configurations:
            raise CxrbenchError(
                f"there is no configuration {name!r}{suggest(name, spec.configurations)}",
                where=where,
                fix=f"one of: {', '.join(spec.configurations)}",
            )


def _one_at_a_time(spec: ExperimentSpec, mode: ModeSpec, where: str) -> None:
    """Single-stream has no batches: a figure that named one would be another scenario's."""
    if mode.scenario != "single-stream":
        return
    for name in mode.configurations:
        odd = [size for size in mode.batches or (spec.configurations[name].batch,) if size != 1]
        if odd:
            what = f"{name} has batch {odd[0]}, and single-stream is one report at a time"
            raise CxrbenchError(what, where=where, fix="batch: 1")


def _fixed_batches(spec: ExperimentSpec, anatomy: AnatomySpec, where: str) -> None:
    """A batch that is found anew in every session would be another factor each time."""
    for name in (anatomy.slow, anatomy.fast):
        if spec.configurations[name].batch == "max":
            what = f"{name} has batch max: its largest batch depends on what else is in memory"
            raise CxrbenchError(what, where=where, fix="a number: the one a mode with batch max found")


def _built(file: Path, name: str, spec: ConfigurationSpec) -> Configuration:
    try:
        return configuration(name, spec, file.parent, read=False)
    except CxrbenchError as error:
        raise CxrbenchError(error.what, where=f"{file}, key configurations.{name}", fix=error.fix) from error


def configuration(
    name: str, spec: ConfigurationSpec, folder: Path, *, read: bool = True, scenario: str = "offline"
) -> Configuration:
    """As the protocol takes it. `read` False does not open the file of a recorded trace."""
    values: dict[str, Any] = spec.model_dump(exclude={"trace", "batch"})
    trace = None
    if spec.trace is not None:
        if (spec.trace.mean is None) == (spec.trace.file is None):
            raise CxrbenchError("a trace is either drawn (mean) or recorded (file)", where=f"{name}, key trace")
        if spec.trace.file is None:
            trace = Trace.drawn(spec.trace.mean or 0, spec.trace.cv, spec.trace.seed)
        else:
            trace = recorded(folder / spec.trace.file) if read else Trace((1,), str(spec.trace.file))
    batch = 0 if spec.batch == "max" else spec.batch
    return Configuration(name=name, batch=batch, trace=trace, scenario=scenario, **values)


def recorded(place: Path) -> Trace:
    """Lengths in tokens of a run's reports, in the order of their sample ids.

    Raises:
        CxrbenchError: it is no run folder, or its reports have no token counts.
    """
    from cxrbench.store import find_run

    rows = find_run(str(place)).predictions()
    values = [rows[key].output_tokens for key in sorted(rows) if not rows[key].failed]
    known = tuple(value for value in values if value)
    if not known:
        raise CxrbenchError(
            "the run's reports have no token counts", where=str(place), fix="a run of a model with a tokenizer"
        )
    return Trace(known, f"recorded: {len(known)} reports of {place.name}")
