"""A lab served on loopback, in this process, and a ChatKit client of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from timestep_lab import Lab
from timestep_lab.model.ids import PERSONAL_ASSISTANT, new_uuid
from timestep_lab.runtime.settings import Settings
from timestep_lab.server.gate import RateLimits
from timestep_lab.server.server import Served, config_of

SETTINGS = Settings.load(
    env={
        "TIMESTEP_LAB_DEMO_DELAY_MS": "0",
        "WEATHER_GEOCODING_URL": "http://127.0.0.1:9/none",
        "TIMESTEP_LAB_SECRET": "s" * 40,
    }
)
"""Nothing is asked of the network: the weather is the recorded one."""


class Server:
    def __init__(self, url: str, served: Served) -> None:
        self.url, self.served = url, served

    def token(self, user_id: str) -> str:
        return self.served.tokens.issue(user_id)

    @asynccontextmanager
    async def client(self, user_id: str | None = None) -> AsyncIterator[ChatKitClient]:
        """Of a new user, unless one is named."""
        user_id = user_id or new_uuid()
        headers = {"Authorization": f"Bearer {self.token(user_id)}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60) as http:
            with self.served.labs.held(user_id) as lab:
                yield ChatKitClient(http, lab)


class ChatKitClient:
    """Speaks ChatKit as its browser component does: one JSON body in, JSON or server-sent events out."""

    def __init__(self, http: httpx.AsyncClient, lab: Any, agent: str = PERSONAL_ASSISTANT) -> None:
        self.http, self.path = http, f"/api/v1/agents/{agent}/chatkit"
        self.lab: Lab = lab
        """The same user's lab, in this process."""

    async def ask(self, kind: str, /, **params: Any) -> Any:
        answer = await self.http.post(self.path, json={"type": kind, "params": params})
        answer.raise_for_status()
        return answer.json()

    async def stream(self, kind: str, /, **params: Any) -> list[dict[str, Any]]:
        return [event async for event in self.events(kind, **params)]

    async def events(self, kind: str, /, **params: Any) -> AsyncIterator[dict[str, Any]]:
        body = {"type": kind, "params": params}
        async with self.http.stream("POST", self.path, json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
            answer.raise_for_status()
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def say(
        self, text: str, thread_id: str | None = None, *, attachments: tuple[str, ...] = (), **message: Any
    ) -> list[dict[str, Any]]:
        said = {
            "content": [{"type": "input_text", "text": text}], "attachments": list(attachments), "inference_options": {},
            **message,
        }  # fmt: skip
        if thread_id is None:
            return await self.stream("threads.create", input=said)
        return await self.stream("threads.add_user_message", input=said, thread_id=thread_id)

    async def items(self, thread_id: str) -> list[dict[str, Any]]:
        page = await self.ask("items.list", thread_id=thread_id, order="asc", limit=100)
        found: list[dict[str, Any]] = page["data"]
        return found


@asynccontextmanager
async def serve(
    store: Path | str, settings: Settings = SETTINGS, limits: RateLimits | None = None
) -> AsyncIterator[Server]:
    lab = Lab(store, settings=settings)
    served = Served(lab, loopback=True, pages=False, limits=limits)
    config = config_of(served.app, settings, host="127.0.0.1", port=0)  # HTTP as `timestep-lab serve` speaks it.
    config.timeout_graceful_shutdown = 3
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve(sockets=[socket]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield Server(f"http://127.0.0.1:{socket.getsockname()[1]}", served)
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await running
        socket.close()


def thread_of(events: list[dict[str, Any]]) -> str:
    return next(str(event["thread"]["id"]) for event in events if event["type"] == "thread.created")


def text_of(events: list[dict[str, Any]]) -> str:
    """What the assistant said, put together from the pieces as they came."""
    updates = [event["update"] for event in events if event["type"] == "thread.item.updated"]
    return "".join(u["delta"] for u in updates if u["type"] == "assistant_message.content_part.text_delta")


def last_shown(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Items of a type as they were last shown, in the order of their first showing."""
    shown: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["type"] in ("thread.item.added", "thread.item.done", "thread.item.replaced"):
            shown[event["item"]["id"]] = event["item"]
    return [item for item in shown.values() if item["type"] == kind]


def buttons(widget: Any) -> dict[str, dict[str, Any]]:
    """Label to action of every button in a widget."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(widget, dict):
        if widget.get("type") == "Button":
            found[widget["label"]] = {name: widget["onClickAction"][name] for name in ("type", "payload")}
        for value in widget.values():
            found |= buttons(value)
    elif isinstance(widget, list):
        for value in widget:
            found |= buttons(value)
    return found
