"""Published cases are what they say, records cannot be mistaken for others, packages are compared text by text."""

import json
import os
import stat
import sys
import threading
from dataclasses import replace
from email.message import Message

import pytest

from cxrbench import metric_cases, reference_runs, reference_worker, verdicts, verification, verified
from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.metrics.base import Context
from cxrbench.metrics.bertscore import BertScore
from cxrbench.metrics.chexbert_f1 import CheXbertF1
from cxrbench.metrics.radcliq import RadCliQ
from cxrbench.metrics.ratescore import RateScore
from cxrbench.own_figures import Ours, pairs_of
from cxrbench.scoring import make_metric
from cxrbench.verified import Subject

CASES = metric_cases.cases()
SUBJECT = Subject("chexbert-f1", "chexbert.1|v:1", "1a2b3c4d")
CONTEXT = Context.of({"weights": {"name": "chexbert", "hash": "1a2b3c4d"}})


# Published cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_says_where_it_is_from_and_names_what_there_is(case):
    assert case.source.startswith("https://github.com/")
    assert case.licence == "MIT"
    assert case.text_origin
    for expected in case.expected:
        for key in expected.metrics:
            metric = make_metric(key)
            assert metric.key == key, "with its preset"
            known = {*metric.values, "label_accuracy_5"}
            assert {*expected.corpus, *expected.per_pair} <= known


def test_texts_that_nobody_said_may_be_shipped_are_not_shipped():
    """The licence of a repository says nothing of a report in it; only texts of a stated origin stand in the file."""
    assert {case.name: case.origin for case in CASES if case.pairs} == {
        "bert-score": "news",
        "radeval-divergence": "invented",
    }
    withheld = [case for case in CASES if case.texts is not None]
    assert {case.name for case in withheld} == {
        "radeval-readme", "radgraph-annotation", "radgraph-package", "radgraph-readme",
    }  # fmt: skip
    for case in withheld:
        assert case.origin == "unstated"
        assert not case.texts.fit(["no effusion"], ["no effusion"])


def test_a_text_of_unstated_origin_cannot_be_put_into_a_case(tmp_path):
    told = "about: a\nsource: s\nlicence: MIT\norigin: {}\ntext_origin: o\npairs: [{{prediction: p, reference: r}}]\n"
    expected = "expected: [{metrics: [bleu:raw], corpus: {bleu_4: 1}, evidence: primary}]"
    (tmp_path / "case.yaml").write_text(told.format("invented") + expected)
    assert metric_cases.cases(tmp_path)[0].pairs
    (tmp_path / "case.yaml").write_text(told.format("unstated") + expected)
    with pytest.raises(CxrbenchError, match="only where their authors say"):
        metric_cases.cases(tmp_path)


README = """# A package
```
Usage:
```python
refs = ["a", "b"]
hyps = ["c", "d"]
found = call(hyps=hyps)
```
and
```python
said = network(["one text"])
hyps = ["later"]
```
```python
this is no Python
```
"""


def test_texts_are_read_from_the_description_of_a_package(monkeypatch):
    about = Message()
    about.set_payload(README)
    monkeypatch.setattr(reference_worker, "metadata", lambda name: about)
    monkeypatch.setattr(reference_worker, "_version", lambda name: "1")
    job = {"package": "p", "file": "METADATA", "predictions": "hyps", "references": "refs"}
    assert reference_worker.texts(job) == {"absent": False, "predictions": ["c", "d"], "references": ["a", "b"]}
    job |= {"predictions": "said", "references": "nowhere"}
    assert reference_worker.texts(job) == {"absent": False, "predictions": ["one text"], "references": []}


def test_a_case_whose_package_is_not_there_is_not_run_and_says_so(tmp_path):
    case = next(each for each in CASES if each.name == "radeval-readme")
    held = case.texts.model_copy(update={"package": "no-such-package"})
    python = reference_runs.interpreter(reference_runs.Path(sys.executable))
    pairs, why = verification._texts_of(case.model_copy(update={"texts": held}), python)
    assert pairs is None
    assert why == "its texts are not shipped, and the package that holds them, no-such-package, is not there"


@pytest.mark.parametrize("key", ["bleu:raw", "bleu:radeval"])
def test_text_metrics_have_the_published_figures(key):
    verdict = verification.verify(key, verification.Asked(), load_config())
    assert verdict.checks
    assert verdict.outcome == "passed"
    assert not verdict.remembered, "there are no weights to remember it for"


def test_a_figure_that_is_not_ours_fails():
    case = next(each for each in CASES if each.name == "radeval-divergence")
    figures = list(case.expected[0].per_pair["bleu_4"])
    figures[3] = 0.9
    expected = case.expected[0].model_copy(update={"per_pair": {"bleu_4": tuple(figures)}})
    ours = Ours(pairs_of([(pair.prediction, pair.reference) for pair in case.pairs]), load_config())
    (check,) = verification.check(case, expected, "bleu:raw", ours)
    assert not check.passed
    assert check.difference == pytest.approx(0.0999999992291674)


NAN = float("nan")


@pytest.mark.parametrize(
    ("expected", "measured"),
    [
        ((0.5,), (NAN,)),
        ((0.5, 0.5), (0.5, NAN)),
        ((0.5, 0.5), (NAN, 0.5)),
        ((0.5, NAN), (0.5, 0.5)),
        ((NAN,), (NAN,)),
        ((), ()),
    ],
)
def test_what_is_not_a_number_never_passes(expected, measured):
    check = verdicts.Check("c", "m", "v", "primary", expected, measured, 1.0)
    assert not check.passed
    assert check.difference != check.difference
    assert verdicts.Check("c", "m", "v", "primary", (0.5, 1.0), (0.6, 1.0), 0.2).passed


def test_presets_on_the_same_weights_are_verified_together():
    for key, names in (
        ("radgraph-f1:xl-complete-folded", {"radeval-divergence", "radeval-readme", "radgraph-readme"}),
        ("radgraph-f1:combined", {"radgraph-package"}),
        ("radgraph-f1:modern-xl-simple", {"radgraph-annotation"}),
        ("chexbert-f1:llava-rad", {"radeval-divergence"}),
        ("semb-score:chexbert", set()),
        ("bertscore:rexrank", set()),
        ("rouge-l:raw", set()),
        ("rouge-l:radeval", set()),
    ):
        assert {case.name for case in verification.cases_of(key, CASES)} == names


def test_the_share_of_five_labels_that_agree(monkeypatch):
    import numpy as np

    rows = np.zeros((1, 51))
    rows[0, 0] = 1
    rows[0, 1 + 3 * 1 + 1] = 1  # Cardiomegaly: false positive
    rows[0, 1 + 3 * 0 + 2] = 1  # Enlarged Cardiomediastinum: false negative, none of the five
    monkeypatch.setattr(Ours, "rows", lambda self, key: (CheXbertF1(), rows))
    assert Ours(pairs_of([("a", "b")]), load_config()).per_pair("chexbert-f1:miura")["label_accuracy_5"] == [0.8]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("- a list", "is a mapping of keys"),
        ("about: x", "Field required"),
        ("{", "not valid YAML"),
        (
            "about: a\nsource: s\nlicence: MIT\norigin: news\ntext_origin: o\n"
            "pairs: [{prediction: p, reference: r}]\n"
            "expected: [{metrics: [bleu:raw], per_pair: {bleu_4: [1, 2]}, evidence: primary}]",
            "2 figures for 1 pairs",
        ),
    ],
)
def test_a_damaged_case_is_named(tmp_path, body, said):
    (tmp_path / "case.yaml").write_text(body)
    with pytest.raises(CxrbenchError, match="cannot be read") as caught:
        metric_cases.cases(tmp_path)
    assert said in str(caught.value)
    assert "case.yaml" in str(caught.value)


# Records


def test_a_pass_is_remembered_and_signed():
    assert "|verified:no|" in CheXbertF1().signature(CONTEXT, "none")
    subject = CheXbertF1().subject(CONTEXT)
    verified.remember(subject, {"case": True}, {})
    assert "|weights:1a2b3c4d|verified:yes|" in CheXbertF1().signature(CONTEXT, "none")
    assert "verified:yes" in CheXbertF1("llava-rad").signature(CONTEXT, "none"), "whatever the preset"
    other = Context.of({"weights": {"name": "chexbert", "hash": "00000000"}})
    assert "verified:no" in CheXbertF1().signature(other, "none")
    reduced = Context.of({"weights": {"name": "chexbert", "hash": "1a2b3c4d", "precision": "bf16"}})
    assert "verified:no" in CheXbertF1().signature(reduced, "none")


def test_a_check_that_failed_stays_failed_until_it_passes():
    verified.remember(SUBJECT, {"case": True, "package": False}, {})
    assert not verified.passed(SUBJECT)
    verified.remember(SUBJECT, {"case": True}, {})
    assert not verified.passed(SUBJECT)
    verified.remember(SUBJECT, {"package": True}, {})
    assert verified.passed(SUBJECT)


@pytest.mark.parametrize("changed", [{"device": "cuda"}, {"software": "torch-2.9+transformers-5.23"}])
def test_a_pass_holds_for_the_device_and_the_software_it_was_made_with(changed):
    subject = CheXbertF1().subject(CONTEXT)
    verified.remember(replace(subject, **changed), {"case": True}, {})
    assert "|verified:no|" in CheXbertF1().signature(CONTEXT, "none")
    verified.remember(subject, {"case": True}, {})
    assert "|verified:yes|" in CheXbertF1().signature(CONTEXT, "none")


def test_a_signature_tells_of_the_device_that_was_scored_on():
    subject = CheXbertF1().subject(CONTEXT)
    verified.remember(subject, {"case": True}, {})
    with verified.scored_on(lambda: "cuda"):
        assert "|verified:no|" in CheXbertF1().signature(CONTEXT, "none")
        verified.remember(replace(subject, device="cuda"), {"case": True}, {})
        assert "|verified:yes|" in CheXbertF1().signature(CONTEXT, "none")
    assert "|verified:yes|" in CheXbertF1().signature(CONTEXT, "none")


def test_an_update_of_torch_takes_the_yes_away(monkeypatch):
    verified.remember(CheXbertF1().subject(CONTEXT), {"case": True}, {})
    real = verified.version
    monkeypatch.setattr(verified, "version", lambda name: "9.9.1" if name == "torch" else real(name))
    assert CheXbertF1().subject(CONTEXT).software.startswith("torch-9.9+transformers-")
    assert "|verified:no|" in CheXbertF1().signature(CONTEXT, "none")


def test_scoring_signs_for_the_device_it_uses(monkeypatch):
    from cxrbench import scoring
    from cxrbench.metrics.base import Corpus, Resources

    asked = []
    monkeypatch.setattr(scoring, "device_kind", lambda resources: asked.append(resources.device) or "cuda")
    monkeypatch.setattr(CheXbertF1, "fit", lambda self, corpus: CONTEXT)
    verified.remember(CheXbertF1().subject(CONTEXT), {"case": True}, {})
    chosen = [scoring.Chosen(CheXbertF1(), True)]
    monkeypatch.setattr(scoring, "_features_ready", lambda requests: None)
    monkeypatch.setattr(scoring, "_statistics", lambda *words: scoring.Statistics.scored(scoring.np.zeros((0, 51))))
    (scored,) = scoring.score([], {}, chosen, Corpus([]), "none", resources=Resources(device="cuda:1"))
    assert "|verified:no|" in scored.signature
    assert asked == ["cuda:1"]


def test_two_that_remember_at_once_lose_nothing(monkeypatch):
    """One reads, the other writes, the first writes: without a lock what the other wrote is gone."""
    real, others = verified.recall, []

    def slow(subject):
        found = real(subject)
        if not others:
            others.append(threading.Thread(target=verified.remember, args=(subject, {"b": True}, {})))
            others[0].start()
            others[0].join(0.5)
        return found

    monkeypatch.setattr(verified, "recall", slow)
    verified.remember(SUBJECT, {"a": True}, {})
    others[0].join()
    assert real(SUBJECT) == {"a": True, "b": True}


def test_radcliq_is_verified_where_its_parts_are():
    weights = {name: {"weights": {"name": "w", "hash": "1a2b3c4d"}} for name in ("radgraph", "bertscore", "semb")}
    context = Context.of({"dataset": None, **weights})
    for metric, own in RadCliQ()._fitted(context).values():
        assert RadCliQ().signature(context, "none").count("verified:") == 1
        assert "verified:no" in RadCliQ().signature(context, "none")
        verified.remember(metric.subject(own), {"case": True}, {})
    assert "|verified:yes|" in RadCliQ().signature(context, "none")


def test_two_networks_are_verified_together():
    context = Context.of({name: {"name": name, "hash": "1a2b3c4d"} for name in ("rate-ner", "biolord")})
    verified.remember(RateScore().subject(context), {"package: RaTEScore": True}, {})
    assert "|weights:1a2b3c4d+1a2b3c4d|verified:yes|" in RateScore().signature(context, "none")


def test_embedded_weights_are_never_verified():
    context = Context.of({"weights": {"name": "embedded:encoder", "hash": "1a2b3c4d"}})
    with pytest.raises(CxrbenchError, match="no figure is published"):
        verified.remember(BertScore("tiny").subject(context), {"case": True}, {})
    assert "|weights:embedded-1a2b3c4d|verified:no|" in BertScore("tiny").signature(context, "none")


def test_a_record_is_its_owners_alone_and_holds_no_text():
    verified.remember(SUBJECT, {"case": True}, {"torch": "2.13.0"})
    assert stat.S_IMODE(SUBJECT.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(SUBJECT.file.parent.stat().st_mode) == 0o700
    assert set(json.loads(SUBJECT.file.read_text())) == {
        "format", "metric", "code", "weights", "device", "software", "checks", "about", "sum",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("false", "true"), "changed after it was written"),
        (lambda text: text[: len(text) // 2], "no JSON"),
        (lambda text: "[]", "version 2"),
        (lambda text: text.replace('"format": 2', '"format": 1'), "version 2"),
    ],
)
def test_a_tampered_record_is_an_error_not_a_no(change, said):
    verified.remember(SUBJECT, {"case": False}, {})
    SUBJECT.file.write_text(change(SUBJECT.file.read_text()))
    with pytest.raises(CxrbenchError, match=said) as caught:
        CheXbertF1().signature(CONTEXT, "none")
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert f"delete {SUBJECT.file}, " in caught.value.fix


def test_the_record_of_another_is_not_taken_for_ones_own():
    other = Subject("semb-score", "chexbert.1|v:1", "1a2b3c4d")
    verified.remember(other, {"case": True}, {})
    other.file.rename(SUBJECT.file)
    with pytest.raises(CxrbenchError, match="another metric"):
        verified.passed(SUBJECT)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_an_unreadable_record_is_an_error():
    verified.remember(SUBJECT, {"case": True}, {})
    SUBJECT.file.chmod(0)
    with pytest.raises(CxrbenchError, match="cannot be read"):
        verified.passed(SUBJECT)


# Comparisons


@pytest.mark.parametrize(
    ("key", "package"),
    [
        ("rouge-l:rouge-score", "rouge-score"),
        ("rouge-l:raw", "pycocoevalcap"),
        ("bleu:raw", "pycocoevalcap"),
        ("cider:raw", "pycocoevalcap"),
        ("bleu:sacrebleu", "sacrebleu"),
        pytest.param("bleu:coco", "pycocoevalcap", marks=pytest.mark.java),
        pytest.param("meteor:raw", "pycocoevalcap", marks=[pytest.mark.java, pytest.mark.slow]),
    ],
)
def test_text_metrics_equal_their_packages(key, package):
    reason = make_metric(key).ready()
    if reason is not None:
        pytest.skip(reason)
    both = [*verification.phantom_pairs()[:6], ("No  effusion.", "No effusion."), ("word", "Other words here.")]
    python = reference_runs.interpreter(reference_runs.Path(sys.executable))
    found = verification.compare(key, both, "", python, load_config(), verification.Asked())
    assert found.package == package
    assert found.versions[package]
    assert found.passed, found.lines
    assert found.distinct == 8
    assert not found.telling, "eight pairs are too few"
    assert all(line.varied is not False for line in found.lines)


def test_pairs_that_stop_a_package_are_left_out_and_counted(monkeypatch):
    pairs = pairs_of([("a", "b"), (" ", "b"), ("", "b"), ("a\nc", "b")])
    assert reference_runs.lacking(reference_runs.REFERENCES["radgraph-f1"][0], pairs) == [False, True, False, False]
    assert reference_runs.lacking(reference_runs.REFERENCES["meteor"][0], pairs) == [False, True, True, True]


def test_a_number_that_the_package_has_not_is_left_out():
    ours = Ours(pairs_of([("no effusion", "no effusion"), ("a", "b")]), load_config())
    theirs = {"pairs": {"rouge-l:rouge-score": {"rouge_l": [1.0, None]}}}
    (line,), none = verification._lines("rouge-l:rouge-score", ours, theirs, [], 1e-9)
    assert (line.n, line.differ, none) == (1, 0, 1)
    with pytest.raises(CxrbenchError, match="2 pairs went into the package, 1 numbers came out"):
        verification._lines("rouge-l:rouge-score", ours, {"pairs": {"rouge-l:rouge-score": {"rouge_l": [1]}}}, [], 1e-9)


def compared(*lines, distinct=99, hint=""):
    return verdicts.Comparison("p", {}, "3", "", 99, 0, "", lines, distinct, hint)


def line(n=99, differ=0, varied=True):
    return verdicts.Line("w", n, differ, 0.0, 1e-9, varied)


@pytest.mark.parametrize("lines", [(), (line(n=0),), (line(), line(n=0))])
def test_a_package_that_said_nothing_verifies_nothing(lines):
    comparison = compared(*lines)
    assert not comparison.passed
    assert verdicts.outcome_of([], comparison) == "not verified"
    good = verdicts.Check("c", "m", "v", "primary", (0.5,), (0.5,), 1.0)
    assert verdicts.outcome_of([good], comparison) == "not verified"
    assert not verification._remember(SUBJECT, [good], comparison)
    assert not SUBJECT.file.exists()
    bad = verdicts.Check("c", "m", "v", "primary", (0.5,), (9.0,), 1.0)
    assert verdicts.outcome_of([bad], comparison) == "failed"


@pytest.mark.parametrize(
    ("comparison", "remembered"),
    [
        (compared(line()), {"package: p": True}),
        (compared(line(), line(varied=None)), {"package: p": True}),
        (compared(line(), distinct=verdicts.ENOUGH), {"package: p": True}),
        (compared(line(), distinct=verdicts.ENOUGH - 1), {}),
        (compared(line(varied=False)), {}),
        (compared(line(varied=False, differ=1), distinct=1), {"package: p": False}),
    ],
)
def test_only_a_pass_that_could_have_failed_is_remembered(comparison, remembered):
    assert verification._remember(SUBJECT, [], comparison) is bool(remembered)
    assert verified.recall(SUBJECT) == remembered


def test_a_package_that_says_the_same_of_all_is_seen():
    ours = Ours(pairs_of([("no effusion", "no effusion"), ("a", "b")]), load_config())
    for numbers, varied in (([1.0, 0.0], True), ([1.0, 1.0], False), ([None, 1.0], False)):
        (found,), _ = verification._lines(
            "rouge-l:raw", ours, {"pairs": {"rouge-l:raw": {"rouge_l": numbers}}}, [], 1e-9
        )
        assert found.varied is varied


def test_all_missing_weights_stand_in_one_sentence():
    with pytest.raises(CxrbenchError, match="cxrbench assets fetch radgraph pubmedbert distilroberta-base chexbert"):
        verification.require(verification.keys_of("radcliq"), load_config())


@pytest.mark.parametrize(
    ("name", "said"),
    [("distinct", "cxrbench's own"), ("bleu:r2gen", "neither"), ("bertscore:tiny", "neither"), ("bleau", "bleu")],
)
def test_what_cannot_be_verified_is_refused(name, said):
    with pytest.raises(CxrbenchError, match=said):
        verification.keys_of(name)
