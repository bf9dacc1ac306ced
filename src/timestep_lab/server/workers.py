"""`timestep-lab serve --workers N`: one address, served by N processes, for a lab in Postgres.

The parent process only supervises: it holds the listening socket, starts the workers, replaces those that end, and
stops them on shutdown. Workers accept connections from the shared socket. They communicate only through the store:
changes by NOTIFY, cancellation of runs, and the runs of a killed worker are marked as interrupted by its replacement.
Request limits are counted per worker.

The state of a page lives in the worker that created it. If its websocket connects to another worker, that worker passes
the connection on (the descriptor, by SCM_RIGHTS, with the bytes read from it) before responding.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from timestep_lab.model.errors import StoreError, UsageError

if TYPE_CHECKING:
    from timestep_lab.store.base import Database

log = logging.getLogger("timestep_lab.server")
ENV = "TIMESTEP_LAB_WORKER"
"""Environment variable that configures a worker. Set by the parent process for its workers only."""
AT_ONCE = 4
"""Number of connections that a worker accepts at once, leaving the rest to others."""
FIRST_BYTES = 65_536
LOOK_S = 0.1
SHORT_LIFE_S, SHORT_LIVES = 10.0, 3
"""A worker that ends this quickly, this many times in a row, will not start successfully."""
ENDED_S = 40.0
"""Time in seconds that workers have to end; a worker itself gives up earlier."""
VIEWS = b"GET /views/"


@dataclass(frozen=True, slots=True)
class Worker:
    """The configuration of a worker."""

    place: int
    listens: int
    """Descriptor of the shared listening socket."""
    folder: str
    """Folder with a socket for each worker, for passing connections."""
    owner_key: str
    key_until: float
    """`time.time` at which the sign-in link expires."""

    @classmethod
    def of_environment(cls) -> Worker | None:
        text = os.environ.pop(ENV, None)  # Not inherited by child processes of the worker.
        return None if text is None else cls(**json.loads(text))

    @property
    def name(self) -> str:
        """A name that differs from that of any earlier worker in the same place."""
        return f"{self.place}-{os.getpid()}"


def check(db: Database, workers: int) -> None:
    """Raises `UsageError` for a store that only one process can own, and for a system without the needed features."""
    if db.dialect != "postgres":
        raise UsageError(
            f"{workers} workers cannot serve {db.url}: only one process can open a lab in a DuckDB file.",
            "Serve it without --workers, or use a lab in Postgres: --store postgresql://…",
            param="workers",
        )
    if not hasattr(socket, "send_fds"):
        raise UsageError(
            "Several workers need a system that can pass open connections between processes, such as Linux or macOS.",
            "Serve without --workers.",
            param="workers",
        )


# --- The supervising process


def watch(listening: socket.socket, workers: int, *, owner_key: str, link_s: float) -> None:
    """Keep this number of workers running until SIGTERM or SIGINT; return when all have ended. Raises `StoreError` if
    they end immediately after starting.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    with tempfile.TemporaryDirectory(prefix="timestep-lab-") as folder, _signals(stop):
        configs = [Worker(n, listening.fileno(), folder, owner_key, time.time() + link_s) for n in range(workers)]
        running = [_start(worker) for worker in configs]
        begun, short_lives = [time.monotonic()] * workers, [0] * workers
        try:
            while not stopping:
                for place, process in enumerate(running):
                    if process.poll() is None:
                        continue
                    lived = time.monotonic() - begun[place]
                    short_lives[place] = short_lives[place] + 1 if lived < SHORT_LIFE_S else 0
                    if short_lives[place] >= SHORT_LIVES:
                        raise StoreError(
                            f"A worker ended {SHORT_LIVES} times within {SHORT_LIFE_S:.0f} s of its start.",
                            "See its output above, or serve without --workers.",
                        )
                    log.warning("Worker %d ended (%d); starting a replacement.", place, process.returncode)
                    running[place], begun[place] = _start(configs[place]), time.monotonic()
                time.sleep(LOOK_S)
        finally:
            _end(running)


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _start(worker: Worker) -> subprocess.Popen[bytes]:
    """Start a worker with the command line of this process. Its standard input closes when this process ends, for any
    reason, and so the worker ends, too.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "timestep_lab", *sys.argv[1:], "--with-input"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, ENV: json.dumps(asdict(worker))},
        pass_fds=[worker.listens],
    )


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.terminate()
    deadline = time.monotonic() + ENDED_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- Passing the connections of pages to the worker that created them


_name = ""
_folder: Path | None = None
_way_out: socket.socket | None = None


def view_key() -> str:
    """A new key for a view of this worker; it contains the worker's name."""
    key = secrets.token_urlsafe(24)
    return f"{_name}.{key}" if _name else key


def is_elsewhere(data: bytes) -> str | None:
    """The worker of the view that a connection requests in its first bytes, if it is another one."""
    if not _name or not data.startswith(VIEWS):
        return None
    place, dot, _ = data[len(VIEWS) : len(VIEWS) + 40].partition(b".")
    name = place.decode("ascii", "replace")
    return name if dot and name != _name and name.replace("-", "").isdigit() else None


def hand_over(connection: int, data: bytes, worker: str) -> bool:
    """Pass a connection (its descriptor, and the bytes read from it) to another worker. False if that worker has ended."""
    assert _folder is not None
    assert _way_out is not None
    try:
        # `socket.send_fds` accepts an address but ignores it.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [connection]))
        _way_out.sendmsg([data], [rights], 0, str(_folder / worker))
    except OSError as error:  # It has ended, or is so far behind that its socket is full.
        log.info("A connection could not be handed to worker %s: %s", worker, error)
        return False
    return True


@contextlib.contextmanager
def taking_over(worker: Worker, protocol: Callable[[], asyncio.Protocol]) -> Iterator[None]:
    """Accepts connections passed by other workers, on the event loop of this one."""
    global _name, _folder, _way_out
    _name, _folder = worker.name, Path(worker.folder)
    loop, taken = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    way_in, _way_out = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    for way in (way_in, _way_out):
        way.setblocking(False)
    place = _folder / _name
    way_in.bind(str(place))

    async def take(connection: socket.socket, data: bytes) -> None:
        connection.setblocking(False)
        _, speaker = await loop.connect_accepted_socket(protocol, connection)
        speaker.data_received(data)

    def some() -> None:
        with contextlib.suppress(BlockingIOError):
            data, descriptors, _, _ = socket.recv_fds(way_in, FIRST_BYTES, 1)
            for descriptor in descriptors:
                task = loop.create_task(take(socket.socket(fileno=descriptor), data))
                taken.add(task)
                task.add_done_callback(taken.discard)

    loop.add_reader(way_in, some)
    try:
        yield
    finally:
        loop.remove_reader(way_in)
        place.unlink(missing_ok=True)
        way_in.close()
        _way_out.close()
        _name, _folder, _way_out = "", None, None
