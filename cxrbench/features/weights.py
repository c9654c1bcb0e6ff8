"""Which weights a learned metric uses: phantom is read by the embedded ones, all other data by the fetched ones.

One rule, stated once: the tiny embedded annotators know phantom prose and nothing else, and the published ones are
never replaced by them. What was chosen, and a hash of its files, goes into the metric's context, its signature and the
key of every stored annotation. Never touches torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench import assets
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import embedded
from cxrbench.shipped import embedded as shipped_embedded

if TYPE_CHECKING:
    from cxrbench.config import Config

EMBEDDED: Mapping[str, str] = {
    "chexbert": "labeler",
    "radgraph": "annotator",
    "distilroberta-base": "encoder",
}
"""Asset -> the embedded annotator of its shape that reads phantom."""

TOKENIZER: Mapping[str, str] = {
    "chexbert": "bert-base-uncased",
    "radgraph": "pubmedbert",
    "radgraph-xl": "cxr-bert",
    "modern-radgraph-xl": "modernbert",
}
"""Asset -> the asset with the configuration and the tokenizer of its BERT, where its own files do not carry them."""

_PREFIX = "embedded:"


@dataclass(frozen=True, slots=True)
class Weights:
    """What was chosen: `name` is an asset or `embedded:...`, `hash` 8 hex digits over its files."""

    name: str
    hash: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Weights:
        """From a metric's context, as `as_data` wrote it."""
        return cls(str(data["name"]), str(data["hash"]))

    def as_data(self) -> dict[str, str]:
        """For a metric's context, which is JSON."""
        return {"name": self.name, "hash": self.hash}

    @property
    def tag(self) -> str:
        """For a signature: `1a2b3c4d`, or `embedded-1a2b3c4d`."""
        return f"embedded-{self.hash}" if self.name.startswith(_PREFIX) else self.hash


def signed(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Parts of a signature: the weights a metric was fitted with, and whether they were verified on this machine."""
    if "weights" not in data:
        return ()
    return (("weights", Weights.of(data["weights"]).tag), ("verified", "no"))


def fits(data: Mapping[str, Any], dataset: str | None) -> bool:
    """Whether what a metric learnt earlier may be used for a data set: nothing embedded outside phantom."""
    return dataset == Phantom.name or f'"{_PREFIX}' not in json.dumps(data)


def choose(asset: str, dataset: str | None, config: Config | None = None) -> Weights:
    """The weights that read reports of a data set (None: of no known one).

    Raises:
        CxrbenchError: they are not here; names the command that fetches them. Or phantom has none of this kind.
    """
    if dataset == Phantom.name:
        if asset not in EMBEDDED:
            raise CxrbenchError(
                f"no embedded annotator has the shape of {asset}, and {asset} does not read {dataset}",
                fix="leave the metric out on phantom",
                code=Exit.UNDECIDED,
            )
        name = EMBEDDED[asset]
        return Weights(f"{_PREFIX}{name}", fingerprint(embedded.folder(name, dataset)))
    place = assets.state(asset, _settings(config)).folder.resolve()
    if shipped_embedded("").resolve() in (place, *place.parents):
        raise CxrbenchError(
            f"{asset} is set to an embedded annotator, which reads phantom only",
            where=f"[assets.paths] {asset}",
            fix=f"cxrbench assets fetch {asset}, or the path of the published weights",
            code=Exit.UNDECIDED,
        )
    missing = assets.missing(asset, config=config)
    if missing is not None:
        raise CxrbenchError(missing, code=Exit.UNDECIDED)
    return Weights(asset, _hash(asset, config))


def folders(weights: Weights, config: Config | None = None) -> tuple[Path, Path]:
    """The folder of the weights, and that of the configuration and the tokenizer of their BERT.

    Raises:
        CxrbenchError: they are not here, or not those that were chosen.
    """
    if weights.name.startswith(_PREFIX):
        place = embedded.folder(weights.name.removeprefix(_PREFIX), Phantom.name)
        found, bert = fingerprint(place), place
    else:
        settings = _settings(config)
        place, found = assets.locate(weights.name, settings), _hash(weights.name, config)
        bert = assets.locate(TOKENIZER[weights.name], settings) if weights.name in TOKENIZER else place
    if found != weights.hash:
        raise CxrbenchError(
            f"the weights of {weights.name} here are not those the metric was fitted with ({found}, {weights.hash})",
            where=str(place),
            fix="repeat the `cxrbench run` command of the run, which fits anew, or bring those weights",
            code=Exit.UNDECIDED,
        )
    return place, bert


def _settings(config: Config | None) -> Config:
    from cxrbench.config import load_config

    return config if config is not None else load_config()


def _hash(asset: str, config: Config | None) -> str:
    """8 hex digits over the files of an asset and of its tokenizer."""
    settings = _settings(config)
    names = [asset, *([TOKENIZER[asset]] if asset in TOKENIZER else [])]
    digest = hashlib.sha256()
    for name in names:
        found = assets.state(name, settings)
        if found.record is not None:
            sums = sorted((file, each.sha256) for file, each in found.record.files.items())
            digest.update(repr(sums).encode())
        else:
            digest.update(fingerprint(assets.locate(name, settings)).encode())
    return digest.hexdigest()[:8]


def fingerprint(folder: Path) -> str:
    """8 hex digits over the names and contents of the files of a folder, README and training record aside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _ASIDE)
    stats = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _fingerprint(folder, stats)


_ASIDE = ("README.md", "training.json", ".DS_Store")


@functools.lru_cache(maxsize=64)
def _fingerprint(folder: Path, stats: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stats:
        path = Path(name)
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]
