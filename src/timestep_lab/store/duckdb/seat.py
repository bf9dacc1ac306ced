"""Which process owns the file, and what a process does when that changes.

DuckDB's own file lock is the election. A process that wants the lab first asks at the address in `<lab>.owner.json`; where
nobody answers, it tries to open the file; where another process has the lock but is not yet (or no more) answering, it waits a
moment and begins again. So when the owner dies, the first process that notices becomes the owner, and the rest become its clients.

All labs of one process on one file share one seat.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from timestep_lab.model.errors import LabError, StoreUnavailableError
from timestep_lab.model.ids import new_id
from timestep_lab.store.base import Change, Topic
from timestep_lab.store.changes import Publisher, log
from timestep_lab.store.duckdb.backend import Backend, ClosedError
from timestep_lab.store.duckdb.connect import LockedError
from timestep_lab.store.duckdb.engine import Engine
from timestep_lab.store.duckdb.loopback import Loopback
from timestep_lab.store.duckdb.owner_file import Owner, OwnerFile
from timestep_lab.store.duckdb.server import OwnerServer
from timestep_lab.store.migrate import latest

T = TypeVar("T")
PATIENCE_S = 10.0
"""How long a lock is waited for behind which nobody answers: an owner may be starting, or folding its log into the file."""
HOLD_OFF_S = 3.0
"""How long an owner that handed over leaves the file to the one that asked."""


class Held:
    """The file and, unless it is in memory, the server through which other processes use it."""

    def __init__(self, path: Path | None, publisher: Publisher, hand_over: Callable[[], None]) -> None:
        self.engine = Engine(path, publisher)
        self._server: OwnerServer | None = None
        if path is None:
            return
        try:
            self._server = OwnerServer(self.engine, publisher, hand_over)
            self._file = OwnerFile(path)
            self._owner = Owner(os.getpid(), self._server.port, self._server.token, latest("duckdb"))
            self._file.write(self._owner)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Clients are answered, then told to look elsewhere, then the file is let go."""
        if self._server is not None:
            self._server.close()
            self._file.remove(self._owner)
        self.engine.close()

    def abandon(self) -> None:
        if self._server is not None:
            self._server.abandon()
        self.engine.abandon()


class Seat:
    """`path` None: in memory, and of this process alone. `became_owner` is called, with the seat locked, when a client becomes it."""

    def __init__(self, path: Path | None, became_owner: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.publisher = Publisher()
        self.process_id = new_id("process")
        self._became_owner = became_owner
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._held: Held | None = None
        self._loopback: Loopback | None = None
        self._elections = 0
        self._not_before = 0.0
        self._closed = False

    @property
    def is_owner(self) -> bool:
        return self._held is not None

    def owner_pid(self) -> int:
        with self._lock:
            self._backend()
            return self._loopback.owner.pid if self._loopback else os.getpid()

    def call(self, operation: Callable[[Backend], T]) -> T:
        """Do it, if need be again with the next owner. What writes must carry a batch id."""
        while True:
            with self._lock:
                backend = self._backend()
            try:
                return operation(backend)
            except ClosedError:
                self._vacate(backend)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        end = self.publisher.subscribe(callback)
        self.call(lambda backend: backend.listen())
        return end

    def take_over(self) -> bool:
        """Become the owner, if the present one agrees. Returns whether this process is."""
        with self._lock:
            self._backend()
            loopback = self._loopback
        if loopback is not None:
            with contextlib.suppress(ClosedError):  # It has just gone by itself.
                loopback.ask_to_hand_over()
            self._vacate(loopback)
            with self._lock:
                self._backend()
        return self.is_owner

    def close(self) -> None:
        with self._lock:
            self._closed = True
            held, self._held = self._held, None
            loopback, self._loopback = self._loopback, None
        for seated in (held, loopback):
            if seated is not None:
                seated.close()
        self.publisher.close()

    def abandon(self) -> None:
        """In a forked child: begin anew, as a client of the parent."""
        for seated in (self._held, self._loopback):
            if seated is not None:
                seated.abandon()
                _ABANDONED.append(seated)
        self.publisher.abandon()
        self._reset()

    # -- election

    def _backend(self) -> Backend:
        """What the present owner is reached by, finding one if need be. Called with the lock held."""
        while True:
            if self._closed:
                raise StoreUnavailableError(f"The lab {self.path or 'in memory'} was closed.", "Open it again.")
            if self._held is not None:
                return self._held.engine
            if self._loopback is not None:
                return self._loopback
            seated = self._elect()
            self._elections += 1
            if self.publisher.wanted:
                try:
                    seated.listen()
                except ClosedError:  # Gone already.
                    self._vacate(seated)
                    continue
            if self._elections > 1:
                self.publisher.publish([Change(topic, "", "") for topic in typing.get_args(Topic)])

    def _elect(self) -> Backend:
        if self.path is None:
            self._held = Held(None, self.publisher, self._hand_over)
            return self._held.engine
        file, deadline = OwnerFile(self.path), time.monotonic() + PATIENCE_S
        while True:
            reason = ""
            if owner := file.read():
                try:
                    self._loopback = Loopback(owner, self.publisher, self._lost)
                    self._not_before = 0.0  # Whoever was to become the owner has.
                    return self._loopback
                except ClosedError:
                    reason = f"Its last known owner, pid {owner.pid}, does not answer."
            if time.monotonic() >= self._not_before:
                try:
                    self._held = Held(self.path, self.publisher, self._hand_over)
                    if self._elections:
                        self._became_owner()
                    return self._held.engine
                except LockedError as error:
                    reason = str(error).splitlines()[0]
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"The lab {self.path} is held by another program that does not share it. {reason}",
                    "Close that program (a DuckDB shell, perhaps), or open another lab.",
                )
            time.sleep(random.uniform(0.01, 0.03))

    def _vacate(self, backend: Backend) -> None:
        """Stop using a backend that no longer leads to the file; the next call finds its successor."""
        gone: Loopback | None = None
        with self._lock:
            if self._held is not None and self._held.engine is backend:
                self._held.close()
                self._held = None
            elif self._loopback is backend:
                gone, self._loopback = self._loopback, None
        if gone is not None:
            gone.close()

    def _lost(self, loopback: Loopback) -> None:
        """The stream of changes broke off: somebody here listens, so the next owner is looked for at once."""
        self._vacate(loopback)
        self._seek()

    def _hand_over(self) -> None:
        """A client asked to become the owner: let go, and leave it the time to take the file."""
        with self._lock:
            if self._held is not None:
                self._not_before = time.monotonic() + HOLD_OFF_S
                self._vacate(self._held.engine)
        if self.publisher.wanted:
            threading.Thread(target=self._seek, name="timestep-lab successor", daemon=True).start()

    def _seek(self) -> None:
        try:
            with self._lock:
                if not self._closed:
                    self._backend()
        except LabError:
            log.exception("The lab %s lost its owner, and no other was found", self.path)


_ABANDONED: list[object] = []
"""What a forked child inherited and must not close; kept, so that it is not collected either."""
