"""`cxrbench doctor`: what this machine has and what that makes possible."""

from __future__ import annotations

import platform
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cxrbench.config import Config
    from cxrbench.registry import Entry

OPTIONAL = {
    "torch": "models that are networks (pip install 'cxrbench[models]')",
    "transformers": "models that are networks (pip install 'cxrbench[models]')",
    "pydicom": "DICOM images (pip install 'cxrbench[dicom]')",
    "pylibjpeg": "compressed DICOM images (pip install 'cxrbench[dicom]')",
    "pycocoevalcap": "METEOR and PTB tokens (pip install 'cxrbench[coco]')",
    "httpx": "models and judges behind a server (pip install 'cxrbench[openai]')",
}


def doctor() -> None:
    """Show what is here: packages, metrics that cannot run and why, free disk space."""
    from cxrbench import __version__
    from cxrbench.cli.layout import console, size, table
    from cxrbench.config import cache_dir, load_config
    from cxrbench.errors import CxrbenchError
    from cxrbench.metrics.java import executable

    made = table(["what", "here", "for"])
    made.add_row("cxrbench", __version__, "")
    made.add_row("Python", platform.python_version(), "3.11 or newer")
    for name, use in OPTIONAL.items():
        made.add_row(name, _version(name), use)
    java = executable()
    made.add_row("Java", "found" if java else "not found", "METEOR and PTB tokens")
    made.add_row("free disk here", size(shutil.disk_usage(".").free), "run folders")
    for row in _registered():
        made.add_row(*row)
    console().print(made)
    try:
        settings = str(load_config().file)
    except CxrbenchError as error:
        settings = f"broken: {error}"
    # Outside the table: a path that is cut into lines cannot be copied.
    typer.echo("")
    for name, place in (("settings", settings), ("caches", str(cache_dir())), ("java", java)):
        if place:
            typer.echo(f"{name}: {place}")
    typer.echo("\nNothing was sent anywhere; cxrbench has no telemetry.")


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        if find_spec(name) is None:
            return "not installed"
        return version(name)
    except (PackageNotFoundError, ValueError):  # ValueError: a module without a spec
        return "here, of unknown version"


def _registered() -> Iterator[tuple[str, str, str]]:
    """A row per metric, and per plug-in of another kind; one that is broken has a row like the others."""
    from cxrbench import registry
    from cxrbench.config import load_config
    from cxrbench.errors import CxrbenchError

    try:
        settings = load_config()
    except CxrbenchError:  # told below the table
        settings = None
    for kind in registry.KINDS:
        try:
            known = registry.entries(kind)
        except CxrbenchError as error:
            yield f"plug-ins ({kind})", "broken", f"{error.what}; {error.fix}"
            continue
        for entry in known.values():
            if kind == "metrics" or entry.source != "cxrbench":
                yield f"{kind[:-1]} {entry.name}", *_state(kind, entry, settings)


def lacking(key: str, settings: Config | None) -> str | None:
    """Weights of a metric that are not here, as one sentence; None where nothing is missing, or no settings tell."""
    from cxrbench.assets import missing, needed_by

    if settings is None:
        return None
    reason = missing(*(asset.name for asset in needed_by(key)), config=settings)
    return f"{reason} (phantom is read by what travels along)" if reason and _reads_phantom(key) else reason


def _reads_phantom(key: str) -> bool:
    """Whether the embedded annotators can stand in for the metric's weights on phantom."""
    from cxrbench.assets import needed_by
    from cxrbench.features.weights import EMBEDDED, TOKENIZER

    needed = {asset.name for asset in needed_by(key)} - set(TOKENIZER.values())
    return needed <= set(EMBEDDED) and not key.startswith("bertscore:")


def _state(kind: str, entry: Entry, settings: Config | None) -> tuple[str, str]:
    try:
        made = entry.load()
        if kind == "metrics" and list(made.presets) == ["FILE"]:
            return "with a file", f"{entry.name}:FILE"
        presets = [made(name) for name in made.presets] if kind == "metrics" else []
        reasons = {each.preset: each.ready() or lacking(each.key, settings) for each in presets}
    except Exception as error:  # whatever a plug-in does when it is imported, the other rows are wanted
        return "broken", f"{entry.source}: {type(error).__name__}: {error}".splitlines()[0]
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    said = "; ".join(dict.fromkeys(missing.values()))
    if not missing:
        return "ready", "with --judge" if kind == "metrics" and made.judge else ""
    if len(missing) == len(reasons):
        return "not here", said
    return "in part", f"{', '.join(missing)}: {said}"
