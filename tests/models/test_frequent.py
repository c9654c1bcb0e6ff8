"""`frequent-answer`: counts the train split's answers, by the question, else its type, else altogether."""

import math

import pytest

from cxrbench.data.questions import with_letters
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.frequent import FrequentAnswer
from cxrbench.types import Generation, Sample

THERE, WHERE = "Is it there?", "Where is it?"


def asked(question, target="", kind="", options=(), name="s"):
    columns = {"question-type": kind} if kind else {}
    return Sample(name, name, None, target, question=question, options=tuple(options), subgroups=columns)


def train(*rows):
    return [asked(*row, name=f"t{number}") for number, row in enumerate(rows)]


def fitted(rows):
    model = FrequentAnswer(ModelOptions(extra={"target": "answer"}))
    model.fit(lambda: rows)
    return model


def answer(model, sample, kind="generate"):
    request = model.request(sample, kind, Generation(), 0)
    (made,) = model.generate(0, [model.prepare(request)]).predictions
    return made


def test_the_same_question_counts_before_its_type_and_that_before_all():
    model = fitted(train(
        (THERE, "yes", "presence"), (THERE, "yes", "presence"), (THERE, "no", "presence"),
        ("Other?", "no", "presence"), ("Other?", "no", "presence"),
        (WHERE, "left", "place"), (WHERE, "left", "place"), (WHERE, "left", "place"), (WHERE, "left", "place"),
    ))  # fmt: skip
    assert answer(model, asked(THERE, kind="presence")).text == "yes"
    assert answer(model, asked("never asked?", kind="presence")).text == "no"
    assert answer(model, asked("never asked?", kind="of no known kind")).text == "left"
    assert answer(model, asked("never asked?")).text == "left"


def test_capitals_and_blanks_do_not_part_questions_or_answers_and_equal_counts_go_by_the_alphabet():
    model = fitted(train((THERE, "Yes"), (" is  it THERE?", "yes "), (THERE, "no"), (WHERE, "b"), (WHERE, "a")))
    assert answer(model, asked("is it there?")).text == "Yes"
    assert answer(model, asked(WHERE)).text == "a"


def test_what_is_answered_does_not_depend_on_the_order_of_the_train_split():
    rows = train((THERE, "Yes"), (THERE, "yes"), (THERE, "no"), (WHERE, "b"), (WHERE, "a"), (WHERE, "A"))
    for question in (THERE, WHERE):
        assert answer(fitted(rows), asked(question)).text == answer(fitted(rows[::-1]), asked(question)).text


OPTIONS = ("There is an effusion.", "There is edema.", "There is a fracture.")


def choices():
    options = list(OPTIONS)
    return train(*[("Which?", OPTIONS[at], "finding", options) for at in (1, 1, 1, 0, 2)])


def test_options_get_the_log_of_their_share_plus_one():
    made = answer(fitted(choices()), asked("Which?", kind="finding", options=OPTIONS), "score_options")
    assert made.option_tokens == (1, 1, 1)
    assert made.option_logprobs == pytest.approx([math.log(n / 8) for n in (2, 4, 2)])
    assert made.text == OPTIONS[1]


def test_options_that_no_answer_to_the_question_names_are_counted_by_type_and_else_are_alike():
    model = fitted([*choices(), *train(("Or which?", "There is a tube.", "finding"))])
    asked_again = asked("Or which?", kind="finding", options=OPTIONS)
    assert answer(model, asked_again, "score_options").text == OPTIONS[1]
    unheard = answer(model, asked("Which?", kind="finding", options=("x", "y")), "score_options")
    assert unheard.option_logprobs == pytest.approx([math.log(0.5)] * 2)
    assert unheard.text == "x"


def test_where_the_question_lists_letters_it_answers_with_one():
    listed = [asked(with_letters("Which?", OPTIONS), OPTIONS[at], "finding", OPTIONS, f"t{at}") for at in (1, 2)]
    model = fitted([*listed, asked(with_letters("Which?", OPTIONS), OPTIONS[2], "finding", OPTIONS, "t3")])
    turned = OPTIONS[::-1]
    assert answer(model, asked(with_letters("Which?", turned), options=turned)).text == f"(A) {OPTIONS[2]}"
    assert answer(model, asked("Which?", options=turned)).text == OPTIONS[2]


def test_it_says_what_it_used_and_shows_no_image():
    model = fitted(train((THERE, "yes", "presence")))
    request = model.request(asked(THERE, kind="presence"), "generate", Generation(), 0)
    assert (request.inputs, request.images) == (("question", "question-type"), ())
    assert [(m.role, m.text) for m in request.messages] == [("system", "presence"), ("user", THERE)]
    assert model.request(asked(THERE), "generate", Generation(), 0).inputs == ("question",)
    assert model.circumstances()["pool"] == 1


@pytest.mark.parametrize("rows", [[], [Sample("t", "t", None, "A report.")]])
def test_a_train_split_without_questions_is_refused(rows):
    with pytest.raises(CxrbenchError, match="no question to learn from"):
        fitted(rows)


@pytest.mark.parametrize("target", ["findings", "impression"])
def test_a_task_that_asks_nothing_is_refused(target):
    with pytest.raises(CxrbenchError, match="asks none"):
        FrequentAnswer(ModelOptions(extra={"target": target}))
