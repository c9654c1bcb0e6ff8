"""Answers and choices: the normalisation, both presets, and likelihoods beside a direct computation."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrbench.cli.show import _scores, further_lines
from cxrbench.metrics.base import FAILED, SKIPPED, Context, Pairs
from cxrbench.metrics.choice import Choice, ChoiceLetter
from cxrbench.metrics.vqa import Vqa, words_of
from cxrbench.scoring import Scored
from cxrbench.summary import metric_entry
from tests.commands import cli  # noqa: F401  (a fixture)


def pairs(said, meant, closed):
    labels = [{"question": {"closed": float(flag)}} if flag is not None else {} for flag in closed]
    return Pairs([str(n) for n in range(len(said))], said, meant, labels)


def values(metric, made):
    found = metric.statistics(made, {}, Context())
    return {name: float(value) for name, value in metric.value(found.rows.sum(axis=(0, 1))).items()}, found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Yes.", ["yes"]),
        ("X-ray", ["x", "ray"]),
        ("left - right", ["left", "right"]),
        ("1,000 ml", ["1000", "ml"]),
        ("two of three", ["2", "of", "3"]),
        ("A mass, 3.5 cm", ["mass", "3.5", "cm"]),
        ("none", ["0"]),
        ("", []),
    ],
)
def test_words_are_those_of_the_published_normalisation(text, words):
    assert words_of(text) == words


@given(st.text())
def test_any_text_has_words(text):
    assert all(word and not word.isspace() for word in words_of(text) if word)


def test_open_answers_by_recall_and_closed_by_accuracy():
    said = ["the left lung", "pleural", "Yes, it is", "No", "maybe"]
    meant = ["left lower lung", "effusion", "yes", "yes", "no"]
    found, _ = values(Vqa(), pairs(said, meant, [0, 0, 1, 1, 1]))
    assert found["open_recall"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["closed_accuracy"] == pytest.approx(1 / 3)
    assert (found["open_n"], found["closed_n"]) == (2, 3)


@pytest.mark.parametrize(
    ("said", "meant", "right"),
    [
        ("Yes, there is no shift.", "yes", 1),
        ("Yes, there is no shift.", "no", 0),
        ("yes no", "no", 0),  # saying both is right for one of them, or nothing would be ever wrong
        ("There is no effusion", "No", 1),
        ("nodule", "no", 0),
        ("On the right side.", "right side", 1),
    ],
)
def test_the_first_yes_or_no_is_what_is_said(said, meant, right):
    found, _ = values(Vqa("counted"), pairs([said], [meant], [1]))
    assert found["closed_accuracy"] == right


def test_the_published_script_leaves_a_wrong_yes_or_no_out():
    said, meant = ["Yes", "No", "a nodule", "maybe"], ["yes", "yes", "no", "no"]
    ours, _ = values(Vqa("counted"), pairs(said, meant, [1, 1, 1, 1]))
    theirs, _ = values(Vqa("llava-med"), pairs(said, meant, [1, 1, 1, 1]))
    assert ours["closed_accuracy"] == pytest.approx(1 / 4)
    # "No" for yes is not counted at all, "a nodule" holds the letters of "no", "maybe" is wrong.
    assert theirs["closed_accuracy"] == pytest.approx(2 / 3)
    assert theirs["closed_n"] == 3


def test_a_number_of_some_questions_says_of_how_many():
    made = pairs(["no", "yes", "heart", "heart"], ["yes", "yes", "lung", "heart"], [1, 1, 0, 0])
    for preset, closed in (("counted", 2), ("llava-med", 1)):
        metric = Vqa(preset)
        found, statistics = values(metric, made)
        entry = metric_entry(Scored(metric, True, Context(), "", statistics), {}, found)
        assert {name: each.get("rests_on", "all") for name, each in entry.items()} == {
            "open_recall": 2, "open_f1": 2, "open_exact": 2, "closed_accuracy": closed, "open_n": "all",
            "closed_n": "all",
        }  # fmt: skip
        assert {each["n"] for each in entry.values()} == {4}
        summary = {"ci_level": None, "metrics": {metric.key: entry}}
        assert list(_scores(summary).columns[3].cells) == ["2", str(closed), "2", "2"]
        assert further_lines(summary, 100) == [f"{metric.key}: open_n 2, closed_n {closed}"]


def test_recall_counts_a_word_as_often_as_it_is_said():
    found, _ = values(Vqa(), pairs(["lung lung"], ["lung mass"], [0]))
    assert found["open_recall"] == pytest.approx(2 / 3)


def test_a_question_of_unknown_kind_is_skipped_and_nothing_asked_is_no_number():
    found, statistics = values(Vqa(), pairs(["a"], ["b"], [None]))
    assert statistics.status.tolist() == [[SKIPPED]]
    assert np.isnan(found["open_recall"])


def chosen(scores, tokens, right, options=None):
    labels = [{"choice": {"answer": float(right), "options": float(options or len(scores))}}]
    return Pairs(["a"], ["x"], ["y"], labels, choices=[(scores, tokens)])


def test_length_normalised_and_summed_likelihood_may_differ():
    found, _ = values(Choice(), chosen([-4.0, -3.0], [4, 1], right=0))
    assert (found["accuracy"], found["accuracy_sum"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("scores", "tokens", "options"),
    [([-4.0], [1], 2), ([-4.0, 0.0], [1, 0], 2), ([-4.0, float("nan")], [1, 1], 2), ([-float("inf"), -1.0], [1, 1], 2)],
)
def test_scores_that_cannot_be_compared_are_a_failure(scores, tokens, options):
    """An option less, one without tokens, one that is no number: the first or the last would win by accident."""
    _, statistics = values(Choice(), chosen(scores, tokens, right=0, options=options))
    assert statistics.status.tolist() == [[FAILED]]


@pytest.mark.parametrize(
    ("said", "strict", "guessed", "unread"),
    [("(B)", 1, 1, 0), ("I say (A) or (B)", 0, 0, 0), ("B", 0, 0.25, 1), ("", 0, 0.25, 1), ("(b)", 0, 0.25, 1)],
)
def test_letters_in_brackets_are_read(said, strict, guessed, unread):
    made = Pairs(["a"], [said], ["y"], [{"choice": {"answer": 1.0, "options": 4.0}}])
    assert values(ChoiceLetter(), made)[0] == {"accuracy": strict, "unread": unread, "chance": 0.25}
    assert values(ChoiceLetter("chexbench"), made)[0] == {"accuracy": guessed, "unread": unread, "chance": 0.25}


VIEWS = """\
name: views
version: 1
title: Views of invented images
kind: {kind}
access: credentialed
dataset:
  name: chexbench
  split: test
  options: {{task: view, protocol: {protocol}}}
include:
  min_images: 1
unit: question
images: {{offer: all, key: first}}
target: answer
text: none
generation: {{max_new_tokens: 8}}
metrics:
  required: [{metric}]
slices: [source]
citation: invented
"""


@pytest.fixture
def views(cli, tmp_path):
    """Three questions in CheXbench's layout, known to the settings, and a tiny checkpoint."""
    from PIL import Image

    pytest.importorskip("torch")
    from tests.tiny_llava import make

    rows = [
        {"question": f"Question {n}?", "option_0": "PA", "option_1": "AP view", "option_2": "a lateral view",
         "option_3": None, "answer": n, "image_path": f"{n}.png", "data_source": "Invented", "slice": "all"}
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps({"View Classification": rows}))
    for n in range(3):
        Image.new("L", (40, 32), 60 + 50 * n).save(tmp_path / f"{n}.png")
    code, _, err = cli("data", "add", "chexbench", "--annotations", "data.json", "--images", ".")
    assert code == 0, err
    return make(tmp_path / "tiny")


def test_likelihoods_are_those_of_a_direct_computation(cli, views, tmp_path):
    (tmp_path / "views.yaml").write_text(VIEWS.format(kind="choice", protocol="likelihood", metric="choice"))
    words = ("run", "--model", f"hf:{views}", "--task", "views.yaml", "--dtype", "fp32", "--out", "run")
    code, _, err = cli(*words, "--replicates", 0)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "run/predictions/0000.jsonl").read_text().splitlines()]
    direct = {row["sample_id"]: _direct(views, tmp_path, row["sample_id"]) for row in rows}
    right = 0
    for row in rows:
        scores, counts = direct[row["sample_id"]]
        assert row["option_tokens"] == counts
        assert row["option_logprobs"] == pytest.approx(scores, abs=1e-4)
        number = int(row["sample_id"].split("/")[0].rpartition("-")[2]) - 1
        right += int(np.argmax(np.array(scores) / np.array(counts)) == number)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metrics"]["choice:likelihood"]["accuracy"]["value"] == pytest.approx(right / 3)


def _direct(folder, place, sample_id):
    """Every option in a call of its own: the processor's prompt, the option's tokens, one forward pass, no padding."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    number = int(sample_id.split("/")[0].rpartition("-")[2]) - 1
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"Question {number}?"}]}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    image = Image.open(place / f"{number}.png").convert("RGB")
    inputs = processor(text=[prompt], images=[image], return_tensors="pt")
    scores, counts = [], []
    for option in ("PA", "AP view", "a lateral view"):
        assert prompt[-1] == ":"  # ends in a word, so a space goes before the option
        tokens = processor.tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
        ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
        more = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0].log_softmax(-1)
        start = ids.shape[1] - len(tokens)
        scores.append(sum(float(logits[start + at - 1, token]) for at, token in enumerate(tokens)))
        counts.append(len(tokens))
    return scores, counts


def test_the_other_protocol_reads_what_is_written(cli, views, tmp_path):
    (tmp_path / "views.yaml").write_text(VIEWS.format(kind="vqa", protocol="generation", metric="choice-letter"))
    code, _, err = cli("run", "--model", f"hf:{views}", "--task", "views.yaml", "--out", "run", "--replicates", 0)
    assert code == 0, err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metrics"]["choice-letter:strict"]["unread"]["value"] == 1.0


def test_a_model_with_a_prompt_of_its_own_is_refused(cli, views, tmp_path):
    (tmp_path / "views.yaml").write_text(VIEWS.format(kind="vqa", protocol="generation", metric="choice-letter"))
    code, _, err = cli("run", "--model", "demo", "--task", "views.yaml")
    assert code == 2
    assert "not 'answer'" in err
    code, _, err = cli("run", "--model", "always-normal", "--task", "views.yaml", "--replicates", 0)
    assert code != 0
