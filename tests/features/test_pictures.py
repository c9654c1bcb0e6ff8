"""What reads generated pictures: the demo model's words as a run of it has them, a classifier's labels, a tower."""

from __future__ import annotations

import numpy as np
import pytest

from cxrbench.artifacts import Answered, keep
from cxrbench.data.phantom import draw, study
from cxrbench.errors import CxrbenchError
from cxrbench.features import encoders
from cxrbench.features.base import Resources
from cxrbench.features.pictures import READER, PictureLabels
from cxrbench.metrics.base import Corpus, Pairs
from cxrbench.metrics.label_agreement import LabelAgreement
from cxrbench.stats import Table, point

STUDIES = [study(0, "test", index) for index in (0, 3, 5)]
LABELS = {"0": "Pleural_Effusion", "1": "something else", "2": "cardiomegaly"}


@pytest.fixture(scope="module")
def pictures():
    return [draw(next(i for i in each.images if i.view in ("PA", "AP")).path.partition(":")[2]) for each in STUDIES]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A small random ViT with several labels, in stock layout."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    config.id2label = {int(place): name for place, name in LABELS.items()}
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def run_of(folder, pictures):
    references = keep(folder, {str(i): picture for i, picture in enumerate(pictures)})
    answered = Answered(folder, references, frozenset(references), frozenset())
    texts = [each.sections["findings"] for each in STUDIES]
    pairs = Pairs(list(references), [""] * len(texts), texts, artifacts=list(references.values()))
    return pairs, Resources(answered=answered)


def test_the_reader_says_what_a_run_of_the_demo_model_says(pictures):
    from cxrbench.engines.build import make_model
    from cxrbench.features.picture_net import described
    from cxrbench.models.base import ModelOptions
    from cxrbench.types import Generation, Image, Sample

    model = make_model("demo", ModelOptions(device="cpu", dtype="fp32", read_image=lambda path: pictures[int(path)]))
    samples = [Sample(str(i), str(i), None, "", (Image("k", str(i), "PA"),), "k") for i in range(len(pictures))]
    asked = [model.request(each, "generate", Generation(max_new_tokens=160), 0) for each in samples]
    answers = model.generate(0, [model.prepare(request) for request in asked]).predictions
    model.close()
    assert described(pictures, "cpu") == [each.text for each in answers]


def test_agreement_is_that_of_labels_counted_by_hand(pictures, tmp_path):
    from cxrbench.features.phantom_labels import read

    metric = LabelAgreement()
    context = metric.fit(Corpus([""], dataset="phantom", form="pictures"))
    pairs, resources = run_of(tmp_path, pictures)
    (needed,) = metric.needs(context)
    labels = PictureLabels().extract(pairs, dict(needed.settings), resources)
    rows = metric.statistics(pairs, {needed: labels}, context).rows[:, 0]
    tp = fp = fn = 0
    for said, text in zip(labels, pairs.references, strict=True):
        one, two = ({k for k, v in each.items() if v != 0 and k != "No Finding"} for each in (said, read(text).labels))
        tp, fp, fn = tp + len(one & two), fp + len(one - two), fn + len(two - one)
    assert tp
    assert point(Table(rows, metric))["micro_f1"] == 2 * tp / (2 * tp + fp + fn)
    assert metric.signature(context, "none").startswith(f"label-agreement|preset:{READER}|uncertain:pos|reader:demo-")


def test_a_classifier_of_ones_own(classifier, pictures, tmp_path):
    import torch
    from transformers import AutoModelForImageClassification

    metric = LabelAgreement(str(classifier))
    assert metric.ready() is None
    context = metric.fit(Corpus([""], dataset="phantom", form="pictures"))
    assert context.data["known"] == ["Cardiomegaly", "Pleural Effusion"]
    pairs, resources = run_of(tmp_path, pictures)
    labels = PictureLabels().extract(pairs, dict(metric.needs(context)[0].settings), resources)
    module = AutoModelForImageClassification.from_pretrained(classifier).eval()
    pixels = encoders.image_processor(classifier)(images=[encoders.rgb(each) for each in pictures], return_tensors="pt")
    with torch.inference_mode():
        above = module(**pixels).logits.numpy() > 0
    assert labels == [{"Pleural Effusion": int(row[0]), "Cardiomegaly": int(row[2])} for row in above]


@pytest.mark.parametrize("name", ["demo-tower", "folder"])
def test_features_of_a_tower_are_those_of_each_picture_alone(classifier, pictures, name):
    encoder = encoders.find(str(classifier) if name == "folder" else name, "phantom")
    together = encoder.features(pictures, "cpu")
    assert together.ndim == 2
    assert together.dtype == np.float64
    alone = np.concatenate([encoder.features([picture], "cpu") for picture in pictures])
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_what_is_refused(tmp_path):
    with pytest.raises(CxrbenchError, match="describes pictures of 'phantom' only"):
        LabelAgreement().fit(Corpus([""], dataset="mimic-cxr", form="pictures"))
    with pytest.raises(CxrbenchError, match="no classifier can be read here"):
        LabelAgreement(str(tmp_path)).fit(Corpus([""], dataset="phantom", form="pictures"))
    assert "there is no folder 'nowhere'" in LabelAgreement("nowhere").ready()
