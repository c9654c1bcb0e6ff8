"""`cxrbench list`: what there is by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cxrbench.errors import CxrbenchError, suggest

WHAT = ("models", "tasks", "metrics", "datasets", "engines")


def list_known(
    what: Annotated[str, typer.Argument(help="models, tasks, metrics, datasets or engines.")],
    show: Annotated[
        str | None,
        typer.Option("--show", help="Print the YAML of this task, or the card of this model.", show_default=False),
    ] = None,
    engines: Annotated[
        bool, typer.Option("--engines", help="Which model runs on which engine, for which kind of request.")
    ] = False,
) -> None:
    """List models, tasks, metrics, datasets or engines, plug-ins included.

    cxrbench list tasks --show custom-findings > my-task.yaml

    cxrbench list models --show slava
    """
    from cxrbench.cli.layout import console, whole

    if what not in WHAT:
        raise CxrbenchError(f"{what!r} cannot be listed{suggest(what, WHAT)}", fix=f"one of: {', '.join(WHAT)}")
    if show is not None:
        if what not in ("tasks", "models"):
            raise CxrbenchError(
                "--show prints a task or a model's card",
                where=f"cxrbench list {what}",
                fix=f"cxrbench list tasks --show {show}",
            )
        _show(what, show)
        return
    if engines and what != "models":
        raise CxrbenchError(
            "--engines is about models", where=f"cxrbench list {what}", fix="cxrbench list models --engines"
        )
    if engines:
        _show_pairs()
        return
    if what == "metrics":
        _show_metrics()
        return
    console().print(whole(_tasks() if what == "tasks" else _entries(what)))


def _show(what: str, name: str) -> None:
    if what == "tasks":
        typer.echo(_yaml(name), nl=False)
        return
    from cxrbench.cli.model_card import card_lines

    for line in card_lines(name):
        typer.echo(line)


def _show_pairs() -> None:
    """Models by engines: the kinds of request each pair answers, from what both declare, and why not."""
    from cxrbench import registry
    from cxrbench.cli.layout import console, table, whole
    from cxrbench.engines.base import held

    engines = {name: entry.load() for name, entry in registry.entries("engines").items()}
    made = table(["model", *engines])
    notes: dict[str, list[str]] = {}
    for name, entry in registry.entries("models").items():
        adapter = entry.load()
        if not hasattr(adapter, "offers"):
            made.add_row(name, *["no engine" if number == 0 else "" for number in range(len(engines))])
            continue
        cells = []
        for engine, kind in engines.items():
            found = held(adapter, kind)
            cells.append(", ".join(sorted(found.kinds)) + ("*" if found.depends else "") if found.kinds else "-")
            declared = getattr(adapter, "not_on", {}).get(engine)
            if found.depends:
                notes.setdefault(found.depends, []).append(f"* {name} on {engine}")
            elif declared is not None:
                notes.setdefault(declared, []).append(f"{name} on {engine}")
        made.add_row(name, *cells)
    console().print(whole(made))
    typer.echo("-: the engine needs a side of the model that it does not have (cxrbench list models --show NAME)")
    for about, pairs in notes.items():
        _wrapped(f"{', '.join(pairs)}: {about}")
    _wrapped("vllm: tested against a fake of its interface, never run; openai: the model lies behind a server")


def _wrapped(text: str) -> None:
    import textwrap

    from cxrbench.cli.model_card import WIDTH

    typer.echo("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="    ")))


def _yaml(name: str) -> str:
    """The file of a shipped task, comments and all."""
    from cxrbench.spec import task_files

    files = task_files()
    if name not in files:
        raise CxrbenchError(f"there is no task called {name!r}{suggest(name, files)}", fix="cxrbench list tasks")
    return files[name].read_text(encoding="utf-8")


def _entries(kind: Any) -> Any:
    from cxrbench import registry
    from cxrbench.cli.layout import table

    made = table(["name", "what it is", "from"])
    for entry in registry.entries(kind).values():
        made.add_row(entry.name, entry.about, entry.source)
    return made


def _tasks() -> Any:
    from cxrbench.cli.layout import table
    from cxrbench.spec import read_task, task_files

    made = table(["task", "v", "target", "offered", "access", "samples"], right=(1,), gap=0)
    for file in task_files().values():
        spec = read_task(file)
        images = {"all": ["images"], "key": ["key image"], "none": []}[spec.images.offer]
        offered = GIVEN.get(spec.form, [*images, *spec.offer])
        count = "unknown" if spec.expected.n is None else f"{spec.expected.n} {spec.expected.evidence}"
        made.add_row(spec.name, str(spec.version), spec.target, ", ".join(offered), spec.access, count)
    return made


GIVEN: Mapping[str, list[str]] = {
    "vectors": ["key image or text (retrieval)"],
    "pictures": ["text (a picture is drawn)"],
}
"""What a model gets of a sample where its answers are no text (spec.KEPT_APART), and the kind of task."""


def _show_metrics() -> None:
    """Every metric with its values, and below it what each preset does."""
    import textwrap

    from cxrbench import registry
    from cxrbench.cli.layout import console, flowing
    from cxrbench.cli.show import ARROWS

    out = console()
    for entry in registry.entries("metrics").values():
        metric = entry.load()
        values = [name + ARROWS[value.higher_is_better] for name, value in metric.values.items()]
        out.print("\n".join(flowing(f"{entry.name}:", _shorten(values), out.width)), style="bold", soft_wrap=True)
        named = {
            preset: preset + (" (default)" if preset == metric.default_preset else "") for preset in metric.presets
        }
        wide = max(map(len, named.values())) + 4
        for preset, about in metric.presets.items():
            reason = "needs --judge" if metric.judge else "needs a file" if preset == "FILE" else metric(preset).ready()
            said = about + (f" [{reason}]" if reason else "")
            lines = textwrap.wrap(
                said, out.width, initial_indent=f"  {named[preset]}".ljust(wide), subsequent_indent=" " * wide,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            out.print("\n".join(lines), soft_wrap=True)


def _shorten(values: list[str], most: int = 6) -> list[str]:
    return values[:most] + ([f"{len(values) - most} more"] if len(values) > most else [])
