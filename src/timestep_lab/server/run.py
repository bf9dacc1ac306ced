"""Serve a lab until told to stop."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from timestep_lab.model.errors import UsageError
from timestep_lab.server.server import LINK_HOURS, Served

if TYPE_CHECKING:
    from timestep_lab.model.protocols import LabLike
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.base import Database

log = logging.getLogger("timestep_lab.server")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HEAD_S = 20.0
"""How long a request's head may take, from the beginning of its connection or from its first byte."""
BACKLOG = 256
"""Connections that wait to be accepted; asyncio tries as many in one go."""
NO_MORE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
SAY_AGAIN_S = 60.0
GRACE_S = 10
"""How long requests may take to end when the server is told to stop."""
SWITCH_S = 0.001
"""How long a thread keeps Python to itself while others want it; the event loop, which answers everybody, waits that long for work in threads."""
STOPPED_S = 30
"""When all has long been kept and the process is still there, something holds it up: it says what on stderr, and ends."""
RUNS_S = 7
"""How much of that runs have to come to their own end; then they are cancelled, so that their readers hear of it before the connection goes."""


def serve(lab: LabLike, *, host: str, port: int, announce: Callable[[str], None], ends_process: bool = False) -> None:
    """Answer until SIGTERM or SIGINT, then let requests and runs end (at most 10 s), keep what unfinished runs said, and return.

    `ends_process`: the program is over after this, at most STOPPED_S later. Raises `UsageError` when the port is taken.
    """
    served = Served(lab, loopback=host in LOOPBACK)
    config = config_of(served.app, lab.settings, host=host, port=port)
    try:
        with _unsaid("uvicorn.error"):
            socket = config.bind_socket()
    except SystemExit:
        # uvicorn logs the reason and leaves the program; ours is to say it in one line.
        raise UsageError(
            f"Port {port} on {host} cannot be had; another program may use it.", "Choose another with --port."
        ) from None
    # Connections inherit it. uvicorn's socket names no protocol, and so asyncio would leave Nagle's algorithm on: every answer, which is
    # written as head and body, would wait up to 44 ms for the client's delayed acknowledgement of its head.
    socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    _take_many_files()
    _own_the_file(lab.store.db)
    # From here on a connection waits for the server instead of being refused: the address is about to be printed.
    socket.listen(config.backlog)
    actual = socket.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{actual}"
    # The bare address first: programs take the first one that they see.
    announce(f"Timestep Lab is at {url} (for guests, who see only what they do themselves).")
    announce(f"Open it as yourself, with all of {lab.store.db.url}: {url}/?key={served.owner_key}")
    announce(f"It works for {LINK_HOURS} hours; then put what `timestep-lab token` prints in the place of its key.")
    announce(f'From a notebook elsewhere: Lab("{url}", token=…); `timestep-lab token` prints one.')
    switched_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        asyncio.run(_until_stopped(uvicorn.Server(config), socket, served))
    finally:
        sys.setswitchinterval(switched_s)
        gc.unfreeze()
        if not ends_process:
            faulthandler.cancel_dump_traceback_later()


class Impatient(H11Protocol):
    """A connection on which a request's head does not come to its end is closed: it would hold a file descriptor for ever."""

    _hurry: asyncio.TimerHandle | None = None
    _is_websocket = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = (
            self.cycle
        )  # None before the first request, which uvicorn's types do not say.
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
    """As many open files as the system allows: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows counts them otherwise.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS names a limit that it does not allow.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _SaysOnce:
    """The event loop's handler of faults. When no connection can be accepted asyncio tells so for each place in the backlog, again every
    second: it is said once a minute."""

    def __init__(self) -> None:
        self._said = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in NO_MORE):
            loop.default_exception_handler(context)
        elif loop.time() - self._said > SAY_AGAIN_S:
            self._said = loop.time()
            log.error(
                "No connection can be accepted now: %s. Those that wait are taken when others end.", error.strerror
            )


def config_of(app: Any, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=120, ws="websockets-sansio", server_header=False, http=Impatient, backlog=BACKLOG,
        # Tokens are too short to gain, and packing a trace of 100,000 spans takes longer than sending it.
        ws_per_message_deflate=False,
        # Whoever is not named as a proxy may write what he likes into these headers.
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
    """A lab in a file that a notebook has open: the server takes it over and serves it to the notebook, whose kernel may be busy for seconds."""
    if db.dialect == "duckdb":
        from timestep_lab.store.duckdb.database import DuckDatabase

        if isinstance(db, DuckDatabase):
            db.take_over()


async def _until_stopped(server: uvicorn.Server, socket: object, served: Served) -> None:
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
            faulthandler.dump_traceback_later(STOPPED_S, exit=True)

    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(name, stop)
        except NotImplementedError:  # Windows has no signal handlers on its loop; uvicorn's own are used there.
            break
    sparing = loop.create_task(_spare_what_is_loaded(served))
    await server.serve(sockets=[socket])  # type: ignore[list-item]
    for task in (sparing, *stopping):
        task.cancel()


async def _spare_what_is_loaded(served: Served) -> None:
    """Modules stay for good: the garbage collector, which Panel calls whenever a page is closed, need not walk through them each time.

    With some 280,000 objects of theirs it stopped every answer for 200 ms.
    """
    await served.api.state.prepared.wait()
    gc.freeze()
