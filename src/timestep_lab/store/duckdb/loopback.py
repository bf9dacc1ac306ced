"""The client's side of the loopback: the operations of the lab, done by the process that owns its file."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from timestep_lab.model.errors import QueryError, StoreTooNewError, StoreUnavailableError
from timestep_lab.store.base import Change, Columns, Rows, Statement, by_columns
from timestep_lab.store.changes import Publisher
from timestep_lab.store.duckdb import frames, wire
from timestep_lab.store.duckdb.backend import ClosedError, Tables
from timestep_lab.store.duckdb.owner_file import Owner
from timestep_lab.store.interrupt import interruptible, was_interrupted
from timestep_lab.store.migrate import latest

CONNECT_S = 5.0
ANSWER_S = 60.0
"""An owner that is alive answers far sooner; one that is stopped (Ctrl-Z, a debugger) never does."""
CONNECTIONS_KEPT = 8


class Loopback:
    """Raises `ClosedError` when the owner does not answer at its address, at once and later.

    `lost` is called, on the listening thread, when the stream of changes broke off.
    """

    local = False

    def __init__(self, owner: Owner, publisher: Publisher, lost: Callable[[Loopback], None]) -> None:
        self.owner, self._publisher, self._lost = owner, publisher, lost
        self._idle: deque[socket.socket] = deque()
        self._listening: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._listen_lock = threading.Lock()
        self.closed = False
        self._idle.append(self._connect("calls"))
        self._check_version()

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Rows:
        return wire.unpack_rows(self._call(op="query", user_id=user_id, sql=sql, params=wire.pack_row(params)))

    def columns(self, user_id: str, sql: str, params: Sequence[Any] = ()) -> Columns:
        return by_columns(self.query(user_id, sql, params))

    def select(
        self, user_id: str, sql: str, params: Sequence[Any] = (), *, limit: int | None = None, timeout_s: float | None = 30.0
    ) -> Rows:  # fmt: skip
        answer = self._call(
            timeout_s, op="select", user_id=user_id, sql=sql, params=wire.pack_row(params), limit=limit, timeout_s=timeout_s
        )  # fmt: skip
        return wire.unpack_rows(answer)

    def write(
        self, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = (), batch_id: str | None = None
    ) -> list[Rows]:  # fmt: skip
        answer = self._call(
            op="write", user_id=user_id, statements=[wire.pack_statement(s) for s in statements],
            changes=[wire.pack_change(c) for c in changes], batch_id=batch_id,
        )  # fmt: skip
        return [wire.unpack_rows(rows) for rows in answer]

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        packed = {
            name: [list(columns), [wire.pack_row(row) for row in rows]] for name, (columns, rows) in tables.items()
        }
        self._call(
            op="append", user_id=user_id, tables=packed, then=[wire.pack_statement(s) for s in then],
            changes=[wire.pack_change(c) for c in changes], batch_id=batch_id,
        )  # fmt: skip

    def listen(self) -> None:
        with self._listen_lock:
            if self._listener is None:
                self._listening = self._connect("changes")
                self._listener = threading.Thread(target=self._hear, name="timestep-lab listener", daemon=True)
                self._listener.start()

    def ask_to_hand_over(self) -> None:
        self._call(op="hand_over", user_id="")

    def close(self) -> None:
        self.closed = True
        while self._idle:
            self._idle.pop().close()
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join(timeout=CONNECT_S)

    def abandon(self) -> None:
        self.closed = True
        for connection in [*self._idle, *([self._listening] if self._listening else [])]:
            connection.close()

    # -- connections

    def _check_version(self) -> None:
        known = latest("duckdb")
        if self.owner.schema == known:
            return
        self.close()
        if self.owner.schema > known:
            raise StoreTooNewError(
                f"The lab is in use by a later version of timestep-lab (pid {self.owner.pid}).",
                "Upgrade with: pip install --upgrade timestep-lab",
            )
        raise StoreUnavailableError(
            f"The lab is in use by an earlier version of timestep-lab (pid {self.owner.pid}).",
            "End that process; this one then brings the lab up to date.",
        )

    def _connect(self, use: str) -> socket.socket:
        try:
            connection = socket.create_connection(("127.0.0.1", self.owner.port), timeout=CONNECT_S)
        except OSError as error:
            raise ClosedError from error
        try:
            frames.prepare(connection)
            frames.send(connection, wire.dumps({"token": self.owner.token, "use": use}))
            answer = frames.receive(connection)
            if answer is None or wire.loads(answer) != {"ok": True}:
                raise ClosedError
        except (OSError, ValueError, ClosedError) as error:
            connection.close()
            raise ClosedError from error
        connection.settimeout(None)
        return connection

    def _call(self, longer: float | None = 0.0, **request: Any) -> Any:
        """Ask and wait, `longer` than usual where the call itself may take so long (None: for ever)."""
        data = wire.dumps(request)
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect("calls")
        try:
            connection.settimeout(None if longer is None else ANSWER_S + longer)
            frames.send(connection, data)
            with interruptible(lambda: _hang_up(connection)):
                answer = frames.receive(connection)
        except TimeoutError as error:
            connection.close()
            raise StoreUnavailableError(
                f"The process that owns the lab (pid {self.owner.pid}) does not answer.", "Let it go on, or end it."
            ) from error
        except OSError as error:
            connection.close()
            raise _stopped() or ClosedError() from error
        except BaseException:
            connection.close()  # Interrupted between question and answer: of no more use.
            raise
        if answer is None:
            connection.close()
            raise _stopped() or ClosedError()
        if self.closed or len(self._idle) >= CONNECTIONS_KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        return wire.unpack_answer(answer)

    def _hear(self) -> None:
        connection = self._listening
        assert connection is not None
        with connection:
            try:
                while (data := frames.receive(connection)) is not None:
                    self._publisher.publish([wire.unpack_change(change) for change in wire.loads(data)])
            except OSError:
                pass  # Broken off; told below.
        if not self.closed:
            self._lost(self)


def _hang_up(connection: socket.socket) -> None:
    """Whoever waits for the answer hears at once that there is none. The owner's query runs to its time limit."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _stopped() -> QueryError | None:
    return QueryError("The query was stopped before its end.", "Ask it again.") if was_interrupted() else None
