"""The packages that the clinical metrics are compared with, in another interpreter, and weights for both sides.

The packages need transformers below 5, so they run in an environment of their own: that of `tox -e parity`. WEIGHTS is
what tools/oracle_weights.py wrote, full-size random weights in the published layouts.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cxrbench.config import AssetPlaces, Config

KIND = "radgraph-xl"
CASES = ("iu_template_382", "iu_qwen_beam3_382", "iu_logp_select_382", "iu_sentence_fusion_382")
PUBLISHED = "iu_cvt2distilgpt2_r2gen_test_590"
BESIDE = Path(os.environ.get("CXRBENCH_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


class Answer(NamedTuple):
    """Seconds, and what was found."""

    seconds: float
    found: Any


class Packages:
    """The packages in their interpreter, one request at a time."""

    def __init__(self, process: subprocess.Popen[str], settings: dict[str, Any]) -> None:
        self._process, self._settings = process, settings

    def ask(self, what: str, **given: Any) -> Answer:
        """Have them do something; see _reference_worker.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **self._settings, **given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the reference packages stopped; their error stands above")
        return Answer(**json.loads(line))


@contextmanager
def packages(python: str, weights: Path, encoder: Path, layer: int) -> Iterator[Packages]:
    """Start the interpreter with the packages; they find the weights in a cache folder made for this run."""
    with tempfile.TemporaryDirectory() as cache:
        (Path(cache) / "chexbert").mkdir()
        (Path(cache) / "chexbert" / "chexbert.pth").symlink_to((weights / "chexbert.pth").resolve())
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "XDG_CACHE_HOME": cache}
        worker = Path(__file__).resolve().parent / "_reference_worker.py"
        process = subprocess.Popen(
            [str(Path(python).absolute()), str(worker), str(weights.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        folder = str((weights / "cache").resolve())
        try:
            yield Packages(
                process, {"radgraph": folder, "kind": KIND, "encoder": str(encoder.resolve()), "layer": layer}
            )
        finally:
            process.terminate()
            process.wait()


def config(weights: Path, encoder: Path, work: Path) -> Config:
    """Settings in which the weights stand for the published ones."""
    bert = weights / "bert-base-uncased"
    paths = {
        "chexbert": weights,
        "bert-base-uncased": bert,
        "radgraph": weights / "cache" / KIND,
        "pubmedbert": bert,
        "distilroberta-base": encoder,
    }
    return Config(file=work / "cxrbench.toml", assets=AssetPlaces(paths={k: v.resolve() for k, v in paths.items()}))


def case(name: str, data: Path = BESIDE, kind: str = "") -> tuple[list[str], list[str]]:
    """Predictions and references of a system."""
    body = json.loads((data / "metric_cases" / f"{name}.json").read_text(encoding="utf-8"))
    keys = list(body[f"references{kind}"])
    return [body[f"hypotheses{kind}"][key] for key in keys], [body[f"references{kind}"][key] for key in keys]


def reports(data: Path, count: int) -> list[str]:
    """Distinct real reports."""
    splits = json.loads((data / "iu_xray" / "mrg_rl" / "annotation.json").read_text(encoding="utf-8"))
    texts = list(dict.fromkeys(study["report"] for split in splits.values() for study in split))
    step = max(len(texts) // count, 1)
    return texts[::step][:count]


def missing(python: str, weights: Path, data: Path) -> str | None:
    """Why the comparison cannot run here, or None."""
    if not (data / "metric_cases").is_dir():
        return f"no openly licensed data in {data}"
    if not (weights / "chexbert.pth").is_file():
        return f"no weights in {weights} (tools/oracle_weights.py writes them)"
    check = subprocess.run([python, "-c", "import radgraph, f1chexbert, bert_score"], capture_output=True)
    return None if check.returncode == 0 else f"{python} has not the packages radgraph, f1chexbert and bert-score"


def words(texts: Sequence[str]) -> float:
    """Mean number of words."""
    return sum(len(text.split()) for text in texts) / len(texts)
