"""A model server on loopback that speaks Chat Completions as the real ones do, and behaves as it is told.

`answer(body)` gives what happens to a request: a text, or a `Trouble`. Every request is remembered in `asked`, with the time it came.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Trouble:
    """`status` with `headers`; or `stall_s` seconds of silence before the answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    stall_s: float = 0.0


Behaviour = Callable[[str, int], "str | Trouble | dict[str, Any]"]
"""(what the user said last, how often it was said before) to what happens. A dict is a message with tool calls."""


@dataclass
class Server:
    behaviour: Behaviour
    delay_s: float = 0.0
    pieces: int = 3
    port: int = 0
    asked: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, model, text) of every request."""
    replied: list[float] = field(default_factory=list)
    """When each reply was sent, in order."""
    times: Counter[tuple[str, str]] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (
                        int(line.split(":")[1])
                        for line in head.split("\r\n")
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                body = json.loads(await reader.readexactly(length)) if length else {}
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    await self.reply(body, writer)
                finally:
                    self.under_way -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def reply(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        said = next((str(m["content"]) for m in reversed(body["messages"]) if m["role"] == "user"), "")
        before = self.times[body["model"], said]
        self.times[body["model"], said] += 1
        self.asked.append((time.monotonic(), body["model"], said))
        told = self.behaviour(said, before)
        if isinstance(told, Trouble) and told.status != 200:
            self.replied.append(time.monotonic())
            error = json.dumps({"error": {"message": "trouble", "type": "server_error"}}).encode()
            await send(writer, told.status, "application/json", error, told.headers)
            return
        if isinstance(told, Trouble):
            await asyncio.sleep(told.stall_s)
            told = "late"
        await asyncio.sleep(self.delay_s)
        if not body.get("stream"):
            message = told if isinstance(told, dict) else {"role": "assistant", "content": told}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": self.pieces, "total_tokens": 10 + self.pieces}
            whole = {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
            await send(writer, 200, "application/json", json.dumps(whole).encode())
            return
        base = {"id": f"c{len(self.asked)}", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        if isinstance(told, dict):
            deltas: list[dict[str, Any]] = [told]
        else:
            size = max(1, -(-len(told) // self.pieces))
            deltas = [{"role": "assistant", "content": told[i : i + size]} for i in range(0, len(told), size)]
        chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if isinstance(told, dict) else "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": len(deltas), "total_tokens": 10 + len(deltas)}
        chunks.append({**base, "choices": [end], "usage": usage})
        data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
        self.replied.append(time.monotonic())
        await send(writer, 200, "text/event-stream", data)


async def send(
    writer: asyncio.StreamWriter, status: int, kind: str, data: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-type: {kind}",
        f"content-length: {len(data)}",
        *(f"{k}: {v}" for k, v in headers),
    ]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    await writer.drain()


@contextmanager
def model_server(behaviour: Behaviour, **options: Any) -> Iterator[Server]:
    """A server on a thread of its own, so that a test whose loop is busy does not slow it down."""
    server = Server(behaviour, **options)
    loop = asyncio.new_event_loop()
    listening = threading.Event()

    async def serve() -> None:
        opened = await asyncio.start_server(server.handle, "127.0.0.1", 0, backlog=500)
        server.port = opened.sockets[0].getsockname()[1]
        listening.set()
        try:
            await asyncio.Event().wait()
        finally:
            opened.close()

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            for left in asyncio.all_tasks(loop):
                left.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    task = loop.create_task(serve())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    listening.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
