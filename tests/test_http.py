"""The client against real servers: what it reads, what it repeats, what it gives up, and what it says."""

from __future__ import annotations

import asyncio
import builtins
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import cxrbench
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.http import Client, Clock, Server
from cxrbench.http_answer import Answer, Trouble, read_response, retry_after
from cxrbench.http_endpoint import open_endpoint, read_key
from cxrbench.http_limits import Budget, Pace, Policy, Prices
from tests.chat_server import (
    TEXT,
    ChatServer,
    answer,
    call,
    completion,
    drip,
    garbage,
    never,
    reset,
    status,
    truncated,
)

FAST = Policy(timeout=60.0, first_delay=0.0)


class Slept:
    """A clock whose sleeps take no time and are remembered."""

    def __init__(self):
        self.seconds = []
        self.at = 0.0

    def now(self):
        return self.at

    async def sleep(self, seconds):
        self.seconds.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)

    @property
    def clock(self):
        return Clock(self.now, self.sleep)


def client(url, policy=FAST, **further):
    return Client(open_endpoint(url, "credentialed", {}), policy, seed=0, **further)


def ask(server, *calls, policy=FAST, **further):
    """Ask a ChatServer; returns the answers and the client."""
    with Server(client(server.url, policy, **further)) as asked:
        return asked.ask_all(calls or [call()]), asked.client


def one(behave, policy=FAST, **further):
    """The answer to one request, and how many requests the server heard."""
    with ChatServer(behave) as server:
        (found,), _ = ask(server, policy=policy, **further)
        return found, len(server.heard)


# What an answer is


def test_an_answer_has_text_counts_and_who_gave_it():
    with ChatServer() as server:
        (found,), made = ask(server)
    assert (found.outcome, found.text, found.finish_reason) == ("ok", TEXT, "stop")
    assert (found.prompt_tokens, found.output_tokens) == (12, 5)
    assert (found.model, found.fingerprint) == ("served-model", "fp_1")
    assert json.loads(found.body) == completion()
    assert found.attempts == 1
    assert 0 < found.ended - found.begun < 60
    assert (made.budget.requests, made.budget.answered, made.budget.prompt_tokens) == (1, 1, 12)
    heard = server.heard[0]
    assert heard.target == "/v1/chat/completions"
    assert heard.headers["host"] == f"127.0.0.1:{server.port}"
    assert "authorization" not in heard.headers
    assert heard.body == call().body


def test_a_unix_socket(tmp_path):
    with ChatServer(unix=str(tmp_path / "s.sock")) as server:
        (found,), _ = ask(server)
        assert found.text == TEXT
        assert server.heard[0].target == "/v1/chat/completions"
        with Server(client(f"{server.url}:/other/v2")) as other:
            assert other.ask_all([call()])[0].text == TEXT
        assert server.heard[1].target == "/other/v2/chat/completions"


def test_azure_gets_its_version_and_its_header(monkeypatch):
    monkeypatch.setenv("AZURE_KEY", "secret-1\n")
    with ChatServer() as server:
        url = f"http://127.0.0.1:{server.port}/openai/deployments/d?api-version=2024-10-21"
        with Server(client(url, key=read_key("AZURE_KEY"))) as asked:
            assert asked.ask_all([call()])[0].text == TEXT
            assert asked.client.endpoint.url == url
    heard = server.heard[0]
    assert heard.target == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert heard.headers["api-key"] == "secret-1"
    assert "authorization" not in heard.headers


def changed(**changes):
    made = completion()
    made["choices"][0].update(changes)
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    ("body", "outcome", "finish", "text"),
    [
        (changed(finish_reason="length"), "ok", "length", TEXT),
        (changed(finish_reason=None), "ok", "none", TEXT),
        (changed(message={"content": ""}), "empty", "stop", ""),
        (changed(message={"content": None}), "empty", "stop", ""),
        (changed(message={"content": " \n "}), "empty", "stop", ""),
        (changed(message={"content": None, "refusal": "I cannot"}), "refused", "error", None),
        (changed(finish_reason="content_filter"), "refused", "error", None),
    ],
)
def test_what_a_completion_can_say(body, outcome, finish, text):
    found, heard = one(lambda _: status(200, body))
    assert (found.outcome, found.finish_reason, found.text, heard) == (outcome, finish, text, 1)


BROKEN = {
    "nothing": b"",
    "html": b"<html></html>",
    "half": json.dumps(completion()).encode()[:60],
    "a list": b"[]",
    "a number": b"3",
    "no choices": json.dumps(completion(choices=None)).encode(),
    "empty choices": json.dumps(completion(choices=[])).encode(),
    "two choices": json.dumps(completion(choices=completion()["choices"] * 2)).encode(),
    "choices of another shape": json.dumps(completion(choices={"0": "x"})).encode(),
    "a choice that is a text": json.dumps(completion(choices=["x"])).encode(),
    "no message": changed(message=None),
    "content as a number": changed(message={"content": 5}),
    "content as parts": changed(message={"content": [{"type": "text", "text": "x"}]}),
    "half a character": changed(message={"content": "\ud800"}),
    "another finish reason": changed(finish_reason="abort"),
    "finish reason as a list": changed(finish_reason=[]),
    "usage as a text": json.dumps(completion(usage="many")).encode(),
    "tokens as a text": json.dumps(completion(usage={"prompt_tokens": "12"})).encode(),
    "tokens below zero": json.dumps(completion(usage={"prompt_tokens": -1})).encode(),
    "tokens as truth": json.dumps(completion(usage={"prompt_tokens": True})).encode(),
    "an error with status 200": b'{"error": {"code": 500, "message": "sample 0"}}',
    "not UTF-8": b'{"choices": "\xff"}',
    "nested too deep": b"[" * 200_000,
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_whatever_is_no_chat_completion_is_asked_again_and_then_named(body):
    found, heard = one(lambda _: status(200, body), Policy(retries=2, first_delay=0))
    assert (found.outcome, found.text, found.finish_reason) == ("no_answer", None, "error")
    assert found.detail.startswith("the server's answer is not a chat completion: ")
    assert "sample" not in found.detail
    assert heard == found.attempts == 3
    found, heard = one(lambda one: status(200, body) if one.number == 0 else answer())
    assert (found.outcome, heard) == ("ok", 2)


@pytest.mark.parametrize(
    ("code", "body", "outcome"),
    [
        (400, b"", "engine_error"),
        (422, b"[[[", "engine_error"),
        (400, b'{"error": {"code": "context_length_exceeded"}}', "prompt_too_long"),
        (400, b'{"error": {"code": "content_filter"}}', "refused"),
        (400, b'{"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}', "refused"),
        (400, b'{"error": "sample 0 and sk-123"}', "engine_error"),
        (413, b'{"error": {"code": ["x"]}}', "engine_error"),
    ],
)
def test_a_rejected_request_is_not_repeated_and_its_message_not_quoted(code, body, outcome):
    found, heard = one(lambda _: status(code, body))
    assert (found.outcome, heard) == (outcome, 1)
    assert found.detail.startswith(f"HTTP {code}")
    assert "sample" not in found.detail
    assert "sk-" not in found.detail


# Trying again


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_statuses_that_may_pass(code):
    found, heard = one(lambda one: status(code) if one.number < 2 else answer())
    assert (found.outcome, found.attempts, heard) == ("ok", 3, 3)


@pytest.mark.parametrize(
    "act",
    [reset(), reset(40), reset(200), truncated(0.2), truncated(0.9), garbage()],
    ids=["reset", "reset in the head", "reset in the body", "half a head", "half a body", "garbage"],
)
def test_a_broken_connection_is_tried_again(act):
    found, heard = one(lambda one: act if one.number < 2 else answer())
    assert (found.outcome, found.attempts, heard) == ("ok", 3, 3)
    found, _ = one(lambda one: act, Policy(retries=1, first_delay=0))
    assert (found.outcome, found.attempts) == ("no_answer", 2)


@pytest.mark.parametrize("act", [never(), drip()], ids=["never", "drop by drop"])
def test_a_server_that_does_not_come_to_an_end_is_left(act):
    found, _ = one(lambda one: act, Policy(timeout=0.05, retries=1, first_delay=0))
    assert (found.outcome, found.detail, found.attempts) == ("no_answer", "no answer in time", 2)
    found, heard = one(lambda one: act if one.number == 0 else answer(), Policy(timeout=0.3, first_delay=0))
    assert found.outcome == "ok"
    assert heard == found.attempts > 1


def test_an_answer_without_end_is_cut():
    found, _ = one(lambda _: status(200, b" " * 5000), Policy(largest=4000, retries=0))
    assert found.detail == "the server's answer is longer than 4,000 bytes"


def test_a_compressed_answer_was_not_asked_for():
    found, _ = one(lambda _: status(200, b"x", [("Content-Encoding", "gzip")]), Policy(retries=0))
    assert "compressed" in found.detail


def test_waits_grow_are_scattered_and_end():
    slept = Slept()
    found, _ = one(lambda _: status(500), Policy(retries=6, first_delay=1, longest_delay=10), clock=slept.clock)
    assert found.attempts == 7
    assert len(slept.seconds) == 6
    for seconds, whole in zip(slept.seconds, (1, 2, 4, 8, 10, 10), strict=True):
        assert whole / 2 <= seconds <= whole
    assert len(set(slept.seconds)) == 6


def test_retry_after_is_waited_for_by_everybody():
    slept = Slept()
    behave = lambda one: status(429, headers=[("Retry-After", "7")]) if one.number == 0 else answer()  # noqa: E731
    found, _ = one(behave, clock=slept.clock)
    assert found.outcome == "ok"
    assert sum(slept.seconds) == 7
    pace = Pace(Policy())
    pace.hold(100.0, 7.0)
    assert pace.turn(100.0, 0) == 7.0
    assert pace.turn(120.0, 0) == 0.0


def test_a_wait_beyond_patience_is_a_named_failure():
    behave = lambda _: status(429, headers=[("Retry-After", "86400")])  # noqa: E731
    found, heard = one(behave, clock=Slept().clock)
    assert (found.outcome, found.detail, heard) == ("no_answer", "HTTP 429", 1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 30}, None),
        ({}, None),
    ],
)
def test_forms_of_retry_after(headers, seconds):
    assert retry_after(headers, 10.0) == seconds


FAULTS = [
    status(429, headers=[("Retry-After", "0")]),
    status(500),
    status(503, b"<html>"),
    garbage(),
    garbage(json.dumps(completion(choices=[])).encode()),
    reset(),
    reset(150),
    truncated(),
    never(),
]


def faulty(rate, seed):
    """Faults at a rate, and otherwise the sample's own answer; remembers how often each sample was answered."""
    draw, given = random.Random(seed), Counter()

    def behave(heard):
        if draw.random() < rate:
            return draw.choice(FAULTS)
        text = heard.asked["messages"][0]["content"]
        given[text] += 1
        return answer(f"Report of {text}.")

    return behave, given


@pytest.mark.parametrize(("retries", "rate"), [(9, 0.3), (1, 0.3), (0, 0.6)])
def test_every_request_is_answered_once_or_listed_as_failed(retries, rate):
    behave, given = faulty(rate, seed=retries)
    policy = Policy(concurrency=16, timeout=0.5, retries=retries, first_delay=0.0, hopeless=10_000)
    found, times = {}, Counter()

    def answered(number, one):
        found[number] = one
        times[number] += 1

    with ChatServer(behave) as server, Server(client(server.url, policy)) as asked:
        asked.each((call(number) for number in range(400)), answered)
    assert times == dict.fromkeys(range(400), 1)
    failed = [number for number, one in found.items() if one.outcome != "ok"]
    for number, one in found.items():
        if number in failed:
            assert (one.outcome, one.text, one.attempts) == ("no_answer", None, retries + 1)
        else:
            assert one.text == f"Report of sample {number}."
            assert given[f"sample {number}"] >= 1
    # An attempt may time out before its request is whole, on a machine that does something else meanwhile.
    assert len(server.heard) <= asked.client.budget.requests == sum(one.attempts for one in found.values())
    assert asked.client.budget.answered == 400 - len(failed)
    assert asked.client.stopped is None
    assert len(failed) == 0 if retries == 9 else 0 < len(failed) < 300


# What ends everything


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (status(401), "refuses the key"),
        (status(403), "forbids this key"),
        (status(404), "no such path, or no model of this name"),
        (status(405), "no chat completions at this path"),
        (status(302, headers=[("Location", "http://127.0.0.1:1/")]), r"redirects \(HTTP 302\)"),
        (status(308), r"redirects \(HTTP 308\)"),
        (status(429, b'{"error": {"code": "insufficient_quota"}}'), "quota is spent"),
    ],
)
def test_what_every_request_would_meet_is_asked_once(act, said):
    with ChatServer(lambda _: act) as server:
        found, made = ask(server, *map(call, range(30)), policy=Policy(concurrency=1))
    assert len(server.heard) == 1
    assert {one.outcome for one in found} == {"no_answer"}
    assert [one.attempts for one in found] == [1] + [0] * 29
    with pytest.raises(CxrbenchError, match=said):
        raise made.stopped


def test_a_server_that_answers_nobody_any_more_is_lost():
    with ChatServer(lambda one: answer() if one.number < 5 else status(500)) as server:
        policy = Policy(concurrency=1, retries=0, first_delay=0, hopeless=4)
        found, made = ask(server, *map(call, range(50)), policy=policy)
    assert Counter(one.outcome for one in found) == {"ok": 5, "no_answer": 45}
    assert len(server.heard) == 9
    assert "4 requests in a row had no answer; the last: HTTP 500" in str(made.stopped)
    assert made.stopped.code == Exit.INFRASTRUCTURE


def test_a_port_where_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made = client(f"http://127.0.0.1:{port}/v1", Policy(retries=0))
    with Server(made) as asked:
        assert asked.ask_all([call()])[0].detail == "nobody listens at the server's port"
    slept = Slept()
    with Server(client(f"http://127.0.0.1:{port}/v1", clock=slept.clock)) as asked:
        with pytest.raises(CxrbenchError, match="cannot be reached: nobody listens") as error:
            asked.models()
        assert error.value.code == Exit.INFRASTRUCTURE
        assert len(slept.seconds) == 2


def test_a_server_that_lists_its_models():
    listed = {"data": [{"id": "a"}, {"id": "b/c:8b"}, {"id": 5}, {"id": "two\nlines"}, "x"]}
    with ChatServer(models=status(200, json.dumps(listed).encode())) as server, Server(client(server.url)) as asked:
        assert asked.models() == ("a", "b/c:8b")
    for act in (status(404), status(401), garbage(), garbage(b'{"data": 3}'), garbage(b"[]")):
        with ChatServer(models=act) as server, Server(client(server.url)) as asked:
            assert asked.models() is None


# How much


def test_no_more_than_so_many_at_once_each_on_its_own_connection():
    with ChatServer() as server:
        found, _ = ask(server, *map(call, range(200)), policy=Policy(concurrency=5))
    assert all(one.outcome == "ok" for one in found)
    assert server.most_at_once <= 5
    assert server.connections <= 5


def test_requests_are_spread_over_the_minute():
    slept = Slept()
    with ChatServer() as server:
        policy = Policy(concurrency=1, requests_per_minute=30)
        ask(server, *map(call, range(10)), policy=policy, clock=slept.clock)
    assert slept.seconds == [2.0] * 9


def test_tokens_are_spread_by_estimate_and_corrected_by_count():
    pace = Pace(Policy(tokens_per_minute=600))
    assert pace.turn(0.0, 100) == 0.0
    assert pace.turn(0.0, 100) == pytest.approx(10.0)
    pace.correct(200, 50)
    assert pace.turn(0.0, 100) == pytest.approx(5.0)


def test_a_budget_of_requests_counts_failed_ones_and_stops():
    with ChatServer(lambda one: status(500) if one.number % 2 else answer()) as server:
        found, made = ask(
            server, *map(call, range(20)), policy=Policy(concurrency=4, first_delay=0), budget=Budget(max_requests=10)
        )
    assert len(server.heard) == 10
    assert Counter(one.outcome for one in found)["ok"] == 5
    assert "the budget of 10 requests is spent" in str(made.stopped)
    assert made.stopped.code == Exit.UNDECIDED
    assert "not asked: the budget" in found[-1].detail


def test_a_budget_of_money_is_never_exceeded_by_what_is_under_way():
    prices = Prices(prompt=10.0, output=100.0)
    with ChatServer() as server:
        calls = [call(number, prompt_tokens=20, output_tokens=10) for number in range(100)]
        budget = Budget(max_cost=0.01, prices=prices)
        found, made = ask(server, *calls, policy=Policy(concurrency=8), budget=budget)
    done = sum(one.outcome == "ok" for one in found)
    assert done == len(server.heard)
    assert made.budget.cost == pytest.approx(done * prices.cost(12, 5))
    assert 0.0085 < made.budget.cost <= 0.01
    assert "the budget is spent" in str(made.stopped)


def test_a_budget_of_money_needs_prices_and_counts():
    with pytest.raises(CxrbenchError, match="needs the price"):
        Budget(max_cost=1.0)
    with ChatServer(lambda _: answer(usage=None)) as server:
        budget = Budget(max_cost=1.0, prices=Prices(1, 1))
        found, made = ask(server, *map(call, range(3)), policy=Policy(concurrency=1), budget=budget)
    assert [one.outcome for one in found] == ["ok", "no_answer", "no_answer"]
    assert "does not say how many tokens" in str(made.stopped)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"retries": -1},
        {"first_delay": -1.0},
        {"requests_per_minute": 0.0},
        {"tokens_per_minute": float("inf")},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong):
    with pytest.raises(CxrbenchError):
        Policy(**wrong)


# What is said, and what is not


def test_the_key_and_the_texts_are_in_no_message(monkeypatch, caplog):
    monkeypatch.setenv("THE_KEY", "sk-verysecret")
    key = read_key("THE_KEY")
    echo = json.dumps({"error": {"code": key, "type": "sample 0", "message": f"{key} sample 0"}}).encode()
    said = []
    caplog.set_level("DEBUG")
    for act in (*(status(code, echo) for code in (200, 400, 401, 404, 429, 500)), reset(30), garbage(echo)):
        with ChatServer(lambda _, act=act: act) as server:
            (found,), made = ask(server, policy=Policy(retries=1, first_delay=0), key=key)
            assert server.heard[0].headers["authorization"] == "Bearer sk-verysecret"
            said += [str(found.detail), str(made.stopped), repr(made.endpoint), repr(made.policy), repr(made)]
    said += [record.getMessage() for record in caplog.records]
    assert "verysecret" not in "".join(said)
    assert "sample 0" not in "".join(said)


@pytest.mark.parametrize("value", [None, "", "  ", "a b", "a\nb", "schlüssel", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_quoted(monkeypatch, value):
    if value is None or "\x00" in value:
        monkeypatch.delenv("THE_KEY", raising=False)
    else:
        monkeypatch.setenv("THE_KEY", value)
    with pytest.raises(CxrbenchError, match="THE_KEY") as error:
        read_key("THE_KEY")
    assert "a b" not in str(error.value)


def test_without_httpx_one_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "httpx":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CxrbenchError, match="needs the package httpx") as error:
        client("http://127.0.0.1:1/v1")
    assert error.value.fix == "pip install 'cxrbench[openai]'"


def test_importing_the_client_does_not_import_httpx():
    code = "import sys, cxrbench.http\nassert not {'httpx', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The thread of the blocking client


def test_an_error_of_the_caller_comes_out_as_it_is():
    def broken(number, answer):
        raise KeyError(number)

    with ChatServer() as server, Server(client(server.url)) as asked:
        with pytest.raises(KeyError):
            asked.each([call()], broken)
        assert asked.ask_all([call()])[0].outcome == "ok"
    asked.close()


def test_calls_are_taken_from_an_iterator_as_they_are_needed():
    taken, done = [], []

    def calls():
        for number in range(100):
            taken.append(number - len(done))
            yield call(number)

    with ChatServer() as server, Server(client(server.url, Policy(concurrency=4))) as asked:
        asked.each(calls(), lambda number, answer: done.append(number))
    assert sorted(done) == list(range(100))
    assert max(taken) <= 4


@pytest.mark.parametrize("code", [401, 403])
def test_how_a_key_is_given_is_said_in_the_callers_words(code):
    with ChatServer(lambda _: status(code)) as server:
        endpoint = open_endpoint(server.url, "credentialed", {}, "--own key_env=NAME")
        made = Client(endpoint, Policy(retries=0))
        with Server(made) as asked:
            asked.ask_all([call()])
    assert made.stopped.fix.startswith("--own key_env=NAME")
    with pytest.raises(CxrbenchError) as told:
        open_endpoint("http://me:pw@127.0.0.1:1/v1", "credentialed", {}, "--own key_env=NAME")
    assert told.value.fix.startswith("--own key_env=NAME")
    for source in ("http.py", "http_answer.py", "http_endpoint.py"):
        assert "--set" not in (Path(cxrbench.__file__).parent / source).read_text()


def test_reading_a_response_is_pure():
    assert isinstance(read_response(200, {}, json.dumps(completion()).encode(), time.time()), Answer)
    again = read_response(503, {"retry-after": "4"}, b"", 0.0)
    assert isinstance(again, Trouble)
    assert (again.wait, again.again) == (4.0, True)
