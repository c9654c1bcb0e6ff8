"""Fixtures every test may use. `real_data` is the folder with openly licensed data that never enters the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("cxrbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cxrbench")  # at import: what a module says in settings(...) of its own starts from here


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The data folder of CXRBENCH_TEST_DATA, or `../shared/data` beside the checkout; skips where there is none."""
    named = os.environ.get("CXRBENCH_TEST_DATA")
    folder = (Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(
            f"no real data in {folder}: set CXRBENCH_TEST_DATA to the folder that holds iu_xray/ (docs/data-iu-xray.md)"
        )
    return folder


def _point_into(patch: pytest.MonkeyPatch, place: Path) -> None:
    patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Iterator[int]]]:
    """Neither the developer's settings nor caches, in fixtures of whole modules and in processes they start, too."""
    place = tmp_path_factory.mktemp("xdg")
    with pytest.MonkeyPatch.context() as patch:
        _point_into(patch, place / "session")
        yield place, count()


@pytest.fixture(scope="session", autouse=True)
def _one_stripped_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """METEOR's table is unpacked once, not for every test that scores with it: it is the same whoever asks."""
    place = tmp_path_factory.mktemp("stripped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cxrbench.metrics.meteor_stripped.cache_dir", lambda: place)
        yield


@pytest.fixture(autouse=True)
def _own_settings(_nobodys_settings: tuple[Path, Iterator[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and caches of each test's own; the folders are made when something is written into them."""
    place, number = _nobodys_settings
    _point_into(monkeypatch, place / str(next(number)))
