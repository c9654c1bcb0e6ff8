"""The forms a published checkpoint comes in: the authors' layout, the converted one, or nothing but its sizes.

A `ReleasedModel` (released.py) is opened from one of them and writes another. torch is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench.errors import CxrbenchError
from cxrbench.models import converted, stock
from cxrbench.models.folders import PATH, Opened, refuse_other_choices
from cxrbench.models.keys import Plan, same
from cxrbench.models.recognise import another
from cxrbench.models.shards import Shards, find_files

if TYPE_CHECKING:
    from cxrbench.models.released import ReleasedModel


def open_checkpoint(model: ReleasedModel) -> Opened:
    """Look at the folders of a model; random weights without a folder have the published sizes.

    Raises:
        CxrbenchError: no folder is known, one is missing or of another model, or what is in it does not fit.
    """
    folder = model.folders.get(PATH)
    if folder is None:
        if model.dummy:
            return model.full_size()
        raise CxrbenchError(
            f"{model.name} needs its checkpoint, and no folder is known",
            where=f"--model {model.name}",
            fix=f"cxrbench models add {model.name} --path DIR (remembered), or --model {model.name}:DIR",
        )
    model.place(PATH)
    card = converted.read_card(folder)
    if card is not None:
        if card["model"] != model.name:
            raise another(folder, model.CARD.about)
        return _open_converted(model, folder, card)
    if model.dummy:
        return replace(model.full_size(), tokenizer=model.tokenizer_folder())
    for place in model.needs:
        model.place(place)
    return model.open_original(folder)


def _open_converted(model: ReleasedModel, folder: Path, card: Mapping[str, Any]) -> Opened:
    with stock._reading(folder, "configuration"):
        config = model.network_class().config_class.from_pretrained(folder, local_files_only=True)
    files = () if model.dummy else find_files(folder, ("model",))
    choices = {str(key): str(value) for key, value in card.get("choices", {}).items()}
    refuse_other_choices(choices, model.wanted(), folder)
    return Opened(config, (same(),), lambda: Shards(files), files, folder, choices, "converted")


def convert(model: ReleasedModel, out: Path, weights: str, progress: converted.Progress | None = None) -> Plan:
    """Write the converted form; see converted.py. `weights` is the hash of what it is made of.

    Raises:
        CxrbenchError: this is the converted form, or names, shapes or values do not fit.
    """
    opened = model.opened
    if opened.form == "converted" or opened.source is None or opened.tokenizer is None:
        raise CxrbenchError(
            "this is the converted form already", where=str(model.folders.get(PATH)), fix="use it as it is"
        )
    card = {"model": model.name, "made_from": weights, "choices": dict(opened.choices)}
    kind, source = model.network_class(), opened.source()
    return converted.write(out, kind, opened.config, source, opened.rows, card, opened.tokenizer, progress)
