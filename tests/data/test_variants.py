"""Changes that should not change a report: what each does to pixels and words, and a run over them."""

import json

import numpy as np
import pytest

from cxrbench.data.images import ImageFailure
from cxrbench.data.variants import CHANGES, Varied, file_of, vary
from cxrbench.spec import VARIANTS
from cxrbench.types import Image, Sample
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import SMALL

PIXELS = np.random.default_rng(3).integers(0, 256, (60, 40), dtype=np.uint8)
SAMPLE = Sample(
    "s", "s", "p", "Clear.", (Image("1", "/data/a:b.png", "PA"),), "1", {"indication": "_" * 3 + " y/o XXXX"}
)


def test_every_variant_changes_what_it_says_and_nothing_else():
    made = {name: vary(SAMPLE, name) for name in VARIANTS}
    assert made["original"].images == SAMPLE.images
    assert made["redacted"].sections == {"indication": "[REDACTED] y/o [REDACTED]"}
    assert {each.target for each in made.values()} == {"Clear."}
    assert {each.patient_id for each in made.values()} == {"p"}
    assert {name: each.subgroups["variant"] for name, each in made.items()} == {name: name for name in VARIANTS}
    assert len({each.sample_id for each in made.values()}) == len(VARIANTS)
    assert {file_of(each.images[0].path) for each in made.values()} == {"/data/a:b.png"}


@pytest.mark.parametrize("name", list(CHANGES))
def test_pixels_change_without_chance_and_stay_grey(name):
    read = Varied(lambda path: PIXELS if path == "/data/a:b.png" else None)
    path = vary(SAMPLE, name).images[0].path
    first, again = read(path), read(path)
    assert first.dtype == np.uint8
    assert first.ndim == 2
    assert np.array_equal(first, again)
    assert first.shape != PIXELS.shape or not np.array_equal(first, PIXELS)
    assert read("/data/a:b.png") is PIXELS


def test_changes_are_those_that_are_named():
    step = np.zeros((100, 100), np.uint8)
    step[:, 50:] = 200
    assert CHANGES["crop-90"](step).shape == (90, 90)
    assert set(np.unique(CHANGES["contrast-70"](step))) == {30, 170}
    assert set(np.unique(CHANGES["window-90"](step))) == {0, 255}
    assert CHANGES["rotate-5"](step).shape == (100, 100)
    assert np.array_equal(CHANGES["window-90"](np.full((4, 4), 9, np.uint8)), np.full((4, 4), 9))


def test_variants_of_a_study_are_one_cluster_without_patients_too():
    """Open-i has no patient ids: seven variants of a study are no seven patients."""
    from cxrbench.data.samples import clusters_of, take
    from cxrbench.types import Sample

    studies = [Sample(f"s{n}", f"s{n}", None, "x") for n in range(3)]
    made = [vary(study, name) for study in studies for name in ("original", "jpeg-30")]
    assert clusters_of(made) == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert len({name.partition("/")[0] for name in take(made, 4)}) == 2  # whole studies first
    assert clusters_of(studies) == ["s0", "s1", "s2"]


def test_a_missing_file_is_still_a_missing_file():
    def read(path):
        raise ImageFailure("missing_image", "gone")

    with pytest.raises(ImageFailure, match="gone"):
        Varied(read)("variant:jpeg-30:/data/x.png")
    with pytest.raises(ValueError, match="no variant"):
        vary(SAMPLE, "upside-down")


def task(tmp_path, variants):
    body = SMALL.format(access="open", test=6).replace("offer: [indication]", f"variants: [{variants}]\noffer: []")
    body = body.replace("slices: [abnormal, seen-in-train, duplicate]", "slices: [variant]").replace("n: 6", "n: null")
    (tmp_path / "small.yaml").write_text(body.replace("evidence: verified", "evidence: unverified"))
    return tmp_path / "small.yaml"


def test_a_run_answers_every_variant_and_tabulates_them(cli, tmp_path):
    file = task(tmp_path, "original, jpeg-30, crop-90")
    code, out, err = cli("run", "--model", "nearest-image", "--task", file, "--replicates", 0, "--out", "run")
    assert code == 0, err
    assert "scored 18 of 18" in out
    slices = json.loads((tmp_path / "run/summary.json").read_text())["slices"]["variant"]
    assert {group: entry["n"] for group, entry in slices.items()} == {"original": 6, "jpeg-30": 6, "crop-90": 6}
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["clusters"] < 18


@pytest.mark.parametrize("variants", ["jpeg-30", "original, original", "original, blur"])
def test_a_task_that_varies_badly_is_refused(cli, tmp_path, variants):
    code, _, err = cli("run", "--model", "always-normal", "--task", task(tmp_path, variants))
    assert code == 2
    assert "small.yaml" in err
