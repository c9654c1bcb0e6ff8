"""Label F1 by hand, its 0/0 rules, and its refusal of data it cannot read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench import registry
from cxrbench.assets import needed_by
from cxrbench.data.phantom import studies
from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Sides
from cxrbench.features.chexbert import Labelled
from cxrbench.metrics.base import SCORED, SKIPPED, Context, Corpus, Pairs
from cxrbench.metrics.label_f1 import CONVENTIONS, LABELS, NO_FINDING, LabelF1, slug

METRIC = LabelF1()


def rows_of(predictions, labels):
    """Statistics as the scorer makes them: fit, features, statistics."""
    context = METRIC.fit(Corpus([], dataset="phantom"))
    pairs = Pairs([str(i) for i in range(len(predictions))], predictions, [""] * len(predictions), labels)
    features = {r: registry.load("features", r.name)().extract(pairs, dict(r.settings)) for r in METRIC.needs(context)}
    return METRIC.statistics(pairs, features, context)


def shipped(**labels):
    return {"phantom": {name.replace("_", " "): value for name, value in labels.items()}}


def test_by_hand():
    found = rows_of(
        [
            "Small left pleural effusion. Mild cardiomegaly. No pneumothorax.",  # 1 tp, 1 fp, edema missed
            "Possible mild edema.",  # uncertain said, uncertain true: a tp
            "The lungs are clear.",  # fracture missed
        ],
        [
            shipped(Pleural_Effusion=1, Edema=1, Pneumothorax=0, No_Finding=0),
            shipped(Edema=-1, No_Finding=0),
            shipped(Fracture=1, No_Finding=0),
        ],
    )
    values = METRIC.value(found.rows[:, 0].sum(axis=0))
    # 2 tp (effusion, edema), 1 fp (cardiomegaly), 2 fn (edema, fracture): F1 = 4 / (4 + 1 + 2).
    assert values["micro_f1"] == pytest.approx(4 / 7)
    assert values["micro_precision"] == pytest.approx(2 / 3)
    assert values["micro_recall"] == pytest.approx(2 / 4)
    # Effusion 1, edema 2 / 3, cardiomegaly 0, fracture 0: four labels occur or are said.
    assert values["macro_f1"] == pytest.approx((1 + 2 / 3) / 4)
    assert values["f1_pleural_effusion"] == 1
    assert values["f1_edema"] == pytest.approx(2 / 3)
    assert values["f1_cardiomegaly"] == values["f1_fracture"] == 0
    assert np.isnan(values["f1_pneumothorax"]), "denied and absent: no positive on either side"
    assert values["f1_no_finding"] == 0, "said of the third, true of none"


def test_columns_are_count_and_tp_fp_fn_by_label():
    found = rows_of(["Mild edema."], [shipped(Edema=1, Fracture=1, No_Finding=0)])
    row = found.rows[0, 0]
    assert row.shape == (1 + 3 * len(LABELS),)
    counts = row[1:].reshape(len(LABELS), 3)
    assert row[0] == 1
    assert counts[LABELS.index("Edema")].tolist() == [1, 0, 0]
    assert counts[LABELS.index("Fracture")].tolist() == [0, 0, 1]
    assert counts.sum() == 2


def test_nothing_over_nothing():
    nothing = METRIC.value(np.zeros(1 + 3 * len(LABELS)))
    assert all(np.isnan(value) for value in nothing.values())
    silent = METRIC.value(rows_of([""], [shipped(Edema=1, No_Finding=0)]).rows[:, 0].sum(axis=0))
    assert silent["micro_f1"] == silent["macro_f1"] == silent["micro_recall"] == 0
    assert np.isnan(silent["micro_precision"])


def test_a_constant_normal_report_earns_nothing():
    test = list(studies("test", 100))
    normal = "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax."
    values = METRIC.value(rows_of([normal] * 100, [s.labels for s in test]).rows[:, 0].sum(axis=0))
    assert values["micro_f1"] == values["macro_f1"] == 0
    assert values["f1_no_finding"] > 0, "which is why No Finding stands apart"


def test_the_reference_itself_earns_everything():
    test = list(studies("test", 100))
    for section in ("findings", "impression"):
        found = rows_of([s.sections[section] for s in test], [s.labels for s in test])
        values = METRIC.value(found.rows[:, 0].sum(axis=0))
        assert values["micro_f1"] == values["macro_f1"] == values["f1_no_finding"] == 1


def test_a_sample_without_labels_is_skipped_with_its_reason():
    found = rows_of(["Mild edema.", "Mild edema."], [{}, shipped(Edema=1, No_Finding=0)])
    assert found.status[:, 0].tolist() == [SKIPPED, SCORED]
    assert not found.rows[0].any()
    assert found.reasons == ("the data set ships no 'phantom' labels for this sample", "")


@pytest.mark.parametrize("dataset", ["iu-xray", None])
def test_other_data_are_refused(dataset):
    with pytest.raises(CxrbenchError, match="reads reports of 'phantom' only") as caught:
        METRIC.fit(Corpus(["Mild edema."], dataset=dataset))
    assert "label-f1" in caught.value.fix


@pytest.mark.parametrize(
    ("preset", "source"), [("mimic-chexpert", "chexpert"), ("mimic-radiologist", "mimic-test-labeled")]
)
def test_chexbert_on_predictions_meets_the_labels_that_mimic_ships(preset, source):
    metric = LabelF1(preset)
    context = Context.of({"weights": {"name": "chexbert", "hash": "1a2b3c4d"}})
    classes = np.zeros((3, 14), np.int8)
    edema, effusion = LABELS.index("Edema"), LABELS.index("Pleural Effusion")
    classes[0, edema], classes[1, effusion], classes[2, effusion] = 1, 3, 2
    made = Sides([Labelled(row, np.zeros(4, np.float32)) for row in classes])
    (request,) = metric.needs(context)
    assert request.name == "chexbert"
    assert ("of", "predictions") in request.settings
    labels = [{source: {"Edema": 1.0}}, {source: {"Pleural Effusion": 1.0}}, {"negbio": {}}]
    pairs = Pairs(["1", "2", "3"], ["a", "b", "c"], ["", "", ""], labels)
    found = metric.statistics(pairs, {request: made}, context)
    assert found.status[:, 0].tolist() == [SCORED, SCORED, SKIPPED]
    assert metric.value(found.rows[:, 0].sum(axis=0))["micro_f1"] == 1
    with pytest.raises(CxrbenchError, match="reads reports of 'mimic-cxr' only"):
        metric.fit(Corpus([], dataset="phantom"))
    assert {asset.name for asset in needed_by(metric.key)} == {"chexbert", "bert-base-uncased"}


def test_an_unknown_preset_is_named():
    with pytest.raises(CxrbenchError, match="no preset 'chexbert'"):
        LabelF1("chexbert")


def test_names():
    assert METRIC.signature(Context(), "none") == (
        "label-f1|preset:phantom|labeler:phantom-labels.1|against:phantom.1|uncertain:pos|txt:none|v:1"
    )
    assert set(METRIC.value(np.zeros(43))) == set(METRIC.values)
    assert LABELS[NO_FINDING] == "No Finding"
    assert slug("Pleural Effusion") == "pleural_effusion"
    assert set(CONVENTIONS) == set(LabelF1.presets)
    assert json.loads(json.dumps(METRIC.fit(Corpus([], dataset="phantom")).data)) == {}


some_labels = st.dictionaries(st.sampled_from(LABELS), st.sampled_from([1.0, 0.0, -1.0]))


@settings(max_examples=50)
@given(st.lists(st.tuples(some_labels, some_labels), min_size=1, max_size=12))
def test_values_agree_with_counting_pair_by_pair(pairs):
    """Counts against a loop over samples and labels; sums of rows give the values of the whole."""
    said, true = [a for a, _ in pairs], [b for _, b in pairs]
    batch = Pairs([""] * len(pairs), [""] * len(pairs), [""] * len(pairs), [{"phantom": each} for each in true])
    rows = METRIC.statistics(batch, {METRIC.convention.labeler: said}, Context()).rows[:, 0]
    hits = misses = alarms = 0
    for mine, yours in zip(said, true, strict=True):
        for label in LABELS[:-1]:
            a, b = mine.get(label, 0) != 0, yours.get(label, 0) != 0
            hits, alarms, misses = hits + (a and b), alarms + (a and not b), misses + (b and not a)
    value = METRIC.value(rows.sum(axis=0))["micro_f1"]
    if hits + alarms + misses:
        assert value == pytest.approx(2 * hits / (2 * hits + alarms + misses))
    else:
        assert np.isnan(value)
    each = METRIC.value(rows)["micro_f1"]
    assert each.shape == (len(pairs),)
