"""Real servers of the tests: one that speaks as it is told, in a thread of its own, and one that only counts bytes.

`ChatServer(behave)` calls `behave(heard)` for every request it heard; what comes back is one of the functions below
applied, which write to the raw connection, so that a response may be anything, or half of it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass

from cxrbench.http import Call, encode

TEXT = "The lungs are clear."


@dataclass(frozen=True)
class Heard:
    """A request as it came in; `number` counts from 0."""

    number: int
    method: str
    target: str
    headers: dict
    body: bytes

    @property
    def asked(self):
        return json.loads(self.body)


def completion(text=TEXT, **changes):
    """The body of a chat completion, with keys replaced; a key that is None is left out."""
    made = {
        "id": "chat-1",
        "object": "chat.completion",
        "model": "served-model",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def call(number=0, **changes):
    """A chat completion to ask for."""
    return Call(encode({"model": "m", "messages": [{"role": "user", "content": f"sample {number}"}]}), **changes)


def raw_response(status, body, headers=()):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(text=TEXT, **changes):
    return status(200, json.dumps(completion(text, **changes)).encode())


def status(code, body=b"", headers=()):
    async def act(writer, server):
        writer.write(raw_response(code, body, headers))

    return act


def garbage(body=b"<html>It works!</html>"):
    return status(200, body)


def reset(after=0):
    """So many bytes of a good answer, then the connection is torn down."""

    async def act(writer, server):
        writer.write(raw_response(200, json.dumps(completion()).encode())[:after])
        if after:
            await writer.drain()
        # A linger of 0 seconds makes the kernel send RST instead of an orderly end.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return act


def truncated(share=0.5):
    """An orderly end in the middle of the body that was announced."""

    async def act(writer, server):
        whole = raw_response(200, json.dumps(completion()).encode())
        writer.write(whole[: int(len(whole) * share)])
        await writer.drain()
        writer.close()

    return act


def never():
    async def act(writer, server):
        await server.ended.wait()

    return act


def drip(every=0.002):
    """A byte now and then, for as long as anybody listens."""

    async def act(writer, server):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not server.ended.is_set() and not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(every)

    return act


class ChatServer:
    """Use as a context manager; `url` is what a client is given, `heard` what came in (POST only), in order."""

    def __init__(self, behave=None, *, unix=None, models=None, host="127.0.0.1"):
        self.behave = behave or (lambda heard: answer())
        self.unix = unix
        self.host = host
        self.models = models or status(404)
        self.heard = []
        self.connections = 0
        self.most_at_once = 0
        self._now = 0
        self._ready = threading.Event()

    @property
    def url(self):
        return f"unix:{self.unix}" if self.unix else f"http://127.0.0.1:{self.port}/v1"

    def bodies(self):
        return [heard.asked for heard in self.heard]

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.ended.set)
            self._thread.join(10)

    async def _serve(self):
        self._loop, self.ended, self._tasks = asyncio.get_running_loop(), asyncio.Event(), set()
        self._writers = set()
        if self.unix:
            server = await asyncio.start_unix_server(self._connection, self.unix)
        else:
            server = await asyncio.start_server(self._connection, self.host, 0)
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self.ended.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        self.connections += 1
        try:
            while not writer.is_closing():
                await self._one(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            await self.models(writer, self)
        else:
            heard = Heard(len(self.heard), method, target, headers, body)
            self.heard.append(heard)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            try:
                await self.behave(heard)(writer, self)
            finally:
                self._now -= 1
        await writer.drain()


PROBE = b"probe"


class Listener:
    """Accepts connections on every address of this machine; `counts()` says how many came, and how many bytes."""

    def __enter__(self):
        self._heard = {}
        four = socket.create_server(("0.0.0.0", 0))
        self.port = four.getsockname()[1]
        self._sockets = {"127.0.0.1": four}
        with suppress(OSError):  # a machine without IPv6
            self._sockets["::1"] = socket.create_server(("::", self.port), family=socket.AF_INET6)
        self._ended = threading.Event()
        self._probed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._accept, args=each, daemon=True) for each in self._sockets.items()
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _accept(self, host, listening):
        self._heard[host] = []
        listening.settimeout(0.02)
        while not self._ended.is_set():
            try:
                made, _ = listening.accept()
            except TimeoutError:
                continue
            with made:
                made.settimeout(0.2)
                whole = b""
                with suppress(OSError):
                    while part := made.recv(65536):
                        whole += part
            with self._probed:
                self._heard[host].append(whole)
                self._probed.notify_all()

    def counts(self):
        """(connections, bytes) so far. They are taken in order: after a probe all earlier ones are counted."""
        for host, listening in self._sockets.items():
            with socket.socket(listening.family) as made:  # not create_connection, which asks the (test's) resolver
                made.connect((host, self.port))
                made.sendall(PROBE)
            with self._probed:
                assert self._probed.wait_for(lambda host=host: PROBE in self._heard[host], 10)
        found = [each for heard in self._heard.values() for each in heard if each != PROBE]
        return len(found), sum(map(len, found))

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets.values():
            each.close()


def own_address():
    """An address of this machine that is not loopback, or None; a UDP socket sends nothing by connecting."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        try:
            made.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = made.getsockname()[0]
    return None if found.startswith("127.") else found
