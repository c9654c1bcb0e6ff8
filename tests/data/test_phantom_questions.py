"""Questions about drawn studies: what is asked has one right answer, by the truth that drew the picture."""

import hashlib
import json
from collections import Counter

import pytest

from cxrbench.data.base import Slice
from cxrbench.data.phantom import Phantom, study, truth
from cxrbench.data.phantom_questions import FORMS, NAMES, asked, statement
from cxrbench.data.phantom_world import DEVICES, KINDS, SIDED, Finding, grade
from cxrbench.data.questions import with_letters
from cxrbench.errors import CxrbenchError

STUDIES = 40


def questions(form, split="test"):
    """(truth, study, question) of the first studies of a split."""
    for index in range(STUDIES):
        made = study(0, split, index)
        true = truth(made.study_id)
        for each in asked(made, true, form):
            for question in each.questions:
                yield true, each, question


def kind_of(text):
    return next(kind for kind in KINDS if NAMES[kind].removeprefix("a ").removeprefix("an ") in text)


def test_short_answers_are_the_truth():
    seen = Counter()
    for true, each, question in questions("vqa"):
        about, text, answer = question.columns["question-type"], question.text, question.answer
        seen[about] += 1
        here = {f.kind for f in true.findings}
        if about == "view":
            assert answer == ("frontal" if each.images[0].view in ("PA", "AP") else "lateral")
            continue
        assert [image.view for image in each.images] == ["AP" if true.portable else "PA"]
        if about in ("finding", "device"):
            group = here & set(DEVICES) if about == "device" else here - set(DEVICES)
            assert {kind_of(answer)} == group
            continue
        kind = kind_of(text)
        assert question.columns["finding"] == kind
        of_kind = [f for f in true.findings if f.kind == kind]
        if about == "presence":
            assert answer == ("yes" if of_kind else "no")
        elif about == "side":
            assert answer == (of_kind[0].side if len(of_kind) == 1 else "both sides")
        else:
            assert [answer] == [grade(f.kind, f.severity) for f in of_kind]
    assert set(seen) == {"presence", "side", "severity", "finding", "device", "view"}
    assert min(seen.values()) > 5


def test_closed_questions_are_those_with_answers_to_choose_from():
    for _, _, question in questions("vqa"):
        closed = question.columns["question-type"] in ("presence", "view")
        assert question.labels == {"question": {"closed": float(closed)}}
        assert question.columns["answer-type"] == ("closed" if closed else "open")
        if closed:
            assert question.answer in ("yes", "no", "frontal", "lateral")


def true_statements(true, about):
    """Every sentence that is true of a study, as a question of this type would put it."""
    here = {f.kind for f in true.findings}
    if about == "presence":
        return {f"There is {NAMES[k]}." for k in here} | {
            f"There is no {NAMES[k].removeprefix('a ').removeprefix('an ')}." for k in set(KINDS) - here
        }
    return {statement(f, graded=about == "severity") for f in true.findings}


def test_of_the_statements_exactly_one_is_true():
    sizes = {"presence": 2, "finding": 4, "side": 2, "severity": 3}
    at = Counter()
    for true, _, question in questions("likelihood"):
        about = question.columns["question-type"]
        assert [each for each in question.options if each in true_statements(true, about)] == [question.answer]
        assert len(set(question.options)) == len(question.options) == sizes[about]
        told = question.labels["choice"]
        assert question.options[int(told["answer"])] == question.answer
        assert told["options"] == sizes[about]
        at[about, told["answer"]] += 1
    assert all(at[about, place] > 0.5 * sum(at[about, p] for p in range(size)) / size
               for about, size in sizes.items() for place in range(size))  # fmt: skip


def test_a_wrong_finding_is_of_a_kind_that_is_not_there():
    for true, _, question in questions("likelihood"):
        if question.columns["question-type"] == "finding":
            wrong = [each for each in question.options if each != question.answer]
            assert not any(_same(each, f) for each in wrong for f in true.findings)


def _same(text, finding):
    """Whether a sentence speaks of a finding's kind, wherever it says it is."""
    sides = ("left", "right") if finding.kind in SIDED else ("",)
    zones = ("upper", "mid", "lower") if finding.zone else ("",)
    sizes = (1, 3) if finding.kind == "nodule" else (finding.severity,)
    return text in {
        statement(Finding(finding.kind, s, z, n), graded=False) for s in sides for z in zones for n in sizes
    }


def test_the_two_protocols_ask_the_same():
    pairs = zip(questions("likelihood"), questions("generation"), strict=True)
    for (_, _, weighed), (_, _, listed) in pairs:
        assert listed.text == with_letters(weighed.text, weighed.options)
        assert (listed.answer, listed.options, listed.labels) == (weighed.answer, weighed.options, weighed.labels)


@pytest.mark.parametrize(
    ("finding", "graded", "said"),
    [
        (Finding("effusion", "left", severity=1), True, "There is a small left pleural effusion."),
        (Finding("effusion", "left", severity=1), False, "There is a left pleural effusion."),
        (Finding("edema", severity=3), True, "There is severe pulmonary edema."),
        (Finding("nodule", "right", "upper", 3), False, "There is a mass in the right upper lobe."),
        (Finding("endotracheal-tube"), True, "There is an endotracheal tube."),
    ],
)
def test_a_statement_is_a_sentence_of_findings(finding, graded, said):
    assert statement(finding, graded=graded) == said


# What version 1 of the questions asks about the first studies, so that no wording moves without its version.
GOLDEN = {"vqa": "10cbf7331425200e", "likelihood": "83f938d5e8c6a50e", "generation": "af21dbb011a91ec1"}


@pytest.mark.parametrize("form", FORMS)
def test_version_1_asks_this(form):
    told = [[e.study_id, q.question_id, q.text, q.answer, q.options] for _, e, q in questions(form)]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == GOLDEN[form]


def test_a_study_without_the_option_asks_nothing_and_has_the_same_fingerprint_as_ever():
    plain = Slice("test", {"test": 3})
    assert not any(each.questions for each in Phantom().studies({}, plain))
    prints = {Phantom().fingerprint({}, Slice("test", {"test": 3, "questions": form})) for form in FORMS}
    assert len(prints) == 3
    assert Phantom().fingerprint({}, plain) not in prints


def test_an_unknown_form_is_refused():
    with pytest.raises(CxrbenchError, match="cannot be 'vqas'"):
        Phantom().studies({}, Slice("test", {"questions": "vqas"}))


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(CxrbenchError, match="no option 'question'") as caught:
        list(Phantom().studies({}, Slice("test", {"question": "vqa"})))
    assert "questions" in caught.value.fix
