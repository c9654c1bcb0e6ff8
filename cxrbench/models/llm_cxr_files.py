"""The two archives of LLM-CXR in one folder: which is the language model, which the VQ-GAN. PyYAML only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.checkpoint import read_json
from cxrbench.models.llava_shared import need
from cxrbench.models.recognise import another

SIZES = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "in_channels", "out_ch", "resolution", "z_channels")


@dataclass(frozen=True, slots=True)
class Parts:
    """The language model's folder, and the VQ-GAN's weights and configuration."""

    llm: Path
    weights: Path
    sizes: Path


def find_parts(folder: Path, about: str) -> Parts:
    """Look into the folder and one level below.

    Raises:
        CxrbenchError: one of the parts is not there, or there are several.
    """
    if not folder.is_dir():
        raise another(folder, about)
    places = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    llm = [place for place in places if _is_neox(place / "config.json")]
    if not llm:
        raise another(folder, about)
    weights = [file for place in places for file in sorted(place.glob("*.ckpt"))]
    sizes = [file for place in places for file in sorted(place.glob("*.yaml"))]
    return Parts(
        _one(llm, "folder of a GPT-NeoX", folder),
        _one(weights, "VQ-GAN (*.ckpt)", folder),
        _one(sizes, "configuration of a VQ-GAN (*.yaml)", folder),
    )


def _is_neox(file: Path) -> bool:
    return file.is_file() and read_json(file).get("model_type") == "gpt_neox"


def _one(found: Sequence[Path], what: str, folder: Path) -> Path:
    if len(found) != 1:
        seen = "none" if not found else f"{len(found)} of them: {', '.join(each.name for each in found[:3])}"
        raise CxrbenchError(
            f"LLM-CXR needs one {what}, and there is {seen}",
            where=str(folder),
            fix="name the folder into which both of its archives were unpacked",
        )
    return found[0]


def read_sizes(file: Path) -> dict[str, Any]:
    """The VQ-GAN's sizes of the authors' configuration file.

    Raises:
        CxrbenchError: not YAML, or sizes are missing.
    """
    import yaml

    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CxrbenchError("the configuration cannot be read", where=str(file), fix="unpack it again") from error
    params = body.get("model", {}).get("params", {}) if isinstance(body, dict) else {}
    inner = need(params, ("n_embed", "embed_dim", "ddconfig"), file)
    sizes = need(inner.pop("ddconfig"), SIZES, file)
    return {**{key: list(value) if isinstance(value, list) else value for key, value in sizes.items()}, **inner}
