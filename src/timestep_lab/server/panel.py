"""Panel sessions inside the FastAPI app, the websockets of views, and streams that end by cancellation.

A closed generator gets `GeneratorExit` and may not await, whereas a cancelled task can still store its state. So a
stream runs in its own task, and in one context from start to end: the Agents SDK keeps its spans in context variables.
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

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.gate import USER_HEADER
from timestep_lab.server.labs import caller_of
from timestep_lab.server.workers import view_key

if TYPE_CHECKING:
    from bokeh_fastapi import BokehFastAPI
    from fastapi import FastAPI
    from panel.template import Template
    from starlette.types import Message, Send

    from timestep_lab.ui.view import View


# --- The only module that uses bokeh-fastapi.
#
# - Bokeh's scripts (3 MB) are not sent to the browser: the page loads the view's own module, which uses the websocket below. That websocket
# keeps the session alive; Bokeh's own, which would send the same data again, is not served.
# - bokeh-fastapi checks for unused sessions in the app's lifespan, which starts before the pages are added: `forget_unused` does it instead.
# - The browser's cookies are not stored in the session; the user id is passed in a header that only the gate can set.


SEEN_HEADER = "-".join(word.capitalize() for word in USER_HEADER.split("-"))
"""The header name in Tornado's capitalisation."""
CHECK_UNUSED_MS = 5_000
KEEP_UNUSED_MS = 10_000
"""Time in ms for a page to open its websocket, and for a browser to reopen it."""


_status: ContextVar[list[int]] = ContextVar("timestep_lab_page_status")


def answer_with(status: int) -> None:
    """Set the HTTP status of the page that is being created; Bokeh always uses 200."""
    _status.get([]).append(status)


def with_status(send: Send) -> Send:
    """Sends the page of this task with the status set by `answer_with`."""
    statuses: list[int] = []
    _status.set(statuses)

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and statuses:
            message = {**message, "status": statuses[-1]}
        await send(message)

    return sent


class PanelPages:
    """The served pages."""

    def __init__(self, bokeh: BokehFastAPI) -> None:
        self._bokeh = bokeh

    def open_sessions(self) -> int:
        return sum(len(list(context.sessions)) for context in self._bokeh._applications.values())

    async def forget_unused(self) -> None:
        """End sessions whose browser has disconnected, until cancelled."""
        await self._bokeh._cleanup_loop()


def add_panel_pages(api: FastAPI, pages: Mapping[str, Callable[[], Template]], *, secret: str) -> PanelPages:
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
    """The user id of the page that is being created."""
    import panel

    return str(panel.state.headers[SEEN_HEADER])


def at_session_end(call: Callable[[], object]) -> None:
    """Register a callback for when the browser has left the page that is being created."""
    import panel

    def ended(_: object) -> None:
        call()

    document = panel.state.curdoc
    assert document is not None, "no page is being made"
    document.on_session_destroyed(ended)


def page_arguments(name: str) -> list[str]:
    """All values of a query parameter of the page."""
    import panel

    return [value.decode("utf-8", errors="replace") for value in panel.state.session_args.get(name, ())]


def page_argument_names() -> list[str]:
    """Names of the query parameters of the page, except the session's own."""
    import panel

    return [name for name in panel.state.session_args if not name.startswith("bokeh-")]


def page_argument(name: str) -> str | None:
    return next(iter(page_arguments(name)), None)


# --- A websocket for each view of a page: `/views/{key}`, where the page was created with the key
#
# Outside of the served app, Panel carries the messages; but each needs three frames, a lock and a callback, which takes longer than a
# token from the model. A browser that loses the connection reopens it, with increasing delays. If the view no longer exists, because
# the server was restarted or the session has ended, the socket is closed with code 1008 and the browser reloads the page.
#
# | | |
# |---|---|
# | text to the browser | a JSON list of messages: all that were queued while the previous list was sent |
# | text to Python | one message as JSON |
# | binary, both directions | length of the head (4 bytes, little-endian), head `{message, sizes}` as JSON, then the binary parts |


log = logging.getLogger(__name__)
router = APIRouter()
HEAD = 4
NO_SUCH_VIEW, NOT_UNDERSTOOD, TOO_SLOW = 1008, 1003, 1013
MOST_WAITING = 5_000
"""Maximum number of queued messages for a slow browser; beyond that it is told to reload everything."""


class ViewHost:
    """A view as shown by one page. Messages posted while the browser is disconnected are dropped: it reloads everything
    when it reconnects.
    """

    def __init__(self, view: View, user_id: str, context: Any) -> None:
        self.view, self.user_id = view, user_id
        self.channel: Channel | None = None
        self._context = context
        """The Bokeh context of the page's session."""

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        if self.channel is not None:
            self.channel.post(message, buffers)

    @contextlib.contextmanager
    def connected(self, channel: Channel) -> Iterator[None]:
        """Keeps the session alive while connected, and for a while afterwards, so that a browser can reconnect."""
        session = self._context.session
        session.block_expiration()
        self.channel = channel
        try:
            yield
        finally:
            if self.channel is channel:  # Unless another connection has replaced it after a reload.
                self.channel = None
            asyncio.get_running_loop().call_later(KEEP_UNUSED_MS / 1000, session.unblock_expiration)


_hosts: dict[str, ViewHost] = {}


def offer(view: View, user_id: str, reads: FairReads) -> str:
    """Make the view of the page that is being created available to this user's browser; its costly reads run in the
    user's queue. Returns the key of its websocket."""
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
    await socket.accept()  # Accept even to reject: browsers only see the close code of an open connection.
    if host is None or host.user_id != caller_of(socket).user_id:
        await socket.close(NO_SUCH_VIEW)
        return
    channel = Channel(socket)
    telling = asyncio.create_task(channel.deliver())
    try:
        with host.connected(channel):
            while True:
                content, buffers = unpack(await socket.receive())
                host.view.receive(host, content, buffers)
    except WebSocketDisconnect:
        pass
    except ValueError as error:
        log.warning("Invalid message from a page: %s", error)
        await socket.close(NOT_UNDERSTOOD)
    finally:
        telling.cancel()
        # RuntimeError: Starlette's error for sending on a closed websocket.
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await telling


class Channel:
    """The queue of messages for one browser, and the task that sends them."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket, self._loop = socket, asyncio.get_running_loop()
        self._waiting: deque[str | bytes] = deque()
        self._some = asyncio.Event()

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        """Queue a message; thread-safe. `message` must be strict JSON."""
        self._waiting.append(pack(message, buffers) if buffers else json.dumps(message, ensure_ascii=False))
        self._loop.call_soon_threadsafe(self._some.set)

    async def deliver(self) -> None:
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
                await self._deliver_texts(texts)
                texts = []
                await self._socket.send_bytes(frame)
            await self._deliver_texts(texts)

    async def _deliver_texts(self, texts: list[str]) -> None:
        if texts:
            await self._socket.send_text(f"[{','.join(texts)}]")


def pack(message: Mapping[str, Json], buffers: Sequence[bytes]) -> bytes:
    head = json.dumps({"message": message, "sizes": [len(buffer) for buffer in buffers]}, ensure_ascii=False).encode()
    return b"".join([len(head).to_bytes(HEAD, "little"), head, *buffers])


def unpack(frame: Message) -> tuple[dict[str, Json], list[bytes]]:
    """Parse a frame into a message and its binary parts. Raises `WebSocketDisconnect` at the end, `ValueError` for an
    invalid frame.
    """
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
    """The pieces of `source`, from when the first is available. Raises what it raises before that; a later error is
    logged, and `on_fault` converts it to a final piece. `alive` is sent after 15 s of silence."""
    pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def pump() -> None:
        begun = False
        try:
            async for piece in source:
                begun = True
                pieces.put_nowait(piece)
        except Exception as error:
            if begun:  # An error of ours says what happened; of any other, the traceback does.
                unexpected = None if isinstance(error, LabError) else error
                logger.error("a stream broke off: %s", error, exc_info=unexpected)
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
