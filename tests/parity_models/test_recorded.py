"""The goldens come out the same again: in tox's `parity-models` the originals are run anew and compared."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("llava") is None or find_spec("taming") is None:
    pytest.skip("the authors' packages live in `tox -e parity-models`", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.parity_models.restated import sincos_table  # noqa: E402
from tools.originals.layout import loader  # noqa: E402
from tools.record_originals import GOLDENS, RECORDERS, recorder  # noqa: E402

pytestmark = pytest.mark.parity
TOLERANCE = 1e-6


def differences(here: object, there: object, path: str = "") -> list[str]:
    """Every place where two documents differ; numbers by more than `TOLERANCE`, in parts of the larger from 1 on."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = here.keys() | there.keys()
        return [line for key in sorted(keys) for line in differences(here.get(key), there.get(key), f"{path}/{key}")]
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        pairs = enumerate(zip(here, there, strict=True))
        return [line for at, pair in pairs for line in differences(*pair, f"{path}[{at}]")]
    if isinstance(here, float) and isinstance(there, float):
        return [] if abs(here - there) <= TOLERANCE * max(1.0, abs(there)) else [f"{path}: {here} is not {there}"]
    return [] if here == there else [f"{path}: {here!r} is not {there!r}"]


def test_differences_are_found():
    kept = {"a": [1.0, 2.0], "b": "x"}
    assert differences(kept, {"a": [1.0, 2.0 + 1e-7], "b": "x"}) == []
    assert differences(kept, {"a": [1.0, 2.1], "b": "y", "c": 1}) == [
        "/a[1]: 2.0 is not 2.1",
        "/b: 'x' is not 'y'",
        "/c: None is not 1",
    ]


@pytest.mark.parametrize("name", RECORDERS)
def test_the_original_answers_as_recorded(name):
    kept = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(recorder(name)()))
    kept.pop("recorded_with"), found.pop("recorded_with")
    assert differences(found, kept)[:20] == []


def test_every_file_has_its_recorder():
    assert {path.stem for path in GOLDENS.glob("*.json")} == set(RECORDERS)


def test_the_position_table_of_the_checkpoint_is_the_restated_one():
    written = loader().tensor("any", (64, 32), ["sincos"])
    np.testing.assert_allclose(written, sincos_table(32, 8).numpy(), atol=1e-6)
