"""Write our tasks as lm-eval task folders, run lm-eval with our models and tasks registered, read its sample logs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from cxrbench.atomic import write_atomic
from cxrbench.bridges.json_line import json_line
from cxrbench.bridges.lm_eval_task import FILTER, OUTCOME, PREFIX, SENDS, SPLIT, TaskView, given, read_config
from cxrbench.errors import CxrbenchError, suggest
from cxrbench.plan import request_kind
from cxrbench.privacy import private_folder
from cxrbench.reading import open_regular
from cxrbench.spec import find_task, task_files

LONGEST = 16 << 20
"""Bytes of a line of a sample log: a document, its prompt and its answer."""


def export_task(view: TaskView, folder: Path) -> list[Path]:
    """Write `cxrbench_NAME.yaml` and the module its functions stand in; returns both.

    `lm_eval --include_path FOLDER --tasks cxrbench_NAME` finds them. The folder holds no data.
    """
    module = view.name.replace("-", "_") + "_task"
    numbers = view.numbers()
    lines = [
        f'"""Functions of {view.name}.yaml, written by `cxrbench export lm-eval`; the task itself is cxrbench\'s."""',
        "",
        "from cxrbench.bridges.lm_eval_task import shared_view",
        "",
        f"view = shared_view({view.source!r}, {view.images!r}, {view.values!r}, {view.max_side!r})",
        "dataset, pictures, rows, process_results = view.dataset, view.pictures, view.rows, view.process_results",
        *(f"value_{place} = view.aggregation({number!r})" for place, number in enumerate(numbers)),
        "scored = sum",
        "",
    ]
    metrics = [
        {"metric": number, "aggregation": f"!function {module}.value_{place}",
         "higher_is_better": metric.values[name].higher_is_better is not False}
        for place, (number, (metric, name)) in enumerate(numbers.items())
    ]  # fmt: skip
    metrics.append({"metric": "scored", "aggregation": f"!function {module}.scored", "higher_is_better": True})
    body: dict[str, Any] = {
        "task": view.name,
        "custom_dataset": f"!function {module}.dataset",
        "test_split": SPLIT,
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_image": f"!function {module}.pictures",
        "doc_to_target": "target",
        "process_results": f"!function {module}.process_results",
        "filter_list": [{"name": FILTER, "filter": [{"function": "custom", "filter_fn": f"!function {module}.rows"}]}],
        "generation_kwargs": view.generation_kwargs,
        "metric_list": metrics,
        "metadata": {"version": view.spec.version},
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{view.name}.yaml", folder / f"{module}.py"]
    write_atomic(files[0], _yaml(body).encode())
    write_atomic(files[1], "\n".join(lines).encode())
    return files


def _yaml(body: dict[str, Any]) -> str:
    """YAML in which a text that begins with `!function ` is lm-eval's tag."""
    import yaml

    class Tagged(str):
        """A value behind the tag."""

    class Dumper(yaml.SafeDumper):
        """SafeDumper with that one tag."""

    def write(dumper: yaml.SafeDumper, value: Tagged) -> yaml.Node:
        return dumper.represent_scalar("!function", str(value))

    def tag(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tag(each) for key, each in value.items()}
        if isinstance(value, list):
            return [tag(each) for each in value]
        if isinstance(value, str) and value.startswith("!function "):
            return Tagged(value.removeprefix("!function "))
        return value

    Dumper.add_representer(Tagged, write)
    return yaml.dump(tag(body), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def register() -> None:
    """Tell this process's lm-eval of the models that installed packages declare in the group `lm_eval.models`.

    lm-eval 0.4.13 scans no packages; later releases do, and a name they know already is left alone.
    """
    import lm_eval.models  # noqa: F401 - its own names first, or it takes ours for all there are
    from lm_eval.api.registry import model_registry

    for point in entry_points(group="lm_eval.models"):
        if point.name not in model_registry:
            # The text, not the entry point: 0.4.13 takes an entry point for another model of the same name.
            model_registry.register(point.name, target=point.value)


def _named(words: Sequence[str]) -> list[str]:
    """Our tasks that lm-eval's command line or its --config file names; a pattern stands for those it can ask."""
    said = [word.rpartition("=")[2] for word in words]
    for word, follows in zip(words, [*words[1:], ""], strict=True):
        if word in ("-C", "--config"):
            tasks = read_config(Path(follows)).get("tasks", ())
            said += [tasks] if isinstance(tasks, str) else map(str, tasks)
    texts = {text for word in said for text in word.split(",") if text.startswith(PREFIX)}
    return [
        task
        for task in task_files()
        if PREFIX + task in texts
        or (any(fnmatch(PREFIX + task, text) for text in texts) and request_kind(find_task(task).kind) == "generate")
    ]


def launch(words: Sequence[str]) -> None:
    """Run lm-eval's own program with our models, and with those of our tasks that `words` name.

    What it writes meanwhile is its owner's alone.

    Raises:
        CxrbenchError: a task of credentialed data together with an option that sends results away; a task or a model
            that lm-eval does not know.
    """
    register()
    from lm_eval.__main__ import cli_evaluate

    named = _named(words)
    sends = given(words, SENDS)
    closed = [task for task in named if find_task(task).access != "open"]
    if closed and sends:
        raise CxrbenchError(
            f"{closed[0]} is credentialed, and its results are sent to no service", where=sends, fix="leave it out"
        )
    before, mask = sys.argv, os.umask(0o077)
    with tempfile.TemporaryDirectory(prefix="cxrbench-lm-eval-tasks-") as folder:
        for task in named:
            export_task(TaskView.find(task), Path(folder))
        place = ["--include_path", folder] if named and "--include_path" not in words else []
        try:
            sys.argv = ["lm_eval", *words, *place]
            cli_evaluate()
        except ValueError as error:
            raise _not_known(error) or error from error
        finally:
            sys.argv = before
            os.umask(mask)


def _not_known(error: ValueError) -> CxrbenchError | None:
    """lm-eval's words about a task or a model it does not know; None for all else, which may quote a report."""
    from lm_eval.api.registry import model_registry

    said = str(error)
    for begins, option, known, fix in (
        ("Tasks not found: ", "--tasks", [PREFIX + task for task in task_files()], "cxrbench lm-eval ls tasks"),
        ("Attempted to load model '", "--model", list(model_registry), "--model cxrbench, or a model of lm-eval's"),
    ):
        if said.startswith(begins):
            said, _, _ = said.partition("! Supported")
            names = said.removeprefix(begins).partition("'")[0].split(", ")
            near = "".join(suggest(name, known) for name in names)
            return CxrbenchError(f"lm-eval: {said}{near}", where=f"lm-eval {option}", fix=fix)
    return None


def read_log(file: Path, id_key: str | None) -> Iterator[dict[str, Any]]:
    """Rows (sample_id, prediction, reference) of one of lm-eval's `samples_*.jsonl`.

    The prediction is the first response as the model gave it, None where our task says that there is no answer.
    `id_key` names the key of the document that is the sample's id; by default `sample_id`, which our exported tasks
    have.

    Raises:
        CxrbenchError: a line that is no sample log, a document without that key, an id twice, no row at all.
    """
    seen: set[str] = set()
    for number, line in enumerate(_log_lines(file), 1):
        row = _log_row(line, f"{file}, line {number}", id_key or "sample_id")
        if row["sample_id"] in seen:
            raise CxrbenchError(
                "a sample is logged twice", where=f"{file}, line {number}", fix="one log of one evaluation"
            )
        seen.add(row["sample_id"])
        yield row
    if not seen:
        raise CxrbenchError("the log holds no sample", where=str(file), fix="lm_eval --log_samples --output_path DIR")


def _log_lines(file: Path) -> Iterator[str]:
    try:
        with open_regular(file) as lines:
            while line := lines.readline(LONGEST + 1):
                if len(line) > LONGEST:
                    raise CxrbenchError(f"a line of the log has more than {LONGEST:,} bytes", where=str(file))
                yield line.decode()
    except UnicodeDecodeError as error:
        raise CxrbenchError("the log is no UTF-8", where=str(file), fix="the file as lm-eval wrote it") from error
    except OSError as error:
        raise CxrbenchError(f"the log cannot be read: {error.strerror}", where=str(file)) from error


def _log_row(line: str, where: str, id_key: str) -> dict[str, Any]:
    wanted = "a sample log of lm-eval: lm_eval --log_samples --output_path DIR writes samples_*.jsonl"
    try:
        body = json.loads(line)
        document, responses = body["doc"], body["resps"]
        text = responses[0][0]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CxrbenchError(
            f"this is no sample of lm-eval ({type(error).__name__})", where=where, fix=wanted
        ) from error
    if not isinstance(document, dict) or id_key not in document:
        raise CxrbenchError(
            f"the document has no key {id_key!r}", where=where, fix="--id-key KEY names the one that is the sample's id"
        )
    name = document[id_key]
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise CxrbenchError(f"the key {id_key!r} of the document is no id", where=where, fix="--id-key KEY")
    if not isinstance(text, str):
        raise CxrbenchError("the response is no text", where=where, fix="a log of a task that generates")
    target, filtered = body.get("target"), body.get("filtered_resps")
    failed = isinstance(filtered, list) and any(isinstance(each, Mapping) and OUTCOME in each for each in filtered)
    return {
        "sample_id": str(name),
        "prediction": None if failed else text,
        **({"reference": target} if isinstance(target, str) else {}),
    }


def import_log(file: Path, out: Path, id_key: str | None = None) -> tuple[int, int]:
    """Write a sample log as a predictions file (JSONL); returns (rows, samples without an answer, left out)."""
    found = list(read_log(file, id_key))
    rows = [json_line(row, str(file)) for row in found if row["prediction"] is not None]
    private_folder(out.parent)
    write_atomic(out, b"".join(rows))
    return len(rows), len(found) - len(rows)
