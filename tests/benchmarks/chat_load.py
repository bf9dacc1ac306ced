"""Many chats at once against a served lab, with as little work a token as a client can have: what comes is kept with its time and
read when all is over. `Http` reads a run's server-sent events; `Page` opens the channel of the page's view, as a
browser does, without a browser.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from tests.server.page_socket import open_page, websocket
from websockets.asyncio.client import ClientConnection

TPS = 20.0
TTFT_MS = 300.0
START_S = 10.0
"""The messages are sent spread over this time, as people do."""
LONGEST_WAIT_S = 120.0
OPENING = 8
"""Chats opened at once, before the first message is sent."""


@dataclass
class Heard:
    """One chat: when each piece of the answer came, in seconds of `time.perf_counter`."""

    asked: float = 0.0
    text: str = ""
    arrivals: list[tuple[int, float]] = field(default_factory=list)
    """Number of the token and when it was there."""

    def take(self, delta: str, at: float) -> None:
        known = self.tokens()
        self.text += delta
        self.arrivals += [(n, at) for n in range(known, self.tokens())]

    def tokens(self) -> int:
        return 0 if not self.text else 1 + len(NUMBER.findall(self.text))

    def in_order(self, n: int) -> bool:
        return [int(number) for number in NUMBER.findall(self.text)] == list(range(1, n))

    @property
    def first_ms(self) -> float:
        """From the message to the first token, less what the model itself waits. Infinite when none came."""
        if not self.arrivals:
            return float("inf")
        return (self.arrivals[0][1] - self.asked) * 1000.0 - TTFT_MS

    def delays_ms(self) -> list[float]:
        """How much later each token came than the model's pace, which the token that was held up least sets."""
        pace = min((at - n / TPS for n, at in self.arrivals), default=0.0)
        return [(at - n / TPS - pace) * 1000.0 for n, at in self.arrivals]


NUMBER = re.compile(r" (\d+)(?= |$)")


class Chat(Protocol):
    """One user's chat, open and ready."""

    @classmethod
    async def open(cls, url: str, token: str) -> Self: ...
    async def ask(self, model: str) -> Heard: ...
    async def close(self) -> None: ...


async def open_many(kind: type[Chat], url: str, tokens: Sequence[str]) -> list[Chat]:
    """Each user has said a word already: what a first time costs is not the question."""
    few = asyncio.Semaphore(OPENING)

    async def one(token: str) -> Chat:
        async with few:
            chat = await kind.open(url, token)
            await chat.ask("demo/slow?ttft=0&tps=1000&n=2")
            return chat

    return await asyncio.gather(*map(one, tokens))


async def ask_many(chats: Sequence[Chat], n: int) -> list[Heard]:
    """`n` tokens to each."""
    model = f"demo/slow?ttft={TTFT_MS:.0f}&tps={TPS:.0f}&n={n}"

    async def one(place: int, chat: Chat) -> Heard:
        await asyncio.sleep(START_S * place / len(chats))
        return await chat.ask(model)

    return await asyncio.gather(*(one(place, chat) for place, chat in enumerate(chats)))


class Http:
    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token

    @classmethod
    async def open(cls, url: str, token: str) -> Http:
        return cls(url, token)

    async def ask(self, model: str) -> Heard:
        return await _over_http(self._url, self._token, model)

    async def close(self) -> None:
        """Each message has a connection of its own."""


async def _over_http(url: str, token: str, model: str) -> Heard:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**24)
    body = json.dumps({"prompt": "Go.", "model": model, "stream": True}).encode()
    head = (
        f"POST /api/v1/runs HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    heard = Heard(asked=time.perf_counter())
    writer.write(head.encode() + body)
    pieces: list[tuple[float, bytes]] = []
    while piece := await reader.read(2**16):
        pieces.append((time.perf_counter(), piece))
    writer.close()
    rest = b""
    for at, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event["type"] == "thread.item.updated":
                    heard.take(event["delta"], at)
    return heard


class Page:
    """A session of the page /chat."""

    def __init__(self, channel: ClientConnection) -> None:
        self._channel = channel
        self._waiting: list[tuple[dict[str, Any], float]] = []

    @classmethod
    async def open(cls, url: str, token: str) -> Page:
        key = await open_page(url, "/chat", token)
        page = cls(await websocket(url, f"/views/{key}", token))
        await page.say({"op": "sync", "mount": "m"})
        # Agents, models and threads have been read when the page is drawn a second time.
        while not any(op["kind"] == "busy" for op in (await page.receive())[0].get("ops", [])):
            pass
        return page

    async def ask(self, model: str) -> Heard:
        await self.say({"op": "call", "id": 1, "name": "fresh", "args": {}})
        await self.say({"op": "call", "id": 2, "name": "choose", "args": {"model": model}})
        while not any(message.get("op") == "reply" and message["id"] == 2 for message, _ in [await self.receive()]):
            pass
        heard = Heard(asked=time.perf_counter())
        await self.say({"op": "call", "id": 3, "name": "send", "args": {"text": "Go.", "attachments": []}})
        answering = True
        while answering or not heard.text:
            async with asyncio.timeout(LONGEST_WAIT_S):
                message, at = await self.receive()
            for op in message.get("ops", []):
                if op["kind"] == "delta":
                    heard.take(op["delta"], at)
                elif op["kind"] == "busy":
                    answering = op["value"]
        return heard

    async def say(self, message: dict[str, Any]) -> None:
        await self._channel.send(json.dumps(message))

    async def receive(self) -> tuple[dict[str, Any], float]:
        """The next message, and when it came."""
        while not self._waiting:
            frame = await self._channel.recv()
            at = time.perf_counter()
            self._waiting += [(message, at) for message in json.loads(frame)]
        return self._waiting.pop(0)

    async def close(self) -> None:
        await self._channel.close()
