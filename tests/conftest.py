"""Fixtures every test may use. `real_data` is the folder with openly licensed data that never enters the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
