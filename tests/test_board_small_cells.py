"""A reader of a public board who knows who is in which group tries to work out what is hidden.

She has the data in the page, from which its charts and downloads are made, and the summaries beside it.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench import registry
from cxrbench.errors import CxrbenchError
from cxrbench.report.aggregate import FEW, Group, read_summary_file, summary_bytes, suppress, write_summary
from cxrbench.report.gather_slices import Slices, fewest_behind, hidden_of
from cxrbench.small_cells import hidden_on_any, patients_of
from tests.board_summaries import F1, ROUGE, group, run, summary
from tests.commands import cli  # noqa: F401 - a fixture
from tests.data.test_questions import rad
from tests.small_task import SMALL


def of_page(site):
    """Per run what is told of cells, column -> group -> (samples, patients, {number: mean}) or None, and of all."""
    text = (site / "index.html").read_text()
    (task,) = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])["tasks"]
    keys = [column["key"] for column in task["columns"]]
    for at, each in enumerate(task["runs"]):
        told = {
            column: {
                group: cell and (*cell[:2], {keys[int(i)]: numbers[0] for i, numbers in cell[2].items()})
                for group, cell in zip(body["groups"], body["rows"][at], strict=True)
            }
            for column, body in task["slices"].items()
        }
        yield told, {key: value[0] for key, value in zip(keys, each["values"], strict=True)}


def of_summary(text):
    """The same of an aggregate summary."""
    for each in json.loads(text)["runs"]:
        told = {
            column: {
                group: (cell["n"], cell["clusters"], {key: numbers[0] for key, numbers in cell["values"].items()})
                if cell["n"]
                else None
                for group, cell in groups.items()
            }
            for column, groups in each["slices"].items()
        }
        yield told, {key: value["value"] for key, value in each["values"].items()}


def published(site):
    (file,) = (site / "summaries").iterdir()
    return [*of_page(site), *of_summary(file.read_text())]


def worked_out(told, whole, columns, total, number, patients):
    """Sums and differences of what is told of cells and of the whole that are of too few patients: name -> (n, mean).

    Args:
        told, whole: of `published`.
        columns: column -> group -> which of the n samples are in it.
        total: which of the n samples the number rests on.
        number: as `metric:preset/value`.
        patients: of the n samples.
    """
    groups = {(c, g): mask & total for c, found in columns.items() for g, mask in found.items()}
    cells = {name: told[name[0]][name[1]] for name in groups}
    shown = [(groups[name], cell[2][number]) for name, cell in cells.items() if cell and cell[2][number] is not None]
    basis = np.stack([total, *(mask for mask, _ in shown)], axis=1).astype(float)
    counts = basis.sum(axis=0)
    sums = counts * np.array([whole[number], *(mean for _, mean in shown)])
    within = {(*a, "without", *b): x & ~y for a, x in groups.items() for b, y in groups.items() if not (y & ~x).any()}
    without = {("all without", *name): total & ~mask for name, mask in groups.items()}
    out = {}
    for name, mask in {**groups, **within, **without}.items():
        if 0 < len(patients_of(mask, patients)) < FEW:
            weights = np.linalg.lstsq(basis, mask.astype(float), rcond=None)[0]
            if np.abs(basis @ weights - mask).max() < 1e-6:
                out[name] = (round(float(weights @ counts)), float(weights @ sums / (weights @ counts)))
    return out


def samples_of(run, *names):
    from cxrbench.store import RunFolder
    from cxrbench.tables import read_samples

    found = read_samples(RunFolder(Path(run)).samples_file).chosen
    columns = {name: [sample.subgroups[name] for sample in found] for name in names}
    masks = {c: {group: np.array(values) == group for group in sorted(set(values))} for c, values in columns.items()}
    return masks, [sample.patient_id or sample.study_id for sample in found]


def site_of(cli, task, *numbers):
    Path("board.yaml").write_text(
        f"name: b\ntitle: B\ntasks:\n  - {{task: {task}, runs: [runs], columns: [{', '.join(numbers)}]}}\n"
    )
    code, _, err = cli("publish", "site", "--board", "board.yaml", "--replicates", 100)
    assert code == 0, err
    return Path("site")


WIDER = """slices: [race, heritage, sex]
groups:
  by:
    heritage:
      of: race
      values: {one: [White, Hispanic], two: [Black, Asian, Other]}
"""


def test_a_wider_grouping_beside_a_finer_one_does_not_tell_what_that_one_hides(cli, tmp_path):
    """Hispanic = one - White: four patients, as many samples as that leaves, and their mean."""
    text = SMALL.format(test=100, access="open").replace("slices: [abnormal, seen-in-train, duplicate]\n", WIDER)
    (tmp_path / "small.yaml").write_text(text)
    words = ("--task", "small.yaml", "--metrics", "rouge-l:raw", "--replicates", 0)
    assert cli("run", "--model", "random-report", *words, "--out", "runs/one")[0] == 0
    columns, patients = samples_of("runs/one", "race", "heritage", "sex")
    sizes = {group: len(patients_of(mask, patients)) for group, mask in columns["race"].items()}
    assert sizes["Hispanic"] == 4
    assert min(len(patients_of(mask, patients)) for mask in columns["heritage"].values()) >= FEW
    everybody = np.ones(len(patients), bool)
    number = "rouge-l:raw/rouge_l"
    for told, whole in published(site_of(cli, "small", number)):
        assert worked_out(told, whole, columns, everybody, number, patients) == {}
        assert told["race"]["Hispanic"] is None
        assert sum(cell is not None for groups in told.values() for cell in groups.values()) >= 3
    # She would have it to the last digit if only the small cells were hidden.
    assert cli("leaderboard", "summarize", "runs/one", "-o", "all.json", "--private", "--replicates", 100)[0] == 0
    ((told, whole),) = of_summary((tmp_path / "all.json").read_text())
    n, _, values = told["race"]["Hispanic"]
    told["race"] |= dict.fromkeys(("Hispanic", "Asian", "Other"))
    found = worked_out(told, whole, columns, everybody, number, patients)["race", "Hispanic"]
    assert found == (n, pytest.approx(values[number], rel=1e-9))


def test_a_number_of_some_questions_is_hidden_where_these_are_of_few(cli, tmp_path):
    """Thirty cases are asked about size, four of them an open question: open recall would be of four."""
    rows = []
    for n in range(70):
        kind, is_open = ("SIZE", n < 4) if n < 30 else ("PRES", n % 2)
        answer = {"answer": "left lobe", "answer_type": "OPEN"} if is_open else {}
        of = {"image_case_url": f"https://medpix.nlm.nih.gov/case?id=case-{n}", "image_name": f"synpic{n}.jpg"}
        rows.append(rad(n, question_type=kind, **of, **answer))
    train = [rad(n, phrase_type="freeform", image_name="train.jpg", answer="No", question="Is it?") for n in (90, 91)]
    (tmp_path / "rad.json").write_text(json.dumps([*rows, *train]))
    (tmp_path / "pictures").mkdir()
    assert cli("data", "add", "vqa-rad", "--annotations", "rad.json", "--images", "pictures")[0] == 0
    words = ("--task", "vqa-rad", "--metrics", "vqa:counted", "--replicates", 0, "--allow-partial")
    assert cli("run", "--model", "frequent-answer", *words, "--out", "runs/one")[0] == 0
    columns, cases = samples_of("runs/one", "question-type", "answer-type")
    asked = columns["answer-type"]["open"]
    assert (asked & columns["question-type"]["SIZE"]).sum() == 4
    number = "vqa:counted/open_recall"
    for told, whole in published(site_of(cli, "vqa-rad", number, "vqa:counted/closed_accuracy")):
        assert worked_out(told, whole, columns, asked, number, cases) == {}
        assert told["question-type"] == {"SIZE": None, "PRES": None}
        assert told["answer-type"]["open"][0] == asked.sum()
    code, out, err = cli("groups", "runs/one", "--by", "question-type", "--replicates", 0, "--json")
    assert code == 0, err
    cells = json.loads(out)["groups"]["question-type"]["vqa:counted"]["open_recall"]["groups"]
    assert cells == {"SIZE": {"hidden": True}, "PRES": {"hidden": True}}


def test_a_metric_that_is_not_here_any_more_tells_nothing_of_groups(cli, tmp_path):
    """A value may rest on two samples of a large group; who scored them is kept, but only the metric can read it."""
    (tmp_path / "small.yaml").write_text(SMALL.format(test=100, access="open"))
    words = ("--task", "small.yaml", "--metrics", "rouge-l:raw", "--replicates", 0)
    assert cli("run", "--model", "random-report", *words, "--out", "runs/one")[0] == 0
    file = tmp_path / "runs/one/summary.json"
    body = json.loads(file.read_text())
    said = body["metrics"]["rouge-l:raw"]["rouge_l"]
    body["metrics"]["gone:x"] = {"share": {**said, "n": 2, "signature": "gone|x|v:1"}}
    for groups in body["slices"].values():
        for entry in groups.values():
            entry["metrics"]["gone:x"] = {"share": {"value": 0.5, "ci": None}}
    file.write_text(json.dumps(body))
    for name, how in (("public", ()), ("private", ("--private",))):
        code, _, err = cli("leaderboard", "summarize", "runs/one", "-o", f"{name}.json", *how, "--replicates", 100)
        assert code == 0, err
        ((told, whole),) = of_summary((tmp_path / f"{name}.json").read_text())
        cells = [cell for groups in told.values() for cell in groups.values() if cell]
        assert len(cells) >= 2
        assert {number for *_, values in cells for number in values} == {"rouge-l:raw/rouge_l"}
        assert whole["gone:x/share"] == said["value"]


def world(seed):
    """Samples in groups of all sizes, in a coarser column and one that overlaps; two numbers, one of a part of them."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(60, 160))
    columns = {}
    for number in range(draw.integers(1, 4)):
        kinds = draw.choice(5, n, p=draw.dirichlet(np.ones(5)))
        columns[f"fine {number}"] = {str(kind): kinds == kind for kind in range(5)}
    fine = columns["fine 0"]
    columns["coarse"] = {"first": fine["0"] | fine["1"], "second": fine["2"] | fine["3"] | fine["4"]}
    columns["label"] = {str(each): draw.random(n) < draw.choice([0.1, 0.5, 0.95]) for each in range(3)}
    columns = {c: {name: mask for name, mask in groups.items() if mask.any()} for c, groups in columns.items()}
    return columns, {F1: np.ones(n, bool), ROUGE: draw.random(n) < 0.6}, [str(place // 2) for place in range(n)]


def told_of_few(seed, hides_of=hidden_on_any):
    """What a public summary of `world` tells of too few patients, outright or by what she works out."""
    columns, bases, patients = world(seed)
    scores = np.linspace(0, 1, len(patients))

    def mean(mask):
        return float(scores[mask].mean()) if mask.any() else None

    def cell_of(mask):
        values = {number: (mean(mask & basis), None, None) for number, basis in bases.items()}
        return Group(n=int(mask.sum()), clusters=fewest_behind([*bases.values()], mask, patients), values=values)

    slices = {column: {name: cell_of(mask) for name, mask in groups.items()} for column, groups in columns.items()}
    one = run(0, "m", values={number: mean(basis) for number, basis in bases.items()}, slices=slices)
    hides = hides_of(columns, bases.values(), patients, FEW)
    ((told, whole),) = of_summary(summary_bytes(suppress(summary([one], hides=hides))))
    found = {}
    for number, total in bases.items():
        found |= {
            (number, *name): each for name, each in worked_out(told, whole, columns, total, number, patients).items()
        }
        for column, groups in columns.items():
            for name, mask in groups.items():
                if told[column][name] and len(patients_of(mask & total, patients)) in range(1, FEW):
                    found[number, column, name] = told[column][name]
    return found


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_nothing_hidden_is_worked_out_of_any_summary(seed):
    assert told_of_few(seed) == {}


@pytest.mark.slow
def test_nothing_hidden_is_worked_out_of_hundreds_and_column_by_column_it_was():
    """The figures of docs/groups.md."""
    assert [seed for seed in range(500) if told_of_few(seed)] == []
    assert sum(bool(told_of_few(seed, lambda *_: {})) for seed in range(500)) > 250


def test_columns_that_only_another_run_tells_of_are_looked_at_too():
    """One run is told by race, one by whether it is one of two: each alone hides what the other would tell."""
    place = np.arange(60)
    race = {"a": place < 30, "b": (place >= 30) & (place < 34), "c": (place >= 34) & (place < 50), "d": place >= 50}
    wider = {"a or b": race["a"] | race["b"], "other": race["c"] | race["d"]}
    bases, patients = (np.ones(60, bool),), tuple(map(str, place))
    one, two = (Slices({}, {name: groups}, bases, patients) for name, groups in (("race", race), ("wider", wider)))
    assert (hidden_of([one]), hidden_of([two]), hidden_of([])) == ({"race": ("b", "d")}, {}, {})
    assert hidden_of([one, two, one]) == {"race": ("b", "d"), "wider": ("a or b", "other")}
    regrouped = Slices({}, {"race": {"c": race["c"] | race["d"], "a": wider["a or b"]}}, bases, patients)
    assert hidden_of([one, regrouped]) == {"race": ("a", "b", "c", "d")}


def test_a_column_may_have_any_name():
    place = np.arange(60)
    groups = {"a": place < 30, "b": (place >= 30) & (place < 34), "c": place >= 34}
    one = Slices({}, {"a\0b": groups}, (np.ones(60, bool),), tuple(map(str, place)))
    assert hidden_of([one]) == {"a\0b": ("b", "c")}


def test_what_a_summary_says_is_hidden_is_hidden_of_every_run_and_every_summary_beside_it(tmp_path):
    groups = {"race": {"a": group(30), "b": group(30), "c": group(30)}, "sex": {"F": group(40), "M": group(50)}}
    first = summary([run(0, "one", slices=groups), run(1, "two", slices=groups)], hides={"race": ("a", "b")})
    second = summary([run(2, "three", slices=groups)], hides={})
    for made in (suppress(first), suppress(second, [first]), suppress(suppress(first), [second])):
        assert (made.public, made.hides) == (True, None)
        for each in made.runs:
            assert [name for name, cell in each.slices["race"].items() if cell.n is None] == ["a", "b"]
            assert each.slices["sex"] == groups["sex"]
        assert suppress(made) == made
    write_summary(first, tmp_path / "private.json")
    assert read_summary_file(tmp_path / "private.json").hides == {"race": ("a", "b")}
    write_summary(suppress(first), tmp_path / "public.json")
    assert "hides" not in (tmp_path / "public.json").read_text()


def test_a_private_summary_that_does_not_know_what_to_hide_becomes_no_public_page():
    old = summary([run(0, "m")], hides=None)
    with pytest.raises(CxrbenchError, match="does not say which cells a public page has to hide") as refused:
        suppress(old)
    assert "make it again" in refused.value.fix
    assert suppress(summary([run(0, "m", slices={})], hides=None)).public


def test_only_metrics_that_are_sums_count_the_parts_they_rest_on():
    """`rests_on` reads what a sample counts for out of the sum of it alone."""
    metrics = {name: registry.load("metrics", name) for name in registry.entries("metrics")}
    counting = {name: {value.counted_by for value in metric.values.values()} - {""} for name, metric in metrics.items()}
    assert counting["vqa"] == {"open_n", "closed_n"}
    for name, counters in counting.items():
        assert metrics[name].additive or not counters, name
        assert counters <= set(metrics[name].values), name
