"""The one client of OpenAI-compatible servers: for models behind a server and for judges.

    endpoint = open_endpoint("http://127.0.0.1:8000/v1", access, config.trusted_endpoints)      # asks the guard
    with Server(Client(endpoint)) as server:
        answers = server.ask_all([Call(encode({"model": "m", "messages": [...]}))])

What it keeps: the guard is asked before the first byte and again for every address a name resolves to, and what was
checked is what is connected to. No redirect is followed, no proxy, netrc or cookie is used, and compressed answers are
refused. At most `Policy.concurrency` requests are under way, each on a
connection of its own. Every call ends in exactly one `Answer`; what cannot be asked at all (a wrong key, a lost server,
a spent budget) sets `Client.stopped`, and calls not yet asked end as `no_answer`. Keys and bodies reach no message.

httpx (the extra `openai`) is imported when a client is made.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.http_answer import NO_ANSWER, REJECTED, Answer, Trouble, model_names, read_response
from cxrbench.http_endpoint import Endpoint, resolve
from cxrbench.http_limits import Budget, Pace, Policy

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")

NOBODY = "nobody listens at the server's port"
PROBES = 3
"""Attempts to reach a server before the first sample: a wrong port should not take a minute to be told."""


def encode(body: Mapping[str, Any]) -> bytes:
    """The body of a chat completion as it is sent; made where there is time for it, images are large."""
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Call:
    """One chat completion to ask for: its body, and estimates of its tokens for rates and budgets."""

    body: bytes
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds and sleep; tests put their own in place."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Client:
    """Asks one endpoint. Belongs to one event loop; see the module.

    Args:
        endpoint: made by `open_endpoint`, so the guard has been asked.
        policy: concurrency, timeouts, retries, rates.
        budget: what may be spent; counts even when nothing is limited.
        key: sent as a bearer token, or as `api-key` to an Azure deployment.
        clock: the time.
        seed: of the jitter.

    Raises:
        CxrbenchError: httpx is not installed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        policy: Policy | None = None,
        budget: Budget | None = None,
        key: str | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self._httpx = _import_httpx()
        self.endpoint = endpoint
        self.policy = policy or Policy()
        self.budget = budget or Budget()
        self.stopped: CxrbenchError | None = None
        self._clock = clock or Clock()
        self._pace = Pace(self.policy)
        self._draw = random.Random(seed)  # noqa: S311 - jitter
        self._headers = _headers(endpoint, key)
        self._secret = key is not None
        self._tls = ssl.create_default_context() if endpoint.scheme == "https" else False
        self._free = asyncio.Semaphore(self.policy.concurrency)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._addresses: tuple[str, ...] = ()
        self._in_vain = 0
        self._settled = asyncio.Event()

    async def ask(self, call: Call) -> Answer:
        """Ask until there is an answer, a refusal, or no attempt left."""
        async with self._free:
            lane = self._idle.pop() if self._idle else self._lane()
            try:
                answer = await self._persist(lane, call)
            finally:
                self._idle.append(lane)
        self._note(answer)
        return answer

    async def each(self, calls: Iterable[Call], answered: Callable[[int, Answer], None]) -> None:
        """Ask all, as many at once as the policy says, and report each with its number; nothing is kept."""
        waiting = enumerate(calls)

        async def work() -> None:
            for number, call in waiting:
                answered(number, await self.ask(call))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.policy.concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def models(self) -> tuple[str, ...] | None:
        """Names of the models the server lists; None where it lists none. No data are sent.

        Raises:
            CxrbenchError: the server cannot be reached.
        """
        async with self._free:
            lane = self._idle.pop() if self._idle else self._lane()
            try:
                return await self._list(lane)
            finally:
                self._idle.append(lane)

    async def _list(self, lane: httpx.AsyncHTTPTransport) -> tuple[str, ...] | None:
        for attempt in range(1, PROBES + 1):
            found = await self._exchange(lane, "GET", "/models", None)
            if not isinstance(found, Trouble):
                status, _, body = found
                return model_names(body) if status == 200 else None
            if found.fatal is not None:
                raise found.fatal
            if attempt == PROBES:
                raise _unreachable(self.endpoint, found.detail)
            await self._clock.sleep(self.policy.delay(attempt, self._draw))
        raise AssertionError("no probe")

    async def aclose(self) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().aclose()

    def _lane(self) -> httpx.AsyncHTTPTransport:
        """One connection, kept open. A pool of many costs time that grows with their number."""
        made: httpx.AsyncHTTPTransport = self._httpx.AsyncHTTPTransport(
            verify=self._tls,
            trust_env=False,
            retries=0,
            uds=self.endpoint.socket_path or None,
            limits=self._httpx.Limits(max_connections=1, max_keepalive_connections=1),
        )
        return made

    async def _persist(self, lane: httpx.AsyncHTTPTransport, call: Call) -> Answer:
        found = Trouble("no attempt was made")
        for attempt in range(1, self.policy.retries + 2):
            await self._take_turn(call)
            self.stopped = self.stopped or self.budget.admit(call.prompt_tokens, call.output_tokens)
            if self.stopped is not None:
                return Answer(NO_ANSWER, attempts=attempt - 1, detail=f"not asked: {self.stopped.what}")
            begun = time.perf_counter()
            made = await self._attempt(lane, call)
            self._settle(call, made)
            if isinstance(made, Answer):
                return replace(made, begun=begun, ended=time.perf_counter(), attempts=attempt)
            found = made
            if found.fatal is not None:
                self.stopped = self.stopped or found.fatal
            wait = self._wait(attempt, found)
            if wait is None:
                break
            if attempt <= self.policy.retries:
                await self._clock.sleep(wait)
        return Answer(found.outcome, attempts=attempt, detail=found.detail)

    async def _take_turn(self, call: Call) -> None:
        if self.stopped is None:
            wait = self._pace.turn(self._clock.now(), call.prompt_tokens + call.output_tokens)
            if wait > 0:
                await self._clock.sleep(wait)
        while self.stopped is None and self.budget.waits(call.prompt_tokens, call.output_tokens):
            self._settled.clear()
            await self._settled.wait()

    def _settle(self, call: Call, made: Answer | Trouble) -> None:
        used = None
        if isinstance(made, Answer):
            used = (made.prompt_tokens, made.output_tokens)
            if None not in used:
                self._pace.correct(call.prompt_tokens + call.output_tokens, sum(count or 0 for count in used))
        spent = self.budget.settle(call.prompt_tokens, call.output_tokens, used)
        self._settled.set()
        self.stopped = self.stopped or spent

    def _wait(self, attempt: int, found: Trouble) -> float | None:
        """Seconds until the next attempt; None where there will be none."""
        if found.fatal is not None or not found.again:
            return None
        if found.wait is None:
            return self.policy.delay(attempt, self._draw)
        if found.wait > self.policy.longest_wait:
            return None
        self._pace.hold(self._clock.now(), found.wait)
        return found.wait

    def _note(self, answer: Answer) -> None:
        """A server that answers nobody any more is lost: going on would only use up samples."""
        if answer.outcome not in (NO_ANSWER, REJECTED):
            self._in_vain = 0
        elif self.stopped is None:
            self._in_vain += 1
            if self._in_vain >= self.policy.hopeless:
                self.stopped = CxrbenchError(
                    f"{self._in_vain} requests in a row had no answer; the last: {answer.detail}",
                    where=self.endpoint.url,
                    fix="look at the server; the same command goes on from here",
                    code=Exit.INFRASTRUCTURE,
                )

    async def _attempt(self, lane: httpx.AsyncHTTPTransport, call: Call) -> Answer | Trouble:
        found = await self._exchange(lane, "POST", "/chat/completions", call.body)
        return found if isinstance(found, Trouble) else read_response(*found, time.time(), self.endpoint.key_hint)

    async def _exchange(
        self, lane: httpx.AsyncHTTPTransport, method: str, path: str, body: bytes | None
    ) -> tuple[int, dict[str, str], bytes] | Trouble:
        """One request and its whole response, whatever its status, or what kept it from coming."""
        httpx = self._httpx
        try:
            async with asyncio.timeout(self.policy.timeout):
                response = await self._send(lane, method, path, body)
                try:
                    return await self._read(response)
                finally:
                    await response.aclose()
        except CxrbenchError as error:  # the name is unknown (later it may be known), or the guard refuses an address
            lost = error.code == Exit.INFRASTRUCTURE
            return Trouble(error.what, fatal=None if lost else error)
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            return _trouble(error, self.endpoint)

    async def _send(self, lane: httpx.AsyncHTTPTransport, method: str, path: str, body: bytes | None) -> httpx.Response:
        """Send to the first checked address that can be connected to, and remember it."""
        if not self._addresses and not self.endpoint.socket_path:
            self._addresses = await resolve(self.endpoint, secret=self._secret)
        choices = self._addresses or (self.endpoint.host,)
        for number, address in enumerate(choices, start=1):
            try:
                response = await lane.handle_async_request(self._request(address, method, path, body))
            except (self._httpx.ConnectError, self._httpx.ConnectTimeout):
                if number == len(choices):
                    self._addresses = ()  # asked anew, and checked anew, by the next attempt
                    raise
            else:
                self._addresses = (address, *(other for other in choices if other != address))
                return response
        raise AssertionError("no address")

    def _request(self, address: str, method: str, path: str, body: bytes | None) -> httpx.Request:
        endpoint = self.endpoint
        host = f"[{address}]" if ":" in address else address
        scheme = "https" if endpoint.scheme == "https" else "http"
        version = f"?api-version={endpoint.api_version}" if endpoint.api_version else ""
        seconds = self.policy.timeout
        # Sooner than the whole attempt ends: httpcore closes a handshake that times out, not one that is cancelled.
        timeout = {"connect": min(self.policy.connect, seconds / 2), "read": seconds, "write": seconds, "pool": seconds}
        made: httpx.Request = self._httpx.Request(
            method,
            f"{scheme}://{host}:{endpoint.port}{endpoint.base}{path}{version}",
            headers=self._headers,
            content=body,
            extensions={"timeout": timeout, "sni_hostname": endpoint.host},
        )
        return made

    async def _read(self, response: httpx.Response) -> tuple[int, dict[str, str], bytes] | Trouble:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            return Trouble("the server's answer is compressed, which was not asked for")
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > self.policy.largest:
                return Trouble(f"the server's answer is longer than {self.policy.largest:,} bytes")
            parts.append(part)
        headers = {
            name: response.headers[name] for name in ("retry-after", "retry-after-ms") if name in response.headers
        }
        return response.status_code, headers, b"".join(parts)


class Server:
    """The client for code that is not asynchronous: an event loop of its own in a thread of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cxrbench-http", daemon=True)
        self._thread.start()

    def ask_all(self, calls: Sequence[Call]) -> list[Answer]:
        """Ask all; answers in the order of the calls."""
        found: dict[int, Answer] = {}
        self.each(calls, found.__setitem__)
        return [found[number] for number in range(len(calls))]

    def each(self, calls: Iterable[Call], answered: Callable[[int, Answer], None]) -> None:
        """See `Client.each`; `answered` is called in the loop's thread."""
        self._run(self.client.each(calls, answered))

    def models(self) -> tuple[str, ...] | None:
        """See `Client.models`."""
        return self._run(self.client.models())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close all connections and end the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._run(self.client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _import_httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise CxrbenchError(
            "asking a server needs the package httpx",
            fix="pip install 'cxrbench[openai]'",
            code=Exit.INFRASTRUCTURE,
        ) from error
    return httpx


def _headers(endpoint: Endpoint, key: str | None) -> dict[str, str]:
    from cxrbench import __version__

    made = {
        "host": endpoint.authority,
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": f"cxrbench/{__version__}",
    }
    if key is not None:
        made |= {"api-key": key} if endpoint.api_version else {"authorization": f"Bearer {key}"}
    return made


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _trouble(error: Exception, endpoint: Endpoint) -> Trouble:
    """Name what kept a response from coming; the exception's own words are dropped."""
    kinds = [type(each).__name__ for each in _causes(error)]
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in _causes(error)):
        fatal = CxrbenchError(
            "the server's certificate cannot be verified",
            where=endpoint.url,
            fix="SSL_CERT_FILE names the file with your authority's certificate",
        )
        return Trouble(fatal.what, fatal=fatal)
    if any(isinstance(each, ConnectionRefusedError) for each in _causes(error)):
        return Trouble(NOBODY)
    if any("Timeout" in kind for kind in kinds):
        return Trouble("no answer in time")
    return Trouble(f"the connection broke ({kinds[0]})")


def _unreachable(endpoint: Endpoint, detail: str) -> CxrbenchError:
    return CxrbenchError(
        f"the server cannot be reached: {detail}",
        where=endpoint.url,
        fix="start the server, or correct the URL",
        code=Exit.INFRASTRUCTURE,
    )
