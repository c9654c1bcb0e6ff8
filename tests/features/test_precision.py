"""Where annotators run and at which precision: bf16 says so in signatures; a device that is not there is refused."""

import json
import sqlite3

import numpy as np
import pytest
import torch

from cxrbench.errors import CxrbenchError
from cxrbench.features.base import Resources, device_kind, device_of
from cxrbench.features.device import check_device, check_precision, pick_device, torch_dtype
from cxrbench.features.store import FILE, Store
from cxrbench.metrics.base import Corpus
from cxrbench.scoring import choose, make_metric
from cxrbench.scoring import score as score_all
from cxrbench.types import Prediction, Sample
from tests import commands
from tests.commands import metrics, small_run
from tests.tiny_weights import CLINICAL, lay_out

cli = commands.cli

NO_GPU = not torch.cuda.is_available()
PAIRS = [
    ("Small left pleural effusion. No pneumothorax.", "Moderate left pleural effusion. The lungs are clear."),
    ("No edema.", "Mild pulmonary edema. Heart size is normal."),
    ("", "Mild cardiomegaly."),
]


def scored(keys, resources):
    samples = [Sample(str(i), str(i), None, true) for i, (_, true) in enumerate(PAIRS)]
    said = {str(i): Prediction(str(i), "ok", text) for i, (text, _) in enumerate(PAIRS)}
    corpus = Corpus([true for _, true in PAIRS], precision=resources.precision)
    return score_all(samples, said, choose(keys, (), ()), corpus, "none", resources=resources)


@pytest.fixture
def place():
    return lay_out()


def test_bf16_stands_in_every_signature_and_full_precision_in_none(place):
    for key in CLINICAL:
        (full,), (half,) = (scored([key], Resources(precision=each)) for each in ("fp32", "bf16"))
        assert full.reason == half.reason == ""
        assert "precision" not in full.signature
        assert "bf16" in half.signature
        assert full.signature != half.signature
        assert full.n == half.n == len(PAIRS)
        assert np.isfinite(half.statistics.rows).all()


def test_bf16_is_computed_in_bf16(place):
    """SembScore is the cosine of vectors of one network: near the number of full precision, and another one."""
    full, half = (scored(["semb-score"], Resources(precision=each))[0].rows()[:2, 1] for each in ("fp32", "bf16"))
    assert (full != half).all()
    np.testing.assert_allclose(full, half, atol=0.02)


def test_annotations_of_two_precisions_are_kept_apart(tmp_path, place):
    store = Store(tmp_path / "store")

    def kept():
        with sqlite3.connect(store.file) as base:
            return base.execute("SELECT count(*) FROM feature").fetchone()[0]

    first = scored(CLINICAL, Resources(store))
    many = kept()
    scored(CLINICAL, Resources(store, precision="bf16"))
    assert kept() > 1.5 * many  # of entities that both find only once the vectors are further rows
    again = scored(CLINICAL, Resources(store))
    for one, two in zip(first, again, strict=True):
        assert (one.statistics.rows == two.statistics.rows).all()
    assert (tmp_path / "store" / FILE).exists()


def test_a_run_scored_at_another_precision_is_scored_anew_and_says_so(cli, tmp_path):
    run, _ = small_run(cli, tmp_path)

    def semb(*words):
        code, out, err = cli("score", run, "--metrics", "semb-score", "--replicates", 0, *words)
        assert code == 0, err
        return metrics(run)["semb-score:chexbert"]["semb_score"], " ".join(out.split())

    full, _ = semb()
    half, out = semb("--precision", "bf16", "--device", "cpu")
    assert "|precision:bf16|" in half["signature"]
    assert half["value"] != full["value"]
    assert half["value"] == pytest.approx(full["value"], abs=0.02)
    assert "is made in another way than at the last scoring" in out
    again, _ = semb()
    assert again == full
    assert len(list((run / "scores").glob("semb-score*"))) == 2


def test_precision_is_that_of_annotators_and_leaves_other_signatures_alone():
    for key in ("bleu:raw", "length", "label-f1:phantom"):
        metric = make_metric(key)
        made = [
            metric.signature(metric.fit(Corpus([], dataset="phantom", precision=p)), "none") for p in ("fp32", "bf16")
        ]
        assert made[0] == made[1]


@pytest.mark.parametrize(
    "words", [("score", "p.jsonl"), ("run", "--model", "always-normal", "--task", "demo-findings")]
)
def test_wrong_precisions_and_devices_are_refused_before_anything_begins(cli, tmp_path, words):
    (tmp_path / "p.jsonl").write_text('{"sample_id": "a", "prediction": "x", "reference": "y"}\n')
    code, _, err = cli(*words, "--precision", "fp16")
    assert code == 2
    assert "'fp16' is no precision to score at" in err
    code, _, err = cli(*words, "--device", "tpu")
    assert code == 2
    assert "--device" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize(
    "words", [("score", "p.jsonl"), ("run", "--model", "always-normal", "--task", "demo-findings")]
)
def test_cuda_is_refused_in_one_sentence_where_there_is_none(cli, tmp_path, device, words):
    (tmp_path / "p.jsonl").write_text('{"sample_id": "a", "prediction": "x", "reference": "y"}\n')
    code, _, err = cli(*words, "--device", device)
    assert code == 2
    assert f"error: there is no device '{device}': torch" in err
    assert "sees 0 GPUs" in err
    assert "to do: cpu" in err
    assert not (tmp_path / "runs").exists()


def test_auto_is_decided_when_an_annotator_runs():
    expected = "cpu" if NO_GPU else "cuda:0"
    assert pick_device("auto") == device_of(Resources(device="auto")) == expected
    assert device_kind(Resources(device="auto")) == expected.partition(":")[0]
    check_device("auto")
    check_precision("bf16")
    assert [torch_dtype(each) for each in ("fp32", "bf16")] == [torch.float32, torch.bfloat16]
    with pytest.raises(CxrbenchError, match="is no device"):
        check_device("gpu")


def test_auto_loads_no_torch_where_no_metric_needs_it(cli, tmp_path):
    import subprocess
    import sys

    (tmp_path / "p.jsonl").write_text(json.dumps({"sample_id": "a", "prediction": "x", "reference": "y"}) + "\n")
    code = (
        "import sys; from cxrbench.cli.main import app\n"
        "try: app(['score', 'p.jsonl', '--metrics', 'bleu:raw', '--replicates', '0', '--device', 'auto'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path, capture_output=True)
