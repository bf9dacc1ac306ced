"""The owner's side of the loopback: serves an `Engine` to the other processes of this user on this machine.

A connection begins with `{"token", "use"}`, where use is `calls` (request, answer, request, …) or `changes` (the owner
sends lists of changes). One thread a connection: there are as many as clients work at once.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from timestep_lab.model.errors import LabError, StoreError
from timestep_lab.store.base import Change
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb import loopback as frames
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.duckdb.backend import Backend, ClosedError

log = logging.getLogger("timestep_lab.store")

HELLO_BYTES = 4096
HELLO_S = 5.0
DRAIN_S = 2.0
"""How long, in all, a closing owner waits for what it was asked before; a longer query is asked again of its successor."""


class OwnerServer:
    """Listens from the start. `hand_over`, called when a client asks to become the owner, closes this server and lets go of the file."""

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
        """Takes no more requests, and answers those it took."""
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
            pass  # The client is gone, or the file is: either way it asks elsewhere.
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _greet(self, connection: socket.socket) -> str | None:
        hello = frames.receive(connection, HELLO_BYTES)
        if hello is None or self._closing:
            return None
        try:
            said = wire.loads(hello)
            known = hmac.compare_digest(str(said["token"]).encode(), self.token.encode())
            return str(said["use"]) if known else None
        except (ValueError, KeyError, TypeError):
            return None

    def _answer_calls(self, connection: socket.socket) -> None:
        frames.send(connection, wire.dumps({"ok": True}))
        while not self._closing and (data := frames.receive(connection)) is not None:
            request = wire.loads(data)
            if request["op"] == "hand_over":
                self._hand_over()
                frames.send(connection, wire.dumps({"ok": True}))
                return
            try:
                answer = wire.dumps({"ok": perform(self._engine, request)})
            except LabError as error:
                answer = wire.dumps({"error": wire.pack_error(error)})
            except ClosedError:
                raise
            except Exception as error:
                log.exception("A call from another process failed")
                failure = StoreError(
                    f"The owner of the lab failed: {type(error).__name__}: {error}", "Look at its log."
                )
                answer = wire.dumps({"error": wire.pack_error(failure)})
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


def perform(engine: Backend, request: dict[str, Any]) -> Any:
    """Do what a client asked, and give the answer in a form for `wire.dumps`."""
    user_id = request["user_id"]
    match request["op"]:
        case "query":
            return wire.pack_rows(engine.query(user_id, request["sql"], request["params"]))
        case "select":
            return wire.pack_rows(
                engine.select(
                    user_id, request["sql"], request["params"], limit=request["limit"], timeout_s=request["timeout_s"]
                )
            )
        case "write":
            results = engine.write(user_id, **_transaction(request, "statements"))
            return [wire.pack_rows(rows) for rows in results]
        case "append":
            tables = {name: (columns, wire.to_tuples(rows)) for name, (columns, rows) in request["tables"].items()}
            return engine.append(user_id, tables, **_transaction(request, "then"))
    raise StoreError(
        f"The owner of the lab does not know {request['op']!r}.", "Use one version of timestep-lab on a lab."
    )


def _transaction(request: dict[str, Any], name: str) -> dict[str, Any]:
    changes: Sequence[Change] = [wire.unpack_change(change) for change in request["changes"]]
    return {
        name: [wire.unpack_statement(statement) for statement in request[name]],
        "changes": changes,
        "batch_id": request["batch_id"],
    }
