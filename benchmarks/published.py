"""The published CvT2DistilGPT2 table on IU X-Ray, from its raw predictions, with one `cxrbench score` command.

    python -m benchmarks.published CASE.json

CASE.json holds the 590 raw predictions and references, the words of the training split that occur three times or more,
and the table as published (its place in the test data: metric_cases/iu_cvt2distilgpt2_r2gen_test_590.json). BLEU and
METEOR are published in single precision, hence their wider limits. METEOR needs Java and pycocoevalcap.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

METRICS = "bleu:r2gen,rouge-l:r2gen,cider:r2gen,meteor:r2gen"
ROWS = (
    ("Bleu_1", "bleu:r2gen", "bleu_1", 1e-7),
    ("Bleu_2", "bleu:r2gen", "bleu_2", 1e-7),
    ("Bleu_3", "bleu:r2gen", "bleu_3", 1e-7),
    ("Bleu_4", "bleu:r2gen", "bleu_4", 1e-7),
    ("ROUGE_L", "rouge-l:r2gen", "rouge_l", 1e-12),
    ("CIDEr", "cider:r2gen", "cider", 1e-12),
    ("METEOR", "meteor:r2gen", "meteor", 1e-8),
)
"""Name in the table, metric, value, and the difference that is allowed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    case = json.loads(parser.parse_args().case.read_text(encoding="utf-8"))
    published = case["expected"]["corpus"]
    with tempfile.TemporaryDirectory() as place:
        predictions, words = Path(place) / "predictions.jsonl", Path(place) / "vocabulary.json"
        rows = [
            {"sample_id": key, "prediction": case["hypotheses_raw"][key], "reference": reference}
            for key, reference in case["references_raw"].items()
        ]
        predictions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        words.write_text(json.dumps(case["train_vocabulary_min_count_3"]), encoding="utf-8")
        command = ["score", str(predictions), "--metrics", METRICS, "--vocabulary", str(words)]
        command += ["--access", "open", "--replicates", "0", "--json"]
        done = subprocess.run([sys.executable, "-m", "cxrbench", *command], stdout=subprocess.PIPE, text=True)
    print("$ cxrbench " + " ".join(command).replace(f"{place}/", ""))
    if not done.stdout:
        raise SystemExit(f"the command exits {done.returncode}")
    summary = json.loads(done.stdout)
    print(f"scored {summary['n']} of {summary['n_expected']} samples\n")
    print(f"{'':8} {'published':>20} {'cxrbench':>20} {'difference':>11} {'limit':>6}")
    missed = [
        show(name, published[name], summary["metrics"].get(key, {}).get(value), limit)
        for name, key, value, limit in ROWS
    ]
    for key, why in summary["not_scored"].items():
        print(f"not scored: {key}: {why['reason']}")
    if any(missed):
        raise SystemExit("missed: a number is not the published one")


def show(name: str, published: float, found: dict[str, float] | None, limit: float) -> bool:
    """Print one row; whether a number is there and differs by more than its limit."""
    if found is None:
        print(f"{name:8} {published:20.16f} {'-':>20}")
        return False
    difference = abs(found["value"] - published)
    print(f"{name:8} {published:20.16f} {found['value']:20.16f} {difference:11.1e} {limit:6.0e}")
    return difference > limit


if __name__ == "__main__":
    main()
