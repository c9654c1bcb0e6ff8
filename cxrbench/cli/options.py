"""Options that several commands share, and how their texts become settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.features.base import Resources

Reports = Annotated[
    list[Path] | None, typer.Option("--reports", help="Reports: folder, archive or file.", show_default=False)
]
Images = Annotated[list[Path] | None, typer.Option("--images", help="Image folder.", show_default=False)]
Tables = Annotated[list[Path] | None, typer.Option("--tables", help="CSV tables: folder or file.", show_default=False)]
Annotations = Annotated[
    list[Path] | None,
    typer.Option("--annotations", help="A protocol's file (R2Gen, ReXrank, LLaVA-Rad).", show_default=False),
]
DemographicsRoot = Annotated[
    list[Path] | None, typer.Option("--demographics", help="MIMIC-IV root.", show_default=False)
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Read this cxrbench.toml alone.", show_default=False)]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help="name[:preset],...; `cxrbench list metrics` shows all.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, values unrounded.")]
Replicates = Annotated[int, typer.Option("--replicates", min=0, help="Bootstrap replicates; 0 for no intervals.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of sampling.")]
Precision = Annotated[
    str, typer.Option("--precision", help="Of annotators that score: fp32, bf16 (then in signatures).")
]


def roots(
    reports: list[Path] | None,
    images: list[Path] | None,
    tables: list[Path] | None,
    annotations: list[Path] | None,
    demographics: list[Path] | None,
) -> dict[str, tuple[Path, ...]]:
    """The roots given on the command line, as absolute paths that exist.

    Raises:
        CxrbenchError: a path does not exist.
    """
    given = {
        "reports": reports,
        "images": images,
        "tables": tables,
        "annotations": annotations,
        "demographics": demographics,
    }
    from cxrbench.config import plain

    found: dict[str, tuple[Path, ...]] = {}
    for name, paths in given.items():
        for path in paths or ():
            if not path.exists():
                raise CxrbenchError("there is no such file or folder", where=f"--{name} {path}")
        if paths:
            found[name] = tuple(plain(path) for path in paths)
    return found


def load_config(file: Path | None) -> Config:
    """The settings (see config.py)."""
    from cxrbench import config

    return config.load_config(file)


def resources(file: Path | None, device: str, precision: str) -> Resources:
    """What features may use: settings, device, precision. Whether there is a store, scoring decides by the data set.

    Raises:
        CxrbenchError: there is no such device, or annotators do not run at such a precision.
    """
    from cxrbench.features.base import Resources
    from cxrbench.features.device import check_device, check_precision

    check_device(device)
    check_precision(precision)
    return Resources(config=load_config(file), device=device, precision=precision)


def metric_names(text: str | None) -> list[str]:
    """Split `a,b:c`."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def check_scoring(names: list[str], replicates: int) -> None:
    """Refuse wrong metric names and replicates before anything long begins.

    Raises:
        CxrbenchError: an unknown metric or preset, one named twice, a module of one's own that cannot be loaded, or
            too few replicates for an interval.
    """
    from cxrbench.metrics.evaluate_module import EvaluateModule
    from cxrbench.scoring import choose

    for each in choose(names, (), ()):
        if isinstance(each.metric, EvaluateModule):
            each.metric.ready()
    if 0 < replicates < 100:
        raise CxrbenchError(
            f"{replicates} replicates cannot carry an interval",
            where="--replicates",
            fix="0 for none, else at least 100",
        )


def not_there(text: str) -> CxrbenchError:
    """A place that does not exist; a model's name is told apart, as people type `replay:FILE` here too."""
    from cxrbench import registry

    model, colon, argument = text.partition(":")
    if not colon or model not in registry.entries("models"):
        return CxrbenchError("there is no such run folder or file", where=text, fix="cxrbench runs list")
    file = f", or cxrbench score {argument}" if model == "replay" else ""
    return CxrbenchError(
        "this names a model, and what is scored is a run or a file with its answers",
        where=text,
        fix=f"cxrbench run --model {text} --task TASK{file}",
    )


def key_values(pairs: list[str] | None) -> dict[str, str]:
    """Split `key=value` settings.

    Raises:
        CxrbenchError: one of them has no `=`, or a key is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CxrbenchError(f"{pair!r} is not key=value", where="--set")
        if key in found:
            raise CxrbenchError(f"{key!r} is set twice", where="--set")
        found[key] = value
    return found


def as_number(text: str) -> Any:
    """An int or float where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_vocabulary(file: Path) -> frozenset[str]:
    """A word list: one word per line, or a JSON list of strings.

    Raises:
        CxrbenchError: the file is not UTF-8 or holds no word.
    """
    import json

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"not UTF-8 (byte {error.start})"
        raise CxrbenchError(f"the word list cannot be read: {said}", where=str(file)) from error
    if text.lstrip().startswith("["):
        try:
            words = json.loads(text)
        except json.JSONDecodeError as error:
            raise CxrbenchError(f"not valid JSON: {error}", where=str(file)) from error
        except (ValueError, RecursionError) as error:
            raise CxrbenchError("expected a JSON list of strings", where=str(file)) from error
        if not all(isinstance(word, str) for word in words):
            raise CxrbenchError("expected a JSON list of strings", where=str(file))
    else:
        words = [line.strip() for line in text.splitlines() if line.strip()]
    crowded = [word for word in words if len(word.split()) != 1 or "," in word]
    if crowded:
        raise CxrbenchError(
            f"{len(crowded)} lines hold more than one word",
            where=str(file),
            fix="one word per line, or a JSON list of words",
        )
    if not words:
        raise CxrbenchError("the word list is empty", where=str(file))
    return frozenset(words)
