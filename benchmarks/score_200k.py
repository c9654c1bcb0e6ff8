"""`cxrbench score` over 200,000 pairs in one file: time, peak memory, and whether it says what it is doing.

    python -m benchmarks.score_200k [--pairs 200000] [--patients 65000] [--replicates N]

Writes a JSONL file of invented reports (prediction, reference, patient_id; about 50 words, nearly all distinct), starts
the command as a user would, with standard error in a pipe, and reads what the kernel says of the finished process.
MIMIC-CXR has 227,835 studies of 65,379 patients; `--patients 0` leaves the patients out, so every pair is a cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METRICS = "bleu:raw,rouge-l:raw,cider:raw,length,distinct"
LIMIT_BYTES = 4e9

PLACES = (
    "left lower lobe", "right lower lobe", "lingula", "right middle lobe", "left apex", "right apex", "left base",
    "right base", "both lung bases", "left hilum", "right hilum", "retrocardiac region", "left costophrenic angle",
    "right costophrenic angle", "mid lung zones", "upper lobes", "left perihilar region", "right paratracheal stripe",
)  # fmt: skip
SIGNS = (
    "opacity", "consolidation", "atelectasis", "pleural effusion", "pneumothorax", "nodule", "scarring", "edema",
    "granuloma", "interstitial markings", "pleural thickening", "bronchial wall thickening", "vascular congestion",
    "linear density", "cavitary lesion", "calcification", "airspace disease", "reticulation",
)  # fmt: skip
GRADES = ("no", "minimal", "mild", "moderate", "large", "small", "subtle", "extensive", "patchy", "streaky", "stable")
CHANGES = (
    "unchanged since the prior examination", "new since yesterday", "slightly increased", "nearly resolved",
    "which may represent infection in the right setting", "better seen on the lateral view", "as before",
    "likely chronic", "of uncertain significance", "decreased compared with the earlier film",
)  # fmt: skip
DEVICES = ("endotracheal tube", "nasogastric tube", "right picc line", "left chest tube", "pacemaker lead", "port")
HEARTS = ("normal in size", "mildly enlarged", "top normal", "markedly enlarged", "borderline in size")


def report(rng: random.Random) -> str:
    """One invented report of three to seven sentences."""
    made = [f"the heart is {rng.choice(HEARTS)} ."] if rng.random() < 0.8 else []
    for _ in range(rng.randint(2, 5)):
        place, sign, grade = rng.choice(PLACES), rng.choice(SIGNS), rng.choice(GRADES)
        size = f" measuring {rng.randint(3, 49)} mm" if rng.random() < 0.2 else ""
        change = f" , {rng.choice(CHANGES)}" if rng.random() < 0.5 else ""
        made.append(rng.choice((
            f"there is {grade} {sign} in the {place}{size}{change} .",
            f"{grade} {sign} at the {place}{size} is seen{change} .",
            f"the {place} shows {grade} {sign}{size}{change} .",
        )))  # fmt: skip
    if rng.random() < 0.4:
        made.append(f"the {rng.choice(DEVICES)} ends {rng.randint(1, 90)} mm above the {rng.choice(PLACES)} .")
    rng.shuffle(made)
    return " ".join(made)


def write_pairs(file: Path, pairs: int, patients: int) -> tuple[float, float]:
    """Write the file; returns words per text and the share of distinct texts."""
    rng = random.Random(0)
    words, texts = 0, set()
    with file.open("w", encoding="utf-8") as out:
        for number in range(pairs):
            row = {"sample_id": f"s{number:07d}", "prediction": report(rng), "reference": report(rng)}
            if patients:
                row["patient_id"] = f"p{rng.randrange(patients):06d}"
            out.write(json.dumps(row) + "\n")
            words += len(row["prediction"].split()) + len(row["reference"].split())
            texts |= {hash(row["prediction"]), hash(row["reference"])}
    return words / (2 * pairs), len(texts) / (2 * pairs)


def run(command: list[str], folder: Path) -> tuple[int, float, float, str, str]:
    """Exit code, seconds, peak bytes, standard output and standard error with the second each line came."""
    started = time.monotonic()
    with (folder / "out").open("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = "".join(f"  {time.monotonic() - started:6.1f} s  {line}" for line in child.stderr)
        # wait4 gives this child's own peak; RUSAGE_CHILDREN would be the largest of all.
        _, status, usage = os.wait4(child.pid, 0)
        child.stderr.close()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return child.returncode, time.monotonic() - started, usage.ru_maxrss * 1024, out.read(), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--patients", type=int, default=65_000)
    parser.add_argument("--replicates", type=int, default=None, help="default: what the command takes by itself")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "pairs.jsonl"
        words, distinct = write_pairs(file, given.pairs, given.patients)
        print(
            f"{given.pairs} pairs, {words:.0f} words a text, {distinct:.1%} of texts distinct, "
            f"{file.stat().st_size / 1e6:.0f} MB"
        )
        command = [sys.executable, "-m", "cxrbench", "score", str(file), "--metrics", METRICS, "--access", "open"]
        if given.replicates is not None:
            command += ["--replicates", str(given.replicates)]
        code, seconds, peak, out, said = run(command, Path(place))
    print("$ " + " ".join(["cxrbench", *command[3:]]).replace(place, "."))
    print(said, end="")
    print(out, end="")
    print(f"\nexit {code}, {seconds:.1f} s, peak {peak / 1e9:.2f} GB (limit {LIMIT_BYTES / 1e9:.0f} GB)")
    if code or peak > LIMIT_BYTES or not said:
        raise SystemExit("missed: exit code, memory or progress")


if __name__ == "__main__":
    main()
