"""Getting past the guard: every way out we know of, with texts and images, against sockets that count bytes.

`Listener` accepts on every address of this machine, so whatever is connected to by mistake is counted; names are
resolved by the test, to it. Each attempt goes the whole way of a run: engine, request with an image, batch.
"""

from __future__ import annotations

import socket

import numpy as np
import pytest

from cxrbench.engines.base import join
from cxrbench.engines.openai import OpenAIEngine
from cxrbench.errors import CxrbenchError
from cxrbench.http import Client, Server
from cxrbench.http_endpoint import open_endpoint
from cxrbench.http_limits import Policy
from cxrbench.models.base import ModelOptions
from cxrbench.models.openai import OpenAI
from cxrbench.privacy import guard_address
from cxrbench.types import Generation, Image, Sample
from tests.chat_server import ChatServer, Listener, call, own_address, status

TRUSTED = {"judge.example": "contract 7", "blank.example": "  ", "127.1": "a number", "clear.example": "contract 8"}
EVIL = "evil.example"


def unreadable(path):
    return np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def run_one(url, **extra):
    """One credentialed sample with text and image: its prediction, or the error that ended it."""
    settings = {"url": url, "retries": "1", "backoff": "0", "timeout": "60", **extra}
    try:
        options = ModelOptions(
            argument="m", extra=settings, read_image=unreadable, access="credentialed", trusted_endpoints=TRUSTED
        )
        model = join(OpenAI, OpenAIEngine, options)
    except CxrbenchError as error:
        return error
    sample = Sample("s1", "s1", "p1", "", (Image("i", "i.png", "PA"),), sections={"indication": "secret of a patient"})
    try:
        prepared = model.prepare(model.request(sample, "generate", Generation(), 0))
        return model.generate(0, [prepared]).predictions[0]
    except CxrbenchError as error:
        return error
    finally:
        model.close()


@pytest.fixture
def listener():
    with Listener() as made:
        yield made


def test_the_counter_counts(listener):
    for host in ("127.0.0.1", own_address() or "127.0.0.2"):
        with socket.create_connection((host, listener.port)) as made:
            made.sendall(b"seven b")
    assert listener.counts() == (2, 14)


@pytest.fixture
def names(monkeypatch):
    """A resolver of the test's own: name -> address; what it was asked is in `asked`."""
    known, real = {}, socket.getaddrinfo

    def resolve(host, port, *rest, **further):
        known.setdefault("asked", []).append(host)
        host = host.decode() if isinstance(host, bytes) else host
        target = known.get(host, known.get("*", host))
        return real(target, port, *rest, **further)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


URLS = [
    "http://evil.example:{port}/v1",
    "https://evil.example:{port}/v1",
    "http://localhost.evil.example:{port}/v1",
    "http://127.0.0.1.evil.example:{port}/v1",
    "http://judge.example.evil.example:{port}/v1",
    "http://sub.judge.example:{port}/v1",
    "http://blank.example:{port}/v1",
    "http://user@127.0.0.1:{port}/v1",
    "http://user:hunter2@localhost:{port}/v1",
    "http://127.0.0.1@evil.example:{port}/v1",
    "http://127.0.0.1:80@evil.example:{port}/v1",
    "http://judge.example@evil.example:{port}/v1",
    "http://evil.example:{port}\\@127.0.0.1/v1",
    "http://evil.example:{port}#@127.0.0.1/v1",
    "http://evil.example:{port}?@127.0.0.1/v1",
    "http://127.0.0.1:{port}/v1?url=http://evil.example",
    "http://2130706433:{port}/v1",
    "http://0x7f000001:{port}/v1",
    "http://0x7f.0.0.1:{port}/v1",
    "http://0177.0.0.1:{port}/v1",
    "http://127.1:{port}/v1",
    "http://127.0.1:{port}/v1",
    "http://0:{port}/v1",
    "http://0.0.0.0:{port}/v1",
    "http://[::]:{port}/v1",
    "http://[::ffff:127.0.0.1]:{port}/v1",
    "http://[::ffff:7f00:1]:{port}/v1",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/v1",
    "http://[::127.0.0.1]:{port}/v1",
    "http://[2002:7f00:1::]:{port}/v1",
    "http://[fe80::1%25lo]:{port}/v1",
    "http://127.0.0.1.:{port}/v1",
    "http://localhost.:{port}/v1",
    "http://judge.example.:{port}/v1",
    "http://１２７.0.0.1:{port}/v1",
    "http://①②⑦.0.0.1:{port}/v1",
    "http://127。0。0。1:{port}/v1",
    "http://ｌocalhost:{port}/v1",
    "http://%31%32%37.0.0.1:{port}/v1",
    "http://localhost%2eevil.example:{port}/v1",
    "http://localhost%00.evil.example:{port}/v1",
    "http://local\thost:{port}/v1",
    "http://127.0.0.1:{port}\n/v1",
    " http://127.0.0.1:{port}/v1",
    "http:127.0.0.1:{port}/v1",
    "http:///127.0.0.1:{port}/v1",
    "//127.0.0.1:{port}/v1",
    "127.0.0.1:{port}/v1",
    "ftp://127.0.0.1:{port}/v1",
    "ws://127.0.0.1:{port}/v1",
    "unix://127.0.0.1:{port}/v1",
    "http+unix://127.0.0.1:{port}/v1",
    "file:///etc/hosts",
    "http://{own}:{port}/v1",
]


@pytest.mark.parametrize("url", URLS)
def test_an_address_that_is_not_plainly_this_machine_gets_nothing(listener, names, url):
    names["*"] = "127.0.0.1"
    found = run_one(url.format(port=listener.port, own=own_address() or "192.0.2.1"))
    assert isinstance(found, CxrbenchError)
    assert "secret" not in str(found)
    assert "hunter2" not in str(found)
    assert listener.counts() == (0, 0)
    assert "asked" not in names, "even a question to a resolver tells somebody"


def test_a_refusal_says_what_to_write(listener):
    found = run_one(f"http://gpu.hospital.example:{listener.port}/v1")
    assert "credentialed data may not be sent to gpu.hospital.example" in str(found)
    assert '[trusted_endpoints] "gpu.hospital.example" = "the agreement that allows it"' in found.fix


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", EVIL, "localhost"])
def test_a_redirect_gets_nothing(listener, names, code, host):
    names["*"] = "127.0.0.1"
    place = f"http://{host}:{listener.port}/v1/chat/completions"
    with ChatServer(lambda _: status(code, headers=[("Location", place), ("Refresh", f"0; url={place}")])) as server:
        found = run_one(server.url)
    assert "redirects" in str(found)
    assert len(server.heard) == 1
    assert listener.counts() == (0, 0)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_gets_nothing(listener, monkeypatch, name):
    for other in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    with ChatServer() as server:
        assert run_one(server.url).outcome == "ok"
    assert listener.counts() == (0, 0)


@pytest.mark.parametrize("header", ["Alt-Svc", "Content-Location", "Link", "Location"])
def test_a_header_that_names_another_place_changes_nothing(listener, header):
    place = f'h2="127.0.0.1:{listener.port}"' if header == "Alt-Svc" else f"http://127.0.0.1:{listener.port}/"

    def behave(heard):
        return status(503 if heard.number == 0 else 200, b"", [(header, place)])

    with ChatServer(behave) as server:
        assert run_one(server.url).outcome == "no_answer"
    assert len(server.heard) == 2
    assert listener.counts() == (0, 0)


def test_localhost_that_resolves_to_another_machine(listener, names):
    names["localhost"] = own_address() or "192.0.2.1"
    found = run_one(f"http://localhost:{listener.port}/v1")
    assert "localhost resolves to an address that is not this machine's own" in str(found)
    assert listener.counts() == (0, 0)


def test_localhost_that_resolves_to_this_machine_is_connected_to_by_address(names):
    names["localhost"] = "127.0.0.1"
    with ChatServer() as server:
        assert run_one(f"http://localhost:{server.port}/v1").outcome == "ok"
        assert server.heard[0].headers["host"] == f"localhost:{server.port}"


def test_a_name_that_resolves_elsewhere_the_second_time(names):
    """Rebinding: the first connection is lost, and by then the name has moved to another machine's same port."""
    elsewhere = own_address() or pytest.skip("this machine has no address but loopback")
    names["localhost"] = "127.0.0.1"
    with ChatServer() as server, socket.create_server((elsewhere, server.port)) as other:
        other.setblocking(False)
        endpoint = open_endpoint(f"http://localhost:{server.port}/v1", "credentialed", {})
        with Server(Client(endpoint, Policy(retries=2, first_delay=0))) as asked:
            assert asked.ask_all([call()])[0].outcome == "ok"
            names["localhost"] = elsewhere
            server.__exit__()
            found = asked.ask_all([call(), call()])
        with pytest.raises(BlockingIOError):
            other.accept()
    assert {one.outcome for one in found} == {"no_answer"}
    assert "not this machine's own" in str(asked.client.stopped)
    assert len(names["asked"]) > 1


@pytest.mark.parametrize(
    ("host", "address", "clear"),
    [
        ("localhost", "8.8.8.8", True),
        ("localhost", "10.0.0.1", True),
        ("localhost", "0.0.0.0", True),
        ("localhost", "::", True),
        ("localhost", "::ffff:8.8.8.8", False),
        ("localhost", "fe80::1%lo", False),
        ("clear.example", "8.8.8.8", True),
        ("clear.example", "::ffff:8.8.8.8", True),
        ("clear.example", "2001:4860:4860::8888", True),
    ],
)
def test_addresses_the_guard_refuses(host, address, clear):
    for given in ({"access": "credentialed"}, {"access": "open", "secret": True}):
        access = given.pop("access")
        with pytest.raises(CxrbenchError):
            guard_address(access, host, address, clear=clear, **given)
    guard_address("open", host, address, clear=clear)


@pytest.mark.parametrize(
    ("host", "address", "clear"),
    [
        ("localhost", "127.0.0.1", True),
        ("localhost", "127.0.0.53", True),
        ("localhost", "::1", True),
        ("localhost", "::ffff:127.0.0.1", True),
        ("gpu.example", "10.1.2.3", True),
        ("gpu.example", "fd00::5", True),
        ("judge.example", "8.8.8.8", False),
    ],
)
def test_addresses_the_guard_lets_pass(host, address, clear):
    guard_address("credentialed", host, address, clear=clear, secret=True)


def test_a_trusted_host_reached_over_the_internet_must_be_encrypted(names, listener):
    names["clear.example"] = "8.8.8.8"
    assert "could be read on its way" in str(run_one(f"http://clear.example:{listener.port}/v1"))


def test_a_trusted_host_gets_what_was_agreed_and_nothing_before_its_certificate_is_known(names, listener):
    names["judge.example"] = "127.0.0.1"
    with ChatServer() as server:
        found = run_one(f"http://judge.example:{server.port}/v1")
        assert found.outcome == "ok"
        assert server.heard[0].headers["host"] == f"judge.example:{server.port}"
        found = run_one(f"https://judge.example:{server.port}/v1", timeout="0.1")
    assert isinstance(found, CxrbenchError) or found.outcome == "no_answer"
    assert len(server.heard) == 1


def test_a_socket_path_that_is_none(tmp_path):
    (tmp_path / "plain").write_text("x")
    for path in (tmp_path / "plain", tmp_path / "absent", "relative.sock"):
        assert isinstance(run_one(f"unix:{path}"), CxrbenchError)


def test_open_data_may_go_anywhere_but_a_key_only_encrypted(names, monkeypatch):
    names["evil.example"] = "8.8.8.8"
    endpoint = open_endpoint("http://evil.example/v1", "open", {})
    made = Client(endpoint, Policy(retries=0), key="sk-1")
    with Server(made) as asked:
        assert "could be read on its way" in asked.ask_all([call()])[0].detail
