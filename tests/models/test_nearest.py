"""Retrieval by thumbnail on real PNG files, against a search written out in Python."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions, Watched
from cxrbench.models.nearest import SIDE, Gallery, NearestImage, Query, shrink, spread
from cxrbench.types import Generation, Image, Sample


def draw(path, seed: int, low=0, high=255, size=(90, 70)):
    coarse = np.random.default_rng(seed).integers(low, high + 1, (9, 7)).astype(np.uint8)
    PIL.Image.fromarray(coarse).resize(size[::-1], PIL.Image.Resampling.BICUBIC).save(path)
    return str(path)


def sample(tmp_path, name, seed=0, *, patient=None, target=None, images=1, key=None, **how) -> Sample:
    pictures = tuple(
        Image(f"{name}-{i}", draw(tmp_path / f"{name}-{i}.png", seed + 100 * i, **how), "PA" if i == 0 else "LATERAL")
        for i in range(images)
    )
    return Sample(name, name, patient, target or f"report of {name}", pictures, key)


def fitted(pool, workers=2) -> NearestImage:
    model = NearestImage(ModelOptions(workers=workers))
    model.fit(lambda: pool)
    return model


def ask(model, *samples):
    return [model.prepare(model.request(s, "generate", Generation(), 0)) for s in samples]


def texts(model, *samples):
    return [p.text for p in model.generate(0, ask(model, *samples)).predictions]


def test_the_same_picture_is_found_whatever_its_size_and_exposure(tmp_path):
    model = fitted([sample(tmp_path, f"t{i}", i) for i in range(6)])
    bigger = sample(tmp_path, "q", 3, size=(300, 260))
    darker = sample(tmp_path, "r", 4)
    grey = np.asarray(PIL.Image.open(darker.images[0].path))
    PIL.Image.fromarray((grey // 3 + 20).astype(np.uint8)).save(darker.images[0].path)
    assert texts(model, bigger, darker) == ["report of t3", "report of t4"]


def test_reading_the_train_images_can_be_watched(tmp_path):
    model = fitted([sample(tmp_path, f"t{i}", i) for i in range(5)])
    assert isinstance(model, Watched)
    seen = []
    model.watch(lambda *step: seen.append(step))
    assert not seen
    model.circumstances()
    assert seen == [("reading train images", done, 5) for done in range(6)]
    model.circumstances()
    assert len(seen) == 6, "the images are read once"


def test_ties_go_to_the_smallest_study_id_in_any_order_of_the_pool(tmp_path):
    pool = [sample(tmp_path, name, 1) for name in ("t9", "t2", "t5")]
    for order in (pool, pool[::-1]):
        assert texts(fitted(order), sample(tmp_path, "q", 1)) == ["report of t2"]


def test_the_same_patient_and_study_are_never_retrieved(tmp_path):
    pool = [
        sample(tmp_path, "t1", 1, patient="p1"),
        sample(tmp_path, "t2", 2, patient="p2"),
        sample(tmp_path, "t3", 1, patient=None),
    ]
    assert texts(fitted(pool[:2]), sample(tmp_path, "q", 1, patient="p1")) == ["report of t2"]
    assert texts(fitted(pool[:2]), sample(tmp_path, "q", 1, patient=None)) == ["report of t1"]
    assert texts(fitted(pool[1:]), sample(tmp_path, "t3", 1)) == ["report of t2"]
    alone = fitted(pool[:1])
    failed = alone.generate(0, ask(alone, sample(tmp_path, "q", 1, patient="p1"))).predictions[0]
    assert (failed.outcome, failed.text, failed.finish_reason) == ("no_input", None, "error")


def test_the_key_image_is_used_and_named(tmp_path):
    model = fitted([sample(tmp_path, "t1", 1), sample(tmp_path, "t2", 101)])
    two = sample(tmp_path, "q", 1, images=2, key="q-1")  # its second image is drawn from seed 101
    request = model.request(two, "generate", Generation(), 0)
    assert request.inputs == ("image:LATERAL",)
    assert texts(model, two) == ["report of t2"]
    assert texts(model, sample(tmp_path, "r", 1, images=2)) == ["report of t1"]
    bare = Sample("n", "n", None, "x", (Image("i", two.images[0].path),))
    assert model.request(bare, "generate", Generation(), 0).inputs == ("image:unknown",)


def test_what_gives_no_thumbnail_is_a_named_outcome(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    flat = tmp_path / "flat.png"
    PIL.Image.new("L", (50, 50), 90).save(flat)
    bad = {
        "missing_image": (Image("i", str(tmp_path / "none.png")),),
        "broken_image": (Image("i", str(broken)),),
        "no_input": (),
        "blank": (Image("i", str(flat)),),
    }
    odd = [Sample(f"s-{name}", f"s-{name}", None, "x", images) for name, images in bad.items()]
    lost = Sample("s-key", "s-key", None, "x", (Image("i", str(flat)),), key_image="gone")
    model = fitted([sample(tmp_path, "t1", 1), *odd])
    outcomes = [prepared.failure[0] for prepared in ask(model, *odd, lost)]
    assert outcomes == ["missing_image", "broken_image", "no_input", "no_input", "no_input"]
    found = model.circumstances()
    assert found["gallery"] == 1
    assert found["gallery_left_out"] == {"blank": 1, "broken_image": 1, "missing_image": 1, "no_input": 1}


def test_a_gallery_without_images_is_refused(tmp_path):
    with pytest.raises(CxrbenchError, match="the train split is empty"):
        fitted([]).circumstances()
    none = [Sample(f"t{i}", f"t{i}", None, "x", (Image("i", str(tmp_path / "none.png")),)) for i in range(3)]
    with pytest.raises(CxrbenchError, match="no train image can be used") as caught:
        fitted(none).circumstances()
    assert "3 missing_image" in caught.value.where


def test_planning_reads_no_train_image(tmp_path):
    model = fitted([Sample("t", "t", None, "x", (Image("i", str(tmp_path / "none.png")),))])
    model.request(sample(tmp_path, "q"), "generate", Generation(), 0)
    assert model.identity() == NearestImage(ModelOptions()).identity()


def test_times_are_measured(tmp_path):
    model = fitted([sample(tmp_path, "t1", 1)])
    prepared = ask(model, sample(tmp_path, "q", 1))
    result = model.generate(4, prepared)
    times = {**prepared[0].times, **result.predictions[0].times}
    assert set(times) == {"image_read", "preprocess", "latency"}
    assert times["latency"] >= times["image_read"] + times["preprocess"] > 0
    assert (result.timing.batch, result.timing.size, result.predictions[0].batch) == (4, 1, 4)
    assert result.timing.wall > 0


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_keep_the_order_of_the_pool(tmp_path, workers):
    model = fitted([sample(tmp_path, f"t{i:03}", i) for i in range(200)], workers)
    assert texts(model, *(sample(tmp_path, f"q{i}", i) for i in (0, 77, 199))) == [
        f"report of t{i:03}" for i in (0, 77, 199)
    ]


def gallery_of(pixels) -> Gallery:
    n = len(pixels)
    names = np.array([f"{i:04}" for i in range(n)], object)
    nobody = np.array([None] * n, object)
    return Gallery(tuple(names), names, nobody, pixels, np.sqrt(spread(pixels).astype(float)), {}, 0.0)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([2, 12, 255]))
def test_search_equals_the_definition_and_ignores_the_batch(seed, n, contrast):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, contrast, (n + 5, SIDE * SIDE)).astype(np.uint8)
    pixels[:, 0], pixels[:, 1] = 0, contrast  # none is blank
    gallery = gallery_of(pixels[:n])
    queries = [Query(row, "q", None, 0.0) for row in pixels[n:]]
    batch = gallery.nearest(queries)
    assert batch == [gallery.nearest([query])[0] for query in queries]
    for query, best in zip(queries, batch, strict=True):
        scores = [float(np.corrcoef(query.thumbnail, row)[0, 1]) for row in pixels[:n]]
        assert scores[best] == pytest.approx(max(scores), abs=1e-12)


def test_a_gallery_larger_than_one_block_is_searched_whole():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (9000, SIDE * SIDE)).astype(np.uint8)
    queries = [Query(pixels[i], "q", None, 0.0) for i in (0, 4095, 4096, 8999)]
    assert gallery_of(pixels).nearest(queries) == [0, 4095, 4096, 8999]


def test_thumbnails_average_areas():
    grey = np.zeros((64, 128), np.uint8)
    grey[:2, :4] = 200
    grey[2:4, 0] = 100
    assert shrink(grey).reshape(SIDE, SIDE)[:3, 0].tolist() == [200, 25, 0]
    assert shrink(grey).dtype == np.uint8


@pytest.mark.real_data
def test_real_radiographs_find_their_own_small_copy(real_data, tmp_path):
    folder = real_data / "iu_xray" / "images" / "kaggle_full"
    files = sorted(folder.glob("*.png"))
    assert len(files) == 4
    pool = []
    for number, file in enumerate(files):
        with PIL.Image.open(file) as picture:
            small = picture.convert("L").resize((256, 256), PIL.Image.Resampling.LANCZOS)
        small.save(tmp_path / f"{number}.png")
        pool.append(
            Sample(f"t{number}", f"t{number}", None, f"r{number}", (Image("i", str(tmp_path / f"{number}.png")),))
        )
    asked = [Sample(f"q{n}", f"q{n}", None, "x", (Image("i", str(file)),)) for n, file in enumerate(files)]
    assert texts(fitted(pool), *asked) == ["r0", "r1", "r2", "r3"]
