"""The served lab as one ASGI app: API, ChatKit endpoint, OpenAI-compatible API and Panel pages, behind one gate; and
`serve`.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import faulthandler
import gc
import html
import importlib
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from timestep_lab import __version__
from timestep_lab.model.errors import AuthError, UsageError
from timestep_lab.server import errors as error_response
from timestep_lab.server import openai_api
from timestep_lab.server.api import auth, changes, health, operations, trace_files, traces
from timestep_lab.server.api.health import Counting, Metrics
from timestep_lab.server.chatkit import server as chatkit
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.gate import API_PREFIXES, OPEN_PATHS, Caller, Gate, RateLimits, Tokens, answers_to
from timestep_lab.server.labs import Labs
from timestep_lab.server.otlp_decoder import OtlpDecoder
from timestep_lab.server.panel import with_status
from timestep_lab.server.workers import AT_ONCE, Worker, check, hand_over, is_elsewhere, taking_over, watch
from timestep_lab.store.store import secret_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from timestep_lab.runtime.settings import Settings
    from timestep_lab.server.labs import UserLab
    from timestep_lab.store.base import Database


ROUTERS = (
    health.router, auth.router, traces.router, *operations.ROUTERS, trace_files.mine, trace_files.router, trace_files.shared,
    trace_files.comparisons, operations.router, changes.router, chatkit.router, openai_api.router,
)  # fmt: skip
"""In the order in which paths are matched: `/traces/suggest` and `/traces/score` before `/traces/{trace_id}`."""
IMPORT_S = 90.0
"""Timeout in seconds for importing traces, including parsing and storing."""
TRIM_S = 60.0
"""Interval in seconds at which freed memory is returned to the operating system."""
LINK_HOURS = 12
"""Validity in hours of the sign-in link in the terminal. After that, `/?key=` accepts the output of `timestep-lab
token`.
"""


class Served:
    """The ASGI app of a lab, and the key of its owner's sign-in link."""

    def __init__(
        self, lab: UserLab, *, loopback: bool, pages: bool = True, limits: RateLimits | None = None, worker: Worker | None = None
    ) -> None:  # fmt: skip
        self.owner_key = worker.owner_key if worker else secrets.token_urlsafe(24)
        self._key_until = worker.key_until if worker else time.time() + LINK_HOURS * 3600
        self._loopback = loopback
        lab.settings = replace(lab.settings, is_served=True)
        self.labs = Labs(lab)
        self._secret = secret_of(lab.store.db, lab.settings.secret)
        self.tokens = Tokens(self._secret)
        self.api = self._api(pages)
        metrics: Metrics = self.api.state.metrics
        self.app: ASGIApp = Counting(
            Gate(
                PagesWait(self.api, self.api),
                self.tokens,
                anonymous_pages=loopback,
                limits=limits,
                owner_key=self._owner_of,
                answers_to=answers_to(lab.settings.hosts, loopback=loopback),
            ),
            metrics,
        )

    def _owner_of(self, key: str) -> str | None:
        """The lab's own user, for the key of the sign-in link or for a token of theirs (`timestep-lab token`); else
        None.
        """
        owner: str = self.labs.root.store.user_id
        if secrets.compare_digest(key.encode(), self.owner_key.encode()):
            return owner if time.time() < self._key_until else None
        try:
            caller = self.tokens.verify(key)
        except AuthError:
            return None
        return owner if caller == Caller(owner, anonymous=False) else None

    def _api(self, pages: bool) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            preparing = asyncio.create_task(self._prepare(app, pages))
            yield
            app.state.stopping = True
            preparing.cancel()
            with suppress(asyncio.CancelledError):
                await preparing
            await self.labs.aclose()
            api.state.reads.close()
            api.state.imports.close()
            await asyncio.to_thread(api.state.otlp.close)

        api = FastAPI(
            title="Timestep Lab", version=__version__, lifespan=lifespan, openapi_url="/api/openapi.json",
            docs_url=None, redoc_url=None, separate_input_output_schemas=False,
        )  # fmt: skip
        api.state.labs, api.state.tokens, api.state.metrics, api.state.stopping = (
            self.labs,
            self.tokens,
            Metrics(),
            False,
        )
        api.state.secret, api.state.loopback = self._secret, self._loopback
        api.state.otlp = OtlpDecoder()
        api.state.reads = FairReads(lambda: bool(api.state.stopping))
        api.state.imports = FairReads(lambda: bool(api.state.stopping), threads=4, waiting=50, time_limit_s=IMPORT_S)
        api.state.pages_ready, api.state.prepared = asyncio.Event(), asyncio.Event()
        error_response.install(api)
        for router in ROUTERS:
            api.include_router(router)
        return api

    async def _prepare(self, api: FastAPI, pages: bool) -> None:
        """Slow imports, after the server has started: the pages, then the Agents SDK for the first message."""
        if pages:
            await asyncio.to_thread(importlib.import_module, "panel.io.fastapi")
            from timestep_lab.server.pages import add_pages

            served = add_pages(api, self.labs, secret=self._secret, loopback=self._loopback)
        api.state.pages_ready.set()
        await asyncio.to_thread(importlib.import_module, "timestep_lab.runtime.runner")
        api.state.prepared.set()
        if pages:
            await served.forget_unused()


SESSION_ARGUMENTS = (b"bokeh_session_id", b"bokeh-session-id")
"""Query parameters by which Panel lets an address choose the session of its page."""


class PagesWait:
    """Delays requests for pages until the pages are available. The API does not wait.

    Pages are compressed: a slow connection paints after the first few kB.

    Every page gets a new session, regardless of its address, and is created without the browser's cookies: those of
    other programs on the same host may have names that Panel does not accept.
    """

    def __init__(self, app: ASGIApp, api: FastAPI) -> None:
        self.app, self.api = app, api
        self.compressed = GZipMiddleware(app, minimum_size=1000, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not scope["path"].startswith((*API_PREFIXES, *OPEN_PATHS)):
            await self.api.state.pages_ready.wait()
            asked = parse_qsl(scope["query_string"], keep_blank_values=True)
            scope = {
                **scope,
                "headers": [(name, value) for name, value in scope["headers"] if name.lower() != b"cookie"],
                "query_string": urlencode(
                    [(name, value) for name, value in asked if name not in SESSION_ARGUMENTS]
                ).encode(),
            }
            await self.compressed(scope, receive, with_status(send))
        else:
            await self.app(scope, receive, send)


# --- Serving until told to stop


log = logging.getLogger("timestep_lab.server")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HEAD_S = 20.0
"""Timeout in seconds for a request's head, from the start of the connection or from its first byte."""
BACKLOG = 256
"""Length of the queue of pending connections; asyncio accepts as many at once."""
NO_MORE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
LOG_AGAIN_S = 60.0
GRACE_S = 10
"""Time in seconds that requests have to finish on shutdown."""
NEW_OBJECTS = 20_000
"""After so many the garbage collector looks at them."""
COLLECT_S = 300.0
"""Interval in seconds of a full garbage collection: with so many new objects, Python's own comes once in hours."""
SWITCH_S = 0.001
"""Interpreter switch interval in seconds: the event loop waits at most this long for a busy thread."""
STOPPED_S = 30
"""If the process has not exited after this many seconds, it prints the stacks of its threads to stderr and exits."""
STORED_S = 15
"""Time in seconds after which spans are given up that the store does not take, as on a full disk."""
RUNS_S = 7
"""The part of `GRACE_S` that runs have to finish on their own; then they are cancelled, so that their readers are told
before the connection closes.
"""


def serve(
    lab: UserLab, *, host: str, port: int, announce: Callable[[str], None], ends_process: bool = False, workers: int = 1
) -> None:
    """Serve until SIGTERM or SIGINT, then let requests and runs finish (at most 10 s), store the partial output of
    unfinished runs, and return.

    `ends_process`: the process exits afterwards, at most STOPPED_S seconds later. `workers`: number of worker
    processes. Raises `UsageError` if the port is in use, or for several workers on a lab that only one process can own.
    """
    if worker := Worker.of_environment():
        _answer(lab, Served(lab, loopback=host in LOOPBACK, worker=worker), host, ends_process, worker)
        return
    if workers > 1:
        check(lab.store.db, workers)
    served = Served(lab, loopback=host in LOOPBACK) if workers == 1 else None
    owner_key = served.owner_key if served else secrets.token_urlsafe(24)
    listening = _listen(lab, host, port)
    _own_the_file(lab.store.db)
    # From now on connections wait for the server instead of being refused: the address is about to be printed.
    listening.listen(BACKLOG)
    actual = listening.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{actual}"
    # The bare address first, since programs take the first one they see.
    announce(f"Timestep Lab is at {url} (for guests, who see only their own data).")
    announce(f"Sign in as the owner of {lab.store.db.url}: {url}/?key={owner_key}")
    announce(
        f"The link is valid for {LINK_HOURS} hours; after that, use the output of `timestep-lab token` as its key."
    )
    announce(f'From a notebook elsewhere: Lab("{url}", token=…); `timestep-lab token` prints a token.')
    if served:
        _answer(lab, served, host, ends_process, listening)
    else:
        secret_of(lab.store.db, lab.settings.secret)  # Create it once, before each worker looks for it.
        with listening:
            watch(listening, workers, owner_key=owner_key, link_s=LINK_HOURS * 3600.0)


def _listen(lab: UserLab, host: str, port: int) -> socket.socket:
    config = config_of(None, lab.settings, host=host, port=port)
    try:
        with _unsaid("uvicorn.error"):
            listening = config.bind_socket()
    except SystemExit:
        # uvicorn logs the reason and exits; print it as one line instead.
        raise UsageError(
            f"Port {port} on {host} is not available; another program may be using it.", "Choose another with --port."
        ) from None
    # Accepted connections inherit this option. uvicorn's socket names no protocol, so asyncio would leave Nagle's algorithm on: every
    # response, written as head and body, would wait up to 44 ms for the client's delayed acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _answer(lab: UserLab, served: Served, host: str, ends_process: bool, at: socket.socket | Worker) -> None:
    """Serve in this process. `at`: the listening socket, or the worker that this process is."""
    _take_many_files()
    config = config_of(served.app, lab.settings, host=host, port=0)
    switched_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        if isinstance(at, Worker):
            asyncio.run(_until_stopped(_WorkerServer(config), socket.socket(fileno=at.listens), served, at))
        else:
            asyncio.run(_until_stopped(uvicorn.Server(config), at, served))
    finally:
        sys.setswitchinterval(switched_s)
        gc.unfreeze()
        if not ends_process:
            faulthandler.cancel_dump_traceback_later()


class Impatient(H11Protocol):
    """Closes a connection whose request head does not arrive in time; it would hold a file descriptor forever."""

    _hurry: asyncio.TimerHandle | None = None
    _is_websocket = False
    _is_new = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        was_new, self._is_new = self._is_new, False
        worker = is_elsewhere(data) if was_new else None
        if worker and hand_over(self.transport.get_extra_info("socket").fileno(), data, worker):
            self.transport.abort()  # Closes only the descriptor of this process.
            return
        super().data_received(data)
        cycle: RequestResponseCycle | None = (
            self.cycle
        )  # None before the first request, which uvicorn's types do not express.
        if self._is_websocket or not (cycle is None or cycle.response_complete):
            self._unwait()
        elif self._hurry is None:
            self._wait()

    def handle_websocket_upgrade(self, *event: Any) -> None:
        self._is_websocket = True
        super().handle_websocket_upgrade(*event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwait()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._hurry = self.loop.call_later(HEAD_S, self.transport.close)

    def _unwait(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None


def _take_many_files() -> None:
    """Raise the limit of open files to the maximum allowed: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has a different mechanism.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS reports a limit that it does not allow.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _SaysOnce:
    """An exception handler for the event loop. When no connection can be accepted, asyncio reports it for each place in
    the backlog, every second; this reports it once a minute."""

    def __init__(self) -> None:
        self._logged_at = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in NO_MORE):
            loop.default_exception_handler(context)
        elif loop.time() - self._logged_at > LOG_AGAIN_S:
            self._logged_at = loop.time()
            log.error(
                "No connection can be accepted now: %s. Pending connections are accepted when others close.",
                error.strerror,
            )


def config_of(app: Any, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=120, ws="websockets-sansio", server_header=False, http=Impatient, backlog=BACKLOG,
        # Tokens are too short to gain from compression, and compressing a trace of 100,000 spans takes longer than sending it.
        ws_per_message_deflate=False,
        # Clients that are not trusted proxies can put anything into these headers.
        proxy_headers=bool(settings.trusted_proxies), forwarded_allow_ips=list(settings.trusted_proxies),
    )  # fmt: skip


@contextmanager
def _unsaid(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was


def _own_the_file(db: Database) -> None:
    """Take over a lab file that a notebook has open, and serve it to the notebook, whose kernel may be busy for
    seconds.
    """
    if db.dialect == "duckdb":
        from timestep_lab.store.duckdb.database import DuckDatabase

        if isinstance(db, DuckDatabase):
            db.take_over()


async def _until_stopped(
    server: uvicorn.Server, listening: socket.socket, served: Served, worker: Worker | None = None
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_SaysOnce())

    stopping: list[asyncio.Task[None]] = []

    async def end_runs() -> None:
        await asyncio.sleep(RUNS_S)
        await served.labs.stop_runs()

    def stop() -> None:
        served.api.state.stopping = True
        server.should_exit = True
        if not stopping:
            stopping.append(loop.create_task(end_runs()))
            served.labs.give_up_spans_in(STORED_S)
            faulthandler.dump_traceback_later(STOPPED_S, exit=True)

    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(name, stop)
        except NotImplementedError:  # Windows has no signal handlers on its event loop; uvicorn's own are used there.
            break
    caring = [loop.create_task(_spare_what_is_loaded(served)), loop.create_task(_return_free_memory())]
    with taking_over(worker, partial(_protocol, server)) if worker else nullcontext():
        await server.serve(sockets=[listening])
    for task in (*caring, *stopping):
        task.cancel()


class _WorkerServer(uvicorn.Server):
    """Accepts only a few connections at once, so that other workers get their share."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.backlog = AT_ONCE
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(
                BACKLOG
            )  # The kernel's backlog, shared by all workers: asyncio would use the number of connections accepted at once.


def _protocol(server: uvicorn.Server) -> asyncio.Protocol:
    """The protocol for a connection accepted elsewhere, created as in `uvicorn.Server.startup`."""
    return Impatient(config=server.config, server_state=server.server_state, app_state=server.lifespan.state)


async def _spare_what_is_loaded(served: Served) -> None:
    """Freeze loaded modules in the garbage collector, which Panel calls whenever a page is closed, and collect the rest at intervals.

    Scanning their roughly 280,000 objects stopped every response for 200 ms.
    """
    await served.api.state.prepared.wait()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    while True:
        await asyncio.sleep(COLLECT_S)
        gc.collect()


async def _return_free_memory() -> None:
    """Return freed memory to the operating system once a minute. Between what is kept for long, glibc keeps what many
    short requests have freed: 150 MB after a few minutes of a hundred users.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    while trim is not None:
        await asyncio.sleep(TRIM_S)
        await asyncio.to_thread(trim, 0)


# --- Standalone pages without navigation: sign-in, expired links, and invalid shared links


_FRAME = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · Timestep Lab</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
:root{{color-scheme:light;--ink:#1c2127;--soft:#545d68;--bg:#fff;--line:#1c21273d;--accent:#1b6fc2;--on-accent:#fff}}
@media(prefers-color-scheme:dark){{:root{{color-scheme:dark;--ink:#e4e8ec;--soft:#a9b2bc;--bg:#16191d;--line:#e4e8ec3d;--accent:#6cb0f5;
--on-accent:#0b1722}}}}
body{{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);display:grid;place-content:center;min-height:90vh;
max-width:44ch;margin:auto;padding:16px}}h1{{font-size:20px;line-height:1.3;margin:0 0 8px}}p{{margin:0 0 12px;overflow-wrap:anywhere}}
.of{{color:var(--soft)}}.do{{font:inherit;display:inline-grid;align-items:center;min-height:44px;padding:0 18px;border-radius:6px;
border:1px solid var(--line);color:var(--ink);background:none;text-decoration:none;cursor:pointer;box-sizing:border-box}}
.do.first{{background:var(--accent);border-color:var(--accent);color:var(--on-accent)}}
:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}</style></head>
<body><main><p class="of">Timestep Lab</p><h1>{title}</h1>{body}</main></body></html>"""


def sign_in() -> bytes:
    """The sign-in page, for a server that does not sign browsers in automatically."""
    return _page(
        "Sign in",
        "<p>You are not signed in. Continue without an account: a signed cookie keeps your threads and traces private.</p>"
        '<form method="post" action="/api/v1/auth/anonymous?then=/"><button class="do first">Continue without an account</button></form>',
    )


def expired_link(path: str) -> bytes:
    """The page for a sign-in link whose key is not that of the running server."""
    return _page(
        "This link has expired",
        "<p>It is from an earlier start of the lab, is older than 12 hours, or was copied incompletely. The link that the running server "
        "printed in its terminal signs you in; later, append the output of <code>timestep-lab token</code> to <code>/?key=</code>.</p>"
        "<p>As a guest you see only your own data, not the lab's chats and traces.</p>"
        f'<p><a class="do" href="{html.escape(path)}">Continue as a guest</a></p>',
    )


def no_shared_trace() -> bytes:
    """The page for an invalid shared link. It gives no reason, so it does not reveal whether such a trace ever existed."""
    return _page(
        "This link does not work",
        "<p>It has expired, was revoked, or was copied incompletely. Ask the sender for a new one.</p>",
    )


def _page(title: str, body: str) -> bytes:
    return _FRAME.format(title=title, body=body).encode()
