"""BERTScore against bert-score 0.3.13: WordPiece and byte-level BPE, with and without idf, raw and rescaled."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cxrbench.features.bertscore import prepare
from tools.parity import texts
from tools.parity.record import BASELINE

pytestmark = [pytest.mark.parity, pytest.mark.real_data]


@pytest.mark.parametrize("number", range(6))
def test_precision_recall_and_f(work, real_data, number, tell):
    from cxrbench.features.bertscore_net import frequencies, load

    told = json.loads((work / "bertscore.json").read_text())["cases"]
    assert len(told) == 6
    case = told[number]
    pairs = [(prepare(said), prepare(true)) for said, true in texts.scored(real_data)]
    encoder = load(work / "weights" / case["encoder"], case["layer"])
    idf = frequencies(encoder.pieces, [true for _, true in pairs]).weights(encoder.size) if case["idf"] else None
    found = encoder.compare(pairs, idf)
    if case["rescaled"]:
        found = (found - np.array(BASELINE)) / (1 - np.array(BASELINE))
    apart = float(np.abs(found - np.array(case["scores"])).max())
    settings = {key: case[key] for key in ("encoder", "layer", "idf", "rescaled")}
    tell(**settings, pairs=len(pairs), largest_difference=apart)
    assert apart < 1e-5
    assert float(np.std(case["scores"])) > 1e-3, "pairs that all score alike prove nothing"
