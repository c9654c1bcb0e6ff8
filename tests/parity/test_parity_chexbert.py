"""CheXbert against f1chexbert: every class of every head, the reports made of them, and no influence of neighbours."""

from __future__ import annotations

import random

import numpy as np
import pytest
from recordings import CASES, CLOSE, DTYPES, LEAST, on_pairs, place, recorded

from cxrbench.data.chexpert import LABELS
from cxrbench.features.base import Pairs, Sides
from cxrbench.features.chexbert import Labelled
from cxrbench.metrics.base import Context
from cxrbench.metrics.chexbert_f1 import CheXbertF1
from cxrbench.metrics.label_f1 import slug
from tools.parity import texts

pytestmark = [pytest.mark.parity, pytest.mark.real_data]
CONTEXT = Context.of({"weights": {"name": "chexbert", "hash": "1a2b3c4d"}})


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def given(real_data):
    return texts.read(real_data, "chexbert")


@pytest.fixture(scope="module")
def labeler(work, case):
    from cxrbench.features.chexbert_net import load

    folder = place(work, case[0])
    return load(folder / "chexbert.pth", folder / "bert-base-uncased", dtype=DTYPES[case[1]])


@pytest.fixture(scope="module")
def ours(labeler, given):
    return labeler.label(given.all)


@pytest.fixture(scope="module")
def theirs(work, case, given):
    return recorded(work, "chexbert", case, given.all)


def compare(said, true, margins, dtype):
    """Decisions (n, 14) that differ, each with its margin; all must be close ones, and none in double precision."""
    rows = [(int(i), int(j), float(margins[i, j])) for i, j in np.argwhere(said != true)]
    assert dtype == "fp32" or not rows, rows
    assert all(gap < CLOSE for _, _, gap in rows), rows
    return [
        f"text {i}, {LABELS[j]}: class {said[i, j]}, the package {true[i, j]}, its margin {gap:.1e}"
        for i, j, gap in rows
    ]


def test_classes(given, ours, theirs, case, tell):
    true, margins = (np.array([line[key] for line in theirs]) for key in ("classes", "margins"))
    exceptions = compare(ours.classes, true, margins, case[1])
    vectors = np.array([line["vector"] for line in theirs])
    apart = float(np.abs(ours.vectors - vectors).max())
    tell(
        real=len(given.real), texts=len(true), decisions=true.size, different=len(exceptions), exceptions=exceptions,
        close=int((margins < CLOSE).sum()), least_margin=float(margins.min()), cls_apart=apart,
    )  # fmt: skip
    assert len(given.real) >= LEAST["chexbert"]
    assert apart < (1e-4 if case[1] == "fp32" else 1e-8), "[CLS], which SembScore compares"


def test_every_class_of_every_head_occurs(theirs, case):
    if case[0] == "embedded":
        pytest.skip("the embedded labeler was trained: it says what it thinks, not every class")
    true = np.array([line["classes"] for line in theirs])
    for head, label in enumerate(LABELS):
        assert set(true[:, head]) == set(range(4 if head < 13 else 2)), label


def test_the_report_on_pairs(work, given, ours, case, tell):
    """classification_report over 14 and 5 labels, accuracy, and agreement of each report, from our own classes."""
    at = {text: i for i, text in enumerate(given.all)}
    sides = [
        [Labelled(ours.classes[at[t]], ours.vectors[at[t]]) for t in each] for each in zip(*given.pairs, strict=True)
    ]
    metric = CheXbertF1("miura")
    pairs = Pairs([str(i) for i in range(len(given.pairs))], *map(list, zip(*given.pairs, strict=True)))
    rows = metric.statistics(pairs, {metric.needs(CONTEXT)[0]: Sides(*sides)}, CONTEXT).rows[:, 0]
    values = metric.value(rows.sum(axis=0))
    told = on_pairs(work, "chexbert", case)
    expected = {"agreement_5": told["accuracy"]}
    for scope, report in (("14", told["report"]), ("5", told["report_5"])):
        for average in ("micro", "macro", "weighted", "samples"):
            ours_name = "example" if average == "samples" else average
            for what, key in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
                expected[f"{ours_name}_{what}_{scope}"] = report[f"{average} avg"][key]
    expected |= {f"f1_{slug(label)}": told["report"][label]["f1-score"] for label in LABELS}
    worst = max(abs(float(values[name]) - value) for name, value in expected.items())
    tell(pairs=len(given.pairs), values=len(expected), largest_difference=worst)
    assert worst < 1e-12
    assert metric.value(rows)["agreement_5"].tolist() == told["per_sample"]


def test_neighbours_and_order_change_nothing(given, labeler, ours, theirs, case, tell):
    chosen = random.Random(2).sample(range(len(given.all)), 150) + list(range(len(given.all) - 10, len(given.all)))
    margins = np.array([theirs[i]["margins"] for i in chosen])
    alone = labeler.label([given.all[i] for i in chosen], budget=1)
    packed = labeler.label([given.all[i] for i in chosen], budget=1_500)
    exceptions = compare(alone.classes, ours.classes[chosen], margins, case[1])
    exceptions += compare(packed.classes, ours.classes[chosen], margins, case[1])
    tell(texts=len(chosen), orders=2, different=len(exceptions), exceptions=exceptions)
