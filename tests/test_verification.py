"""Published cases are what they say, records cannot be mistaken for others, packages run apart and offline."""

import json
import os
import stat
import sys

import pytest

from cxrbench import metric_cases, reference_runs, verification, verified
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
    (case,) = [each for each in CASES if each.texts is not None]
    assert case.name == "radgraph-package"
    assert not case.pairs
    assert not case.texts.fit(["no effusion"], ["no effusion"])


@pytest.mark.parametrize("key", ["bleu:raw", "bleu:radeval", "rouge-l:radeval"])
def test_text_metrics_have_the_published_figures(key):
    verdict = verification.verify(key, verification.Asked(), load_config())
    assert verdict.checks
    assert verdict.outcome == "passed"
    assert not verdict.remembered, "there are no weights to remember it for"


def test_a_figure_that_is_not_ours_fails():
    case = next(each for each in CASES if each.name == "radeval-readme")
    expected = case.expected[0].model_copy(update={"corpus": {"bleu_4": 0.361}})
    ours = Ours(pairs_of([(pair.prediction, pair.reference) for pair in case.pairs]), load_config())
    (check,) = verification.check(case, expected, "bleu:raw", ours)
    assert not check.passed
    assert check.difference == pytest.approx(0.361 - 0.3605173113417773)


def test_what_is_not_a_number_never_passes():
    assert not verification.Check("c", "m", "v", "primary", (0.5,), (float("nan"),), 1.0).passed


def test_presets_on_the_same_weights_are_verified_together():
    for key, names in (
        ("radgraph-f1:xl-complete-folded", {"radeval-divergence", "radeval-readme", "radgraph-readme"}),
        ("radgraph-f1:combined", {"radgraph-package"}),
        ("radgraph-f1:modern-xl-simple", {"radgraph-annotation"}),
        ("chexbert-f1:llava-rad", {"radeval-divergence"}),
        ("semb-score:chexbert", set()),
        ("bertscore:rexrank", set()),
        ("rouge-l:raw", set()),
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
        ("- a list", "TypeError"),
        ("about: x", "Field required"),
        ("{", "Error"),
        (
            "about: a\nsource: s\nlicence: MIT\ntext_origin: o\npairs: [{prediction: p, reference: r}]\n"
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
        "format", "metric", "code", "weights", "checks", "about", "sum",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("false", "true"), "changed after it was written"),
        (lambda text: text[: len(text) // 2], "no JSON"),
        (lambda text: "[]", "version 1"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "version 1"),
    ],
)
def test_a_tampered_record_is_an_error_not_a_no(change, said):
    verified.remember(SUBJECT, {"case": False}, {})
    SUBJECT.file.write_text(change(SUBJECT.file.read_text()))
    with pytest.raises(CxrbenchError, match=said) as caught:
        CheXbertF1().signature(CONTEXT, "none")
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert "delete it" in caught.value.fix


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


# Packages


def fake(tmp_path, body):
    """An interpreter that does `body` instead of running what it is given."""
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable} -S\nimport json, os, sys\n{body}\n")
    file.chmod(0o755)
    return file


JOB = {"task": "rouge_score", "versions": ["rouge-score"], "stems": False, "key": "rouge-l:rouge-score"}
SECRET = {"predictions": ["Xylophone effusion."], "references": ["No xylophone."], "texts": []}


def test_texts_go_by_a_private_file_and_nothing_is_online(tmp_path):
    seen = tmp_path / "seen.json"
    body = (
        "found = {'argv': sys.argv, 'env': dict(os.environ), 'mode': os.stat('job.json').st_mode & 0o777,\n"
        "         'folder': os.stat('.').st_mode & 0o777, 'cwd': os.getcwd()}\n"
        f"json.dump(found, open({str(seen)!r}, 'w'))\n"
        "print('Xylophone'); print('Xylophone', file=sys.stderr)\n"
        "json.dump({'versions': {}, 'python': '3', 'pairs': {}}, open('result.json', 'w'))"
    )
    reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")
    found = json.loads(seen.read_text())
    assert found["mode"] == 0o600
    assert found["folder"] == 0o700
    assert not os.path.exists(found["cwd"]), "deleted afterwards"
    assert "ylophone" not in json.dumps([found["argv"], found["env"]])
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    assert [found["env"][name] for name in offline] == ["1"] * 4
    assert not {"HF_TOKEN", "PYTHONPATH"} & set(found["env"])
    assert found["env"]["HF_HOME"] == found["cwd"]


def test_a_package_that_is_not_there_is_named():
    job = {"task": "texts", "versions": [], "package": "no_such_package", "file": "a.py"}
    with pytest.raises(CxrbenchError, match="no module no_such_package") as caught:
        reference_runs.run(
            reference_runs.interpreter(reference_runs.Path(sys.executable)), job, {}, "x", "pip install x"
        )
    assert caught.value.code == Exit.UNDECIDED
    assert "pip install x" in caught.value.fix


def test_a_package_that_fails_says_no_text():
    job = {**JOB, **SECRET, "stems": False, "predictions": [["Xylophone"]]}
    with pytest.raises(CxrbenchError, match="rouge-score failed in the environment: ") as caught:
        reference_runs.run(reference_runs.interpreter(reference_runs.Path(sys.executable)), job, {}, "rouge-score", "i")
    assert "ylophone" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [("sys.exit(3)", "exit code 3 and no result"), ("os.kill(os.getpid(), 9)", "exit code -9 and no result")],
)
def test_an_interpreter_that_dies_is_told(tmp_path, body, said):
    with pytest.raises(CxrbenchError, match=said):
        reference_runs.run(fake(tmp_path, body), {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")


def test_an_interpreter_is_found_by_folder_file_or_name(tmp_path):
    find, path = reference_runs.interpreter, reference_runs.Path
    made = tmp_path / "env/bin/python"
    made.parent.mkdir(parents=True)
    made.symlink_to(sys.executable)
    assert find(tmp_path / "env") == made, "a link stays a link"
    assert find(made) == made
    assert find(path("sh")).is_absolute()
    for wrong in (tmp_path, tmp_path / "nowhere", path("no-such-python")):
        with pytest.raises(CxrbenchError, match="no Python here"):
            find(wrong)


def test_a_file_that_is_no_program_is_told(tmp_path):
    (tmp_path / "python").write_text("")
    with pytest.raises(CxrbenchError, match="does not start"):
        reference_runs.run(tmp_path / "python", {**JOB, **SECRET}, {}, "rouge-score", "pip install rouge-score")


def test_an_archive_cannot_name_an_encoder_outside(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(
        json.dumps({"model": {"embedder": {"token_embedders": {"bert": {"model_name": "../../etc"}}}}})
    )
    monkeypatch.setattr(reference_runs, "folders", lambda weights, config: (tmp_path, tmp_path))
    context = Context.of({"weights": {"name": "radgraph", "hash": "1a2b3c4d"}})
    with pytest.raises(CxrbenchError, match="encoder outside"):
        reference_runs.find("radgraph-f1", "partial", context, None)


@pytest.mark.parametrize(
    ("key", "package"),
    [
        ("rouge-l:rouge-score", "rouge-score"),
        ("rouge-l:raw", "pycocoevalcap"),
        ("bleu:raw", "pycocoevalcap"),
        ("cider:raw", "pycocoevalcap"),
        ("bleu:sacrebleu", "sacrebleu"),
        pytest.param("bleu:coco", "pycocoevalcap", marks=pytest.mark.java),
        pytest.param("meteor:raw", "pycocoevalcap", marks=pytest.mark.java),
    ],
)
def test_text_metrics_equal_their_packages(key, package):
    reason = make_metric(key).ready()
    if reason is not None:
        pytest.skip(reason)
    both = [*verification.phantom_pairs()[:6], ("No  effusion.", "No effusion."), ("word", "Other words here.")]
    python = reference_runs.interpreter(reference_runs.Path(sys.executable))
    found = verification.compare(key, both, "", python, load_config(), debug=False)
    assert found.package == package
    assert found.versions[package]
    assert found.lines
    assert found.passed, found.lines


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
