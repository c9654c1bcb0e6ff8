"""Parsers against responses the reference tools published, against our own, and against anything at all."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.judges import formulas, parsers
from cxrbench.judges.formulas import ERRORS
from cxrbench.judges.parsers import Unreadable
from cxrbench.judges.rubric import FOLDER, Category, built_in
from tests.judges.answers import chexprompt_answer, green_answer

counts = st.lists(st.integers(0, 99), min_size=6, max_size=6).map(tuple)
NO_ERRORS = (0,) * 6


def tuple_lines(significant, insignificant):
    """The two lines CheXprompt's own prompt asks for."""
    sides = {"significant": significant, "insignificant": insignificant}
    return "\n".join(
        f"Number of clinically {side} errors by type: "
        f"[{', '.join(f'({kind}, {count})' for kind, count in zip('ABCDEF', counts, strict=True))}]"
        for side, counts in sides.items()
    )


def case(real_data, name):
    return json.loads((real_data / "metric_cases" / f"{name}.json").read_text())


# Published responses


@pytest.mark.real_data
def test_green_transcripts_give_the_published_counts_and_scores(real_data):
    for item in case(real_data, "green_transcripts_redacted")["items"]:
        found = parsers.green(item["transcript"])
        assert sum(found.significant) == item["significant_errors_total"]
        assert found.matched == item["matched_findings"]
        assert formulas.green(found.matched, sum(found.significant)) == item["green"]


@pytest.mark.real_data
def test_crimson_judge_json_gives_the_published_scores(real_data):
    made = case(real_data, "crimson_judge_json")
    scores = [formulas.crimson(parsers.crimson(json.dumps(each["judge_json"]))) for each in made["pairs"]]
    assert scores == [each["crimson_score"] for each in made["pairs"]]
    assert np.mean(scores) == made["expected"]["mean"]
    assert np.std(scores) == made["expected"]["std_population"]


@pytest.mark.real_data
def test_radfact_labels_give_the_published_fractions(real_data):
    made = case(real_data, "radfact_nli")
    pairs = [parsers.entailed_pair(json.dumps(item["output"])) for item in made["items"]]
    for side, name in ((0, "precision"), (1, "recall")):
        shares = [formulas.share(pair[side]) for pair in pairs]
        assert np.mean(shares) == pytest.approx(made["expected"][f"logical_{name}_from_labels_mean"], abs=1e-12)
    for item in case(real_data, "radfact_nli_with_rationale")["items"]:
        found = parsers.entailed_pair(json.dumps(item["output"]))
        for side, statuses in zip("AB", found, strict=True):
            assert statuses == [each["status"] for each in item["output"][f"phrases_{side}_evidenced"]]


@pytest.mark.real_data
def test_radfact_phrases_are_those_of_the_authors(real_data):
    for item in case(real_data, "radfact_report_to_phrases")["items"]:
        listed = [new for sentence in item["parsed_report"]["sentence_list"] for new in sentence["new"]]
        wanted = [each for each in listed if each]  # a sentence the authors drop stands there as an empty phrase
        assert parsers.phrases(json.dumps(item["parsed_report"])) == wanted


@pytest.mark.real_data
def test_chexprompt_counts_of_the_published_case(real_data):
    expected = case(real_data, "chexprompt_false_positive")["expected"]
    found = parsers.chexprompt(json.dumps(expected))
    lines = tuple_lines(found.significant, found.insignificant)
    assert parsers.chexprompt(lines) == found
    assert found.significant == (1, 0, 0, 0, 0, 0)
    assert found.insignificant == NO_ERRORS


# Our own


@given(counts, counts)
def test_chexprompt_reads_json_and_lines_alike(one, two):
    given = chexprompt_answer(one, two)
    lines = tuple_lines(one, two)
    for text in (given, f"Sure!\n```json\n{given}\n```\nDone.", lines):
        found = parsers.chexprompt(text)
        assert (found.significant, found.insignificant) == (one, two)


@given(counts, counts, st.integers(0, 99))
def test_green_reads_its_layout(one, two, matched):
    found = parsers.green(green_answer(one, two, matched))
    assert (found.significant, found.insignificant, found.matched) == (one, two, matched)


def test_green_reads_no_and_numbers_in_place_of_letters():
    text = (
        "[Clinically Significant Errors]:\nNo errors.\n\n[Clinically Insignificant Errors]:\n"
        "(2) Missing: 3. a; b; c.\n(6) Omitted: 1. d.\n\n[Matched Findings]: No findings"
    )
    found = parsers.green(text)
    assert (found.significant, found.insignificant, found.matched) == (NO_ERRORS, (0, 3, 0, 0, 0, 1), 0)


def without(text, part):
    assert part in text
    return text.replace(part, "")


def OPEN(text):
    """A number without a bound above, as a user's rubric may have it."""
    return parsers.values(text, [Category(name="n", low=-5)])


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (parsers.chexprompt, "The candidate has two errors."),
        (parsers.chexprompt, "{}"),
        (parsers.chexprompt, without(chexprompt_answer(), '"omission_finding": 0, ')),
        (parsers.chexprompt, chexprompt_answer((-1, 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer((0.5, 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer((True, 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer((float("nan"), 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer((float("inf"), 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer((10**400, 0, 0, 0, 0, 0))),
        (OPEN, '{"n": NaN}'),
        (OPEN, '{"n": Infinity}'),
        (OPEN, '{"n": 1e400}'),
        (OPEN, '{"n": 1' + "0" * 400 + "}"),
        (parsers.chexprompt, chexprompt_answer(("2", 0, 0, 0, 0, 0))),
        (parsers.chexprompt, chexprompt_answer()[:-20]),
        (parsers.green, without(green_answer(), "[Matched Findings]")),
        (parsers.green, without(green_answer(), "[Clinically Significant Errors]")),
        (parsers.phrases, '{"phrases": "one"}'),
        (parsers.phrases, '{"sentence_list": [{"orig": "a"}]}'),
        (parsers.entailment, '{"status": "maybe"}'),
        (parsers.entailed_pair, '{"phrases_A_evidenced": []}'),
        (parsers.crimson, '{"errors": {}}'),
        (parsers.axes, '{"correctness": 6, "completeness": 1, "coherence": 1}'),
        (parsers.axes, '{"correctness": 4.5, "completeness": 1, "coherence": 1}'),
        (parsers.axes, "correctness: 3\ncompleteness: 3"),
        (parsers.verdict, '{"better": "C"}'),
        (parsers.verdict, "A"),
    ],
)
def test_what_is_not_an_answer_is_never_a_score_and_is_not_quoted(parser, text):
    with pytest.raises(Unreadable) as told:
        parser(text)
    assert len(text) < 8 or text not in str(told.value)


ALL = [parsers.parser_of(built_in(file.stem)) for file in sorted(FOLDER.glob("*.yaml"))]


@given(st.text())
def test_no_text_breaks_a_parser(text):
    for parser in ALL:
        for each in (text, f'{{"a": {text}', f"[Matched Findings]: {text}"):
            with suppress(Unreadable):
                parser(each)


leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400), st.text(max_size=5))
NAMES = [*ERRORS, *parsers.AXES, "clinically_significant", "clinically_insignificant", "phrases", "sentence_list",
         "new", "status", "errors", "reference_findings", "predicted_findings", "matched_findings", "false_findings",
         "missing_findings", "attribute_errors", "id", "ref_id", "pred_id", "severity", "better"]  # fmt: skip
body = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=12,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(NAMES), body, max_size=6))
def test_no_object_breaks_a_parser(answer):
    text = json.dumps(answer)
    for parser in (*ALL, OPEN):
        with suppress(Unreadable):
            parser(text)


def test_ratings_and_numbers_are_read_from_json_and_from_lines():
    wanted = {"correctness": 4, "completeness": 2, "coherence": 5}
    assert parsers.axes(json.dumps(wanted)) == wanted
    assert parsers.axes("**Correctness**: 4/5\n- completeness = 2\nCoherence: 5") == wanted
    half = Category(name="share", low=0, high=1, whole=False)
    assert parsers.values('{"share": 0.25}', [half]) == {"share": 0.25}


def test_the_first_object_of_an_answer_counts_whole():
    assert parsers.json_object('{bad} then {"a": {"b": 1}} and {"c": 2}') == {"a": {"b": 1}}


def test_every_rubric_has_a_parser_and_asks_for_its_names():
    for file in FOLDER.glob("*.yaml"):
        assert callable(parsers.parser_of(built_in(file.stem)))
    text = built_in("chexprompt").task
    assert all(name in text for name in ERRORS)


SECTIONS = (
    "[Clinically Significant Errors]:\n{}\n\n[Clinically Insignificant Errors]:\n(a) x: 0.\n\n[Matched Findings]:\n{}"
)


@pytest.mark.parametrize(
    ("errors", "matched", "said"),
    [
        ("(a) Invented: 1. x", "1", None),
        ("(a) Invented: 1\n(b) Missing: 2", "1. x", None),
        ("No errors.", "No matched findings.", None),
        ("None.", "0.", None),
        ("(a) Invented: one.\n(b) Missing: 0.", "1. x", r"\(a\) has no count"),
        ("(a) Invented: 1. x", "", "no number of matched findings"),
        ("(a) Invented: 1. x", "several", "no number of matched findings"),
        ("Nodule in the wrong lobe", "1. x", "names no kind"),
        ("(a) Invented: 1. x\n(a) Invented: 2. x", "1. x", r"\(a\) is counted twice"),
    ],
)
def test_green_without_a_number_is_unreadable_and_never_an_errorless_report(errors, matched, said):
    text = SECTIONS.format(errors, matched)
    if said is None:
        found = parsers.green(text)
        assert sum(found.significant) == sum(int(n) for n in errors if n.isdigit())
        assert found.matched == int(matched[0].isdigit() and matched[0])
    else:
        with pytest.raises(Unreadable, match=said):
            parsers.green(text)


def test_chexprompt_lines_that_contradict_themselves_are_unreadable():
    one, two = tuple_lines(NO_ERRORS, NO_ERRORS), tuple_lines((1, 0, 0, 0, 0, 0), NO_ERRORS)
    assert parsers.chexprompt(f"{one}\n{one}") == parsers.chexprompt(one)
    for text in (f"{one}\n{two}", one.replace("(A, 0)", "(A, 0), (A, 1)", 1)):
        with pytest.raises(Unreadable, match="twice"):
            parsers.chexprompt(text)
