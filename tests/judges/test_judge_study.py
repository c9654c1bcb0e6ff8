"""Agreement with people against scipy, the loaders, planted errors, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cxrbench import planted, registry
from cxrbench.data.phantom_rng import Stream
from cxrbench.errors import CxrbenchError
from cxrbench.features.phantom_labels import read_all
from cxrbench.judge_study import KINDS, agreement, pearson, planted_study, ranking, study, tau_b
from cxrbench.judge_study_data import (
    RADEVALX_COLUMNS,
    RADEVALX_FILES,
    RADPREF_RATERS,
    RADPREF_REPORTS,
    REXVAL_ERRORS,
    REXVAL_KINDS,
    REXVAL_REPORTS,
    Rated,
    radevalx,
    radpref,
    read,
    rexval,
    table,
)
from cxrbench.judges.engine import Judge
from cxrbench.judges.formulas import ERRORS
from cxrbench.judges.replay import ReplayJudge
from cxrbench.metrics.base import Resources
from cxrbench.report.sensitivity import draw
from cxrbench.scoring import make_metric
from tests import commands
from tests.chat_server import ChatServer, answer
from tests.judges.answers import chexprompt_answer, green_answer, marks

cli = commands.cli
few = st.integers(0, 4)


@given(st.lists(st.tuples(few, few), min_size=3, max_size=25), st.data())
def test_tau_b_and_pearson_of_any_resample_are_scipys(pairs, data):
    x, y = (np.array(column, float) for column in zip(*pairs, strict=True))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x))), float)
    drawn = np.repeat(np.arange(len(x)), weights.astype(int))
    tau, r = tau_b(x, y, weights[None])[0], pearson(x, y, weights[None])[0]
    if len(set(x[drawn])) < 2 or len(set(y[drawn])) < 2:
        assert np.isnan(tau)
        assert np.isnan(r)
    else:
        assert tau == pytest.approx(scipy_stats.kendalltau(x[drawn], y[drawn], variant="b").statistic, abs=1e-9)
        assert r == pytest.approx(scipy_stats.pearsonr(x[drawn], y[drawn]).statistic, abs=1e-9)


def test_ranking_counts_pairs_within_a_case_that_people_tell_apart():
    x = np.array([1.0, 2.0, 2.0, 5.0, 5.0, 1.0])
    y = np.array([1.0, 2.0, 3.0, 4.0, 4.0, 9.0])
    right, pairs = ranking(x, y, ["a", "a", "a", "b", "b", "c"])
    # a: 1<2 right, 1<3 right, 2<3 a tie of the metric; b: people say tie; c: alone.
    assert right.tolist() == [2.5, 0, 0]
    assert pairs.tolist() == [3, 0, 0]


def test_intervals_resample_cases_and_hold_the_value():
    rng = np.random.default_rng(1)
    y = rng.normal(size=90)
    x = y + rng.normal(size=90)
    x[3] = np.nan
    cases = [str(i // 3) for i in range(90)]
    found = agreement(x, y, cases, replicates=400, seed=0, level=0.95)
    assert (found["n"], found["cases"]) == (89, 30)
    for name in ("tau_b", "pearson", "ranking"):
        low, high = found[name]["ci"]
        assert low < found[name]["value"] < high
    assert agreement(x[:2], y[:2], cases[:2], replicates=0, seed=0, level=0.95) == {"n": 2, "cases": 1}


# Loaders


@pytest.mark.real_data
def test_radpref_is_read_whole(real_data):
    file = real_data / "metric_cases" / "radpref.json"
    rated = radpref(file)
    items = json.loads(file.read_text())["items"]
    assert len(rated) == 2 * len(items) == 134
    assert len({each.sample_id for each in rated}) == 134
    first = items[3]
    ratings = [rater["C1"]["rating"] for rater in first["radiologists"].values()]
    one = rated[6]
    assert one.human["rating:overall"] == pytest.approx(np.mean(ratings))
    # Three raters: (1 false + 2 missing), (1 attribute + 1 missing), (1 attribute + 2 missing).
    assert one.human["errors:all"] == pytest.approx((3 + 2 + 3) / 3)
    assert one.human["errors:missing"] == pytest.approx(5 / 3)
    assert one.human["errors:significant"] == 1
    for each in rated:
        parts = [each.human[f"errors:{name}"] for name in ("false", "attribute", "missing")]
        assert sum(parts) == pytest.approx(each.human["errors:all"])


def write_radpref(folder, items):
    """The files of CRIMSON's repository: cases in one, marks in one per radiologist."""
    (folder / RADPREF_RATERS).mkdir(parents=True)
    cases = [{key: value for key, value in item.items() if key != "radiologists"} for item in items]
    (folder / RADPREF_REPORTS).write_text(json.dumps(cases))
    for rater in items[0]["radiologists"]:
        marks = {item["id"]: {**item["radiologists"][rater], "new_finding_indices": {}} for item in items}
        body = {"user_id": rater[-1], "annotations": marks}
        (folder / RADPREF_RATERS / f"{rater}.json").write_text(json.dumps(body))


@pytest.mark.real_data
def test_radpref_as_its_authors_publish_it_is_read_as_the_one_file_is(real_data, tmp_path):
    file = real_data / "metric_cases" / "radpref.json"
    write_radpref(tmp_path / "RadPref", json.loads(file.read_text())["items"])
    assert radpref(tmp_path / "RadPref") == radpref(file)


MARKED = {"finding_errors": {"0": {"error_type": "false", "clinical_significance": "urgent"}}, "missing_findings": {}}


def radpref_items():
    raters = {
        f"user_{n}": {"C1": {**MARKED, "rating": n}, "C2": {"finding_errors": {}, "missing_findings": {}, "rating": 5}}
        for n in (1, 2, 3)
    }
    texts = {"ground_truth_report": "clear", "C1_report": "an effusion", "C2_report": "clear lungs"}
    return [{"id": name, **texts, "radiologists": raters} for name in ("a", "b")]


def test_radprefs_folder_has_the_marks_of_every_rater(tmp_path):
    write_radpref(tmp_path / "RadPref", radpref_items())
    rated, notes = read("radpref", tmp_path / "RadPref")
    assert not notes
    assert [each.sample_id for each in rated] == ["a/C1", "a/C2", "b/C1", "b/C2"]
    assert rated[0].human["rating:overall"] == 2
    assert (rated[0].human["errors:significant"], rated[1].human["errors:all"]) == (1, 0)
    marks = tmp_path / "RadPref" / RADPREF_RATERS / "user_2.json"
    body = json.loads(marks.read_text())
    del body["annotations"]["b"]
    marks.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError, match="user_2 has no marks of 1 cases") as told:
        radpref(tmp_path / "RadPref")
    assert RADPREF_REPORTS in told.value.fix
    for file in (tmp_path / "RadPref" / RADPREF_RATERS).iterdir():
        file.unlink()
    with pytest.raises(CxrbenchError, match="no file of a rater"):
        radpref(tmp_path / "RadPref")


def write_radevalx(folder, counts):
    """The layout of release 1.0.0: two tables of the same reports; `counts` by side and report, of the eight kinds."""
    for side, file in RADEVALX_FILES.items():
        rows = [[f"r{i} ", f"ref {i}", f"text, {i}", *given] for i, given in enumerate(counts[side])]
        write_csv(folder / file, RADEVALX_COLUMNS, rows)


def test_radevalx_sums_the_kinds_of_both_files_and_asks_what_an_empty_count_means(tmp_path):
    counts = {
        "significant": [["1", "", "", "", "", "", "2", ""], ["0"] * 8],
        "insignificant": [["", "3", "", "", "", "", "", ""], ["0"] * 7 + ["1.0"]],
    }
    write_radevalx(tmp_path, counts)
    with pytest.raises(CxrbenchError, match="13 of 32 counts of RadEvalX are empty") as told:
        radevalx(tmp_path)
    assert told.value.fix == "--blank 0 takes them for no error"
    rated, notes = read("radevalx", tmp_path, 0.0)
    assert notes == ["13 of 32 counts were empty and are taken for 0"]
    assert [(each.case, each.candidate, each.reference) for each in rated] == [
        ("r0", "text, 0", "ref 0"), ("r1", "text, 1", "ref 1")
    ]  # fmt: skip
    human = {name.removeprefix("errors:"): value for name, value in rated[0].human.items() if value}
    assert human == {
        "all": 6, "significant": 3, "insignificant": 3, "false_finding": 1, "missing_finding": 3, "kind_7": 2
    }  # fmt: skip
    assert rated[1].human["errors:kind_8"] == rated[1].human["errors:all"] == 1


def test_another_layout_of_radevalx_is_told_which_columns_are_needed(tmp_path):
    counts = {side: [["0"] * 8] for side in RADEVALX_FILES}
    write_radevalx(tmp_path, counts)
    file = tmp_path / RADEVALX_FILES["significant"]
    whole = file.read_text()
    file.write_text(whole.replace("M2Tr-Generation", "candidate"))
    with pytest.raises(CxrbenchError, match="no column 'M2Tr-Generation'") as told:
        radevalx(tmp_path)
    assert "report_id, ground_truth, M2Tr-Generation, 1, 2" in told.value.fix
    file.write_text(whole.replace("text, 0", "text, 9"))
    with pytest.raises(CxrbenchError, match="do not hold the same reports"):
        radevalx(tmp_path)
    file.write_text(whole.replace(",0,0,0,0,0,0,0,0", ",0,x,0,0,0,0,0,0"))
    with pytest.raises(CxrbenchError, match="no whole number") as told:
        radevalx(tmp_path)
    assert "the significant errors of report 1" in told.value.where
    with pytest.raises(CxrbenchError, match="--blank is for"):
        read("table", file, 0.0)


def write_csv(file, heads, rows):
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(heads)
        writer.writerows(rows)


@pytest.mark.parametrize("first", [0, 1, "id"])
def test_rexval_sums_each_raters_counts_and_averages_raters(tmp_path, first):
    write_csv(tmp_path / REXVAL_REPORTS, ["study_id", "gt_report", "radgraph", "bleu"],
              [["s8", "ref a", "a1", "a2"], ["s9", "ref b", "b1", "b2"]])  # fmt: skip
    names = ["s8", "s9"] if first == "id" else [first, first + 1]
    rows = [[name, kind, category, flag, rater, 1 + rater + (kind == "bleu")]
            for name in names for kind in ("radgraph", "bleu") for category in (1, 6)
            for flag in ("True", "False") for rater in (0, 1)]  # fmt: skip
    write_csv(tmp_path / REXVAL_ERRORS, ["study_number", "candidate_type", "error_category", "clinically_significant",
                                         "rater_index", "num_errors"], rows)  # fmt: skip
    rated = rexval(tmp_path)
    assert [(each.case, each.name, each.candidate, each.reference) for each in rated] == [
        ("0", "bleu", "a2", "ref a"), ("0", "radgraph", "a1", "ref a"),
        ("1", "bleu", "b2", "ref b"), ("1", "radgraph", "b1", "ref b"),
    ]  # fmt: skip
    human = rated[1].human
    assert (human["errors:all"], human["errors:significant"], human["errors:false_finding"]) == (6, 3, 3)
    assert (human["errors:missing_comparison"], human["errors:wrong_location"]) == (3, 0)


def test_a_table_of_ones_own_is_averaged_over_raters(tmp_path):
    file = tmp_path / "own.csv"
    heads = ["case", "candidate", "reference", "errors:all", "rating:overall", "rater"]
    write_csv(file, heads, [["1", "x", "r", 2, 3, "A"], ["1", "x", "r", 4, 1, "B"], ["1", "y", "r", 0, 5, "A"]])
    assert table(file) == [
        Rated("1", "0", "x", "r", {"errors:all": 3, "rating:overall": 2}),
        Rated("1", "1", "y", "r", {"errors:all": 0, "rating:overall": 5}),
    ]
    write_csv(file, heads, [["1", "x", "r", "", 3, "A"]])
    with pytest.raises(CxrbenchError, match="missing or is none") as told:
        table(file)
    assert told.value.where == f"{file}, line 2"


def test_what_is_not_the_named_form_is_refused(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"items": [{"id": 1}]}')
    with pytest.raises(CxrbenchError, match="not RadPref's form"):
        radpref(file)
    write_csv(tmp_path / REXVAL_REPORTS, ["study"], [["1"]])
    write_csv(tmp_path / REXVAL_ERRORS, ["study_number"], [["1"]])
    with pytest.raises(CxrbenchError, match="not ReXVal's tables"):
        rexval(tmp_path)
    write_csv(file, ["case", "candidate", "reference"], [["1", "x", "y"]])
    with pytest.raises(CxrbenchError, match="no column begins with"):
        table(file)


# Planted errors


TEXT = "There is a small left pleural effusion. No pneumothorax. The heart is normal in size. The edema has decreased since the prior study."  # noqa: E501


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("wrong side", {TEXT.replace("left", "right")}),
        ("wrong severity", {TEXT.replace("small", "large")}),
        ("missed finding", {TEXT.replace("There is a small left pleural effusion. ", ""),
                            TEXT.replace(" The edema has decreased since the prior study.", "")}),
        ("dropped comparison", {TEXT.replace(" since the prior study", "")}),
        ("negation flip", {TEXT.replace("There is a small", "There is no small"),
                           TEXT.replace("No pneumothorax", "There is a pneumothorax")}),
        ("paraphrase", {TEXT.replace("The heart is normal in size", "Heart size is normal")}),
    ],
)  # fmt: skip
def test_each_kind_changes_one_thing(kind, made):
    assert {planted.plant(TEXT, kind, Stream(seed)) for seed in range(40)} == made


def test_an_invented_finding_was_not_there():
    for seed in range(40):
        made = planted.plant(TEXT, planted.INVENTED, Stream(seed))
        assert made.startswith(TEXT + " ")
        assert "effusion" not in made[len(TEXT) :]


def test_what_has_no_place_for_an_error_gets_none():
    for kind in ("wrong side", "wrong severity", "missed finding", "dropped comparison"):
        assert planted.plant("The lungs are clear. No pneumothorax.", kind, Stream(0)) is None


def test_a_paraphrase_keeps_every_label_and_a_flip_changes_them():
    items = planted.profile_items(60)
    untouched = {each.study.study_id: each.text for each in items if not each.kind}
    for kind, moved in (("paraphrase", False), ("negation flip", True)):
        chosen = [each for each in items if each.kind == kind]
        assert len(chosen) > 30
        before = read_all([untouched[each.study.study_id] for each in chosen])
        after = read_all([each.text for each in chosen])
        share = np.mean([one != two for one, two in zip(before, after, strict=True)])
        assert share > 0.9 if moved else share == 0


def test_the_profile_says_what_label_f1_cannot_see():
    found = planted_study(40, ["label-f1", "rouge-l:raw"], replicates=200)
    labels = found["profile"]["label-f1:phantom micro_f1"]
    assert labels["wrong side"]["loss"] == labels["paraphrase"]["loss"] == 0
    assert labels["missed finding"]["loss"] > 0.1
    low, high = labels["missed finding"]["ci"]
    assert low < labels["missed finding"]["loss"] < high
    words = found["profile"]["rouge-l:raw rouge_l"]
    assert words["paraphrase"]["moved"] == words["wrong side"]["moved"] == 1
    tau = found["metrics"]["rouge-l:raw rouge_l"]["targets"]["errors:planted"]["tau_b"]["value"]
    assert tau > 0.5
    assert planted_study(40, ["label-f1", "rouge-l:raw"], replicates=200) == found
    # Another patient's report costs more than any one error, and its picture is made of these numbers alone.
    for row in (labels, words):
        assert row["other report"]["loss"] == max(each["loss"] for each in row.values())
    picture = draw(found)
    assert draw(found) == picture
    assert picture.count("<circle") == 2 * 7
    loss, moved = labels["missed finding"]["loss"], labels["missed finding"]["moved"]
    told = f"label-f1:phantom micro_f1, missed finding: {loss:+.3f} ({moved:.0%} of {labels['missed finding']['n']}"
    assert told in picture


def test_a_picture_of_nothing_is_refused():
    with pytest.raises(CxrbenchError, match="no sensitivity profile"):
        draw({"profile": {}, "kinds": []})


def test_the_profile_in_the_docs_has_every_metric_and_its_picture_the_same_numbers():
    docs = Path(__file__).resolve().parents[2] / "docs"
    page, picture = (docs / "judges.md").read_text(), (docs / "judges-profile.svg").read_text()
    made = page.partition("<!-- made by tools/judge_profile.py -->\n")[2].partition("<!-- end -->")[0]
    heads, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines() if line.startswith("|")
    ]
    assert heads == ["metric", *planted.KINDS, planted.STRANGER]
    for row in rows:
        for kind, cell in zip(planted.KINDS, row[1:], strict=False):
            loss, _, moved = cell.partition(" ")
            assert f"{row[0]}, {kind}: {loss} {moved.removesuffix(')')} of" in picture
    shown = {row[0].partition(":")[0] for row in rows}
    left = {name for name in registry.entries("metrics") if f"{name} (" in made.partition("Not there: ")[2]}
    assert not shown & left
    words, clinical = {"bleu", "rouge-l", "cider", "meteor"}, {"label-f1", "chexbert-f1", "radgraph-f1", "semb-score"}
    assert words | clinical | {"radcliq", "bertscore", "ratescore", "length", "distinct"} <= shown | left


def test_agreement_is_oriented_whichever_way_metric_and_people_run():
    texts = ["no effusion is seen in the chest", "no effusion is seen in the leg", "no mass was there"]
    rated = [
        Rated(str(case), str(i), text, texts[0], {"errors:all": float(i), "rating:overall": 5.0 - i})
        for case in range(4)
        for i, text in enumerate(texts)
    ]
    found = study(rated, ["rouge-l:raw"], replicates=0)["metrics"]["rouge-l:raw rouge_l"]["targets"]
    assert found["errors:all"]["ranking"]["value"] == found["rating:overall"]["ranking"]["value"] == 1
    assert found["errors:all"]["tau_b"]["value"] == pytest.approx(1)
    assert found["errors:all"]["tau_b"]["ci"] is None
    with pytest.raises(CxrbenchError, match="the same candidate of a case"):
        study([*rated, rated[0]], ["rouge-l:raw"], replicates=0)


# The command


def test_the_command_prints_one_table_for_metrics_and_judges(cli, tmp_path):
    file = tmp_path / "own.csv"
    rows = [[case, f"sample {errors} of {case}", "ref", errors] for case in range(6) for errors in range(3)]
    write_csv(file, ["case", "candidate", "reference", "errors:all"], rows)

    def behave(heard):
        errors = int(heard.asked["messages"][-1]["content"].split("sample ")[1][0])
        return answer(green_answer((errors, 0, 0, 0, 0, 0), matched=2))

    with ChatServer(behave) as server:
        words = ("judge-study", file, "--format", "table", "--metrics", "green,bleu:raw", "--replicates", 100,
                 "--judge", "openai:m", "--judge-url", server.url)  # fmt: skip
        code, out, err = cli(*words, "--markdown", "--out", tmp_path / "study.json")
        assert code == 0, err
        assert len(server.heard) == 18
        assert cli(*words)[0] == 0
        assert len(server.heard) == 18
    assert "| green:default green | errors:all | 18 | 1.000 [1.000, 1.000] |" in out
    assert "judge openai:m, rubric green." in out
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["metrics"]["green:default green"]["targets"]["errors:all"]["ranking"]["value"] == 1


def test_each_kind_a_judge_counts_is_held_against_the_same_kind_people_counted(cli, tmp_path):
    """A judge that counts false findings as people do, dropped comparisons against them, and no wrong location."""
    file = tmp_path / "own.csv"
    kinds = ("false_finding", "wrong_location", "missing_comparison", "devices")
    heads = ["case", "candidate", "reference", "errors:all", *(f"errors:{kind}" for kind in kinds)]
    rows = [[case, f"sample {i} of {case}", "ref", 9, i, i, i, i] for case in range(6) for i in range(4)]
    write_csv(file, heads, rows)

    def behave(heard):
        i = marks(heard.asked["messages"][-1]["content"])
        # Both sides add up: i errors of the first kind, 3 - i of the last.
        one, two = (i // 2, 0, 0, 0, 0, 3 - i), (i - i // 2, 0, 0, 0, 0, 0)
        return answer(green_answer(one, two, 1) if "Matched" in heard.body.decode() else chexprompt_answer(one, two))

    with ChatServer(behave) as server:
        words = ("judge-study", file, "--format", "table", "--metrics", "green,chexprompt,lc-green,rouge-l:raw",
                 "--judge", "openai:m", "--judge-url", server.url)  # fmt: skip
        code, out, err = cli(*words, "--replicates", 100)
        assert code == 0, err
        found = json.loads(cli(*words, "--replicates", 100, "--json")[1])["per_category"]
        bare = json.loads(cli(*words, "--replicates", 0, "--json")[1])["per_category"]
    assert set(found) == {"green:default", "chexprompt:default"}
    for kinds_found in found.values():
        assert list(kinds_found) == ["errors:false_finding", "errors:wrong_location", "errors:missing_comparison"]
        alike, blind, against = kinds_found.values()
        assert (alike["n"], alike["cases"], alike["judge_mean"], alike["human_mean"]) == (24, 6, 1.5, 1.5)
        assert alike["tau_b"] == {"value": pytest.approx(1), "ci": [pytest.approx(1), pytest.approx(1)]}
        assert (against["tau_b"]["value"], against["pearson"]["value"]) == (pytest.approx(-1), pytest.approx(-1))
        assert (blind["judge_mean"], blind["tau_b"]["value"], blind["pearson"]["value"]) == (0, None, None)
    assert bare["green:default"]["errors:false_finding"]["tau_b"] == {"value": pytest.approx(1), "ci": None}
    main, _, below = out.partition("per category: kind against the same kind")
    assert "errors:devices" in main
    assert [below.count(kind) for kind in kinds] == [2, 2, 2, 0]
    assert max(map(len, out.splitlines())) <= 100


def test_a_report_the_judge_did_not_answer_for_is_in_no_kind(tmp_path):
    rows = [{"sample_id": f"{i}/x", "text": chexprompt_answer((i, 0, 0, 0, 0, 0))} for i in range(4)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rated = [Rated(str(i), "x", f"text {i}", "ref", {"errors:false_finding": float(i)}) for i in range(5)]
    found = study(rated, ["chexprompt"], Resources(judge=Judge(ReplayJudge(tmp_path / "r.jsonl"))), replicates=0)
    one = found["per_category"]["chexprompt:default"]["errors:false_finding"]
    assert (one["n"], one["judge_mean"], one["human_mean"]) == (4, 1.5, 1.5)


def test_the_table_of_kinds_names_every_kind_of_both_sides():
    assert {target.removeprefix("errors:") for target in KINDS} >= set(REXVAL_KINDS)
    counted = {name for metric in ("chexprompt", "green", "crimson") for name in make_metric(metric).values}
    assert {name for names in KINDS.values() for name in names} <= counted
    both = [f"{side}_{kind}" for kind in ERRORS for side in ("significant", "insignificant")]
    assert [name for kind in REXVAL_KINDS for name in KINDS[f"errors:{kind}"]] == both


def test_what_cannot_be_had_is_named_and_the_exit_code_says_so(cli):
    code, out, err = cli("judge-study", "--metrics", "rouge-l:raw,length,green", "--studies", 10, "--replicates", 100)
    assert code == 3
    assert "incomplete: length:words: it has no value of a single report, or no direction" in err
    assert "incomplete: green:default: needs a judge" in err
    assert "rouge-l:raw " in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no metric is named"),
        (("--metrics", "bleu:raw", "--format", "table"), "--format is of a file"),
        (("nowhere.csv", "--metrics", "bleu:raw", "--format", "table"), "cannot be read"),
        (("nowhere.csv", "--metrics", "bleu:raw"), "format of the ratings is not named"),
        (("--metrics", "bleu:raw", "--blank", "0"), "--blank is of a file"),
        (("x.csv", "--metrics", "bleu:raw", "--format", "table", "--plot", "x.svg"), "draws planted errors"),
        (("x", "--metrics", "bleu:raw", "--format", "radevalx"), "cannot be read"),
    ],
)
def test_a_wrong_call_is_one_sentence(cli, words, said):
    code, _, err = cli("judge-study", *words)
    assert code == 2
    assert said in err


def test_a_study_whose_judge_has_not_answered_all_says_so_and_is_undecided(cli):
    words = ("judge-study", "--metrics", "bleu:raw,green", "--studies", 8, "--replicates", 0, "--judge", "openai:m")
    with ChatServer(lambda heard: answer(green_answer(matched=1))) as server:
        code, out, err = cli(*words, "--judge-url", server.url, "--max-requests", 5)
        assert code == 3
        assert "reports are not judged yet by green:default" in err
        assert "another number of reports behind it" in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= 100
        code, out, err = cli(*words, "--judge-url", server.url)
    assert (code, err) == (0, "")
    assert "another number of reports" not in " ".join(out.split())
