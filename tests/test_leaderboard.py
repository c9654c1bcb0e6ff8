"""Boards: specs, ranks, suppression, publication; pages that repeat byte for byte and run nothing that a name says."""

import json
import re
import shutil
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.features import bertscore, chexbert, radgraph
from cxrbench.gate_evidence import read_baseline
from cxrbench.report.aggregate import FEW, Group, read_summary_file, suppress, write_summary
from cxrbench.report.board_spec import Source, find_board, shipped_boards
from cxrbench.report.gather_slices import fewest_behind
from cxrbench.report.leaderboard import _run_folders, make_board, visible
from cxrbench.report.leaderboard_data import board_data
from cxrbench.report.leaderboard_page import html
from cxrbench.report.page import data_json
from cxrbench.report.publication import publish
from cxrbench.report.published import published_files, read_published
from cxrbench.report.ranks import rank
from cxrbench.shipped import shipped
from tests.board_summaries import F1, RADCLIQ, ROUGE, cell, group, run, summary
from tests.commands import cli, small_run  # noqa: F401 - a fixture

SPEC = """\
name: small
title: A small board
{further}
tasks:
  - task: demo-findings
    runs: [{runs}]
    columns: ["{f1}", "{rouge}", "{radcliq}"]
"""


def write_board(folder, *summaries, further="", **kwargs):
    names = []
    for at, each in enumerate(summaries):
        names.append(f"s{at}.json")
        write_summary(each, folder / names[-1])
    file = folder / "board.yaml"
    file.write_text(SPEC.format(further=further, runs=", ".join(names), f1=F1, rouge=ROUGE, radcliq=RADCLIQ))
    return file


def board_of(folder, *summaries, mode="public", further=""):
    return make_board(*find_board(str(write_board(folder, *summaries, further=further))), mode)


class Elements(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]


# ---- ranks


def test_runs_that_no_test_tells_apart_share_their_places():
    found = rank(
        ["a", "b", "c", "d"],
        {("a", "b"): (0.1, 0.5), ("a", "c"): (0.5, 1e-4), ("a", "d"): (-0.5, 1e-4), ("b", "c"): (0.4, 1e-4),
         ("b", "d"): (-0.6, 1e-4), ("c", "d"): (-1.0, 1e-4)},
        higher_is_better=True, alpha=0.05,
    )  # fmt: skip
    assert found.places == {"c": (1, 1), "a": (2, 3), "b": (2, 3), "d": (4, 4)}
    assert (found.tested, found.untested) == (6, 0)


def test_holm_counts_all_pairs_of_a_column():
    differences = {("a", "b"): (0.1, 0.02), ("a", "c"): (0.1, 0.9), ("b", "c"): (0.1, 0.9)}
    assert set(rank("abc", differences, higher_is_better=True, alpha=0.05).places.values()) == {(1, 3)}
    only = {("a", "b"): (0.1, 0.02)}
    assert rank("ab", only, higher_is_better=True, alpha=0.05).places == {"a": (2, 2), "b": (1, 1)}


def test_a_number_that_is_better_when_lower_turns_the_places_round():
    found = rank("ab", {("a", "b"): (0.1, 0.001)}, higher_is_better=False, alpha=0.05)
    assert found.places == {"a": (1, 1), "b": (2, 2)}


def test_pairs_that_nobody_tested_count_as_ties_and_are_counted():
    found = rank("abc", {("a", "b"): (0.1, 0.001)}, higher_is_better=True, alpha=0.05)
    assert (found.untested, found.places["c"]) == (2, (1, 3))


# ---- what is ranked with what


def places(board, key=F1):
    task = board.tasks[0]
    return {entry.label: task.places.get((entry.run.id, key), (0, 0, 0))[:2] for entry in task.entries}


def test_runs_are_ranked_by_their_paired_tests(tmp_path):
    runs = [run(0, "best"), run(1, "middle"), run(2, "last")]
    board = board_of(tmp_path, summary(runs, p={(runs[1].id, runs[2].id): 0.7}))
    assert places(board) == {"best": (1, 1), "middle": (2, 3), "last": (2, 3)}
    assert places(board, RADCLIQ) == {"best": (3, 3), "middle": (1, 2), "last": (1, 2)}


def test_different_inputs_are_ranked_apart_unless_the_board_asks(tmp_path):
    runs = [run(0, "seeing"), run(1, "seeing too"), run(2, "blind", consumed=())]
    apart = board_of(tmp_path, summary(runs))
    assert places(apart) == {"seeing": (1, 1), "seeing too": (2, 2), "blind": (0, 0)}
    assert "ranked apart" in html(apart)
    together = board_of(tmp_path, summary(runs), further="rank_across_inputs: true")
    assert places(together)["blind"] == (3, 3)
    assert "because its definition asks for it" in html(together)


def test_an_unfinished_run_is_shown_and_not_ranked(tmp_path):
    runs = [run(0, "whole"), run(1, "half", n=50, unfinished=("50 of 100 samples are not answered yet",))]
    board = board_of(tmp_path, summary(runs))
    assert places(board)["half"] == (0, 0)
    assert "50 of 100 samples are not answered yet" in html(board)


def test_numbers_made_in_another_way_are_marked_and_ranked_apart(tmp_path):
    other = {F1: cell(F1, 0.99, signature="label-f1|v:2")}
    runs = [run(0, "a"), run(1, "b"), run(2, "newer", values={F1: 0.1})]
    runs[2] = runs[2].model_copy(update={"values": other})
    board = board_of(tmp_path, summary(runs))
    assert places(board)["newer"] == (0, 0)
    assert html(board).count("⚠ other signature") == 1
    assert html(board).count("⚠ signatures differ") == 1


def test_runs_of_two_summaries_are_not_told_apart_and_the_page_says_so(tmp_path):
    board = board_of(tmp_path, summary([run(0, "a"), run(1, "b")]), summary([run(2, "c")]))
    assert places(board) == {"a": (1, 2), "b": (2, 3), "c": (1, 3)}
    assert "were never tested" in html(board)


def test_two_runs_of_one_name_are_told_apart_by_their_id(tmp_path):
    board = board_of(tmp_path, summary([run(0, "m"), run(1, "m")]))
    assert [entry.label for entry in board.tasks[0].entries] == ["m (00000000)", "m (00000001)"]


# ---- errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "the key 'titel' is not known (did you mean 'title'?)"),
        ("columns:", "columms:", "the key 'columms' is not known (did you mean 'columns'?)"),
        (f'"{F1}"', '"micro_f1"', "columns.0: String should match pattern"),
        (f'"{F1}"', '"label-f1:phantom/micro_f2"', "no run has the number label-f1:phantom/micro_f2 (did you mean"),
        ("[s0.json]", "[nowhere.json]", "the summary cannot be read"),
        ("[s0.json]", "[board.yaml]", "the file is no aggregate summary"),
        ("demo-findings", "demo-impression", "a summary is of the task demo-findings"),
        ("runs:", "baseline: nobody\n    runs:", "the baseline 'nobody' is no run of this task"),
        ("runs:", "published: [nowhere]\n    runs:", "there are no published figures called 'nowhere'"),
        ("runs:", "published: [rexrank-iu]\n    runs:", "belong beside iu-findings-rexrank"),
        ("[s0.json]", "[{path: s0.json, label: x}]", "label stands beside 2 runs"),
    ],
)
def test_a_wrong_board_is_one_sentence(tmp_path, old, new, message):
    file = write_board(tmp_path, summary([run(0, "a"), run(1, "b")]))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(CxrbenchError) as error:
        make_board(*find_board(str(file)), "public")
    assert message in str(error.value)


def test_summaries_of_other_data_do_not_share_a_table(tmp_path):
    with pytest.raises(CxrbenchError, match="different questions"):
        board_of(tmp_path, summary([run(0, "a")]), summary([run(1, "b")], data="d2"))


def test_one_run_from_two_sources_is_an_error(tmp_path):
    with pytest.raises(CxrbenchError, match="from two sources"):
        board_of(tmp_path, summary([run(0, "a")]), summary([run(0, "a")]))


@pytest.mark.parametrize("change", ['"n":"many"', '"n":NaN', '"n":100,"text":"a report"'])
def test_a_damaged_summary_is_refused_without_repeating_it(tmp_path, change):
    file = tmp_path / "s.json"
    write_summary(summary([run(0, "a")]), file)
    file.write_text(file.read_text().replace('"n":100', change, 1))
    with pytest.raises(CxrbenchError) as error:
        read_summary_file(file)
    assert "a report" not in str(error.value)


# ---- what may become public


def test_cells_of_fewer_than_ten_patients_are_hidden_with_one_more():
    groups = {"a": group(30), "b": group(20), "c": group(9)}
    hidden = suppress(summary([run(0, "m", slices={"race": groups})])).runs[0].slices["race"]
    gone = Group(n=None, clusters=None)
    # With c alone hidden, whole minus a minus b would be c.
    assert hidden == {"a": groups["a"], "b": gone, "c": gone}


def test_a_cell_is_as_small_as_the_fewest_a_metric_scored_in_it():
    clusters = [str(n // 2) for n in range(40)]
    group, everybody = np.arange(40) < 30, np.ones(40, bool)
    some = np.isin(np.arange(40), (0, 1, 4, 35))
    assert fewest_behind([everybody], group, clusters) == 15
    assert fewest_behind([everybody, some], group, clusters) == 2
    assert fewest_behind([everybody, ~group], group, clusters) == 15  # scored nobody of the group
    assert fewest_behind([~group], group, clusters) == 15


def test_what_is_hidden_together_is_at_least_ten_patients():
    groups = {"a": group(40), "b": group(30), "c": group(3), "d": group(4)}
    hidden = suppress(summary([run(0, "m", slices={"race": groups})])).runs[0].slices["race"]
    assert [name for name, each in hidden.items() if each.n is None] == ["b", "c", "d"]


def test_groups_that_share_patients_do_not_make_ten_together():
    # Films of one view and of another may be of the same six patients: 6 and 6 are 6, not 12.
    groups = {"PA": group(40), "AP": group(30), "lateral": group(6), "oblique": group(6)}
    hidden = suppress(summary([run(0, "m", slices={"view": groups})])).runs[0].slices["view"]
    assert [name for name, each in hidden.items() if each.n is None] == ["AP", "lateral", "oblique"]


def test_a_cell_hidden_in_one_run_is_hidden_in_all():
    # A run without an answer for some patients hides other cells; the counts of both would give the small one away.
    slices = [{"race": {"a": group(30), "b": group(b), "c": group(c), "d": group(4)}} for b, c in ((20, 21), (20, 19))]
    runs = suppress(summary([run(i, f"m{i}", slices=each) for i, each in enumerate(slices)])).runs
    for each in runs:
        assert [name for name, cell in each.slices["race"].items() if cell.n is None] == ["b", "c", "d"]


def test_suppression_leaves_large_cells_alone_and_can_be_repeated():
    groups = {"a": group(FEW), "b": group(50)}
    whole = summary([run(0, "m", slices={"sex": groups, "race": {"x": group(5), "y": group(50)}})])
    once = suppress(whole)
    assert once.runs[0].slices["sex"] == groups
    assert suppress(once) == once


def test_a_public_page_holds_no_small_cell_and_a_private_one_says_it_does(tmp_path):
    small = Group(n=7, clusters=4, values={F1: (0.123456, None, None)})
    runs = [run(0, "m", slices={"race": {"x": small, "y": group(50)}}, folder="/data/secret-place")]
    public, private = (html(board_of(tmp_path, summary(runs), mode=mode)) for mode in ("public", "private"))
    assert "0.1235" not in public
    assert "secret-place" not in public
    assert "0.1235" in private
    assert "secret-place" in private
    assert "do not share" in private
    assert "do not share" not in public


def test_a_tiny_credentialed_run_never_becomes_public(tmp_path):
    runs = [run(0, "m", clusters=9)]
    with pytest.raises(CxrbenchError, match="on 9 patients is not published"):
        board_of(tmp_path, summary(runs, access="credentialed"))
    assert board_of(tmp_path, summary(runs, access="credentialed"), mode="private").mode == "private"


# ---- the page


HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "a\u202eb\u2066c",
    "a\x00b\x1b[31m",
    "\u2028\u2029&lt;b&gt;",
    "=cmd|' /C calc'!A0",
    "x" * 1_000_000,
]


def test_hostile_names_are_text(tmp_path):
    plain = Elements(html(board_of(tmp_path, summary([run(i, f"m{i}") for i in range(len(HOSTILE))]))))
    board = board_of(tmp_path, summary([run(i, name) for i, name in enumerate(HOSTILE)]))
    text = html(board)
    found = Elements(text)
    assert sorted(found.tags) == sorted(plain.tags)
    assert not [each for each in found.attributes if each[1].startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text.replace(page_scripts(), ""))
    names = [each["model"] for each in board_data(board)["tasks"][0]["runs"]]
    assert names[:4] == HOSTILE[:4]
    assert names[4] == "a<U+202E>b<U+2066>c"
    assert len(names[-1]) < 300


def page_scripts():
    from cxrbench.report.page import plotly

    return plotly()


def test_data_cannot_leave_their_element():
    text = str(data_json({"a": "</script><!--&\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}


def test_the_page_allows_no_network_and_only_its_own_scripts(tmp_path):
    text = html(board_of(tmp_path, summary([run(0, "a"), run(1, "b")])))
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].count("'sha256-") == 2
    assert "unsafe" not in rules["script-src"]
    assert "http" not in policy
    attributes = Elements(text).attributes
    assert not [each for each in attributes if each[1] in ("src", "srcset", "data", "action")]
    assert all(value.startswith("#") for _, name, value in attributes if name == "href")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    runs = [run(i, f"m{i}") for i in range(4)]
    first = html(board_of(tmp_path, summary(runs)))
    (tmp_path / "again").mkdir()
    assert html(board_of(tmp_path / "again", summary(runs))) == first


def test_names_are_made_visible():
    assert visible("plain name é 肺") == "plain name é 肺"
    assert visible("\ufeffx\u200b") == "<U+FEFF>x<U+200B>"


# ---- what travels with cxrbench


@pytest.mark.parametrize("name", sorted(shipped_boards()))
def test_shipped_boards_build(name):
    board = make_board(*find_board(name), "public")
    assert len(html(board).encode()) < 8e6


@pytest.mark.parametrize("name", ["demo-findings", "demo-impression"])
def test_shipped_summaries_are_of_this_version(name):
    made = read_summary_file(shipped("baselines") / "demo" / f"{name}.json")
    gate = read_baseline(shipped("baselines") / "gates" / "demo-findings.parquet")
    # What was fitted to the references is a matter of the task.
    today = {key: re.sub(r"fit:\w+", "", column.signature) for key, column in gate.columns.items()}
    for each in made.runs:
        assert not [note for note in each.notes if "another way" in note]
        here = {key.partition("/")[0]: re.sub(r"fit:\w+", "", one.signature) for key, one in each.values.items()}
        assert {key: here[key] for key in today} == today
    for feature, metric in ((radgraph, "radgraph-f1:partial"), (chexbert, "chexbert-f1:miura")):
        assert f":{feature.__name__.rpartition('.')[2]}.{feature.VERSION}|" in today[metric]
    assert f"encoder:bertscore.{bertscore.VERSION}|" in today["bertscore:tiny"]


def test_signatures_stand_whole_in_the_page():
    board = make_board(*find_board("demo"), "public")
    longest = max((column.signature for column in board.tasks[0].columns), key=len)
    assert len(longest) > 200
    assert f"<code>{escape(longest)}</code>" in html(board)


def test_the_demo_board_tells_the_models_apart():
    board = make_board(*find_board("demo"), "public")
    assert [task.part.task for task in board.tasks] == ["demo-findings", "demo-impression"]
    for task in board.tasks:
        labels = {entry.label for entry in task.entries}
        assert labels == {"demo", "demo-regressed", "demo-verbose", "always-normal", "random-report", "nearest-image"}
        by_label = {entry.label: task.places[entry.run.id, F1] for entry in task.entries}
        assert by_label["demo"][1] < by_label["demo-regressed"][0] < by_label["always-normal"][0]
        assert by_label["demo"][0] == 1
        assert all(each.public for each in task.summaries)


@pytest.mark.parametrize("name", sorted(published_files()))
def test_published_figures_name_their_source(name):
    from cxrbench.shipped import shipped
    from cxrbench.spec import find_task

    task = re.search("^task: (.*)$", (shipped("baselines") / "published" / f"{name}.yaml").read_text(), re.M)[1]
    found = read_published(name, task)
    assert found.name == name
    assert find_task(found.task).name == found.task
    assert found.source
    assert found.differs


def test_reported_figures_stand_apart_from_measured_ones(tmp_path):
    board = make_board(*find_board("reported"), "public")
    text = html(board)
    assert "Not measured here." in text
    assert 'class="tag secondary"' in text
    assert "#1" not in re.sub("<style>.*?</style>|<script.*?</script>", "", text, flags=re.S)


# ---- from run folders, and out to a host


def test_a_part_of_the_task_is_left_out_beside_the_whole(cli, tmp_path):
    part, _ = small_run(cli, tmp_path, "--limit", 5, "--allow-partial")
    for name, limit in (("b", 6), ("c", None)):
        if limit is None:
            with pytest.raises(CxrbenchError, match=r"b \(--limit 6\), small \(--limit 5\)") as refused:
                _run_folders(tmp_path / "runs", "small", Source(path="runs"))
            assert "one by one" in refused.value.fix
        manifest = json.loads((part / "manifest.json").read_text())
        manifest["identity"]["limit"] = limit
        shutil.copytree(part, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "manifest.json").write_text(json.dumps(manifest))
    found, left_out = _run_folders(tmp_path / "runs", "small", Source(path="runs"))
    assert [run.path.name for run in found] == ["c"]
    assert sorted(left_out) == [f"{name}: a part of the task, --limit {n}" for name, n in (("b", 6), ("small", 5))]


def test_someones_file_comes_onto_the_board(cli, tmp_path):
    first, _ = small_run(cli, tmp_path)
    rows = [json.loads(line) for line in (first / "predictions/0000.jsonl").read_text().splitlines()]
    theirs = tmp_path / "theirs.jsonl"
    lines = [json.dumps({"sample_id": row["sample_id"], "prediction": "<b>SECRET-WORDS</b> </script>"}) for row in rows]
    theirs.write_text("\n".join(lines))
    words = ("run", "--model", f"replay:{theirs}", "--task", "small.yaml", "--replicates", 100)
    assert cli(*words, "--out", tmp_path / "runs/theirs")[0] == 0
    (tmp_path / "b.yaml").write_text(
        "name: b\ntitle: B\nrank_across_inputs: true\ntasks:\n"
        "  - {task: small, runs: [runs], columns: [rouge-l:raw/rouge_l, length:words/words]}\n"
    )
    code, out, err = cli("leaderboard", "build", "b.yaml", "-o", "b.html", "--replicates", 100)
    assert (code, out.startswith("b.html: 2 runs, 1 task")) == (0, True), err
    text = Path("b.html").read_text()
    assert "replay:theirs.jsonl" in text or "replay" in text
    assert "SECRET-WORDS" not in text
    assert rows[0]["sample_id"] not in text
    assert cli("leaderboard", "build", "b.yaml", "-o", "c.html", "--replicates", 100)[0] == 0
    assert Path("c.html").read_bytes() == Path("b.html").read_bytes()
    summarised = ("leaderboard", "summarize", first, tmp_path / "runs/theirs", "-o", "s.json", "--replicates", 100)
    assert cli(*summarised)[0] == 0
    made = read_summary_file(Path("s.json"))
    assert made.public
    assert len(made.pairs) == 1
    compared = json.loads(cli("compare", first, tmp_path / "runs/theirs", "--json", "--replicates", 100)[1])
    theirs_, ours = compared["comparisons"][0]["metrics"]["rouge-l:raw"]["values"]["rouge_l"], made.pairs[0]
    assert ours.values["rouge-l:raw/rouge_l"][:4] == (theirs_["difference"], *theirs_["ci"], theirs_["p"])


def test_publish_writes_what_a_host_can_serve(tmp_path):
    import hashlib

    board = board_of(tmp_path, summary([run(0, "a"), run(1, "b")]))
    out = tmp_path / "site"
    names = publish(out, board)
    assert names == ["index.html", "summaries/demo-findings.json", "SHA256SUMS"]
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
        assert (out / name).stat().st_mode & 0o777 == 0o644
    before = {name: (out / name).read_bytes() for name in names}
    assert publish(out, board) == names
    assert {name: (out / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("name", ["predictions.jsonl", "scores.parquet", "notes.txt"])
def test_publish_refuses_a_folder_that_holds_anything_else(tmp_path, name):
    out = tmp_path / "site"
    out.mkdir()
    (out / name).write_text("x")
    with pytest.raises(CxrbenchError, match="a host would serve"):
        publish(out, board_of(tmp_path, summary([run(0, "a")])))
    assert [path.name for path in out.iterdir()] == [name]


def test_publish_refuses_numbers_of_samples_of_credentialed_data(tmp_path):
    from cxrbench.gate_evidence import write_baseline
    from tests.gate_runs import evidence

    board = board_of(tmp_path, summary([run(0, "a")]))
    write_baseline(evidence(access="credentialed"), tmp_path / "closed.parquet", public=False)
    with pytest.raises(CxrbenchError, match="stays private"):
        publish(tmp_path / "site", board, [tmp_path / "closed.parquet"])
    assert not (tmp_path / "site").exists()
    write_baseline(evidence(access="open"), tmp_path / "open.parquet", public=True)
    assert "baselines/open.parquet" in publish(tmp_path / "site", board, [tmp_path / "open.parquet"])


def test_publish_refuses_a_private_board(tmp_path):
    with pytest.raises(CxrbenchError, match="a private board is not published"):
        publish(tmp_path / "site", board_of(tmp_path, summary([run(0, "a")]), mode="private"))


def test_the_report_needs_no_torch():
    import subprocess

    code = (
        "import sys; from cxrbench.report import leaderboard_page, publication; from cxrbench.cli import main; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
