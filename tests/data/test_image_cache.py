"""The image cache never serves other pixels than a run without it, and never a stale one."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from PIL import Image

from cxrbench.data.image_cache import Built, CachedReader, build, reduced
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.errors import CxrbenchError, Exit


def noise(seed, height=60, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    paths = []
    for number in range(5):
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(noise(number)).save(paths[-1])
    return paths


def quiet(done, total):
    pass


def test_full_cache_is_pixel_exact_and_says_nothing_in_the_identity(tmp_path, sources):
    seen = []
    done = build([*sources, sources[0]], tmp_path / "cache", None, 2, lambda *now: seen.append(now), total=5)
    assert done == Built(written=5, kept=0, size=5 * 60 * 40, failed={})
    assert seen[-1] == (5, 5)
    reader = CachedReader(tmp_path / "cache")
    for path in sources:
        np.testing.assert_array_equal(reader(path), read_grey(path))
    assert (reader.hits, reader.misses) == (5, 0)
    assert reader.identity == {}


def test_a_short_side_is_named_and_misses_are_reduced_alike(tmp_path, sources):
    build(sources[:3], tmp_path / "cache", 20, 1, quiet)
    reader = CachedReader(tmp_path / "cache")
    for path in sources:
        assert reader(path).shape == (30, 20)
        np.testing.assert_array_equal(reader(path), reduced(read_grey(path), 20))
    assert (reader.hits, reader.misses) == (6, 4)
    assert reader.identity == {"images_reduced": {"short_side": 20, "filter": "pillow-bicubic"}}
    assert reduced(noise(0, 15, 90), 20).shape == (15, 90)


def test_a_changed_source_is_noticed(tmp_path, sources):
    build(sources, tmp_path / "cache", None, 1, quiet)
    reader = CachedReader(tmp_path / "cache")
    before = os.stat(sources[0])
    Image.fromarray(noise(99)).save(sources[0])
    os.utime(sources[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    np.testing.assert_array_equal(reader(sources[0]), noise(99))
    assert reader.misses == 1
    assert build(sources, tmp_path / "cache", None, 1, quiet) == Built(1, 4, 2400, {})
    os.remove(sources[1])
    with pytest.raises(ImageFailure, match="missing_image"):
        reader(sources[1])


def test_broken_files_are_counted_by_outcome(tmp_path, sources):
    (tmp_path / "empty.png").touch()
    paths = [*sources, str(tmp_path / "empty.png"), str(tmp_path / "gone.png")]
    done = build(paths, tmp_path / "cache", None, 2, quiet)
    assert done == Built(5, 0, 12000, {"broken_image": 1, "missing_image": 1})
    with pytest.raises(ImageFailure, match="broken_image"):
        CachedReader(tmp_path / "cache")(paths[5])


def test_an_interrupted_build_goes_on_and_damage_on_disk_is_a_miss(tmp_path, sources):
    cache = tmp_path / "cache"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(sources[:2], cache, None, 1, stop)
    assert build(sources, cache, None, 1, quiet) == Built(3, 2, 7200, {})
    stored = sorted(cache.glob("??/*.npy"))
    for number, damaged in enumerate(stored):
        damaged.write_bytes(damaged.read_bytes()[: number * 40])
    reader = CachedReader(cache)
    for path in sources:
        np.testing.assert_array_equal(reader(path), read_grey(path))
    assert reader.misses == 5


def test_leftovers_of_killed_builds_are_swept_but_not_those_of_running_ones(tmp_path, sources):
    cache = tmp_path / "cache"
    build(sources[:1], cache, None, 1, quiet)
    shelf = next(cache.glob("??"))
    (shelf / "old.1.tmp").touch()
    (shelf / "new.2.tmp").touch()
    os.utime(shelf / "old.1.tmp", (0, 0))
    build(sources, cache, None, 1, quiet)
    assert sorted(path.name for path in cache.glob("??/*.tmp")) == ["new.2.tmp"]


def test_only_the_owner_may_look(tmp_path, sources):
    (tmp_path / "cache").mkdir(mode=0o755)
    build(sources, tmp_path / "cache", None, 1, quiet)
    for path in (tmp_path / "cache", *(tmp_path / "cache").glob("??")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (tmp_path / "cache").glob("??/*.npy"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_kind_of_cache_is_refused(tmp_path, sources):
    build(sources, tmp_path / "cache", 20, 1, quiet)
    with pytest.raises(CxrbenchError, match="keeps a short side of 20 pixels, not every pixel") as caught:
        build(sources, tmp_path / "cache", None, 1, quiet)
    assert caught.value.fix


def test_a_folder_with_other_files_is_left_alone(tmp_path, sources):
    folder = tmp_path / "images"
    folder.chmod(0o755)
    with pytest.raises(CxrbenchError, match="holds other files"):
        build(sources, folder, None, 1, quiet)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert len(os.listdir(folder)) == len(sources)


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"format": 2, "short_side": null}', '{"format": 1, "short_side": "x"}']
)
def test_a_folder_that_is_no_cache(tmp_path, content):
    if content is not None:
        (tmp_path / "image-cache.json").write_text(content)
    with pytest.raises(CxrbenchError, match="not an image cache"):
        CachedReader(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path, sources):
    (tmp_path / "file").touch()
    with pytest.raises(CxrbenchError, match="cannot be written") as caught:
        build(sources, tmp_path / "file" / "cache", None, 1, quiet)
    assert caught.value.code == Exit.INFRASTRUCTURE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full to be full")
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, sources, monkeypatch):
    from cxrbench.data import image_cache

    monkeypatch.setattr(image_cache, "private_file", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(CxrbenchError, match="full"):
        build(sources, tmp_path / "cache", None, 1, quiet)
    assert not list((tmp_path / "cache").glob("??/*"))


def test_phantoms_are_drawn_not_cached(tmp_path):
    assert build(["phantom:anything"], tmp_path / "cache", None, 1, quiet) == Built(0, 0, 0, {})
