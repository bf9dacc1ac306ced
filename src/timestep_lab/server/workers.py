"""`timestep-lab serve --workers N`: one address, N processes that answer at it, on a lab in Postgres.

The first process only watches: it holds the address, starts the workers, starts another where one ended, and ends them all when it is told
to stop. The workers take connections from one listening socket, whoever is free first. They know of each other through the store alone:
what changes is heard through NOTIFY, a run is stopped where it goes on, and the runs of a worker that was killed are marked as interrupted by
the one that takes its place. Limits of requests are counted by each worker.

What a page shows lives in the worker that made it. Its websocket may arrive at another one, which then hands the connection itself
over (the descriptor, by SCM_RIGHTS, with what was read from it), before it has answered anything.
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
"""Tells a process that it is a worker, and what it needs to know. Set by the process that watches, for its workers alone."""
AT_ONCE = 4
"""Connections that a worker takes in one go: the rest is for the others."""
FIRST_BYTES = 65_536
LOOK_S = 0.1
SHORT_LIFE_S, SHORT_LIVES = 10.0, 3
"""A worker that ends so soon, so many times in a row, would always do so."""
ENDED_S = 40.0
"""How long workers may take to end. A worker itself gives up sooner."""
VIEWS = b"GET /views/"


@dataclass(frozen=True, slots=True)
class Worker:
    """What one of several is told."""

    place: int
    listens: int
    """Descriptor of the socket that all take connections from."""
    folder: str
    """Where each has a socket by which connections are handed to it."""
    owner_key: str
    key_until: float
    """`time.time` at which the sign-in link stops working."""

    @classmethod
    def of_environment(cls) -> Worker | None:
        text = os.environ.pop(ENV, None)  # Not for processes that this one starts.
        return None if text is None else cls(**json.loads(text))

    @property
    def name(self) -> str:
        """Unlike that of any worker before it in the same place."""
        return f"{self.place}-{os.getpid()}"


def check(db: Database, workers: int) -> None:
    """Raises `UsageError` for a store that has one owner, and for a system without what workers need."""
    if db.dialect != "postgres":
        raise UsageError(
            f"{workers} workers cannot serve {db.url}: a lab in a DuckDB file belongs to one process.",
            "Serve it without --workers, or a lab in Postgres: --store postgresql://…",
            param="workers",
        )
    if not hasattr(socket, "send_fds"):
        raise UsageError(
            "Several workers need a system that hands open connections from process to process, such as Linux or macOS.",
            "Serve without --workers.",
            param="workers",
        )


# --- The process that watches


def watch(listening: socket.socket, workers: int, *, owner_key: str, link_s: float) -> None:
    """Keep so many workers at it until SIGTERM or SIGINT; return when all have ended. Raises `StoreError` when they end as soon as they begin."""
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
                            "What it said is above; serve without --workers to see it alone.",
                        )
                    log.warning("Worker %d ended (%d); another takes its place.", place, process.returncode)
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
    """With the command line of this process. Its standard input ends when this process does, however that ends, and the worker with it."""
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


# --- Pages stay with the worker that made them


_name = ""
_folder: Path | None = None
_way_out: socket.socket | None = None


def view_key() -> str:
    """A new key for a view of this worker's. It names the worker."""
    key = secrets.token_urlsafe(24)
    return f"{_name}.{key}" if _name else key


def is_elsewhere(data: bytes) -> str | None:
    """The worker whose view a connection asks for by its first bytes, if it is another one."""
    if not _name or not data.startswith(VIEWS):
        return None
    place, dot, _ = data[len(VIEWS) : len(VIEWS) + 40].partition(b".")
    name = place.decode("ascii", "replace")
    return name if dot and name != _name and name.replace("-", "").isdigit() else None


def hand_over(connection: int, data: bytes, worker: str) -> bool:
    """Give another worker the connection (its descriptor), and what was read from it. False: that worker is gone."""
    assert _folder is not None
    assert _way_out is not None
    try:
        # `socket.send_fds` takes an address and forgets it.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [connection]))
        _way_out.sendmsg([data], [rights], 0, str(_folder / worker))
    except OSError as error:  # It has ended, or is so far behind that its socket is full.
        log.info("A connection could not be handed to worker %s: %s", worker, error)
        return False
    return True


@contextlib.contextmanager
def taking_over(worker: Worker, protocol: Callable[[], asyncio.Protocol]) -> Iterator[None]:
    """In the event loop of a worker: takes the connections that others hand over."""
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
