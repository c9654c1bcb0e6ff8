"""Fetching assets from the Hugging Face hub: the only code of cxrbench that downloads, and only when asked to.

`resolve` asks the hub what an asset is at one commit; `fetch` downloads it, goes on where an earlier try broke off,
compares with what the hub lists and what was recorded before, unpacks archives and installs the folder whole. Hub,
token and offline mode are those of huggingface_hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE). Touches assets and the
standard library; huggingface_hub inside functions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cxrbench import __version__
from cxrbench.assets import Asset, find, root, state, table
from cxrbench.assets_lock import Record, Report, Sum, check_room, disk_error, install, one_writer, sha256, write_record
from cxrbench.assets_tar import unpack
from cxrbench.config import Config
from cxrbench.errors import CxrbenchError, Exit

TIMEOUT = 30.0
"""Seconds without a byte until a connection counts as lost."""
TRIES = 5
"""How often a download that breaks off is gone on with at once, as long as each try brings something."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the hub; None is what the hub does not say."""

    name: str
    size: int | None
    sha256: str | None
    blob: str | None
    """Git's own checksum, which files have that are not stored as large ones."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub has of an asset at a commit."""

    asset: Asset
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    before: Record | None
    """The lock record of the copy that is replaced."""

    @property
    def size(self) -> int | None:
        """Bytes to download, None where the hub does not say."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def resolve(name: str, config: Config, *, revision: str | None = None, update: bool = False) -> Remote | None:
    """What a fetch would download, None where there is nothing to do. Asks the hub only if there is.

    An asset with a lock record stays at its commit unless `update` is given; then, and at the first fetch, `revision`
    (default: that of assets.toml) is resolved to a commit.

    Raises:
        CxrbenchError: the asset is the user's own copy, `revision` is another commit than the recorded one, the hub
            cannot be reached, or it lacks a file.
    """
    asset, found = find(name), state(name, config)
    if found.named or found.status in ("own", "foreign"):
        raise CxrbenchError(
            f"{name} is taken from your own files, which fetch does not touch",
            where=str(found.folder),
            fix=f"take {name} out of [assets.paths]" if found.named else f"move the folder away, then fetch {name}",
        )
    record = found.record
    if found.status == "here" and record is not None and not update and revision in (None, record.commit):
        return None
    wanted = revision or (record.commit if record is not None and not update else asset.revision)
    remote = _ask(asset, wanted, record)
    if record is not None and remote.commit != record.commit and not update:
        raise CxrbenchError(
            f"{name} is recorded at commit {record.commit[:12]}, and {wanted} is commit {remote.commit[:12]}",
            where=str(found.folder),
            fix=f"--update takes it; scores made with other weights than {name}'s of now cannot be compared",
        )
    if found.status == "here" and record is not None and remote.commit == record.commit:
        return None
    return remote


def listing(asset: Asset, revision: str) -> tuple[str, dict[str, Any]]:
    """The commit that a revision of an asset's repository is, and what the hub says of its files, by name.

    Raises:
        CxrbenchError: the hub cannot be reached, may not be asked, or has no such repository or revision.
    """
    with _talking(asset):
        from huggingface_hub import HfApi

        info = HfApi(library_name="cxrbench", library_version=__version__).model_info(
            asset.repository, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
    commit = info.sha or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CxrbenchError(
            f"the hub does not say which commit {revision!r} of {asset.repository} is",
            where=_endpoint(),
            fix="check HF_ENDPOINT",
            code=Exit.INFRASTRUCTURE,
        )
    return commit, {entry.rfilename: entry for entry in info.siblings or ()}


def _ask(asset: Asset, revision: str, record: Record | None) -> Remote:
    commit, there = listing(asset, revision)
    names = [*asset.files, *(next((n for n in group if n in there), " or ".join(group)) for group in asset.one_of)]
    lost = [name for name in names if name not in there]
    if lost:
        raise CxrbenchError(
            f"{asset.repository} has no {lost[0]} at commit {commit[:12]}",
            where=_endpoint(),
            fix="--revision with a commit that has it",
            code=Exit.INFRASTRUCTURE,
        )
    names += [name for name in asset.if_there if name in there]
    return Remote(asset, revision, commit, remote_files(there, names), record)


def remote_files(there: Mapping[str, Any], names: Iterable[str]) -> tuple[RemoteFile, ...]:
    """The files of these names as the hub lists them, each once."""
    return tuple(_remote_file(there[name]) for name in dict.fromkeys(names))


def _remote_file(entry: Any) -> RemoteFile:
    large = entry.lfs
    if large is not None:
        return RemoteFile(entry.rfilename, large.size, large.sha256, None)
    return RemoteFile(entry.rfilename, entry.size, None, entry.blob_id)


def fetch(remote: Remote, config: Config, report: Report) -> Record:
    """Download, check and install an asset; returns its lock record.

    Raises:
        CxrbenchError: the connection broke (what came is kept), a file is not what was listed or recorded, an archive
            is refused, or there is no room. What was installed before is then still there.
    """
    place = root(config)
    with one_writer(place):
        stage = place / f".{remote.asset.name}.{remote.commit[:12]}.part"
        try:
            downloads = stage / "downloads"
            downloads.mkdir(parents=True, exist_ok=True)
            _check_room(remote, downloads)
            sums = {file.name: _download(remote, file, downloads, report) for file in remote.files}
            tree = stage / "files"
            shutil.rmtree(tree, ignore_errors=True)
            tree.mkdir()
            files = _unpacked(remote.asset, downloads, tree, report) if remote.asset.archived else sums
            record = _record(remote, sums, files)
            if not remote.asset.archived:
                for name in sums:
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    (downloads / name).rename(tree / name)
            write_record(tree, record)
            install(tree, place / remote.asset.name)
            for left in place.glob(f".{remote.asset.name}.*.part"):
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise disk_error(error, place) from error
        finally:
            shutil.rmtree(stage / "files", ignore_errors=True)
    return record


def _record(remote: Remote, sums: Mapping[str, Sum], files: Mapping[str, Sum]) -> Record:
    asset = remote.asset
    return Record(
        asset=asset.name,
        repository=asset.repository,
        revision=remote.revision,
        commit=remote.commit,
        endpoint=_endpoint(),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        licence=asset.licence,
        terms=asset.terms,
        downloads=sums,
        files=files,
    )


def _unpacked(asset: Asset, downloads: Path, tree: Path, report: Report) -> dict[str, Sum]:
    sums: dict[str, Sum] = {}
    for name in asset.files:
        sums |= unpack(downloads / name, tree, report)
    lacking = asset.lacking(sums)
    if lacking:
        raise CxrbenchError(
            f"{' and '.join(asset.files)} of {asset.repository} holds no {lacking}",
            where=str(downloads),
            fix="--revision with a commit whose archive has it",
            code=Exit.REGRESSION,
        )
    return sums


def encoder_note(asset: Asset, folder: Path) -> str:
    """A sentence if an unpacked archive names another encoder than the asset that is fetched along with it, else ''."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = config["model"]["embedder"]["token_embedders"]["bert"]["model_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    fetched = [table()[name] for name in asset.companions]
    if any(named in (each.repository, *each.also) for each in fetched):
        return ""
    have = " and ".join(each.repository for each in fetched)
    return f"{asset.name} says that its encoder is {named}, and cxrbench fetches {have}: do not score with it"


# One file


def _check_room(remote: Remote, downloads: Path) -> None:
    there = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
    check_room(downloads, max(0, (remote.size or 0) - there))


def _download(remote: Remote, file: RemoteFile, downloads: Path, report: Report) -> Sum:
    """One file, whole and checked. `NAME.part` is what has come so far; it outlives a broken connection."""
    target = downloads / file.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        _until_whole(remote, file, part, report)
        part.rename(target)
    found = Sum(target.stat().st_size, sha256(target))
    wrong = _wrong(remote, file, target, found)
    if wrong:
        target.unlink()
        raise CxrbenchError(
            f"{file.name} of {remote.asset.repository} is not what {wrong}; it was deleted",
            where=_endpoint(),
            fix="the same command fetches it again; if that does not help, something on the way changes files",
            code=Exit.REGRESSION,
        )
    return found


def _until_whole(remote: Remote, file: RemoteFile, part: Path, report: Report) -> None:
    for attempt in range(1, TRIES + 1):
        before = _size(part)
        if before == file.size:
            return
        try:
            _append(remote, file, part, report)
        except CxrbenchError:
            if attempt == TRIES or _size(part) <= max(before, 0):
                raise
        else:
            return


def _size(part: Path) -> int:
    """Bytes of what came so far, -1 where nothing did: a file may be empty."""
    return part.stat().st_size if part.exists() else -1


def _append(remote: Remote, file: RemoteFile, part: Path, report: Report) -> None:
    """Download what a part lacks."""
    there = _size(part)
    start = there if 0 < there <= (file.size or 0) else 0  # without a size nobody can tell a part from the whole
    with part.open("r+b" if there > 0 else "wb") as out:
        out.seek(start)
        try:
            for offset, chunk in _chunks(remote, file, start):
                out.seek(offset)
                out.write(chunk)
                report(f"{remote.asset.name}: {file.name}", offset + len(chunk), file.size)
        finally:
            out.truncate()


def _chunks(remote: Remote, file: RemoteFile, start: int) -> Iterator[tuple[int, bytes]]:
    """The file's bytes from `start` on, each with its offset; from the beginning where the server knows no ranges."""
    with _talking(remote.asset, kept=True):
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(remote.asset.repository, file.name, revision=remote.commit)
        headers = build_hf_headers(library_name="cxrbench", library_version=__version__)
        headers["Accept-Encoding"] = "identity"  # an offset counts the file's own bytes
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            offset = start if response.status_code == 206 else 0
            for chunk in response.iter_bytes():
                yield offset, chunk
                offset += len(chunk)


def _wrong(remote: Remote, file: RemoteFile, path: Path, found: Sum) -> str:
    """Who says that a file is another, '' where nobody does."""
    known = remote.asset.known.get(file.name)
    before = remote.before.downloads.get(file.name) if remote.before is not None else None
    if file.size not in (None, found.size) or file.sha256 not in (None, found.sha256):
        return "the hub lists"
    if file.blob is not None and file.blob != _blob(path, found.size):
        return "the hub lists"
    if known is not None and (known.size not in (None, found.size) or known.sha256 not in (None, found.sha256)):
        return "cxrbench knows under this name"
    same_commit = remote.before is not None and remote.before.commit == remote.commit
    if same_commit and before is not None and before != found:
        return "was recorded at the first fetch"
    return ""


def _blob(path: Path, size: int) -> str:
    """Git's checksum of a file."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


# The hub


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network, by huggingface_hub's own words for yes."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _endpoint() -> str:
    """The host that assets come from, without any user information in its address."""
    from huggingface_hub import HfApi

    parts = urlsplit(HfApi().endpoint)
    return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")


@contextmanager
def _talking(asset: Asset, *, kept: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong between here and the hub into one sentence; `kept`: a part of a file may have come."""
    if not find_spec("huggingface_hub"):
        raise CxrbenchError(
            "assets are fetched with huggingface_hub, which is not installed", fix="pip install 'cxrbench[models]'"
        )
    try:
        yield
    except Exception as error:  # the hub's HTTP client is httpx or httpx2 by version: no class could be named here
        what, fix = _said(error, asset, kept)
        raise CxrbenchError(what, where=_endpoint(), fix=fix, code=Exit.INFRASTRUCTURE) from error


def _said(error: Exception, asset: Asset, kept: bool) -> tuple[str, str]:
    """What went wrong, and what to do."""
    from huggingface_hub import errors

    name, repository = asset.name, asset.repository
    model = asset.kind == "model"
    carry = "copy the folder here and name it" if model else "cxrbench assets pack elsewhere, unpack here"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{name} was not fetched: HF_HUB_OFFLINE forbids the network",
            f"unset HF_HUB_OFFLINE, or carry it here: {carry}",
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is given only to those who agreed to its terms",
            f"agree on the page of {repository}, then `hf auth login`, then the same command",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        other = "ORG/NAME@REVISION" if model else "--revision, or --update for that of assets.toml"
        return f"{repository} has no such revision", f"name another: {other}"
    if isinstance(error, errors.RepositoryNotFoundError):
        also = "the name (there is no such folder here either), " if model else ""
        return f"the hub has no {repository}, or shows it to others only", f"check {also}HF_ENDPOINT and HF_TOKEN"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file of {repository} that the hub lists is not there", "the same command tries it again"
    status = getattr(getattr(error, "response", None), "status_code", None)
    how = f"HTTP {status}" if status else type(error).__name__
    what = "the connection broke off" if kept else "the hub cannot be reached"
    return (
        f"{name} was not fetched: {what} ({how})" + ("; what came is kept" if kept else ""),
        f"the same command goes on from there; without a network: {carry}",
    )
