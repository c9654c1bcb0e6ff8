"""The tiny trained annotators that travel with cxrbench, and the one rule about them: they read phantom reports only.

They have the file formats of the annotators people use, so that the demo takes the code path of full-size weights; on
other reports what they say means nothing. Whoever wants one asks `folder`, which refuses any other data set; nothing
ever falls back on them. Never touches torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.shipped import embedded


@dataclass(frozen=True, slots=True)
class Tiny:
    """An embedded annotator: what it is, its weights file, the real weights it has the shape of, and their source."""

    about: str
    weights: str
    real: str
    source: str


ANNOTATORS: Mapping[str, Tiny] = {
    "labeler": Tiny("CheXbert-shaped labeler", "chexbert.pth", "chexbert.pth", "StanfordAIMI/RRG_scorers"),
    "annotator": Tiny("RadGraph-shaped annotator", "weights.th", "radgraph.tar.gz", "StanfordAIMI/RRG_scorers"),
    "encoder": Tiny("BERT encoder", "model.safetensors", "distilroberta-base", "distilbert/distilroberta-base"),
}


def require_phantom(dataset: Hashable, name: str) -> None:
    """Refuse every data set but phantom; `dataset` is None for reports of no known data set.

    Raises:
        CxrbenchError: the reports are not phantom's; names the real weights.
    """
    if dataset == Phantom.name:
        return
    tiny = ANNOTATORS[name]
    given = f"reports of {dataset!r}" if dataset else "reports of no known data set"
    raise CxrbenchError(
        f"the embedded {tiny.about} reads reports of {Phantom.name!r} only; {given} need {tiny.real} of {tiny.source}",
        where=f"embedded/{name}",
        fix=f"fetch {tiny.real} from https://huggingface.co/{tiny.source}, or score a task of {Phantom.name}",
        code=Exit.UNDECIDED,
    )


def folder(name: str, dataset: Hashable) -> Path:
    """The folder of an embedded annotator, for reports of a data set: phantom or nothing.

    Raises:
        CxrbenchError: another data set, or an installation without the folder.
    """
    require_phantom(dataset, name)
    path = embedded(name)
    if not (path / ANNOTATORS[name].weights).is_file():
        raise CxrbenchError(
            f"this installation of cxrbench lacks the embedded {ANNOTATORS[name].about}",
            where=str(path),
            fix="install cxrbench again",
            code=Exit.INFRASTRUCTURE,
        )
    return path


def torch_missing() -> str | None:
    """None where the networks can run, else one sentence of what they need."""
    if find_spec("torch") and find_spec("transformers"):
        return None
    return "needs torch and transformers: pip install 'cxrbench[models]'"
