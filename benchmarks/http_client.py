"""Requests per second of the client against an instant server in another process, and its memory over many requests.

    python -m benchmarks.http_client [--requests 20000] [--concurrency 8,16,64]

The server answers at once with a fixed chat completion; client and server each have a process of their own, so the
client has one core. Beside ours stand a plain httpx.AsyncClient with the same requests, which is what one would write
by hand, and the bare sockets of the server's own protocol, which is the machine's limit. The goals: at least 400
requests/s at every concurrency, and memory that does not grow over all requests of one concurrency (below 2 MiB after
the first thousand).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection

import psutil

from cxrbench.http import Call, Client, Server, encode
from cxrbench.http_endpoint import open_endpoint
from cxrbench.http_limits import Policy

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
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            writer.write(RESPONSE)

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def run_server(pipe: Connection) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="of ours, at each concurrency (more than 1,000)")
    parser.add_argument("--concurrency", default="8,16,64")
    given = parser.parse_args()
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=run_server, args=(theirs,), daemon=True)
    server.start()
    port, missed = mine.recv(), []
    try:
        print(f"one bare socket: {bare(port, 2000):.0f} requests/s\n")
        print(f"{'concurrency':>11}{'httpx/s':>10}{'ours/s':>10}{'asked':>8}{'memory':>14}{'asked':>10}")
        for concurrency in map(int, given.concurrency.split(",")):
            by_hand = asyncio.run(plain(port, min(given.requests, 2000), concurrency))
            rate, grown = ours(port, given.requests, concurrency)
            print(
                f"{concurrency:>11}{by_hand:>10.0f}{rate:>10.0f}{GOAL:>8}{grown / 2**20:>+10.2f} MiB{'< 2 MiB':>10}",
                flush=True,
            )
            missed += [concurrency] if rate < GOAL or grown >= GROWTH else []
    finally:
        server.terminate()
        server.join()
    if missed:
        raise SystemExit(f"missed at concurrency {', '.join(map(str, missed))}")


if __name__ == "__main__":
    main()
