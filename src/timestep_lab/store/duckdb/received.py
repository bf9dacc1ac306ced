"""Inbox of received trace requests: durable on arrival, converted to spans shortly after, many requests per transaction.

A transaction costs about as much for a few thousand spans as for a few hundred, and an exporter waits for each response. A request is
therefore stored unchanged in a journal (`journal.py`) and acknowledged; a thread converts the collected requests to spans. Reads and writes
wait until everything acknowledged before them is stored (`settle`), so the delay is never visible in results.

After a crash, the next process that opens the lab stores the remaining requests. Storing a request twice changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from timestep_lab.model.errors import BusyError, StoreUnavailableError
from timestep_lab.store.base import SYSTEM_USER, Database, Received, Statement
from timestep_lab.store.duckdb.connect import Cursor
from timestep_lab.store.duckdb.journal import Journal
from timestep_lab.store.duckdb.loopback import ClosedError

log = logging.getLogger("timestep_lab.store")

ENOUGH_SPANS, LINGER_S = 4_000, 0.2
"""A transaction starts with this many spans; fewer wait up to `LINGER_S` for more, unless a read waits for them."""
MOST_TOGETHER = 8_000
"""Most spans per transaction, which limits the time that others wait for it."""
MOST_WAITING, MOST_WAITING_BYTES = 20_000, 64 << 20
"""Limits of the queue; above them a new request waits, up to `WAIT_S`."""
WAIT_S = 30.0
MOST_JOURNAL_BYTES = 128 << 20
"""With a larger journal, new requests wait until everything in it is stored, which empties it."""
AGAIN_S = 1.0
"""Seconds before a retry after the store could not be written."""


class KeptRequests:
    """The requests that are durable and not yet spans: those in the journal, and in the table `received` those that could not be converted.
    Without a journal, as of a lab in memory, they are kept in memory only."""

    def __init__(
        self, db: Database, connection: Cursor, journal: Journal | None, store: Callable[[Sequence[Received]], None]
    ) -> None:
        """`store` stores the spans of requests; durable on return."""
        self._db, self._connection, self._journal, self.store = db, connection, journal, store
        self._aside: set[int] = set()
        """Numbers of the requests in the table."""

    def left(self) -> tuple[list[tuple[int, Received]], int]:
        """Returns the requests that an earlier process did not finish or could not store, and the next number."""
        sql = "select received_no, user_id, reader, body, content_type, content_encoding from core.received order by 1"
        aside = [(row[0], Received(*row[1:])) for row in self._connection.execute(sql).fetchall()]
        self._aside = {number for number, _ in aside}
        left = [] if self._journal is None else self._journal.left()
        last = max([0 if self._journal is None else self._journal.last_number, *self._aside])
        return [*aside, *(one for one in left if one[0] not in self._aside)], last + 1

    @property
    def n_bytes(self) -> int:
        """Size of the journal."""
        return 0 if self._journal is None else self._journal.size

    def keep(self, number: int, request: Received) -> None:
        """Stores a request unchanged; durable on return."""
        if self._journal is not None:
            self._journal.add(number, request)

    def forget(self, numbers: Sequence[int]) -> None:
        """Removes requests whose spans are stored, or that were refused; durable on return."""
        if aside := self._aside.intersection(numbers):
            sql = f"delete from core.received where received_no in ({', '.join(map(str, aside))})"
            self._write(Statement(sql))
            self._aside -= aside
        if self._journal is not None:
            self._journal.done(numbers)

    def put_aside(self, number: int, request: Received, problem: str) -> None:
        """Moves a request that cannot be converted to the table; it is tried again when the lab is next opened."""
        values = [
            request.user_id,
            request.reader,
            request.content_type,
            request.content_encoding,
            request.body,
            problem,
        ]
        self._write(
            Statement("delete from core.received where received_no = $1", [number]),
            Statement("insert into core.received values ($1, $2, $3, $4, $5, $6, $7)", [number, *values]),
        )
        self._aside.add(number)
        if self._journal is not None:
            self._journal.done([number])

    def _write(self, *statements: Statement) -> None:
        begun = self._db.begin_write(SYSTEM_USER, statements)  # Unlike `write`, it does not wait for the inbox.
        if begun is not None:
            begun.result()


class Inbox:
    """The queue of received requests, first those that an earlier process did not finish. Thread-safe."""

    def __init__(self, kept: KeptRequests) -> None:
        self._kept = kept
        left, next_number = kept.left()
        self._waiting: deque[tuple[int, Received]] = deque(left)
        self._n_spans, self._n_bytes = sum(one.n_spans for _, one in left), sum(len(one.body) for _, one in left)
        self._next_number = next_number
        """The next number in the journal. Requests may be accepted in another order."""
        self._accepted, self._stored = len(left), 0
        """How many requests were accepted so far, and how many of these, in this order, are stored as spans or put aside."""
        self._wanted = len(left)
        """How many of these a caller waits for."""
        self._since = self._not_before = 0.0
        self._error: BaseException | None = None
        self._n_errors = 0
        self._closing = self._closed = False
        self._keeping = threading.Lock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts with the requests of an earlier process."""
        if self._waiting:
            self._start()

    @property
    def is_settled(self) -> bool:
        return self._stored >= self._accepted

    def add(self, request: Received) -> None:
        """Adds a request; durable on return, and settled soon after. Raises `BusyError` if the queue stays full for `WAIT_S`."""
        self._wait_for_room(request)
        with self._keeping:
            if self._closing:
                raise ClosedError
            number, self._next_number = self._next_number, self._next_number + 1
            self._kept.keep(number, request)
        if request.confirmed is not None and not self._is_confirmed(number, request, request.confirmed):
            return
        with self._changed:
            if self._closing:
                raise ClosedError  # The next process that opens the file stores it, as does a repeated request; it is stored only once.
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append((number, request))
            self._n_spans += request.n_spans
            self._n_bytes += len(request.body)
            self._accepted += 1
            if self._thread is None:
                self._start()
            if len(self._waiting) == 1 or self._n_spans >= ENOUGH_SPANS:
                self._changed.notify_all()

    def _is_confirmed(self, number: int, request: Received, confirmed: Callable[[], int]) -> bool:
        """Returns whether the request has something to store. Otherwise, or if it is refused, its row is deleted."""
        is_kept = False
        try:
            request.n_spans = confirmed()
            is_kept = request.n_spans > 0
        finally:
            if not is_kept:
                self._kept.forget([number])
        return is_kept

    def settle(self) -> None:
        """Waits until everything acknowledged before this call is stored. Raises the error that prevents it."""
        if self.is_settled or threading.current_thread() is self._thread:
            return
        with self._changed:
            wanted, n_errors = self._accepted, self._n_errors
            self._wanted = max(self._wanted, wanted)
            self._changed.notify_all()
            while self._stored < wanted:
                if self._closed:
                    raise ClosedError
                if self._n_errors > n_errors and self._error is not None:
                    raise self._error
                self._changed.wait()

    def close(self) -> None:
        """Stores the queue if possible; otherwise it is stored when the lab is next opened."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._keeping:
            self._end()

    def broken(self) -> None:
        """Stops after a fatal failure of the store."""
        with self._changed:
            self._closing = True
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="timestep-lab received", daemon=True)
        self._thread.start()

    def _wait_for_room(self, request: Received) -> None:
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while self._waiting and (
                self._n_spans + request.n_spans > MOST_WAITING
                or self._n_bytes + len(request.body) > MOST_WAITING_BYTES
                or self._kept.n_bytes > MOST_JOURNAL_BYTES
            ):
                if self._closing:
                    raise ClosedError
                if self._error is not None:
                    raise self._error
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise BusyError("The store cannot keep up with the writes.", "Send it again.", retry_after=1.0)

    def _run(self) -> None:
        while group := self._next_group():
            self._settle_group(group)

    def _next_group(self) -> list[tuple[int, Received]]:
        with self._changed:
            while (wait_s := self._longest_wait()) != 0.0:
                self._changed.wait(wait_s)
            if self._closed:
                return []
            group: list[tuple[int, Received]] = []
            n_spans = 0
            for number, request in self._waiting:
                if group and n_spans + request.n_spans > MOST_TOGETHER:
                    break
                group.append((number, request))
                n_spans += request.n_spans
            return group

    def _longest_wait(self) -> float | None:
        """Returns the seconds until there is work; None: wait for a notification."""
        if self._closing:
            return 0.0
        if not self._waiting:
            return None
        now = time.monotonic()
        linger = self._wanted <= self._stored and self._n_spans < ENOUGH_SPANS
        return max(0.0, self._not_before - now, self._since + LINGER_S - now if linger else 0.0)

    def _settle_group(self, group: list[tuple[int, Received]]) -> bool:
        """Stores a group; returns whether it is finished."""
        try:
            self._kept.store([request for _, request in group])
            self._kept.forget([number for number, _ in group])
        except (StoreUnavailableError, BusyError, ClosedError, OSError) as error:
            return self._failed(error)
        except Exception as error:
            if len(group) > 1:
                return all(self._settle_group([one]) for one in group)
            [(number, request)] = group
            log.exception(
                "Traces sent by %s could not be stored. The request is kept (core.received, %d) and retried when the lab is next opened.",
                request.user_id, number,
            )  # fmt: skip
            try:
                self._kept.put_aside(number, request, f"{type(error).__name__}: {error}")
            except (StoreUnavailableError, BusyError, ClosedError, OSError) as failed:
                return self._failed(failed)
        with self._changed:
            for _, request in group:
                self._waiting.popleft()
                self._n_spans -= request.n_spans
                self._n_bytes -= len(request.body)
            self._since = time.monotonic()
            self._stored += len(group)
            self._error = None
            self._changed.notify_all()
        return True

    def _failed(self, error: BaseException) -> bool:
        with self._changed:
            self._not_before = time.monotonic() + AGAIN_S
            if not isinstance(error, BusyError):  # A busy store is only temporary.
                self._error, self._n_errors = error, self._n_errors + 1
            self._closed = self._closed or self._closing
            self._changed.notify_all()
        return False
