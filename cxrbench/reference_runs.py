"""The packages that metrics are compared with, one table, and how one is run in an environment of the user's.

A package runs in a process of its own (reference_worker.py), without a shell, offline, with telemetry off, on the CPU.
Texts go to it and come back through files in a folder of the owner alone, which is deleted, by the next call where this
one is killed; never through arguments, and what the package prints is not kept. Touches config, privacy, metrics,
features (where weights lie) and the standard library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.atomic import disk_error
from cxrbench.config import cache_dir
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import Pairs
from cxrbench.features.weights import Weights, folders
from cxrbench.metrics import bertscore, radgraph_f1, ratescore
from cxrbench.metrics.base import Context
from cxrbench.privacy import hold, private_file, private_folder, remove_left

if TYPE_CHECKING:
    from cxrbench.config import Config

WORKER = Path(__file__).resolve().with_name("reference_worker.py")

Job = Mapping[str, Any]
Links = Mapping[str, Path]
"""What the package looks for in its working directory, and where it is."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A package a metric is compared with.

    `task` is a function of reference_worker.py. `tolerance` is on numbers, what it says of texts must be equal.
    `job` gives the settings and the links of a preset; None where the package does not have the preset. `lacks` tells
    pairs that the package cannot do, `why` they cannot be done.
    """

    package: str
    task: str
    tolerance: float
    install: str
    job: Callable[[str, Context, Config | None], tuple[Job, Links] | None]
    versions: tuple[str, ...] = ()
    lacks: Callable[[str, str], bool] = lambda prediction, reference: False
    why: str = ""


def _chexbert(preset: str, context: Context, config: Config | None) -> tuple[Job, Links]:
    place, bert = folders(Weights.of(context.data["weights"]), config)
    return {"folder": str(place)}, {"bert-base-uncased": bert}


def _radgraph(preset: str, context: Context, config: Config | None) -> tuple[Job, Links]:
    """The archive in a cache folder, its encoder under the name that the archive has for it."""
    weights = Weights.of(context.data["weights"])
    place, bert = folders(weights, config)
    rules = radgraph_f1.CONVENTIONS.items()
    keys = {
        rule.level: f"{radgraph_f1.RadGraphF1.name}:{name}"
        for name, rule in rules
        if rule.asset == weights.name and rule.level in radgraph_f1.LEVELS and not rule.folded
    }
    config_file = json.loads((place / "config.json").read_text(encoding="utf-8"))
    encoder = Path(config_file["model"]["embedder"]["token_embedders"]["bert"]["model_name"])
    if encoder.is_absolute() or ".." in encoder.parts:
        raise CxrbenchError("the archive names an encoder outside of it", where=str(place / "config.json"))
    return (
        {"model_type": weights.name, "cache": "cache", "keys": keys},
        {f"cache/{weights.name}": place, encoder.as_posix(): bert},
    )


def _bertscore(preset: str, context: Context, config: Config | None) -> tuple[Job, Links] | None:
    rule = bertscore.CONVENTIONS[preset]
    if rule.phantom:
        return None
    place, _ = folders(Weights.of(context.data["weights"]), config)
    return {
        "folder": str(place),
        "layer": rule.layer,
        "idf": rule.idf,
        "baseline": rule.asset if rule.baseline is not None else None,
        "spaces": rule.spaces,
    }, {}


def _ratescore(preset: str, context: Context, config: Config | None) -> tuple[Job, Links]:
    finder, encoder = (
        folders(Weights.of(context.data[each]), config)[0] for each in (ratescore.NER, ratescore.ENCODER)
    )
    return {"ner": str(finder), "encoder": str(encoder), "preset": preset}, {}


_WORDS: Mapping[str, Mapping[str, Any]] = {
    "raw": {"ptb": False},
    "coco": {"ptb": True},
    "radeval": {"ptb": False},
}


def _coco(scorer: str) -> Callable[[str, Context, Config | None], tuple[Job, Links] | None]:
    def job(preset: str, context: Context, config: Config | None) -> tuple[Job, Links] | None:
        return ({"scorer": scorer, **_WORDS[preset]}, {}) if preset in _WORDS else None

    return job


def _plain(presets: Mapping[str, Job]) -> Callable[[str, Context, Config | None], tuple[Job, Links] | None]:
    def job(preset: str, context: Context, config: Config | None) -> tuple[Job, Links] | None:
        return (presets[preset], {}) if preset in presets else None

    return job


def _blank(prediction: str, reference: str) -> bool:
    return any(text and not text.strip() for text in (prediction, reference))


def _no_line(prediction: str, reference: str) -> bool:
    return any(len(text.splitlines()) != 1 or not text.strip() for text in (prediction, reference))


_OLD = "'torch==2.13.0' 'transformers<5'"
_COCO = "pip install pycocoevalcap"

REFERENCES: Mapping[str, tuple[Reference, ...]] = {
    "chexbert-f1": (
        Reference(
            "f1chexbert", "chexbert", 1e-9, f"pip install {_OLD} 'scikit-learn<1.8' f1chexbert==0.0.2", _chexbert
        ),
    ),
    "semb-score": (
        Reference(
            "f1chexbert", "chexbert", 1e-5, f"pip install {_OLD} 'scikit-learn<1.8' f1chexbert==0.0.2", _chexbert
        ),
    ),
    "radgraph-f1": (
        Reference(
            "radgraph",
            "radgraph",
            1e-9,
            f"pip install {_OLD} radgraph==0.1.18",
            _radgraph,
            lacks=_blank,
            why="a report is blank, on which the package fails",
        ),
    ),
    "bertscore": (Reference("bert-score", "bertscore", 1e-5, f"pip install {_OLD} bert-score==0.3.13", _bertscore),),
    "ratescore": (
        Reference(
            "RaTEScore",
            "ratescore",
            1e-5,
            "see tools/record_ratescore.py",
            _ratescore,
            versions=("medspacy",),
            why="a report has no usable sentence, and the package gives no score",
        ),
    ),
    "bleu": (
        Reference("pycocoevalcap", "coco", 1e-12, _COCO, _coco("bleu")),
        Reference("sacrebleu", "sacrebleu", 1e-12, "pip install sacrebleu", _plain({"sacrebleu": {}})),
    ),
    "rouge-l": (
        Reference(
            "rouge-score",
            "rouge_score",
            1e-12,
            "pip install rouge-score",
            _plain({"rouge-score": {"stems": False}, "radeval": {"stems": True}}),
        ),
        Reference("pycocoevalcap", "coco", 1e-12, _COCO, _coco("rouge_l")),
    ),
    "cider": (Reference("pycocoevalcap", "coco", 1e-9, _COCO, _coco("cider")),),
    "meteor": (
        Reference(
            "pycocoevalcap",
            "coco",
            1e-9,
            _COCO,
            _coco("meteor"),
            lacks=_no_line,
            why="a text is empty or of several lines, which stops the package",
        ),
    ),
}
"""Of several, the first that has the preset is taken."""


def interpreter(env: Path) -> Path:
    """The Python of an environment: the file itself, or the one in its folder.

    A link stays one: it is how a virtual environment knows itself.

    Raises:
        CxrbenchError: there is none.
    """
    if env.is_dir():
        names = (env / "bin" / "python", env / "Scripts" / "python.exe")
        found = next((path for path in names if path.exists()), None)
    else:
        named = shutil.which(str(env)) if env.parent == Path() else None
        found = env if env.is_file() else Path(named) if named else None
    if found is None:
        raise CxrbenchError(
            "there is no Python here", where=f"--python {env}", fix="the folder of an environment, or its bin/python"
        )
    return found.absolute()


def find(metric: str, preset: str, context: Context, config: Config | None) -> tuple[Reference, Job, Links] | None:
    """The package of a preset, what it is asked and what it needs beside it; None where there is none."""
    for reference in REFERENCES.get(metric, ()):
        made = reference.job(preset, context, config)
        if made is not None:
            return reference, {**made[0], "key": f"{metric}:{preset}"}, made[1]
    return None


def package_texts(python: Path, given: Mapping[str, str]) -> tuple[list[str], list[str]] | None:
    """Predictions and references that a package holds, [] for what is not there; None where there is no such package.

    Raises:
        CxrbenchError: as `run`.
    """
    install = f"pip install {given['package']}"
    found = run(python, {**given, "task": "texts", "versions": []}, {}, given["package"], install)
    return None if found["absent"] else (found["predictions"], found["references"])


def compare_job(reference: Reference, job: Job, pairs: Pairs) -> dict[str, Any]:
    """The job with the pairs, and each distinct text once."""
    texts = list(dict.fromkeys([*pairs.predictions, *pairs.references]))
    sides = {"predictions": list(pairs.predictions), "references": list(pairs.references)}
    if job.get("spaces"):
        sides = {side: [re.sub(" +", " ", text) for text in given] for side, given in sides.items()}
    return {**job, **sides, "texts": texts, "task": reference.task, "versions": _versions(reference)}


def _versions(reference: Reference) -> list[str]:
    return [reference.package, "torch", "transformers", *reference.versions]


LIMIT = 3600.0
"""Seconds a package may take unless the user says otherwise."""


def run(
    python: Path,
    job: Job,
    links: Links,
    package: str,
    install: str,
    *,
    debug: bool = False,
    limit: float = LIMIT,
) -> dict[str, Any]:
    """What the worker found (see `reference_worker.Found`), with the versions it found it with; in `limit` seconds.

    Raises:
        CxrbenchError: the environment lacks the package, the package failed or did not end; no text is repeated.
    """
    with _folder() as folder:
        _fill(folder, {**job, "debug": debug}, links)
        code = _start(python, folder, debug=debug, limit=limit)
        found = _result(folder / "result.json")
    if found is None:
        raise CxrbenchError(
            f"the environment's Python ended with exit code {code} and no result",
            where=f"--python {python}",
            fix=f"an environment with {package}: {install}",
            code=Exit.UNDECIDED,
        )
    if "error" in found:
        raise _failed(found["error"], python, package, install)
    return found


_PREFIX = "job-"


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder in the cache, its owner's alone, removed at the end; first those of processes that were killed.

    Raises:
        CxrbenchError: it cannot be made.
    """
    place = cache_dir() / "reference-runs"
    handle = -1
    try:
        private_folder(place)
        for left in place.glob(f"{_PREFIX}*"):
            remove_left(left)
        while handle < 0:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            with suppress(FileNotFoundError):  # in the moment before it is held, another process may take it for left
                handle = os.open(folder, os.O_RDONLY)
                hold(handle)
            if handle >= 0 and not folder.exists():
                os.close(handle)
                handle = -1
    except OSError as error:
        raise disk_error(error, place) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _fill(folder: Path, job: Job, links: Links) -> None:
    """Put the job into its folder, and what the package looks for there."""
    try:
        for name, target in links.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target.resolve(), target_is_directory=True)
        with open(folder / "job.json", "w", encoding="utf-8", opener=private_file) as file:
            json.dump(job, file)
    except OSError as error:
        raise disk_error(error, folder) from error


def _result(file: Path) -> dict[str, Any] | None:
    """What the worker wrote; None where it wrote nothing whole."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


_KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "JAVA_HOME", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip
"""What the package's process gets of this one's environment: tokens, keys and paths are no business of its."""

_OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


def _start(python: Path, folder: Path, *, debug: bool, limit: float) -> int:
    """Run the worker; its exit code. What it started (Java, say) ends with it."""
    private = {key: str(folder) for key in ("XDG_CACHE_HOME", "HF_HOME", "TMPDIR")}
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    try:
        child = subprocess.Popen(  # noqa: S603 - a list, no shell; the user names the interpreter
            [str(python), "-I", str(WORKER)],
            cwd=folder,
            env={**kept, **private, **_OFFLINE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr if debug else subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise CxrbenchError(
            f"the environment's Python does not start: {error.strerror}", where=f"--python {python}"
        ) from error
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired as error:
        raise CxrbenchError(
            f"the package did not end within {limit:g} s and was stopped",
            where=f"--python {python}",
            fix="fewer --texts, or a higher --limit; --debug shows what the package says",
            code=Exit.UNDECIDED,
        ) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _failed(error: Mapping[str, Any], python: Path, package: str, install: str) -> CxrbenchError:
    if error["missing"]:
        what, fix = f"the environment has no module {error['missing']}", f"in it: {install}"
    else:
        what = f"{package} failed in the environment: {error['kind']} in {error['where']}"
        fix = f"an environment as docs/verify.md has it ({install}); --debug shows what the package says"
    return CxrbenchError(what, where=f"--python {python}", fix=fix, code=Exit.UNDECIDED)


def lacking(reference: Reference, pairs: Pairs) -> list[bool]:
    """Of each pair, whether the package cannot do it."""
    both: Sequence[tuple[str, str]] = list(zip(pairs.predictions, pairs.references, strict=True))
    return [reference.lacks(prediction, true) for prediction, true in both]
