"""All writes of a lab, one after the other, on one thread: what is waiting is committed together.

One transaction costs about as much for a hundred jobs as for one. A job that fails takes nobody down: the group is rolled back and its jobs
are committed one by one. Serial writes make compare-and-set exact without any locking.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import BusyError, ConflictError
from timestep_lab.store.base import Change, Rows, Statement
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.duckdb.backend import ClosedError, Tables
from timestep_lab.store.duckdb.connect import FATAL, Cursor, translate

MAX_WAITING_ROWS = 200_000
MAX_GROUP_ROWS = 20_000
MAX_GROUP_JOBS = 256
REMEMBER = timedelta(hours=1)
"""How long a batch id is known: far longer than any failover."""


@dataclass(slots=True)
class Job:
    user_id: str
    statements: Sequence[Statement] = ()
    tables: Tables = field(default_factory=dict)
    changes: Sequence[Change] = ()
    batch_id: str | None = None
    done: Future[list[Rows]] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(self.statements) + sum(len(rows) for _, rows in self.tables.values())


class Writer:
    """`publish` is told of the changes of each group after its commit; `broken` is called once DuckDB gave up."""

    def __init__(
        self,
        cursor: Cursor,
        publish: Callable[[Sequence[Change]], None],
        broken: Callable[[], None],
        before_commit: Callable[[], None] = lambda: None,
        after_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._cursor, self._publish, self._broken = cursor, publish, broken
        self._before_commit, self._after_commit = before_commit, after_commit
        self._waiting: deque[Job] = deque()
        self._waiting_rows = 0
        self._closed = False
        self._wake = threading.Condition()
        self._batches: dict[tuple[str, str], datetime] = {
            (user_id, batch_id): written
            for user_id, batch_id, written in cursor.execute(
                "select user_id, batch_id, written_at from core.ingest_batches order by written_at"
            ).fetchall()
        }
        self._thread = threading.Thread(target=self._run, name="timestep-lab writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> list[Rows]:
        """Wait until the job is durable. Raises `BusyError` when too much is waiting already."""
        with self._wake:
            if self._closed:
                raise ClosedError
            if self._waiting and self._waiting_rows + job.rows > MAX_WAITING_ROWS:
                raise BusyError("The store has more to write than it can keep up with.", "Try again.", retry_after=0.2)
            self._waiting.append(job)
            self._waiting_rows += job.rows
            self._wake.notify()
        return job.done.result()

    def close(self) -> None:
        """What was submitted is written first."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[Job]:
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            group: list[Job] = []
            rows = 0
            while self._waiting and len(group) < MAX_GROUP_JOBS:
                if group and rows + self._waiting[0].rows > MAX_GROUP_ROWS:
                    break
                job = self._waiting.popleft()
                rows += job.rows
                group.append(job)
            self._waiting_rows -= rows
            return group

    def _commit(self, group: list[Job]) -> None:
        try:
            results = self._transaction(group)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the job
            if isinstance(error, FATAL):
                self._broken()
            elif len(group) > 1:
                for job in group:
                    self._commit([job])
                return
            for job in group:
                job.done.set_exception(translate(error))
            return
        self._publish([change for job in group for change in job.changes])
        for job, result in zip(group, results, strict=True):
            job.done.set_result(result)

    def _transaction(self, group: list[Job]) -> list[list[Rows]]:
        now = to_naive_utc(utc_now())
        fresh: dict[tuple[str, str], list[Rows]] = {}
        results = []
        self._cursor.execute("begin")
        try:
            for job in group:
                key = (job.user_id, job.batch_id or "")
                if job.batch_id and (key in self._batches or key in fresh):
                    results.append(fresh[key] if key in fresh else self._earlier_answer(key, job))
                    continue
                result = self._perform(job)
                if job.batch_id:
                    fresh[key] = result
                    self._record(key, now, result)
                results.append(result)
            forgotten = self._forget(now) if fresh else []
            self._before_commit()
            self._cursor.execute("commit")
        except BaseException:
            self._rollback()
            raise
        self._after_commit()
        self._batches.update(dict.fromkeys(fresh, now))
        for key in forgotten:
            self._batches.pop(key, None)
        return results

    def _rollback(self) -> None:
        with contextlib.suppress(duckdb.TransactionException):  # A commit that failed has ended its transaction.
            self._cursor.execute("rollback")

    def _perform(self, job: Job) -> list[Rows]:
        for table, (columns, rows) in job.tables.items():
            with self._cursor.appender(table, columns=list(columns)) as appender:
                appender.append_rows(rows)
        results = []
        for statement in job.statements:
            result = run(self._cursor, statement.sql, statement.params)
            if statement.expect is not None and len(result.rows) != statement.expect:
                raise ConflictError(
                    f"Expected {statement.expect} row(s), found {len(result.rows)}: somebody else changed it first.",
                    "Read it again, then try again.",
                )
            results.append(result)
        return results

    # -- batches

    def _record(self, key: tuple[str, str], now: datetime, result: list[Rows]) -> None:
        answer = wire.dumps([wire.pack_rows(rows) for rows in result]).decode() if any(r.rows for r in result) else None
        self._cursor.execute("insert into core.ingest_batches values ($1, $2, $3, $4)", [*key, now, answer])

    def _earlier_answer(self, key: tuple[str, str], job: Job) -> list[Rows]:
        row = self._cursor.execute(
            "select answer from core.ingest_batches where user_id = $1 and batch_id = $2", list(key)
        ).fetchone()
        if row is None or row[0] is None:
            return [Rows((), []) for _ in job.statements]
        return [wire.unpack_rows(rows) for rows in wire.loads(row[0].encode())]

    def _forget(self, now: datetime) -> list[tuple[str, str]]:
        """Batches grow old in the order they were written; the table is swept when there is something to sweep."""
        oldest = next(iter(self._batches.values()), now)
        if now - oldest < REMEMBER * 1.5:
            return []
        self._cursor.execute("delete from core.ingest_batches where written_at < $1", [now - REMEMBER])
        return [key for key, written in self._batches.items() if written < now - REMEMBER]


def run(cursor: Cursor, sql: str, params: Sequence[Any]) -> Rows:
    """Execute and fetch all. A statement without `returning` has no columns and no rows (DuckDB would answer a count)."""
    cursor.execute(sql, list(params))
    if cursor.description is None:
        return Rows((), [])
    columns = tuple(column[0] for column in cursor.description)
    rows = cursor.fetchall()
    return Rows((), []) if columns == ("Count",) else Rows(columns, rows)
