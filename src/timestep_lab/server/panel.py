"""A stream that is made in a task of its own, so that a reader who goes away ends it as a cancellation.

A generator that is merely closed gets `GeneratorExit` and may not await; a cancelled task can still store what it has. And the whole
stream runs in one context, from before its first piece to its end: the Agents SDK keeps its spans in context variables.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from timestep_lab.model.records import Json
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.gate import USER_HEADER
from timestep_lab.server.labs import caller_of
from timestep_lab.server.workers import view_key

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Message, Send

    from timestep_lab.ui.view import View


# --- The one module that knows bokeh-fastapi: Panel's sessions inside the FastAPI app
#
# - A browser is not sent Bokeh's scripts (3 MB): the page runs the view's own module, which speaks over the websocket below. That websocket
#   keeps the session; Bokeh's own, which would carry the same a second time, is not offered.
# - It looks for unused sessions from the lifespan of the app, which has begun long before the pages are added: `forget_unused` does it.
# - A browser's cookies stay out of the session, and the user's id goes in instead, as a header that the gate sets and no client can.


SEEN_HEADER = "-".join(word.capitalize() for word in USER_HEADER.split("-"))
"""Tornado's way of writing the name."""
CHECK_UNUSED_MS = 5_000
KEEP_UNUSED_MS = 10_000
"""How long a page may take to open its websocket, and a browser to open it again."""


_status: ContextVar[list[int]] = ContextVar("timestep_lab_page_status")


def answer_with(status: int) -> None:
    """The page that is being made is sent with this status; Bokeh knows 200 alone."""
    _status.get([]).append(status)


def with_status(send: Send) -> Send:
    """Sends the page that this task makes with the status that `answer_with` said."""
    statuses: list[int] = []
    _status.set(statuses)

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and statuses:
            message = {**message, "status": statuses[-1]}
        await send(message)

    return sent


class PanelPages:
    """The pages as served."""

    def __init__(self, bokeh: Any) -> None:
        self._bokeh = bokeh

    def open_sessions(self) -> int:
        return sum(len(list(context.sessions)) for context in self._bokeh._applications.values())

    async def forget_unused(self) -> None:
        """Ends sessions whose browser left, until cancelled."""
        await self._bokeh._cleanup_loop()


def add_panel_pages(api: FastAPI, pages: Mapping[str, Callable[[], Any]], *, secret: str) -> PanelPages:
    """Serve each function's result at its path. Importing Panel takes about a second."""
    from panel.io.fastapi import add_applications

    bokeh = add_applications(
        dict(pages),
        app=api,
        title="Timestep Lab",
        secret_key=secret.encode(),
        sign_sessions=True,
        include_headers=[SEEN_HEADER],
        include_cookies=[],
        check_unused_sessions_milliseconds=CHECK_UNUSED_MS,
        unused_session_lifetime_milliseconds=KEEP_UNUSED_MS,
    )
    sockets = {f"{path.rstrip('/')}/ws" for path in pages}
    api.router.routes[:] = [route for route in api.routes if getattr(route, "path", None) not in sockets]
    for route in api.routes:
        if getattr(route, "path", None) in pages:
            route.include_in_schema = False  # type: ignore[attr-defined]
    return PanelPages(bokeh)


def caller_of_session() -> str:
    """The user id of the page that is being made."""
    import panel

    return str(panel.state.headers[SEEN_HEADER])


def at_session_end(call: Callable[[], object]) -> None:
    """Call it when the browser has left the page that is being made."""
    import panel

    def ended(_: Any) -> None:
        call()

    document = panel.state.curdoc
    assert document is not None, "no page is being made"
    document.on_session_destroyed(ended)


def page_arguments(name: str) -> list[str]:
    """All values of an argument in the page's address."""
    import panel

    return [value.decode("utf-8", errors="replace") for value in panel.state.session_args.get(name, ())]


def page_argument_names() -> list[str]:
    """Of all arguments in the page's address, without those of the session's own."""
    import panel

    return [name for name in panel.state.session_args if not name.startswith("bokeh-")]


def page_argument(name: str) -> str | None:
    return next(iter(page_arguments(name)), None)


# --- A websocket of its own for each view of a page: `/views/{key}`, where the page that was made for a user has the key
#
# Panel carries messages outside the served app; but each takes it three frames, a lock and a callback, which is more than a token takes all
# the way from the model. A browser that loses the connection opens it again, with growing pauses; when the view is there no
# more, because the server was started again or had closed the page's session, it is told so (code 1008) and loads the page anew.
#
# | | |
# |---|---|
# | text to the browser | a JSON list of messages: all that waited while the one before was sent |
# | text to Python | one message as JSON |
# | binary, both ways | length of the head (4 bytes, little-endian), head `{message, sizes}` as JSON, then the binary parts |


log = logging.getLogger(__name__)
router = APIRouter()
HEAD = 4
NO_SUCH_VIEW, NOT_UNDERSTOOD, TOO_SLOW = 1008, 1003, 1013
MOST_WAITING = 5_000
"""Messages for a browser that does not take them; then it is told to read everything anew."""


class ViewHost:
    """A view as one page shows it. What is posted while the browser is not connected is not kept: it reads everything anew when it is back."""

    def __init__(self, view: View, user_id: str, context: Any) -> None:
        self.view, self.user_id = view, user_id
        self.channel: Channel | None = None
        self._context = context
        """Bokeh's, of the page's session."""

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        if self.channel is not None:
            self.channel.post(message, buffers)

    @contextlib.contextmanager
    def connected(self, channel: Channel) -> Iterator[None]:
        """Keeps the session, and for a while longer, in which a browser that lost the connection may open it again."""
        session = self._context.session
        session.block_expiration()
        self.channel = channel
        try:
            yield
        finally:
            if self.channel is channel:  # Not yet another connection's, after a reload.
                self.channel = None
            asyncio.get_running_loop().call_later(KEEP_UNUSED_MS / 1000, session.unblock_expiration)


_hosts: dict[str, ViewHost] = {}


def offer(view: View, user_id: str, reads: FairReads) -> str:
    """Let the browser of this user reach the view of the page that is being made, as long as it is open; the view reads in the user's turn.
    The key of its websocket."""
    import panel

    document = panel.state.curdoc
    assert document is not None, "no page is being made"
    closed = asyncio.Event()
    at_session_end(closed.set)
    view.turns = lambda read: reads.run(user_id, read, closed.wait)
    key = view_key()
    host = _hosts[key] = ViewHost(view, user_id, document.session_context)
    view.attach(host)
    at_session_end(lambda: view.detach(host))
    at_session_end(lambda: _hosts.pop(key, None))
    return key


@router.websocket("/views/{key}")
async def view_channel(socket: WebSocket, key: str) -> None:
    host = _hosts.get(key)
    await socket.accept()  # Also to refuse it: a browser is told the code only of a connection that was open.
    if host is None or host.user_id != caller_of(socket).user_id:
        await socket.close(NO_SUCH_VIEW)
        return
    channel = Channel(socket)
    telling = asyncio.create_task(channel.tell())
    try:
        with host.connected(channel):
            while True:
                content, buffers = unpack(await socket.receive())
                host.view.receive(host, content, buffers)
    except WebSocketDisconnect:
        pass
    except ValueError as error:
        log.warning("A page sent what is not a message of ours: %s", error)
        await socket.close(NOT_UNDERSTOOD)
    finally:
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


logger = logging.getLogger("timestep_lab.server")
_running: set[asyncio.Task[None]] = set()
ALIVE_S = 15.0


async def detached(
    source: AsyncIterator[bytes], on_fault: Callable[[Exception], bytes], *, alive: bytes | None = None
) -> AsyncIterator[bytes]:
    """What `source` gives, once its first piece is there. Raises what it raises before that; what it raises later is logged, and the
    reader is told what `on_fault` makes of it. `alive` is sent when nothing else was for 15 s."""
    pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def pump() -> None:
        begun = False
        try:
            async for piece in source:
                begun = True
                pieces.put_nowait(piece)
        except Exception as error:
            if begun:
                logger.error("a stream broke off", exc_info=error)
            pieces.put_nowait(on_fault(error) if begun else error)
        finally:
            pieces.put_nowait(None)

    task = asyncio.create_task(pump())
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        first = await pieces.get()
    except BaseException:
        task.cancel()
        raise
    if isinstance(first, Exception):
        raise first
    return _rest(first, pieces, task, alive)


async def _rest(
    piece: bytes | Exception | None,
    pieces: asyncio.Queue[bytes | Exception | None],
    task: asyncio.Task[None],
    alive: bytes | None,
) -> AsyncIterator[bytes]:
    try:
        while isinstance(piece, bytes):
            yield piece
            try:
                async with asyncio.timeout(ALIVE_S if alive else None):
                    piece = await pieces.get()
            except TimeoutError:
                piece = alive
    finally:
        task.cancel()
