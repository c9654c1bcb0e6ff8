"""What keeps data private: modes of files and folders, and the one guard of endpoints. Touches types and errors only.

Whatever cxrbench writes of a run, an index or a cache is its owner's alone from the first byte, open data included:
files 0600, folders 0700, by the mode they are created with, never by the process's umask and never by a chmod later.
Folders above a run (runs/, runs/TASK/) are made as the system makes folders: their names tell tasks and models only.

Data are credentialed unless a task (or `score --access open`) says otherwise, so a bare file is credentialed. Such data
go to no endpoint but loopback and Unix sockets, unless the host stands in `trusted_endpoints` with the agreement named.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.types import Access

MARKER = "CXRBENCH_CACHE"
"""The file that says a folder is cxrbench's own to fill and to delete."""


def _loopback(host: str) -> bool:
    """Loopback by literal address or the exact name localhost; other names may resolve anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard_endpoint(access: Access, url: str, trusted: Mapping[str, str]) -> str | None:
    """Refuse an endpoint that credentialed data may not reach; return the agreement that allows it, if one does.

    Open data may go anywhere. `url` is http(s)://host[:port]/... or unix:/path. A URL with user information is
    refused for credentialed data: it is the classic way to dress up a foreign host.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix" or access == "open":
        return None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme in ("http", "https") and host and "@" not in parts.netloc:
        if _loopback(host):
            return None
        if trusted.get(host, "").strip():
            return trusted[host]
    raise CxrbenchError(
        f"credentialed data may not be sent to {host or 'this endpoint'}",
        where="the endpoint's URL",
        fix=f'add to cxrbench.toml: [trusted_endpoints] "{host or "HOST"}" = "the agreement that allows it"',
    )


def guard_address(access: Access, host: str, address: str, *, clear: bool, secret: bool = False) -> None:
    """Refuse an address that the host of an allowed endpoint resolves to, before anything connects to it.

    `localhost` must be loopback, whatever a resolver says. Credentialed data, and a `secret` (a key) with any data, go
    unencrypted (`clear`) to no address that is reached over the internet: nothing proves who answers there.

    Raises:
        CxrbenchError: such an address.
    """
    if access == "open" and not secret:
        return
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    if _loopback(host) and not found.is_loopback:
        raise CxrbenchError(
            f"{host} resolves to an address that is not this machine's own",
            where="the endpoint's URL",
            fix="write http://127.0.0.1:PORT, and look at /etc/hosts",
        )
    if clear and found.is_global:
        raise CxrbenchError(
            f"what is sent to {host} over http:// could be read on its way",
            where="the endpoint's URL",
            fix="write https://",
        )


def private_file(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that is made is its owner's alone from the first byte; no link is followed.

    A link in a folder that somebody else made would lead what is written into any file of the user.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def private_folder(path: Path) -> Path:
    """Make a folder for its owner alone; one that is there already stays as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def hold(handle: int) -> None:
    """Hold an open file or folder of cxrbench's own until it is closed or the process dies, however it dies.

    What nobody holds is known as a leftover by that. Where a file system has no locks, leftovers stay.
    """
    import fcntl

    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def remove_left(path: Path) -> None:
    """Remove a file or a folder that a process made, held and left when it was killed.

    What a process still holds, what belongs to another user and what a link points to stays.
    """
    import fcntl

    # To be locked on a network file system a file must be open for writing; a folder cannot be.
    access = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with suppress(OSError):
        handle = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(handle)


def close_tree(folder: Path) -> None:
    """Take every right of others from a folder of cxrbench's own and what is in it; links are not followed."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in (*folders, *files))):
            if not path.is_symlink() and path.stat().st_mode & 0o077:
                path.chmod(path.stat().st_mode & 0o700)


def claim_folder(folder: Path) -> Path:
    """Make a folder for an index or a cache and mark it as cxrbench's own: `cache purge` deletes no other.

    Raises:
        CxrbenchError: the folder holds files and no mark (they may be original data), or it cannot be written.
    """
    try:
        private_folder(folder)
        if is_claimed(folder):
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
            return folder
        if any(folder.iterdir()) and not is_claimed(folder):  # another process may have marked it meanwhile
            raise CxrbenchError(
                "the folder holds other files, and cxrbench did not make it",
                where=str(folder),
                fix="name an empty or a new folder",
            )
        folder.chmod(0o700)
        with open(folder / MARKER, "w", encoding="utf-8", opener=private_file) as file:
            file.write("made by cxrbench; `cxrbench cache purge` deletes this folder with everything in it\n")
    except OSError as error:
        raise CxrbenchError(
            f"the folder cannot be written: {error.strerror}",
            where=str(folder),
            fix="make room, or name a folder that can be written",
            code=Exit.INFRASTRUCTURE,
        ) from error
    return folder


@contextmanager
def claiming(folder: Path) -> Iterator[Path]:
    """Claim a folder for what the block makes in it; a block that fails leaves the place as it was found.

    A folder that was claimed before keeps what is in it.

    Raises:
        CxrbenchError: as `claim_folder`.
    """
    if is_claimed(folder):
        yield claim_folder(folder)
        return
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    mode = None if missing else folder.stat().st_mode & 0o777
    claim_folder(folder)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            _empty(folder)
            if mode is not None:
                folder.chmod(mode)
            for place in missing:
                place.rmdir()  # unless something else has come into it meanwhile
        raise


def _empty(folder: Path) -> None:
    """Delete what is in a folder that was empty when it was claimed."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_claimed(folder: Path) -> bool:
    """Whether cxrbench made this folder, and may delete it with everything in it."""
    return (folder / MARKER).is_file()
