"""Servers that mean harm: no redirect, endless answer, header or echo gets further than a named failure."""

import json

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.http import Client, Server
from cxrbench.http_endpoint import open_endpoint
from cxrbench.http_limits import Policy
from cxrbench.judges import parsers
from cxrbench.judges.rubric import Category
from tests.chat_server import ChatServer, Listener, call, completion, drip, status
from tests.security.limits import blocked_is_caught, within

FAST = Policy(timeout=1.5, connect=1.0, retries=0, first_delay=0.0, hopeless=1_000, largest=1 << 20)
HASTY = Policy(timeout=0.5, connect=0.5, retries=0, first_delay=0.0, hopeless=1_000, largest=1 << 20)
SECRET = "sample 0 WORDS-OF-A-REPORT"


def ask(server, **changes):
    """One request; what became of it, and what the client says about the server."""
    endpoint = open_endpoint(server.url, "credentialed", {})
    with Server(Client(endpoint, policy=changes.get("policy", FAST), key=changes.get("key"))) as client:
        (found,) = client.ask_all([call()])
        return found, client.client.stopped


def raw(data):
    async def act(writer, server):
        writer.write(data)
        writer.close()

    return act


def endless(head=b"", block=b"x" * 65536):
    """As many bytes as the client takes."""

    async def act(writer, server):
        writer.write(b"HTTP/1.1 200 OK\r\n" + head)
        for _ in range(2_000):
            if writer.is_closing():
                return
            writer.write(block)
            await writer.drain()

    return act


def failed(act, **changes):
    with ChatServer(lambda heard: act) as server, blocked_is_caught(20), within(5, 64):
        found, stopped = ask(server, **changes)
    assert not found.answered
    assert found.text is None
    return found, stopped


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(code):
    with Listener() as listener:
        place = f"http://127.0.0.1:{listener.port}/v1/chat/completions"
        _, stopped = failed(status(code, headers=(("Location", place),)))
        assert listener.counts() == (0, 0)
    assert isinstance(stopped, CxrbenchError)
    assert str(listener.port) not in str(stopped)


@pytest.mark.parametrize(
    "act",
    [
        endless(b"Content-Type: application/json\r\n\r\n"),
        endless(b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        endless(b"X-Header: "),
        endless(b"", b"X-Header: 1\r\n" * 5000),
        drip(),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
        raw(b"HTTP/1.1 999 " + b"\xff" * 5000 + b"\r\n\r\n"),
        raw(b"HTTP/9.9 200 OK\r\n\r\n"),
        raw(b"\0" * 100_000),
        status(200, b"", headers=(("Content-Encoding", "gzip"),)),
        status(200, b"[" * 900_000),
        status(200, b'{"choices": ' + b'[{"message": ' * 60_000),
        status(200, b'{"choices": 1' + b"0" * 500_000 + b"}"),
        status(503, headers=(("Retry-After", "9" * 300),)),
    ],
    ids=[
        "endless",
        "chunks",
        "header-line",
        "headers",
        "drip",
        "length",
        "negative",
        "status",
        "version",
        "zeros",
        "packed",
        "deep",
        "deeper",
        "digits",
        "wait",
    ],
)
def test_an_answer_that_does_not_end_or_is_none_is_a_named_failure(act):
    found, _ = failed(act, policy=HASTY)
    assert found.detail


def test_what_a_server_repeats_of_a_prompt_stands_in_no_message():
    echo = json.dumps({"error": {"message": SECRET, "code": SECRET, "type": SECRET}}).encode()
    for code in (400, 401, 403, 404, 422, 429, 500):
        found, stopped = failed(status(code, echo))
        assert "WORDS" not in f"{found.detail} {stopped} {found.body!r}"
    body = json.dumps(completion("fine", model=SECRET + "\n", system_fingerprint=SECRET * 50)).encode()
    with ChatServer(lambda heard: status(200, body)) as server:
        found, _ = ask(server)
    assert found.answered
    assert (found.model, found.fingerprint) == (None, None)  # a name of lines, or too long, is written into no file


def nested(depth):
    return '{"a":' * depth


ANSWERS = {
    "too-long": "{" * 200_000,
    "braces": "{" * 2_500,
    "more-braces": "{" * 9_000,
    "nested": nested(9_900),
    "colons": "correctness" + ":" * 49_000,
    "blank": "\n" * 49_999,
    "names": "correctness: " * 3_500,
    "side": "clinically significant errors: [" * 1_500,
    "words": "clinically significant errors" + ": " * 24_000,
    "tuple": "clinically significant errors: [" + "(A," + " " * 49_000,
    "green": "[Clinically Significant Errors]:\n" + "(a) x: " * 7_000,
    "green-blank": "[Matched Findings]:" + " \n" * 24_000,
    "numbers": '{"missed": 1e999, "added": -1e999}',
    "nan": '{"missed": NaN, "added": Infinity, "correctness": NaN}',
    "huge": '{"missed": ' + "9" * 4000 + ', "added": 1}',
    "digits": "missed: " + "9" * 5000 + "\nadded: 1",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=pytest.mark.slow) if each == "more-braces" else each for each in ANSWERS]
)
def test_no_parser_of_answers_hangs_or_breaks(kind):
    """A judge's text is as long as its server likes, up to the client's bound."""
    asked = tuple(Category(name=name) for name in ("missed", "added"))
    for parse in map(parsers.bounded, (*parsers._PARSERS.values(), lambda text: parsers.values(text, asked))):
        with within(1.0, 64):
            try:
                parse(ANSWERS[kind])
            except parsers.Unreadable as reason:
                assert ANSWERS[kind][:40] not in str(reason)  # noqa: PT017
