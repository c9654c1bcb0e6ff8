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
    makers = {"tasks": _tasks, "metrics": _metrics}
    console().print(whole(makers[what]() if what in makers else _entries(what)))


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

    made = table(["task", "v", "target", "offered", "access", "samples"], right=(1,))
    for file in task_files().values():
        spec = read_task(file)
        images = [f"{spec.images.offer} images"] if spec.images.offer != "none" else []
        offered = GIVEN.get(spec.form, [*images, *spec.offer])
        what = f"{spec.target} ({SHORT[spec.form]})" if spec.form in GIVEN else spec.target
        count = f"{spec.expected.n if spec.expected.n is not None else 'unknown'} ({spec.expected.evidence})"
        made.add_row(spec.name, str(spec.version), what, ", ".join(offered), spec.access, count)
    return made


GIVEN: Mapping[str, list[str]] = {"vectors": ["key image or text"], "pictures": ["text"]}
"""What a model gets of a sample where its answers are no text (spec.KEPT_APART)."""

SHORT: Mapping[str, str] = {"vectors": "retrieval", "pictures": "pictures"}
"""Such a kind of task in one word."""


def _metrics() -> Any:
    from cxrbench import registry
    from cxrbench.cli.layout import table
    from cxrbench.cli.show import ARROWS

    made = table(["metric", "preset", "what is done", "values"])
    for entry in registry.entries("metrics").values():
        metric = entry.load()
        values = ", ".join(name + ARROWS[value.higher_is_better] for name, value in metric.values.items())
        for number, (preset, about) in enumerate(metric.presets.items()):
            first = number == 0
            star = " (default)" if preset == metric.default_preset else ""
            reason = "needs --judge" if metric.judge else "needs a file" if preset == "FILE" else metric(preset).ready()
            said = about + (f"\n[{reason}]" if reason else "")
            made.add_row(entry.name if first else "", preset + star, said, _shorten(values) if first else "")
    return made


def _shorten(values: str, most: int = 4) -> str:
    names = values.split(", ")
    return ", ".join(names[:most]) + (f", … {len(names) - most} more" if len(names) > most else "")
