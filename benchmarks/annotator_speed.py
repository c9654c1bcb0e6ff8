"""CheXbert and RadGraph beside f1chexbert 0.0.2 and radgraph 0.1.18: full-size encoders, real reports, a cold store.

    python -m benchmarks.annotator_speed --python .tox/parity/bin/python --weights WEIGHTS [--texts 200] [--rounds 3]

WEIGHTS is what `tools/oracle_weights.py` wrote. Both sides have their models loaded; they take turns, block by block,
on the same distinct reports, and every block of ours begins with an empty feature store and ends with a full one.
Then the predictions and references of a published system, where texts repeat, and the same again with the store full.
Ends with an error where a label, an entity or a relation differs, or a ratio falls short of LEAST.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._reference import BESIDE, PUBLISHED, Answer, Packages, case, config, missing, packages, reports, words
from cxrbench.config import Config
from cxrbench.features.base import Pairs, Resources, TextFeature
from cxrbench.features.chexbert import CheXbertLabels
from cxrbench.features.radgraph import RadGraphAnnotations
from cxrbench.features.store import Store
from cxrbench.features.weights import choose

LEAST = {"radgraph": 1.6, "chexbert": 1.25}
"""How many times faster than the package on distinct texts."""

CACHED = 100.0
"""How many times faster than annotating, once the store has the texts."""

FEATURES: dict[str, type[TextFeature]] = {"chexbert": CheXbertLabels, "radgraph": RadGraphAnnotations}


def ours(name: str, texts: list[str], settings: Config, folder: Path) -> Answer:
    """Annotate with ours and keep it in the store of the folder."""
    weights = choose(name, None, settings)
    pairs = Pairs([str(i) for i in range(len(texts))], texts, [])
    asked = {"weights": weights.name, "hash": weights.hash, "of": "predictions"}
    start = time.perf_counter()
    found = FEATURES[name]().extract(pairs, asked, Resources(Store(folder), settings))
    return Answer(time.perf_counter() - start, found.predictions)


def differences(name: str, theirs: list[Any], mine: list[Any]) -> int:
    """Reports in which a label, an entity or a relation differs."""
    if name == "radgraph":
        return sum(a != b["entities"] for a, b in zip(theirs, mine, strict=True))
    # The package's mode "rrg" gives 1 where a condition is positive or uncertain.
    ours_rrg = [[int(c in (1, 3)) for c in each.classes.tolist()] for each in mine]
    return sum(a != b for a, b in zip(theirs, ours_rrg, strict=True))


def race(name: str, texts: list[str], rounds: int, both: Packages, settings: Config, work: Path) -> tuple[float, int]:
    """Ratio of the medians, and differing reports, over blocks that take turns."""
    theirs, mine, apart = [], [], 0
    for turn in range(rounds):
        their = both.ask(name, texts=texts)
        our = ours(name, texts, settings, work / f"{name}-{len(texts)}-{turn}")
        theirs.append(their.seconds)
        mine.append(our.seconds)
        apart = max(apart, differences(name, their.found, our.found))
    their_time, our_time = (1000 * statistics.median(each) / len(texts) for each in (theirs, mine))
    turns = " ".join(f"{a / b:.2f}" for a, b in zip(theirs, mine, strict=True))
    print(
        f"  {len(texts):5} texts, {len(set(texts)):5} distinct, {words(texts):3.0f} words:"
        f" package {their_time:6.1f} ms, ours {our_time:6.1f} ms, {their_time / our_time:5.2f} times ({turns});"
        f" reports that differ: {apart}",
        flush=True,
    )
    return their_time / our_time, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=".tox/parity/bin/python", help="an interpreter that has the packages")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--data", type=Path, default=BESIDE)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(FEATURES))
    asked = parser.parse_args()
    reason = missing(asked.python, asked.weights, asked.data)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    import torch

    print(f"{os.cpu_count()} cores, torch on {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    texts = reports(asked.data, asked.texts)
    predictions, references = case(PUBLISHED, asked.data, "_raw")
    failed = []
    with (
        tempfile.TemporaryDirectory() as folder,
        packages(asked.python, asked.weights, asked.weights / "bert-base-uncased", 6) as both,
    ):
        work = Path(folder)
        settings = config(asked.weights, asked.weights / "bert-base-uncased", work)
        for name in [asked.only] if asked.only else FEATURES:
            print(name)
            both.ask(name, texts=texts[:8])
            ours(name, texts[:8], settings, work / f"{name}-warm")
            ratio, apart = race(name, texts, asked.rounds, both, settings, work)
            more, apart_more = race(name, predictions + references, 1, both, settings, work)
            cold = ours(name, texts, settings, work / f"{name}-again").seconds
            cached = min(ours(name, texts, settings, work / f"{name}-again").seconds for _ in range(3))
            print(f"  the same {len(texts)} texts from the store: {cold / cached:.0f} times faster than annotating")
            failed += [f"{name}: {ratio:.2f} times, not {LEAST[name]}"] if ratio < LEAST[name] else []
            failed += [f"{name}: repeated texts gain nothing ({more:.2f})"] if more < ratio else []
            failed += [f"{name}: cached {cold / cached:.0f} times"] if cold / cached < CACHED else []
            failed += [f"{name}: {apart + apart_more} reports differ"] if apart or apart_more else []
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
