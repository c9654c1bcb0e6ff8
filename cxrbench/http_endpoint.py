"""Where requests go: a URL becomes an endpoint, and its name becomes addresses that may be connected to.

One parser decides. What it returns is what is connected to, so no second reading of the same URL by another library can
come to another host. Touches errors, types and privacy (the guard) only; no byte leaves from here but DNS queries, and
those only for a host the guard has let pass.

    http://127.0.0.1:8000/v1                                      loopback
    unix:/run/vllm.sock                                           a Unix socket, base path /v1
    unix:/run/vllm.sock:/openai/v1                                the same with another base path
    https://NAME.openai.azure.com/openai/deployments/D?api-version=2024-10-21
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import guard_address, guard_endpoint
from cxrbench.types import Access

WHERE = "the endpoint's URL"
_EXAMPLE = "as in http://127.0.0.1:8000/v1, https://HOST/v1 or unix:/run/server.sock"
KEY_HINT = "an environment variable gives the key"
UNKNOWN = "is not known to this machine's resolver"
_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_AUTHORITY = re.compile(rf"(\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>(?i:{_NAME})))(:(?P<port>[0-9]{{1,5}}))?")
_PATH = re.compile(r"(/[A-Za-z0-9._~%:+-]+)*/?")
_VERSION = re.compile(r"api-version=([A-Za-z0-9._-]{1,40})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that may be asked. `base` is the path before `/chat/completions`, without a slash at its end.

    `agreement` is the text that allows credentialed data there, None where none is needed. `api_version` is that of an
    Azure deployment, else empty. `clear` says that bytes travel unencrypted and could be read on their way.
    `key_hint` is how the user gives a key there, in the words of the caller's options; errors repeat it.
    """

    scheme: str
    host: str
    port: int
    base: str
    api_version: str = ""
    socket_path: str = ""
    access: Access = "credentialed"
    agreement: str | None = None
    key_hint: str = KEY_HINT

    @property
    def url(self) -> str:
        """The URL as it is written into manifests: canonical, and without a secret, since none is accepted in it."""
        version = f"?api-version={self.api_version}" if self.api_version else ""
        if self.socket_path:
            return f"unix:{self.socket_path}:{self.base}{version}"
        return f"{self.scheme}://{self.authority}{self.base}{version}"

    @property
    def authority(self) -> str:
        """`host[:port]`, as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme, 80) else f"{host}:{self.port}"

    @property
    def clear(self) -> bool:
        """Whether what is sent could be read on its way."""
        return self.scheme == "http"


def open_endpoint(url: str, access: Access, trusted: Mapping[str, str], key_hint: str = KEY_HINT) -> Endpoint:
    """Read a URL and ask the guard; nothing is looked up or sent.

    Args:
        url: see the module.
        access: of the data that will be sent.
        trusted: `Config.trusted_endpoints`.
        key_hint: see `Endpoint`.

    Raises:
        CxrbenchError: the URL is not plainly written, or the guard refuses its host. Neither quotes the URL, which
            may hold a secret.
    """
    if not url or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise _malformed("the URL is empty, or holds a space, a backslash or a character outside ASCII")
    rest, mark, query = url.partition("?")
    version = _VERSION.fullmatch(query)
    if "#" in url or (mark and version is None):
        raise _malformed("the URL holds a query or a fragment; only ?api-version=... (Azure) is understood")
    found = _unix(rest) if rest.startswith("unix:") else _network(rest, key_hint)
    agreement = guard_endpoint(access, url, trusted)
    return replace(
        found, api_version=version[1] if version else "", access=access, agreement=agreement, key_hint=key_hint
    )


def _malformed(what: str, fix: str = _EXAMPLE) -> CxrbenchError:
    return CxrbenchError(what, where=WHERE, fix=fix)


def _unix(text: str) -> Endpoint:
    path, colon, base = text.removeprefix("unix:").partition(":")
    base = _base(base) if colon else "/v1"
    try:
        if not path.startswith("/") or not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise _malformed("the path is not that of a Unix socket", "unix:/absolute/path.sock")
    except OSError as error:
        raise CxrbenchError(
            f"the Unix socket cannot be used: {error.strerror}",
            where=path,
            fix="start the server, or correct the path",
            code=Exit.INFRASTRUCTURE,
        ) from None
    return Endpoint("unix", "localhost", 80, base, socket_path=path)


def _network(text: str, key_hint: str) -> Endpoint:
    scheme, slashes, rest = text.partition("://")
    if not slashes or scheme not in _PORTS:
        raise _malformed("the URL does not begin with http://, https:// or unix:/")
    authority, slash, path = rest.partition("/")
    if "@" in authority or "%" in authority:
        raise _malformed("the URL holds a user, a password or an encoded host", key_hint)
    host, port = _split_port(authority, _PORTS[scheme])
    return Endpoint(scheme, host, port, _base(slash + path))


def _base(path: str) -> str:
    """The path without a slash at its end."""
    if path and not _PATH.fullmatch(path):
        raise _malformed("the URL's path is not plainly written")
    return path.rstrip("/")


def _split_port(authority: str, default: int) -> tuple[str, int]:
    """Host in lower case and port of `host`, `host:port` or `[IPv6]:port`."""
    shape = _AUTHORITY.fullmatch(authority)
    if shape is None:
        raise _malformed("the URL's host is not plainly written")
    port = int(shape["port"] or default)
    if not 0 < port < 65536:
        raise _malformed(f"there is no port {port}")
    host = _plain_v6(shape["v6"]) if shape["v6"] else shape["host"].lower()
    if shape["v6"] is None:
        _refuse_numbers(host)
    return host, port


def _plain_v6(text: str) -> str:
    """An IPv6 address in its canonical form; one that carries another address inside is refused."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _malformed("the URL's host is no IPv6 address") from None
    if address.scope_id or address.ipv4_mapped or address.sixtofour or address.teredo:
        raise _malformed("the URL's IPv6 address holds a zone or another address", "write that address itself")
    return str(address)


def _refuse_numbers(host: str) -> None:
    """A host that ends in a number is an IPv4 address to some programs: only four plain decimals are one here."""
    if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
        return
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise _malformed("the URL's host is a number", "write an IPv4 address as four decimals: 127.0.0.1") from None


async def resolve(endpoint: Endpoint, *, secret: bool) -> tuple[str, ...]:
    """Addresses that may be connected to, in the system's order; every one has passed the guard.

    Args:
        endpoint: as `open_endpoint` made it.
        secret: whether a key is sent along.

    Raises:
        CxrbenchError: the name is not known, or the guard refuses an address it resolves to.
    """
    if endpoint.socket_path:
        return ()
    addresses: tuple[str, ...] = (endpoint.host,)
    if not _is_address(endpoint.host):
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise CxrbenchError(
                f"the host {endpoint.host} {UNKNOWN}",
                where=WHERE,
                fix="correct the name; on a machine without a network, use loopback or a Unix socket",
                code=Exit.INFRASTRUCTURE,
            ) from None
        addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        guard_address(endpoint.access, endpoint.host, address, clear=endpoint.clear, secret=secret)
    return addresses


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_key(variable: str) -> str:
    """The key in an environment variable; it is never part of an error.

    Raises:
        CxrbenchError: the variable is not set, or its value cannot be sent in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        what = "is not set" if not key else "holds a character that no header can carry"
        raise CxrbenchError(
            f"the environment variable {variable} {what}", where="the key", fix=f"export {variable}=..."
        )
    return key
