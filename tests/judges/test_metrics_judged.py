"""The judged metrics by the metric contract, from recorded responses and a server, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cxrbench.engines.chat import Chat
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Pairs, Resources
from cxrbench.judges.ask import PENDING
from cxrbench.judges.build import Wish, build
from cxrbench.judges.engine import Judge
from cxrbench.judges.pairwise import Duel, fight, rates
from cxrbench.judges.replay import ReplayJudge
from cxrbench.judges.rubric import FOLDER, built_in, read_rubric
from cxrbench.metrics.base import FAILED, SCORED, Corpus
from cxrbench.scoring import make_metric
from tests import commands
from tests.chat_server import ChatServer, Listener, answer, status
from tests.commands import small_run
from tests.judges.answers import chexprompt_answer, green_answer

cli = commands.cli

OWN = """\
name: mine
version: 3
parser: values
task: "Reference {reference} Candidate {candidate}"
categories:
  - {name: hits, about: agreements}
  - {name: misses, high: 9}
score: hits / (hits + misses)
"""


def record(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ReplayJudge(file)


def replayed(tmp_path, rows, **further):
    return Judge(record(tmp_path / "recorded.jsonl", rows), **further)


def statistics(metric, judge, pairs):
    from cxrbench import registry

    context = metric.fit(Corpus(pairs.references, judge=judge))
    (request,) = metric.needs(context)
    feature = registry.load("features", request.name)()
    found = feature.extract(pairs, dict(request.settings), Resources(judge=judge))
    return metric.statistics(pairs, {request: found}, context)


def values(metric, made):
    rows = made.rows.mean(axis=1)
    return {name: float(value) for name, value in metric.value(rows[rows[:, 0] > 0].sum(axis=0)).items()}


PAIRS = Pairs(["a", "b", "c"], ["one two three four", "one", "x"], ["one two", "one two", "y"])


def test_green_and_lc_green_come_from_one_answer(tmp_path):
    rows = [
        {"sample_id": "a", "text": green_answer((1, 0, 0, 0, 0, 0), matched=1)},
        {"sample_id": "b", "text": green_answer(matched=2)},
        {"sample_id": "c", "text": "nothing of the kind"},
    ]
    judge = replayed(tmp_path, rows)
    made = statistics(make_metric("green"), judge, PAIRS)
    assert made.status[:, 0].tolist() == [SCORED, SCORED, FAILED]
    assert made.reasons[2] == "unreadable: the section [Matched Findings] is missing"
    assert values(make_metric("green"), made)["green"] == 0.75
    controlled = values(make_metric("lc-green"), statistics(make_metric("lc-green"), judge, PAIRS))
    # The first is twice as long as its reference, the second half as long.
    assert controlled["lc_green"] == (0.5 / 2 + 1.0) / 2
    assert controlled["green"] == 0.75


def test_chexprompt_sums_by_significance_and_kind(tmp_path):
    rows = [
        {"sample_id": "a", "text": chexprompt_answer((1, 2, 0, 0, 0, 0), (0, 0, 0, 0, 0, 3))},
        {"sample_id": "b", "text": chexprompt_answer()},
    ]
    made = statistics(make_metric("chexprompt"), replayed(tmp_path, rows), PAIRS)
    assert made.reasons[2] == f"{PENDING}: no response is recorded for it"
    found = values(make_metric("chexprompt"), made)
    assert (found["total"], found["significant"], found["insignificant"]) == (3, 1.5, 1.5)
    assert (found["significant_omission_finding"], found["insignificant_omission_comparison"]) == (1, 1.5)
    assert np.isnan(found["repeat_sd"])


def test_radfact_holds_each_phrase_against_the_other_report(tmp_path):
    def say(status):
        return json.dumps({"status": status, "evidence": []})

    rows = [
        {"sample_id": "a/candidate", "part": "phrases", "text": '{"phrases": ["p", "q"]}'},
        {"sample_id": "a/reference", "part": "phrases", "text": '{"phrases": ["r"]}'},
        {"sample_id": "a/candidate/0", "part": "entailment", "text": say("entailment")},
        {"sample_id": "a/candidate/1", "part": "entailment", "text": say("contradiction")},
        {"sample_id": "a/reference/0", "part": "entailment", "text": say("entailment")},
        {"sample_id": "b/candidate", "part": "phrases", "text": '{"phrases": []}'},
        {"sample_id": "b/reference", "part": "phrases", "text": '{"phrases": ["s", "t"]}'},
        {"sample_id": "c/candidate", "part": "phrases", "text": '{"phrases": ["u"]}'},
        {"sample_id": "c/reference", "part": "phrases", "text": '{"phrases": ["v"]}'},
        {"sample_id": "c/candidate/0", "part": "entailment", "text": say("entailment")},
    ]
    pairs = Pairs(["a", "b", "c"], ["ca", "cb", "cc"], ["ra", "rb", "rc"])
    metric = make_metric("radfact")
    made = statistics(metric, replayed(tmp_path, rows), pairs)
    # The reference's phrase of c was not answered: the pair is failed, not "not entailed".
    assert made.status[:, 0].tolist() == [SCORED, SCORED, FAILED]
    found = values(metric, made)
    # b has no phrase of its own: it counts for recall only.
    assert (found["logical_precision"], found["logical_recall"]) == (0.5, 0.5)
    assert (found["logical_f1"], found["contradicted"]) == (0.5, 0.5)


def test_crimson_and_the_axes(tmp_path):
    judged = {
        "reference_findings": [{"id": "R1", "clinical_significance": "urgent"}],
        "predicted_findings": [{"id": "P1", "clinical_significance": "urgent"}],
        "matched_findings": [{"ref_id": "R1", "pred_id": "P1"}],
        "errors": {"false_findings": [], "missing_findings": [],
                   "attribute_errors": [{"ref_id": "R1", "pred_id": "P1", "severity": "significant"}]},
    }  # fmt: skip
    rows = [
        {"sample_id": "a", "rubric": "crimson", "text": json.dumps(judged)},
        {"sample_id": "a", "rubric": "correctness-completeness-coherence",
         "text": '{"correctness": 5, "completeness": 2, "coherence": 5}'},
    ]  # fmt: skip
    judge = replayed(tmp_path, rows)
    assert values(make_metric("crimson"), statistics(make_metric("crimson"), judge, PAIRS))["crimson"] == 0.6667
    axes = make_metric("correctness-completeness-coherence")
    found = values(axes, statistics(axes, judge, PAIRS))
    assert (found["mean_rating"], found["completeness"]) == (4, 2)


def test_any_rubric_file_is_a_metric(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    metric = make_metric(f"judge:{file}")
    rows = [
        {"sample_id": "a", "text": '{"hits": 3, "misses": 1}'},
        {"sample_id": "b", "text": "hits: 0\nmisses: 0"},
        {"sample_id": "c", "text": '{"hits": 3, "misses": 10}'},
    ]
    made = statistics(metric, replayed(tmp_path, rows), PAIRS)
    assert made.reasons == ("", "the score divides by zero", "unreadable: misses is out of bounds, or no whole number")
    assert values(metric, made)["score"] == 0.75
    assert list(metric.values) == ["score", "hits", "misses", "repeat_sd"]
    file.write_text(OWN + "undefined: 1\n")
    signature = metric.signature(metric.fit(Corpus([], judge=Judge(ReplayJudge(tmp_path / "recorded.jsonl")))), "none")
    assert metric.reads(signature)
    assert not make_metric(f"judge:{file}").reads(signature)
    made = statistics(make_metric(f"judge:{file}"), replayed(tmp_path, rows), PAIRS)
    assert made.rows[1, 0, :2].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("score: hits", "score: hits + blows", "score speaks of 'blows'"),
        ("name: mine", "name: My Rubric", "name is small letters"),
        ("parser: values", "parser: value", "parser: Input should be"),
        ("version: 3", "versoin: 3", "did you mean 'version'"),
        ("high: 9", "high: -1", "high must be above low"),
        ("name: misses", "name: hits", "two categories have one name"),
        ("task:", "turns: [{role: user, content: x}]\ntask:", "either `task`"),
    ],
)
def test_a_wrong_rubric_is_named_with_its_line(tmp_path, old, new, said):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN.replace(old, new))
    with pytest.raises(CxrbenchError, match=said) as told:
        read_rubric(file)
    assert f"{file}, line " in told.value.where


def test_a_rubric_of_the_users_that_does_not_show_the_report_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN.replace("{candidate}", "(above)"))
    with pytest.raises(CxrbenchError, match=r"^the rubric never shows the report that is judged") as told:
        make_metric(f"judge:{file}")
    assert told.value.where == str(file)
    assert "{candidate}" in told.value.fix
    for name, slots in (("green", "{reference}"), ("radfact-phrases", "{candidate}"), ("pairwise", "{first}")):
        parser = built_in(name).parser
        file.write_text(f"name: {name}\nversion: 1\nparser: {parser}\ntask: 'Mine {slots}'\n")
        with pytest.raises(CxrbenchError, match="never shows the report that is judged"):
            build(Wish(f"replay:{_empty(tmp_path)}", rubrics=(file,)), "open", {}, "cpu", Chat)
    # Without the reference is a judgement too: of the report alone.
    file.write_text(OWN.replace("{reference}", ""))
    assert make_metric(f"judge:{file}").own.slots == {"candidate"}


def test_a_slot_is_filled_once_and_an_unknown_one_is_named():
    rubric = built_in("chexprompt")
    _, (_, asked) = rubric.messages({"reference": "says {candidate}", "candidate": "secret"})
    assert "says {candidate}" in asked
    assert asked.count("secret") == 1
    with pytest.raises(CxrbenchError, match=r"slot \{candidate\} is not known"):
        rubric.messages({"reference": "x", "candidat": "y"})


def test_green_cuts_reports_as_its_authors_do():
    _, (_, asked) = built_in("green").messages({"reference": "w " * 500, "candidate": " "})
    assert asked.count("w ") + asked.count("w\n") - asked.count("below ") >= 300
    assert "w " * 301 not in asked
    assert "(no text)" in asked


def test_a_rubric_of_the_users_takes_the_place_of_its_namesake(tmp_path):
    file = tmp_path / "green.yaml"
    file.write_text(
        "name: green\nversion: 1\nparser: green\nturns:\n  - {role: user, content: 'My {reference} {candidate}'}\n"
        "  - {role: assistant, content: ''}\n"
    )
    judge = build(Wish(f"replay:{_empty(tmp_path)}", rubrics=(file,)), "open", {}, "cpu", Chat)
    assert judge.rubric("green").messages({"reference": "r", "candidate": "c"}) == (
        ("user", "My r c"),
        ("assistant", ""),
    )
    assert judge.rubric("green").tag != built_in("green").tag
    file.write_text(file.read_text().replace("parser: green", "parser: chexprompt"))
    judge = build(Wish(f"replay:{_empty(tmp_path)}", rubrics=(file,)), "open", {}, "cpu", Chat)
    with pytest.raises(CxrbenchError, match="green reads answers by the parser green"):
        make_metric("green").fit(Corpus([], judge=judge))


def _empty(tmp_path):
    file = tmp_path / "empty.jsonl"
    file.touch()
    return file


def test_rubrics_tell_each_other_apart():
    tags = {built_in(file.stem).tag for file in FOLDER.glob("*.yaml")}
    assert len(tags) == len(list(FOLDER.glob("*.yaml")))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish("gpt-4"), "is no judge"),
        (Wish("openai:m"), "needs its URL"),
        (Wish("openai:m", "http://127.0.0.1:1/v1", max_cost=1.0), "needs the price"),
        (Wish("openai:m", "http://127.0.0.1:1/v1", settings={"seed": "1"}), "setting 'seed' is not known"),
        (Wish("openai:m", "http://127.0.0.1:1/v1", settings={"retries": "many"}), "retries cannot be 'many'"),
        (Wish("openai:m", "http://evil.example/v1"), "credentialed data may not be sent to evil.example"),
        (Wish("replay:nowhere.jsonl"), "cannot be read"),
        (Wish("local:nowhere"), "no such folder"),
        (Wish("local:.", "http://127.0.0.1:1/v1"), "--judge-url is for a judge behind a server"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_in_one_sentence(wish, said):
    with pytest.raises(CxrbenchError, match=said):
        build(wish, "credentialed", {}, "cpu", Chat)


@pytest.mark.parametrize("line", ["[]", '{"sample_id": "a"}', '{"sample_id": "", "text": "x"}', '{"text": 1}', "x",
                                  '{"sample_id": "a", "text": "x", "model": "m"}'])  # fmt: skip
def test_a_wrong_recording_is_named_with_its_line(tmp_path, line):
    file = tmp_path / "r.jsonl"
    file.write_text('{"sample_id": "b", "text": "ok"}\n' + line + "\n")
    with pytest.raises(CxrbenchError) as told:
        ReplayJudge(file)
    assert told.value.where == f"{file}, line 2"


# Two systems


def test_the_better_system_wins_in_both_orders_and_a_swayed_judge_is_no_win(tmp_path):
    def behave(heard):
        text = heard.asked["messages"][-1]["content"]
        first, second = text.split("Candidate A:\n")[1].split("\n")[0], text.split("Candidate B:\n")[1].split("\n")[0]
        if "swayed" in text:
            return answer('{"better": "A"}')
        better = "A" if "good" in first else "B" if "good" in second else "tie"
        return answer(json.dumps({"better": better}))

    duels = [Duel(f"w{i}", "bad", f"good {i}", "r") for i in range(6)]
    duels += [Duel("l", "good", "bad", "r"), Duel("s", "swayed", "swayed too", "r"), Duel("t", "same", "same", "r")]
    with ChatServer(behave) as server:
        judge = build(Wish("openai:m", server.url), "credentialed", {}, "cpu", Chat)
        outcomes = fight(duels, judge)
        assert len(server.heard) == 2 * 8
    found = rates(outcomes, [duel.sample_id for duel in duels], level=0.95, replicates=200, seed=0)
    assert (found["win"], found["tie"], found["loss"], found["failed"]) == (6, 2, 1, 0)
    assert found["values"]["win_rate"]["value"] == pytest.approx(7 / 9)
    assert found["values"]["order_decided"]["value"] == pytest.approx(1 / 9)
    # Of the eight pairs the judge was asked about: that nobody was asked about equal reports says nothing of the judge.
    assert found["values"]["position_bias"]["value"] == pytest.approx(1 / 8)
    low, high = found["values"]["win_rate"]["ci"]
    assert low < 7 / 9 < high


def test_where_nobody_was_asked_there_is_no_position_bias():
    judge = build(Wish("openai:m", "http://127.0.0.1:9/v1"), "credentialed", {}, "cpu", Chat)
    found = rates(fight([Duel("t", "same", "same", "r")], judge), ["p"], level=0.95, replicates=100, seed=0)
    assert (found["tie"], found["values"]["win_rate"]["value"]) == (1, 0.5)
    assert found["values"]["position_bias"] == {"value": None, "ci": None}
    json.dumps(found, allow_nan=False)


def test_duels_that_failed_are_counted_and_left_out():
    duels = [Duel("a", "x", "y", "r"), Duel("b", "broken", "y", "r")]
    policy = {"retries": "0", "backoff": "0"}

    def behave(heard):
        return status(500) if "broken" in heard.body.decode() else answer('{"better": "tie"}')

    with ChatServer(behave) as server:
        judge = build(Wish("openai:m", server.url, settings=policy), "credentialed", {}, "cpu", Chat)
        found = rates(fight(duels, judge), ["p", "q"], level=0.95, replicates=0, seed=0)
    assert (found["n"], found["n_expected"], found["failed"], found["tie"]) == (1, 2, 1, 1)
    assert found["reasons"] == [f"{PENDING}: no_answer: HTTP 500"]


# The command line


def judged(run, server, *further):
    return ("score", run, "--metrics", "chexprompt", "--judge", "openai:m", "--judge-url", server.url, *further)


def test_a_run_is_judged_finished_later_and_compared(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    with ChatServer(lambda heard: answer(chexprompt_answer((1, 0, 0, 0, 0, 0)))) as server:
        code, out, err = cli(*judged(run, server, "--max-requests", 10))
        assert code == 3
        assert "14 of 24 samples are not judged yet" in err
        assert "10 (14 failed)" in out
        assert "the budget of 10 requests is spent" in out
        code, out, err = cli(*judged(run, server))
        assert (code, err) == (0, "")
        assert "24 answers, 14 of them asked for now" in " ".join(out.split())
        assert len(server.heard) == 24
        assert cli(*judged(run, server))[0] == 0
        code, _, err = cli("score", run, "--metrics", "chexprompt")
        assert (code, err, len(server.heard)) == (0, "", 24)
        code, out, err = cli("score", run, "--metrics", "green")
        assert code == 3
        assert "green:default: needs a judge" in " ".join((out + err).split())
    entry = json.loads((run / "summary.json").read_text())["metrics"]["chexprompt:default"]["total"]
    assert (entry["value"], entry["n"], entry["failed"]) == (1, 24, 0)
    assert "|judge:openai:m|rubric:chexprompt." in entry["signature"]
    code, out, err = cli("compare", run, run, "--metrics", "chexprompt", "--replicates", 100)
    assert code == 0, err


def test_calls_that_all_failed_are_no_scores_and_what_failed_then_is_not_told_later(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)

    def words(server, metric):
        return ("score", run, "--metrics", metric, "--judge", "openai:m", "--judge-url", server.url,
                "--judge-set", "retries=0", "--judge-set", "backoff=0")  # fmt: skip

    with ChatServer(lambda heard: status(500)) as server:
        for metric in ("chexprompt", "lc-green"):
            code, out, _ = cli(*words(server, metric))
            assert code == 3
            # Nothing is called scored that was not.
            assert out.splitlines()[1].startswith("answered 24 of 24 samples, ")
            assert f"{metric}:default: scored 0 of 24 (24 failed)" in out
            assert "scored 24 of 24" not in out
            assert f"{metric}:default: calls that failed" in " ".join(out.split())
    with ChatServer(lambda heard: answer(green_answer(matched=1))) as server:
        code, out, err = cli(*words(server, "green"))
    assert (code, err) == (0, "")
    # lc-green, of the same rubric, has still failed: but it is not among these scores, nor is chexprompt.
    assert "scored 24 of 24 samples" in out
    assert "calls that failed" not in out
    assert "scored earlier, in summary.json: lc-green:default, chexprompt:default" in " ".join(out.split())
    with ChatServer(lambda heard: answer(chexprompt_answer())) as server:
        code, out, err = cli(*words(server, "chexprompt"))
    assert (code, err) == (0, "")
    assert "calls that failed" not in out
    code, out, err = cli("score", run, "--metrics", "length")
    assert "judge openai:m" not in out
    notes = [note for note in json.loads((run / "summary.json").read_text())["notes"] if "calls that failed" in note]
    assert [note.partition(": calls")[0] for note in notes] == ["lc-green:default"]
    code, out, _ = cli("runs", "show", run)
    assert "answered 24 of 24 samples" in out
    assert "lc-green:default: scored 0 of 24 (24 failed)" in out


def test_a_refused_key_is_told_with_the_option_of_a_judge(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    with ChatServer(lambda heard: status(401)) as server:
        code, out, err = cli(*judged(run, server))
    assert code == 3
    assert "--judge-set key_env=NAME" in " ".join(out.split())
    code, _, err = cli(*("score", run, "--metrics", "green", "--judge", "openai:m"),
                       "--judge-url", "http://me:secret@127.0.0.1:1/v1")  # fmt: skip
    assert code == 2
    assert "--judge-set key_env=NAME" in err
    assert "secret" not in err


def test_a_metric_of_ones_own_through_the_command_line_and_after_its_file_is_gone(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    Path("mine.yaml").write_text(OWN)
    with ChatServer(lambda heard: answer('{"hits": 3, "misses": 1}')) as server:
        words = ("score", run, "--metrics", "judge:mine.yaml", "--judge", "openai:m", "--judge-url", server.url)
        code, out, err = cli(*words)
        assert code == 0, err
        assert "0.7500" in out
        form = server.bodies()[0]["response_format"]["json_schema"]
    assert (form["name"], form["schema"]["required"]) == ("mine", ["hits", "misses"])
    assert form["schema"]["properties"]["hits"] == {"type": "integer"}
    Path("mine.yaml").unlink()
    code, out, err = cli("score", run, "--metrics", "length")
    assert code == 0, err
    assert "judge:mine.yaml: left out, its rubric is not there" in " ".join(out.split())


def test_reports_go_nowhere_that_was_not_agreed(cli, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"sample_id": "a", "prediction": "x", "reference": "y"}\n')
    with Listener() as listener:
        url = f"http://evil.example:{listener.port}/v1"
        code, _, err = cli("score", file, "--metrics", "green", "--judge", "openai:m", "--judge-url", url)
        assert listener.counts() == (0, 0)
    assert code == 2
    assert '[trusted_endpoints] "evil.example"' in err


def test_an_option_of_a_judge_without_one_is_refused(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    code, _, err = cli("score", run, "--metrics", "green", "--max-requests", 5)
    assert code == 2
    assert "--max-requests needs a judge" in err


def test_purging_a_data_set_deletes_what_judges_said_of_it(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)
    with ChatServer(lambda heard: answer(chexprompt_answer())) as server:
        cli(*judged(run, server))
    file = tmp_path / "cache/cxrbench/judges/phantom/judges.sqlite"
    assert file.exists()
    assert cli("cache", "purge", "--dataset", "phantom", "--yes")[0] == 0
    assert not file.exists()


def test_compare_asks_which_report_is_better_and_costs_nothing_twice(cli, tmp_path):
    one, (*words, _) = small_run(cli, tmp_path)
    two = tmp_path / "runs" / "two"
    words = [word if word != "random-report" else "always-normal" for word in words]
    assert cli(*words, two)[0] == 0
    told = ("compare", one, two, "--metrics", "length", "--replicates", 100, "--judge", "openai:m")
    with ChatServer(lambda heard: answer('{"better": "A"}')) as server:
        code, out, err = cli(*told, "--judge-url", server.url)
        assert code == 0, err
        # A judge that names whoever stands first has no say: every pair is a tie.
        assert "candidate wins 0, ties 24, loses 0; judged 24 of 24 pairs" in " ".join(out.split())
        asked = len(server.heard)
        assert asked == 48
        code, out, _ = cli(*told, "--judge-url", server.url, "--json")
        assert (code, len(server.heard)) == (0, asked)
    found = json.loads(out)["comparisons"][0]["pairwise"]["values"]
    assert (found["position_bias"]["value"], found["order_decided"]["value"]) == (1, 1)
    assert found["length_controlled_win_rate"]["value"] == pytest.approx(0.5)


def test_compare_uses_pairs_judged_in_both_and_prints_both_failures(cli, tmp_path):
    one, (*words, _) = small_run(cli, tmp_path)
    two = tmp_path / "runs" / "two"
    words = [word if word != "random-report" else "always-normal" for word in words]
    assert cli(*words, two)[0] == 0
    with ChatServer(lambda heard: answer(chexprompt_answer())) as server:
        assert cli(*judged(one, server, "--max-requests", 20, "--judge-set", "structured=no"))[0] == 3
        assert cli(*judged(two, server, "--judge-set", "structured=no"))[0] == 0
    code, out, err = cli("compare", one, two, "--metrics", "chexprompt", "--replicates", 100)
    assert code == 0, err
    assert "20 of 24 samples compared" in out
    assert "chexprompt:default: failed on 4 (baseline) and 0 (candidate) samples" in out


POLICY = """\
name: judged
metrics:
  - {metric: "chexprompt:default", value: total, margin: 0.5%s}
length: {max_ratio: 1.25}
"""


def test_the_gate_takes_a_judge_for_advice_and_is_undecided_where_calls_failed(cli, tmp_path):
    one, (*words, _) = small_run(cli, tmp_path)
    two = tmp_path / "runs" / "two"
    assert cli(*words, two)[0] == 0

    def worse(heard):
        return answer(chexprompt_answer((3, 0, 0, 0, 0, 0)))

    with ChatServer(lambda heard: answer(chexprompt_answer())) as server:
        assert cli(*judged(one, server))[0] == 0
    with ChatServer(worse) as server:
        assert cli(*judged(two, server, "--max-requests", 23, "--judge-set", "retries=0"))[0] == 3
        for name, more in (("advice", ""), ("blocking", ", blocking: true")):
            Path(f"{name}.yaml").write_text(POLICY % more)
        told = ("gate", "check", two, "--baseline", one, "--replicates", 200, "--policy")
        code, out, _ = cli(*told, "blocking.yaml")
        # 1 of 24 failed, which is more than 2 %: neither a pass nor a failure.
        assert code == 3
        assert "1 of 24 samples have no score in the candidate, more than 2.0%" in out
        assert cli(*judged(two, server))[0] == 0
    code, out, _ = cli(*told, "blocking.yaml")
    assert code == 1, out
    code, out, _ = cli(*told, "advice.yaml")
    assert code == 0, out
    assert "advisory" in out
