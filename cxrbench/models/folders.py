"""The folders a published checkpoint consists of, and what is known of it once they were looked at. Never torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrbench.assets_models import named, origin
from cxrbench.errors import CxrbenchError
from cxrbench.models.keys import Row, Source

PATH, BASE, CLIP = "path", "base", "clip"
"""Folders a model may need (config.MODEL_PLACES): its checkpoint, its language model, OpenAI's CLIP."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that passed the checks, before a tensor is read.

    `config` is the stock class's; `files` are all weight files, for the hash; `tokenizer` is the folder of the
    tokenizer, None for a stand-in; `choices` are decisions that change the network, kept with the converted form.
    """

    config: Any
    rows: Sequence[Row] = ()
    source: Callable[[], Source] | None = None
    files: tuple[Path, ...] = ()
    tokenizer: Path | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    form: str = "original"


def origins(folders: Mapping[str, Path]) -> dict[str, str]:
    """For the circumstances of a run: the hub id and commit of each folder that was fetched."""
    found = {key: origin(folder) for key, folder in folders.items()}
    return {f"checkpoint_{key}_from": came for key, came in found.items() if came is not None}


def gone(model: str, key: str, folder: Path) -> str:
    """What to do about a folder that is not there: fetch it again where its name says of which commit it was."""
    came = named(folder)
    if came is not None:
        return f"cxrbench models add {model} --{key} {came}"
    return "name a folder on this machine, or a hub id: " + f"cxrbench models add {model} --{key} ORG/NAME"


def needed(model: str, key: str, folders: Mapping[str, Path], takes: Mapping[str, str], needs: Sequence[str]) -> Path:
    """A folder that a model cannot do without.

    Raises:
        CxrbenchError: it is not known, or not there; the way out names all folders the model needs.
    """
    folder = folders.get(key)
    if folder is not None and folder.is_dir():
        return folder
    if folder is not None:
        raise CxrbenchError(
            f"{model} needs {takes[key]}, and there is no folder {str(folder)!r}",
            where=f"--model {model}",
            fix=gone(model, key, folder),
        )
    options = " ".join(f"--{each} DIR" for each in dict.fromkeys((*needs, key)))
    raise CxrbenchError(
        f"{model} needs {takes[key]}",
        where=f"--model {model}",
        fix=f"cxrbench models add {model} {options}",
    )


def refuse_other_choices(choices: Mapping[str, str], wanted: Mapping[str, str], folder: Path) -> None:
    """Refuse a setting that contradicts what a checkpoint was converted with.

    Raises:
        CxrbenchError: it does.
    """
    for key, value in choices.items():
        if wanted.get(key, value) != value:
            raise CxrbenchError(
                f"the checkpoint was converted with {key}={value}, not {wanted[key]}",
                where=str(folder),
                fix=f"--set {key}={value}, or convert the original again with --set {key}={wanted[key]}",
            )
