"""Leader election with failover: which process owns the lab's file.

DuckDB's file lock is the election. A process that opens the lab first connects to the address in `<lab>.owner.json`; if nobody
responds, it tries to open the file; if another process holds the lock but does not respond (yet), it waits briefly and
retries. When the owner dies, the first process that notices becomes the owner, and the others become its clients.

All labs of one process on one file share one `OwnerElection`.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import random
import secrets
import socket
import threading
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from timestep_lab.model.errors import LabError, StoreError, StoreUnavailableError
from timestep_lab.model.ids import new_id
from timestep_lab.store.base import Change, Topic
from timestep_lab.store.duckdb import loopback as frames
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.duckdb.connect import LockedError
from timestep_lab.store.duckdb.engine import Engine
from timestep_lab.store.duckdb.journal import unwritable
from timestep_lab.store.duckdb.loopback import Backend, ClosedError, Loopback, Owner, OwnerFile
from timestep_lab.store.liveness import Publisher
from timestep_lab.store.memory import growing_at_most
from timestep_lab.store.migrate import latest

# --- Server side of the loopback protocol: serves an `Engine` to other processes of this user on this machine
#
# A connection starts with `{"token", "use"}`, where use is `calls` (request, answer, request, …) or `changes` (the owner
# sends lists of changes). One thread per connection: there are as many as clients work concurrently.


log = logging.getLogger("timestep_lab.store")

HELLO_BYTES = 4096
HELLO_S = 5.0
DRAIN_S = 2.0
"""Total time that a closing owner waits for pending requests; longer queries are repeated by its successor."""


class OwnerServer:
    """Listens immediately. `hand_over` is called when a client asks to become the owner; it closes this server and releases the file."""

    def __init__(self, engine: Backend, publisher: Publisher, hand_over: Callable[[], None]) -> None:
        self._engine, self._publisher, self._hand_over = engine, publisher, hand_over
        self.token = secrets.token_urlsafe(32)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._mailboxes: set[SimpleQueue[Change | None]] = set()
        self._accepting = threading.Thread(target=self._accept, name="timestep-lab owner", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Stops accepting requests and answers pending ones."""
        self._closing = True
        with contextlib.suppress(OSError):  # Wakes the accepting thread, on every system.
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._accepting.join(timeout=DRAIN_S)
        self._listener.close()
        with self._lock:
            open_connections = dict(self._connections)
            for mailbox in self._mailboxes:
                mailbox.put(None)
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + DRAIN_S
        for thread in open_connections.values():
            if thread is not threading.current_thread():
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()

    # -- connections

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._attend, args=(connection,), name="timestep-lab client", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                frames.prepare(connection)
                connection.settimeout(HELLO_S)
                use = self._greet(connection)
                connection.settimeout(None)
                if use == "calls":
                    self._answer_calls(connection)
                elif use == "changes":
                    self._send_changes(connection)
        except (OSError, ClosedError):
            pass  # The client or the file is gone; in both cases the client asks elsewhere.
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _greet(self, connection: socket.socket) -> str | None:
        hello = frames.receive(connection, HELLO_BYTES)
        if hello is None or self._closing:
            return None
        try:
            greeting = wire.loads(hello)
            known = hmac.compare_digest(str(greeting["token"]).encode(), self.token.encode())
            return str(greeting["use"]) if known else None
        except (ValueError, KeyError, TypeError):
            return None

    def _answer_calls(self, connection: socket.socket) -> None:
        frames.send(connection, wire.dumps({"ok": True}))
        while not self._closing and (data := frames.receive(connection)) is not None:
            request: dict[str, Any] = {}
            try:
                request = wire.loads(data)
                if request["op"] != "hand_over":
                    answer = wire.dumps({"ok": perform(self._engine, request)})
            except LabError as error:
                answer = wire.dumps({"error": wire.pack_error(error)})
            except ClosedError:
                raise
            except Exception as error:
                log.exception("A call from another process failed")
                failure = StoreError(f"The owner of the lab failed: {type(error).__name__}: {error}", "See its log.")
                answer = wire.dumps({"error": wire.pack_error(failure)})
            if request.get("op") == "hand_over":
                self._hand_over()
                frames.send(connection, wire.dumps({"ok": True}))
                return
            frames.send(connection, answer)

    def _send_changes(self, connection: socket.socket) -> None:
        mailbox: SimpleQueue[Change | None] = SimpleQueue()
        with self._lock:
            self._mailboxes.add(mailbox)
        end = self._publisher.subscribe(mailbox.put)
        try:
            frames.send(connection, wire.dumps({"ok": True}))
            while not self._closing and (change := mailbox.get()) is not None:
                frames.send(connection, wire.dumps([wire.pack_change(change)]))
        finally:
            end()
            with self._lock:
                self._mailboxes.discard(mailbox)


def perform(engine: Backend, request: dict[str, Any]) -> object:
    """Executes a client's request and returns the result for `wire.dumps`."""
    user_id = request["user_id"]
    match request["op"]:
        case "query":
            return wire.pack_rows(engine.query(user_id, request["sql"], request["params"]))
        case "select":
            with growing_at_most(request.get("max_growth")):
                rows = engine.select(
                    user_id, request["sql"], request["params"], limit=request["limit"], timeout_s=request["timeout_s"]
                )
                return wire.pack_rows(rows)
        case "write":
            results = engine.write(user_id, **_transaction(request, "statements"))
            return [wire.pack_rows(rows) for rows in results]
        case "append":
            tables = {name: (columns, wire.to_tuples(rows)) for name, (columns, rows) in request["tables"].items()}
            engine.append(user_id, tables, **_transaction(request, "then"))
            return None
    raise StoreError(
        f"The owner of the lab does not support {request['op']!r}.", "Use the same version of timestep-lab everywhere."
    )


def _transaction(request: dict[str, Any], name: str) -> dict[str, Any]:
    changes: Sequence[Change] = [wire.unpack_change(change) for change in request["changes"]]
    return {
        name: [wire.unpack_statement(statement) for statement in request[name]],
        "changes": changes,
        "batch_id": request["batch_id"],
    }


T = TypeVar("T")
LONGEST_WAIT_S = 10.0
"""How long to wait for a locked file whose owner does not respond: it may be starting, or checkpointing its log."""
HOLD_OFF_S = 3.0
"""How long an owner that handed over leaves the file to the process that asked."""


class OwnedFile:
    """The file and, unless it is in memory, the server for other processes."""

    def __init__(self, path: Path | None, publisher: Publisher, hand_over: Callable[[], None]) -> None:
        self.engine = Engine(path, publisher)
        self._server: OwnerServer | None = None
        if path is None:
            return
        try:
            self._server = OwnerServer(self.engine, publisher, hand_over)
            self._file = OwnerFile(path)
            self._owner = Owner(os.getpid(), self._server.port, self._server.token, latest("duckdb"))
            try:
                self._file.write(self._owner)
            except OSError as error:
                raise unwritable(self._file.path, error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Answers pending requests, removes the owner file, and releases the lab's file."""
        if self._server is not None:
            self._server.close()
            self._file.remove(self._owner)
        self.engine.close()

    def abandon(self) -> None:
        if self._server is not None:
            self._server.abandon()
        self.engine.abandon()


class OwnerElection:
    """Connects to the current owner of the file, or becomes it. `path` None is a lab in memory, private to this process. `became_owner` is
    called, with the lock held, when a client becomes the owner."""

    def __init__(self, path: Path | None, became_owner: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.publisher = Publisher()
        self.process_id = new_id("process")
        self._became_owner = became_owner
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._held: OwnedFile | None = None
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
        """Runs an operation, repeating it with the next owner if necessary. Writes need a batch id."""
        while True:
            with self._lock:
                backend = self._backend()
            try:
                return operation(backend)
            except ClosedError:
                self._vacate(backend)

    def begin(self, operation: Callable[[Engine], T]) -> T | None:
        """Runs an operation if this process is the owner."""
        with self._lock:
            held = self._held
        try:
            return None if held is None else operation(held.engine)
        except ClosedError:
            return None

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        end = self.publisher.subscribe(callback, user_id)
        self.call(lambda backend: backend.listen())
        return end

    def take_over(self) -> bool:
        """Becomes the owner, if the current one agrees. Returns whether this process is the owner."""
        with self._lock:
            self._backend()
            loopback = self._loopback
        if loopback is not None:
            with contextlib.suppress(ClosedError):  # It has just closed by itself.
                loopback.ask_to_hand_over()
            self._vacate(loopback)
            with self._lock:
                self._backend()
        return self.is_owner

    def close(self) -> None:
        self.publisher.close()  # Subscribers may still read the lab.
        with self._lock:
            self._closed = True
            held, self._held = self._held, None
            loopback, self._loopback = self._loopback, None
        for seated in (held, loopback):
            if seated is not None:
                seated.close()
        self.publisher.close()

    def abandon(self) -> None:
        """Starts over as a client of the parent, in a forked child."""
        for seated in (self._held, self._loopback):
            if seated is not None:
                seated.abandon()
                _ABANDONED.append(seated)
        self.publisher.abandon()
        self._reset()

    # -- election

    def _backend(self) -> Backend:
        """Returns the current owner's backend, electing one if necessary. Called with the lock held."""
        while True:
            if self._closed:
                raise StoreUnavailableError(f"The lab {self.path or 'in memory'} is closed.", "Open it again.")
            if self._held is not None:
                return self._held.engine
            if self._loopback is not None:
                return self._loopback
            seated = self._elect()
            self._elections += 1
            if self.publisher.wanted:
                try:
                    seated.listen()
                except ClosedError:  # Already gone.
                    self._vacate(seated)
                    continue
            if self._elections > 1:
                self.publisher.publish([Change(topic, "", "") for topic in typing.get_args(Topic)])

    def _elect(self) -> Backend:
        if self.path is None:
            self._held = OwnedFile(None, self.publisher, self._hand_over)
            return self._held.engine
        file, deadline = OwnerFile(self.path), time.monotonic() + LONGEST_WAIT_S
        while True:
            reason = ""
            if owner := file.read():
                try:
                    self._loopback = Loopback(owner, self.publisher, self._lost)
                    self._not_before = 0.0  # The process that was to become the owner has done so.
                    return self._loopback
                except ClosedError:
                    reason = f"Its last known owner, pid {owner.pid}, does not respond."
            if time.monotonic() >= self._not_before:
                try:
                    self._held = OwnedFile(self.path, self.publisher, self._hand_over)
                    if self._elections:
                        self._became_owner()
                    return self._held.engine
                except LockedError as error:
                    reason = str(error).splitlines()[0]
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"The lab {self.path} is locked by another program. {reason}",
                    "Close that program (for example a DuckDB shell), or open another lab.",
                )
            time.sleep(random.uniform(0.01, 0.03))

    def _vacate(self, backend: Backend) -> None:
        """Drops a backend that has lost the file; the next call finds its successor."""
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
        """Called when the stream of changes ends: there are subscribers, so the next owner is searched at once."""
        self._vacate(loopback)
        self._seek()

    def _hand_over(self) -> None:
        """Called when a client asks to become the owner: releases the file, and leaves the client time to open it."""
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
            logging.getLogger("timestep_lab.store").exception(
                "The lab %s lost its owner, and no successor was found", self.path
            )


_ABANDONED: list[object] = []
"""Inherited by a forked child, which must neither close nor collect it."""
