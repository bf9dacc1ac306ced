"""`DuckDatabase`: a lab in a DuckDB file, whichever process on this machine owns that file."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from timestep_lab.model.ids import new_id
from timestep_lab.store.base import (
    NO_TABLES,
    Change,
    Columns,
    Dialect,
    Received,
    Rows,
    Statement,
    Tables,
    Topic,
)
from timestep_lab.store.duckdb.engine import Job
from timestep_lab.store.duckdb.loopback import Backend
from timestep_lab.store.duckdb.owner_election import OwnerElection
from timestep_lab.store.liveness import Liveness


class DuckDatabase:
    """A handle to this process's shared connection to the file. For the methods see `store.base.Database`."""

    dialect: Dialect = "duckdb"

    def __init__(self, election: OwnerElection, leave: Callable[[], None]) -> None:
        self._election, self._leave = election, leave
        self._open = True
        self.url = str(election.path or ":memory:")
        self.process_id = election.process_id

    @property
    def is_owner(self) -> bool:
        """True if this process owns the file; otherwise it is a client of the owner."""
        return self._election.is_owner

    def owner_pid(self) -> int:
        """Returns the pid of the process that owns the file."""
        return self._election.owner_pid()

    def take_over(self) -> bool:
        """Asks the owner to hand the file over to this process, which then serves it to the others. Returns whether it did.

        A server is a better owner than a notebook, whose kernel may be busy for seconds.
        """
        return self._election.take_over()

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        return self._election.call(lambda backend: backend.query(user_id, sql, params))

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        return self._election.call(lambda backend: backend.columns(user_id, sql, params))

    def write(
        self, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = (), batch_id: str | None = None
    ) -> list[Rows]:  # fmt: skip
        batch = _Batch(batch_id)
        return self._election.call(
            lambda backend: backend.write(user_id, statements, changes=changes, batch_id=batch.id_for(backend))
        )

    def begin_write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        tables: Tables = NO_TABLES,
        changes: Sequence[Change] = (),
    ) -> Future[list[Rows]] | None:
        job = Job(user_id, statements=statements, tables=tables, changes=changes)
        return self._election.begin(lambda engine: engine.submit(job))

    def state_of(self, user_id: str, topic: Topic) -> object | None:
        return self._election.begin(lambda engine: engine.state_of(user_id, topic))

    def receive(self, request: Received) -> bool:
        return self._election.begin(lambda engine: engine.receive(request)) or False

    def append(
        self, user_id: str, tables: Tables, *, first: Sequence[Statement] = (), then: Sequence[Statement] = (),
        changes: Sequence[Change] = (), batch_id: str | None = None,
    ) -> None:  # fmt: skip
        batch, statements = _Batch(batch_id), [*first, *then]
        self._election.call(
            lambda backend: backend.append(
                user_id, tables, then=statements, changes=changes, batch_id=batch.id_for(backend)
            )
        )

    def select(
        self, user_id: str, sql: str, params: Sequence[object] = (), *, limit: int | None = None, timeout_s: float | None = 30.0
    ) -> Rows:  # fmt: skip
        return self._election.call(
            lambda backend: backend.select(user_id, sql, params, limit=limit, timeout_s=timeout_s)
        )

    def subscribe(self, callback: Callable[[Change], None], user_id: str | None = None) -> Callable[[], None]:
        return self._election.subscribe(callback, user_id)

    def close(self) -> None:
        """Closes this handle. The last one of this process releases the file to another process that uses the lab."""
        if self._open:
            self._open = False
            self._leave()


class _Batch:
    """Keeps one batch id for all attempts of a write, once it was sent to another process."""

    def __init__(self, id: str | None) -> None:
        self._id = id

    def id_for(self, backend: Backend) -> str | None:
        if self._id is None and not backend.local:
            self._id = new_id("batch")
        return self._id


# -- connections shared within this process


@dataclass(slots=True)
class _Shared:
    election: OwnerElection
    liveness: Liveness | None
    """None in memory: such a lab ends with its process."""
    users: int = 0

    def close(self, *, goodbye: bool) -> None:
        if self.liveness is not None:
            self.liveness.close(goodbye=goodbye)
        self.election.close()


_shared: dict[object, _Shared] = {}
_lock = threading.RLock()


def open_duckdb(path: Path | None) -> DuckDatabase:
    """Opens a lab. `path` is absolute and resolved; None is a lab in memory. For errors see `store.store.open_database`."""
    key: object = path or object()
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            shared = _shared[key] = _start(path)
        shared.users += 1
        return DuckDatabase(shared.election, lambda: _leave(key))


def _start(path: Path | None) -> _Shared:
    election = OwnerElection(path, became_owner=lambda: liveness.wake())
    db = DuckDatabase(election, lambda: None)
    liveness = Liveness(db)
    try:
        if path is None:
            election.call(lambda backend: None)
            return _Shared(election, None)
        liveness.start()
    except BaseException:
        election.close()
        raise
    return _Shared(election, liveness)


def _leave(key: object) -> None:
    with _lock:
        shared = _shared[key]
        shared.users -= 1
        if shared.users == 0:
            del _shared[key]
            shared.close(goodbye=True)


@atexit.register
def _leave_all() -> None:
    """Closes labs that were never closed, so that the file is complete and its next owner need not replay a log."""
    with _lock:
        while _shared:
            _, shared = _shared.popitem()
            shared.close(goodbye=False)


def _forked() -> None:
    global _lock
    _lock = threading.RLock()
    for shared in _shared.values():
        shared.election.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
