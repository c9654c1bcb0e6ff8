"""Checkpoints by hub id: `ORG/NAME[@REVISION]` becomes a folder here, fetched as assets are and named by its commit.

    cxrbench models add slava --path bluesky333/SLaVA-CXR

The folder lies among the assets (`ORG--NAME@COMMIT`), with a lock record beside its files; two commits are two folders.
Taken are configuration, tokenizer and weights, safetensors before pickles, and never code. What is asked of the hub is
a name, a revision and files: nothing of any data. Touches assets_fetch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cxrbench.assets import Asset, root
from cxrbench.assets_fetch import Remote, fetch, listing, offline, remote_files
from cxrbench.assets_lock import RECORD, Record, Report, read_record, wrong_sizes
from cxrbench.config import Config
from cxrbench.errors import CxrbenchError, Exit

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "LICENCE*")
"""What is taken beside the weights."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
STOCK = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")
"""How weights are called, the first that are there; pickles only for models that open them with weights_only."""


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository of the hub and a revision of it: a commit, a tag or a branch; '' where none was named."""

    repository: str
    revision: str = ""

    @classmethod
    def of(cls, text: str) -> HubId | None:
        """Read `ORG/NAME[@REVISION]`; None for what has another form.

        >>> HubId.of("bluesky333/SLaVA-CXR"), HubId.of("/models/slava"), HubId.of("a/b/c")
        (HubId(repository='bluesky333/SLaVA-CXR', revision=''), None, None)
        """
        found = HUB_ID.fullmatch(text)
        return None if found is None or ".." in text else cls(found[1], found[2] or "")

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def folder_name(repository: str, commit: str) -> str:
    """The name of a fetched checkpoint's folder."""
    return f"{repository.replace('/', '--')}@{commit}"


def origin(folder: Path) -> str | None:
    """`ORG/NAME@COMMIT` of a folder that was fetched; None for any other, or a record that cannot be read."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_record(folder)
    except CxrbenchError:  # `verify model` tells of a damaged record
        return None
    return f"{record.repository}@{record.commit}"


def named(folder: Path) -> str | None:
    """`ORG/NAME@COMMIT` that the name of a fetched folder stands for, whether or not it is still there."""
    repository, _, commit = folder.name.partition("@")
    org, _, name = repository.partition("--")
    return f"{org}/{name}@{commit}" if org and name and COMMIT.fullmatch(commit) else None


def here(wanted: HubId, config: Config) -> Path | None:
    """The whole folder of a checkpoint that was fetched before: of this commit, or the latest of this revision."""
    found: list[tuple[str, Path]] = []
    for folder in root(config).glob(f"{wanted.repository.replace('/', '--')}@*"):
        record = _whole(folder)
        if record is not None and wanted.revision in ("", record.commit, record.revision):
            found.append((record.fetched, folder))
    return max(found)[1] if found else None


def _whole(folder: Path) -> Record | None:
    try:
        record = read_record(folder)
    except CxrbenchError:  # a folder without a readable record is fetched again
        return None
    return None if any(True for _ in wrong_sizes(folder, record)) else record


def resolve(
    wanted: HubId, config: Config, licence: str, *, weights: Sequence[str] = (), pickles: bool, no_network: bool
) -> Path | Remote:
    """The folder where the checkpoint lies already, or what a fetch would download. Asks the hub only if need be.

    Args:
        wanted: the checkpoint.
        config: where assets lie.
        licence: what is printed and recorded.
        weights: patterns of weight files that are called otherwise than transformers calls them.
        pickles: whether the model opens pickles (with weights_only).
        no_network: never ask the hub.

    Raises:
        CxrbenchError: it is not here and the hub may not be asked, cannot be reached, or has no such checkpoint.
    """
    lies = here(wanted, config)
    if lies is not None and (COMMIT.fullmatch(wanted.revision) or no_network or offline()):
        return lies
    if no_network or offline():
        why = "--offline" if no_network else "HF_HUB_OFFLINE"
        raise CxrbenchError(
            f"there is no folder {str(wanted)!r} here, and {why} forbids asking the hub for it",
            where=str(root(config)),
            fix="name a folder that is here, or repeat the command where there is a network",
        )
    asset = _asset(wanted.repository, wanted.revision or "main", (), licence)
    commit, there = listing(asset, asset.revision)
    target = root(config) / folder_name(wanted.repository, commit)
    if _whole(target) is not None:
        return target
    names = tuple(choose(there, weights, pickles=pickles))
    made = _asset(wanted.repository, asset.revision, names, licence, commit)
    return Remote(made, asset.revision, commit, remote_files(there, names), None)


def download(remote: Remote, config: Config, report: Report) -> Path:
    """Fetch a checkpoint; see `assets_fetch.fetch`."""
    fetch(remote, config, report)
    return root(config) / remote.asset.name


def _asset(repository: str, revision: str, files: tuple[str, ...], licence: str, commit: str = "") -> Asset:
    return Asset(
        name=folder_name(repository, commit) if commit else repository,
        title=repository,
        kind="model",
        about=f"checkpoint {repository}",
        repository=repository,
        revision=revision,
        files=files,
        licence=licence,
        terms=f"those of the page of {repository} on the hub",
        used_by=(),
    )


def choose(there: Collection[str], weights: Sequence[str] = (), *, pickles: bool) -> Iterator[str]:
    """Which files of a repository are taken, in alphabetical order; see the module.

    >>> list(choose(["config.json", "model.safetensors", "pytorch_model.bin", "code.py"], pickles=True))
    ['config.json', 'model.safetensors']

    Raises:
        CxrbenchError: there are no weights, or only pickles and the model reads none.
    """
    names = sorted(name for name in there if "/" not in name)
    patterns = [weights] if weights else [(each,) for each in STOCK if pickles or each.endswith("safetensors")]
    taken = next((found for each in patterns if (found := _matching(names, each))), [])
    if not taken and pickles and not weights:
        taken = _matching(names, PICKLES)
    if not taken:
        only = _matching(names, PICKLES)
        raise CxrbenchError(
            f"the weights are pickles ({only[0]}), and this model reads safetensors only"
            if only
            else "the repository holds no weights in its first folder",
            where="the hub",
            fix="name the repository of the checkpoint itself, or another revision: ORG/NAME@REVISION",
            code=Exit.INFRASTRUCTURE if not only else Exit.USAGE,
        )
    yield from sorted({*taken, *_matching(names, SMALL)})


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
