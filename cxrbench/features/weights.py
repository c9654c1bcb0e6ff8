"""Which weights a learned metric uses: phantom is read by the embedded ones, all other data by the fetched ones.

One rule, stated once: the tiny embedded annotators know phantom prose and nothing else, and the published ones are
never replaced by them. What was chosen, and a hash of its files, goes into the metric's context, its signature and the
key of every stored annotation. Never touches torch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench import assets, assets_lock
from cxrbench.data.phantom import Phantom
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import embedded
from cxrbench.shipped import embedded as shipped_embedded
from cxrbench.verified import Subject, passed

if TYPE_CHECKING:
    from cxrbench.assets import Asset
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

FULL = "fp32"
"""The precision that goes without saying; features/device.py has the others."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What was chosen: `name` is an asset or `embedded:...`, `hash` 8 hex digits over its files; and how it is run."""

    name: str
    hash: str
    precision: str = FULL

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Weights:
        """From a metric's context, as `as_data` wrote it."""
        return cls(str(data["name"]), str(data["hash"]), str(data.get("precision", FULL)))

    @classmethod
    def asked(cls, settings: Mapping[str, Hashable]) -> Weights:
        """From the settings of a feature request."""
        return cls(str(settings["weights"]), str(settings["hash"]), str(settings.get("precision", FULL)))

    def as_data(self) -> dict[str, str]:
        """For a metric's context, which is JSON."""
        return {"name": self.name, "hash": self.hash, **self._precision}

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """For a feature request."""
        return (("weights", self.name), ("hash", self.hash), *self._precision.items())

    @property
    def _precision(self) -> dict[str, str]:
        """Full precision goes without saying, so that what was stored before there was another stays what it is."""
        return {} if self.precision == FULL else {"precision": self.precision}

    @property
    def tag(self) -> str:
        """For a signature: `1a2b3c4d`, or `embedded-1a2b3c4d`."""
        return f"embedded-{self.hash}" if self.name.startswith(_PREFIX) else self.hash


def signed(data: Mapping[str, Any], subject: Subject | None = None) -> tuple[tuple[str, str], ...]:
    """Parts of a signature: the weights a metric was fitted with, and whether they were verified on this machine.

    Raises:
        CxrbenchError: the record that says so is damaged.
    """
    if "weights" not in data:
        return ()
    return (("weights", Weights.of(data["weights"]).tag), *reduced(data), ("verified", told(subject)))


def told(subject: Subject | None) -> str:
    """`yes` where `cxrbench verify` passed, else `no`."""
    return "yes" if subject is not None and passed(subject) else "no"


def subject_of(metric: str, code: str, data: Mapping[str, Any], *keys: str) -> Subject | None:
    """What a verification of a metric is remembered for; None where nothing was fitted.

    `code` names the code that reads the weights; `keys` are where the data hold them (default: `weights`).
    """
    named = keys or ("weights",)
    if not all(key in data for key in named):
        return None
    parts = (code, *(f"{key}:{value}" for key, value in reduced(data)))
    return Subject(metric, "|".join(parts), "+".join(Weights.of(data[key]).tag for key in named))


def reduced(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The part of a signature that says a precision below the full one."""
    precision = precision_of(data)
    return () if precision == FULL else (("precision", precision),)


def weights_in(data: Any) -> Iterator[Weights]:
    """All weights in a metric's context, wherever they stand in it."""
    if isinstance(data, Mapping):
        if {"name", "hash"} <= set(data):
            yield Weights.of(data)
        for each in data.values():
            yield from weights_in(each)


def precision_of(data: Mapping[str, Any]) -> str:
    """The precision a metric was fitted for."""
    return next((each.precision for each in weights_in(data)), FULL)


def fits(data: Mapping[str, Any], dataset: str | None, precision: str = FULL) -> bool:
    """Whether what a metric learnt earlier may be used: at the precision asked for, nothing embedded but on phantom."""
    return all(
        each.precision == precision and (dataset == Phantom.name or not each.name.startswith(_PREFIX))
        for each in weights_in(data)
    )


def choose(asset: str, dataset: str | None, config: Config | None = None, precision: str = FULL) -> Weights:
    """The weights that read reports of a data set (None: of no known one), to be run at a precision.

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
        return Weights(f"{_PREFIX}{name}", fingerprint(embedded.folder(name, dataset)), precision)
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
    return Weights(asset, _hash(asset, config), precision)


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
    """8 hex digits over the files that are read of an asset and of its tokenizer, by name and content.

    The same files give the same hash whether they were fetched, copied or are the user's own, and whatever lies beside
    them. Contents are read, once per process, and no record of them is believed: weights may change after a fetch.
    """
    settings = _settings(config)
    digest = hashlib.sha256()
    for name in (asset, *([TOKENIZER[asset]] if asset in TOKENIZER else [])):
        place = assets.locate(name, settings)
        for file in sorted(_read_of(assets.find(name), place)):
            digest.update(f"{name}/{file}\0{_sha256(place / file)}\n".encode())
    return digest.hexdigest()[:8]


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that tokenizers are made of: one that is there is read, whether or not a fetch brings it."""

WEIGHTS_FILES = ("chexbert.pth", "weights.th", "model.safetensors", "pytorch_model.bin")
VOCABULARY = "vocabulary"
"""The folder of labels in RadGraph's archives."""


def _read_of(asset: Asset, place: Path) -> set[str]:
    """The files of an asset that are read, by their names in its folder."""
    names = {*(asset.holds or asset.files)}
    if asset.archived:
        return names | {file.relative_to(place).as_posix() for file in (place / VOCABULARY).glob("*.txt")}
    names |= {next(name for name in group if (place / name).is_file()) for group in asset.one_of}
    if asset.name not in TOKENIZER:
        names |= {name for name in TOKENIZER_FILES if (place / name).is_file()}
    return names


def fingerprint(folder: Path) -> str:
    """8 hex digits over the files of an embedded annotator that are read, by name and content."""
    parts = ("", "bert/")
    names = [f"{part}{name}" for part in parts for name in ("config.json", *WEIGHTS_FILES, *TOKENIZER_FILES)]
    files = [folder / name for name in names if (folder / name).is_file()]
    digest = hashlib.sha256()
    for path in sorted([*files, *(folder / VOCABULARY).glob("*.txt")]):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(bytes.fromhex(_sha256(path)))
    return digest.hexdigest()[:8]


def _sha256(path: Path) -> str:
    """The SHA-256 of a file, read once per process as long as size and time stay what they are."""
    found = path.stat()
    return _read_sha256(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_sha256(path: Path, size: int, time: int) -> str:
    return assets_lock.sha256(path)
