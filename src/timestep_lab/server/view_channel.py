"""A websocket of its own for each view of a page: `/views/{key}`, where the page that was made for a user has the key.

Panel carries messages too, and does so outside the served app; but each takes it three frames, a lock and a callback, which is more than a
token takes all the way from the model. A browser that loses the connection opens it again, with growing pauses; when the view is there no
more, because the server was started again or had closed the page's session, it is told so (code 1008) and loads the page anew.

| | |
|---|---|
| text to the browser | a JSON list of messages: all that waited while the one before was sent |
| text to Python | one message as JSON |
| binary, both ways | length of the head (4 bytes, little-endian), head `{message, sizes}` as JSON, then the binary parts |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from timestep_lab.model.records import Json
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.labs import caller_of
from timestep_lab.server.panel_server import at_session_end

log = logging.getLogger(__name__)
router = APIRouter()
HEAD = 4
NO_SUCH_VIEW, NOT_UNDERSTOOD, TOO_SLOW = 1008, 1003, 1013
MOST_WAITING = 5_000
"""Messages for a browser that does not take them; then it is told to read everything anew."""


@dataclass(frozen=True, slots=True)
class _Offer:
    user_id: str
    component: Any


_offers: dict[str, _Offer] = {}


def offer(component: Any, user_id: str, reads: FairReads) -> None:
    """Let the browser of this user reach the component's view directly, as long as its page is open; the view reads in the user's turn."""
    closed = asyncio.Event()
    at_session_end(closed.set)
    component.view.turns = lambda read: reads.run(user_id, read, closed.wait)
    if not hasattr(component, "channel"):
        return
    key = secrets.token_urlsafe(24)
    _offers[key] = _Offer(user_id, component)
    at_session_end(lambda: _offers.pop(key, None))
    component.channel = key


@router.websocket("/views/{key}")
async def view_channel(socket: WebSocket, key: str) -> None:
    found = _offers.get(key)
    await socket.accept()  # Also to refuse it: a browser is told the code only of a connection that was open.
    if found is None or found.user_id != caller_of(socket).user_id:
        await socket.close(NO_SUCH_VIEW)
        return
    channel = Channel(socket)
    found.component.direct = channel.post
    telling = asyncio.create_task(channel.tell())
    try:
        while True:
            content, buffers = unpack(await socket.receive())
            found.component.view.receive(found.component, content, buffers)
    except WebSocketDisconnect:
        pass
    except ValueError as error:
        log.warning("A page sent what is no message of ours: %s", error)
        await socket.close(NOT_UNDERSTOOD)
    finally:
        if found.component.direct == channel.post:  # Not yet another connection's, after a reload.
            found.component.direct = None
        telling.cancel()
        # RuntimeError: Starlette's word for sending on a websocket that is closed already.
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await telling


class Channel:
    """What waits for one browser, and the task that sends it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._loop = socket, asyncio.get_running_loop()
        self._waiting: deque[str | bytes] = deque()
        self._some = asyncio.Event()

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        """From any thread. `message` is strict JSON already."""
        self._waiting.append(pack(message, buffers) if buffers else json.dumps(message, ensure_ascii=False))
        self._loop.call_soon_threadsafe(self._some.set)

    async def tell(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            if len(self._waiting) > MOST_WAITING:
                await self._socket.close(TOO_SLOW)
                return
            texts: list[str] = []
            while self._waiting:
                frame = self._waiting.popleft()
                if isinstance(frame, str):
                    texts.append(frame)
                    continue
                await self._tell_texts(texts)
                texts = []
                await self._socket.send_bytes(frame)
            await self._tell_texts(texts)

    async def _tell_texts(self, texts: list[str]) -> None:
        if texts:
            await self._socket.send_text(f"[{','.join(texts)}]")


def pack(message: Mapping[str, Json], buffers: Sequence[bytes]) -> bytes:
    head = json.dumps({"message": message, "sizes": [len(buffer) for buffer in buffers]}, ensure_ascii=False).encode()
    return b"".join([len(head).to_bytes(HEAD, "little"), head, *buffers])


def unpack(frame: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """A message and its binary parts. Raises `WebSocketDisconnect` at the end, `ValueError` for anything else."""
    if frame["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(frame.get("code", 1000))
    buffers: list[bytes] = []
    if (text := frame.get("text")) is not None:
        message = json.loads(text)
    else:
        data: bytes = frame["bytes"]
        at = HEAD + int.from_bytes(data[:HEAD], "little")
        head = json.loads(data[HEAD:at])
        if not isinstance(head, dict) or not isinstance(sizes := head.get("sizes"), list):
            raise ValueError("a binary frame without sizes")
        for size in sizes:
            if not isinstance(size, int) or size < 0 or at + size > len(data):
                raise ValueError("a binary frame that is shorter than it says")
            buffers.append(data[at : at + size])
            at += size
        message = head.get("message")
    if not isinstance(message, dict):
        raise ValueError("no JSON object")
    return message, buffers
