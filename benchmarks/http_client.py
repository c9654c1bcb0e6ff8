"""Requests per second of the client against an instant server in another process, and its memory over many requests.

    python -m benchmarks.http_client [--requests 20000] [--concurrency 8,16,64]

The server answers at once with a fixed chat completion. Client and server are processes of their own, each bound to
one core where the machine has two (else both share it; the first line says which). Beside ours stand a plain
httpx.AsyncClient with the same requests, which is what one would write by hand, and the bare sockets of the server's
own protocol, which is the machine's limit. The goals: at least 400 requests/s at every concurrency, and memory that
does not grow over all requests of one concurrency (below 2 MiB after the first thousand). `judged/s` is the whole way
of a judge: prompt, key, request, answer stored on disk, parsed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from cxrbench.http import Call, Client, Server, encode
from cxrbench.http_endpoint import open_endpoint
from cxrbench.http_limits import Policy
from cxrbench.judges.ask import Prompt
from cxrbench.judges.engine import Judge, judge_all
from cxrbench.judges.rubric import Rubric
from cxrbench.judges.server import ServerJudge

GOAL, GROWTH = 400, 2 * 2**20

BODY = encode({"model": "m", "messages": [{"role": "user", "content": "Findings of this report: " + "clear " * 300}]})
COMPLETION = json.dumps(
    {
        "id": "chat-1",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "clear " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 320, "completion_tokens": 60},
    }
).encode()
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(COMPLETION) + COMPLETION
)


async def serve(pipe: Connection) -> None:
    """Answer every request at once until the process is ended."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            if head.startswith(b"GET"):  # the list of models, which it has not
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            writer.write(RESPONSE)

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_server(pipe: Connection, core: int) -> None:
    os.sched_setaffinity(0, {core})
    asyncio.run(serve(pipe))


def bare(port: int, count: int) -> float:
    """Requests per second of one blocking socket: nothing is parsed."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as made:
        for _ in range(count):
            made.sendall(head + BODY)
            left = len(RESPONSE)
            while left:
                left -= len(made.recv(left))
    return count / (time.perf_counter() - begin)


async def plain(port: int, count: int, concurrency: int) -> float:
    """Requests per second of httpx as it is."""
    import httpx

    numbers = iter(range(count))
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

        async def work() -> None:
            for _ in numbers:
                response = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", content=BODY)
                response.json()["choices"][0]["message"]["content"]

        begin = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return count / (time.perf_counter() - begin)


def ours(port: int, count: int, concurrency: int) -> tuple[float, int]:
    """Requests per second, and bytes that memory grew by after the first thousand."""
    process, seen, wrong = psutil.Process(), {}, 0

    def answered(number: int, answer: object) -> None:
        nonlocal wrong
        wrong += answer.outcome != "ok"
        if number in (1000, count - 1):
            seen[number] = process.memory_info().rss

    endpoint = open_endpoint(f"http://127.0.0.1:{port}/v1", "credentialed", {})
    with Server(Client(endpoint, Policy(concurrency=concurrency))) as server:
        begin = time.perf_counter()
        server.each((Call(BODY, 320, 60) for _ in range(count)), answered)
        rate = count / (time.perf_counter() - begin)
    if wrong:
        raise SystemExit(f"{wrong} of {count} requests had no answer")
    return rate, seen[count - 1] - seen[1000]


def judged(port: int, count: int, concurrency: int) -> float:
    """Pairs per second of the judge engine, every pair another one, answers kept on disk."""
    rubric = Rubric(name="n", version=1, parser="values", task="{text}", categories=({"name": "n"},), score="n")
    prompts = [Prompt(rubric, rubric.messages({"text": f"{number} " + "clear " * 300})) for number in range(count)]
    endpoint = open_endpoint(f"http://127.0.0.1:{port}/v1", "credentialed", {})
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(ServerJudge("m", endpoint, Policy(concurrency=concurrency)), folder=Path(folder) / "judges")
        begin = time.perf_counter()
        found = judge_all(prompts, judge, lambda text: len(text))
        rate = count / (time.perf_counter() - begin)
    if any(each.value is None for each in found):
        raise SystemExit("a pair was not judged")
    return rate


def cores() -> tuple[int, int]:
    """Of the client and of the server."""
    free = sorted(os.sched_getaffinity(0))
    return free[0], free[1 % len(free)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="of ours, at each concurrency (more than 1,000)")
    parser.add_argument("--concurrency", default="8,16,64")
    given = parser.parse_args()
    mine, theirs = multiprocessing.Pipe()
    own, other = cores()
    server = multiprocessing.get_context("spawn").Process(target=run_server, args=(theirs, other), daemon=True)
    server.start()
    os.sched_setaffinity(0, {own})
    print(f"client on core {own}, server on core {other}")
    port, missed = mine.recv(), []
    try:
        print(f"one bare socket: {bare(port, 2000):.0f} requests/s\n")
        heads = (
            f"{'concurrency':>11}{'httpx/s':>10}{'ours/s':>10}{'judged/s':>10}{'asked':>8}{'memory':>14}{'asked':>10}"
        )
        print(heads)
        for concurrency in map(int, given.concurrency.split(",")):
            by_hand = asyncio.run(plain(port, min(given.requests, 2000), concurrency))
            rate, grown = ours(port, given.requests, concurrency)
            whole = judged(port, min(given.requests, 5000), concurrency)
            print(
                f"{concurrency:>11}{by_hand:>10.0f}{rate:>10.0f}{whole:>10.0f}{GOAL:>8}"
                f"{grown / 2**20:>+10.2f} MiB{'< 2 MiB':>10}",
                flush=True,
            )
            missed += [concurrency] if min(rate, whole) < GOAL or grown >= GROWTH else []
    finally:
        server.terminate()
        server.join()
    if missed:
        raise SystemExit(f"missed at concurrency {', '.join(map(str, missed))}")


if __name__ == "__main__":
    main()
