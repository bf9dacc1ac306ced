"""Writes spans to the store: accepted from any thread in microseconds, written in batches by one thread.

Live spans (`span_started`, `span_ended`) are queued without waiting, so an event loop may submit them. The queue is written within
FLUSH_AFTER_S; after a store error the same batch is retried, and written exactly once. `flush`, or a `Barrier` for code that must
not block, returns when everything submitted before is durable, and raises if that fails.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from datetime import datetime
from queue import Empty, SimpleQueue

from timestep_lab.model.clock import to_naive_utc
from timestep_lab.model.errors import BusyError, LabError, StoreError, StoreUnavailableError
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.store.base import Database, Statement
from timestep_lab.store.imported_trace import SpanBatch, SpanKey, span_key, write_together
from timestep_lab.store.search import keep_filled, stop_filling
from timestep_lab.store.spans import MessageBodies, Row, span_row, trace_row
from timestep_lab.store.trace_import import TraceImport

# --- Closing what a dead process left open: its spans end as errors, and their traces as interrupted


ERROR = "interrupted: the process that ran this ended"


def close_open_spans(process_ids: Sequence[str], moment: datetime) -> list[Statement]:
    """Returns statements for one transaction over all users; run them as `SYSTEM_USER` when these processes are known to be dead."""
    if not process_ids:
        return []
    places = ", ".join(f"${n}" for n in range(1, len(process_ids) + 1))
    of_dead = f"from core.open_spans where process_id in ({places})"
    error, now = f"${len(process_ids) + 1}", f"${len(process_ids) + 2}"
    params = [*process_ids, ERROR, to_naive_utc(moment)]
    return [
        Statement(
            "insert into core.spans_raw (user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, "
            "provider, started_at, ended_at, server, approval, to_agent, io_json, attributes, input) "
            "select user_id, trace_id, span_id, parent_id, kind, name, agent, 'error', cast("
            f"{error} as varchar), model, provider, started_at, greatest(started_at, cast({now} as timestamp)), server, "
            f"approval, to_agent, io_json, attributes, input {of_dead}",
            params,
        ),
        Statement(
            "insert into core.trace_deltas (user_id, trace_id, started_at, ended_at, n_spans, n_open, n_errors, n_turns, "
            "n_generations, n_unpriced, root_error, interrupted) "
            f"select user_id, trace_id, min(started_at), greatest(min(started_at), cast({now} as timestamp)), 0, -count(*), count(*), 0, "
            f"0, 0, bool_or(parent_id is null), cast({error} as varchar) is not null {of_dead} group by user_id, trace_id",
            params,
        ),
        Statement(f"delete {of_dead}", list(process_ids)),
    ]


log = logging.getLogger(__name__)

FLUSH_AFTER_S = 0.04
"""Seconds that the first span of a batch waits for others. Including the commit, this is far below the promised 250 ms."""
FLUSH_LATEST_S = 0.1
"""Maximum wait in seconds when the last write took longer."""
MAX_WAITING = 100_000
"""Maximum number of queued spans while the store does not respond. Further ones are counted as lost and reported."""
MAX_BATCH = 20_000
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0


class Barrier:
    """A marker in the writer's queue, reached when everything submitted before it is durable. It is written at once, without waiting for
    more spans. Raises `StoreError` when it is not reached within `timeout_s`."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._passed: Future[None] = Future()
        self._passed.set_running_or_notify_cancel()  # A waiter that stops waiting must not cancel it.

    def wait(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not wait([self._passed], _step(deadline)).done:
            self._check(deadline, timeout_s)
        self._passed.result()

    async def reached(self, timeout_s: float = 30.0) -> None:
        """Same as `wait`, without blocking the event loop or a thread: hundreds of runs may end at once."""
        passed, deadline = asyncio.wrap_future(self._passed), time.monotonic() + timeout_s
        while not (await asyncio.wait([passed], timeout=_step(deadline)))[0]:
            self._check(deadline, timeout_s)
        passed.result()

    def passed(self) -> None:
        self._passed.set_result(None)

    def failed(self, error: Exception | None) -> None:
        """Spans submitted before it were given up, as the process ends."""
        self._passed.set_exception(_not_written("before the process ended", error, "See"))

    def _check(self, deadline: float, timeout_s: float) -> None:
        if not self._writer.is_alive and not self._passed.done():
            raise StoreError("The trace writer has stopped; spans are not written.", "Open the lab again.")
        if time.monotonic() >= deadline:
            raise _not_written(f"within {timeout_s:g} s", self._writer.last_error, "They are kept and retried; see")


def _not_written(when: str, error: Exception | None, see: str) -> StoreUnavailableError:
    problem = StoreUnavailableError(
        f"Spans could not be written {when}: {error or 'the store is busy'}", f"{see} `timestep-lab doctor`."
    )
    problem.__cause__ = error
    return problem


def _step(deadline: float) -> float:
    return min(0.5, max(0.0, deadline - time.monotonic()))


class _Stop(Barrier): ...


_Event = TraceStart | SpanRecord | Barrier


class TraceWriter:
    """Writes the spans of one open database. `last_error` is the latest write error, None after a success."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._queue: SimpleQueue[_Event] = SimpleQueue()
        self._bodies = MessageBodies(db)
        self._import, self._importing = TraceImport(db), threading.Lock()
        self._open: dict[str, set[SpanKey]] = defaultdict(set)
        """Spans with a row in `open_spans`, by user."""
        self._closed = False
        self._lost = 0
        self._took = 0.0
        """Duration of the last write in seconds."""
        self._giving_up = threading.Event()
        self._gives_up_at = float("inf")
        self.last_error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="timestep-lab traces", daemon=True)
        self._thread.start()

    # -- submitting; never blocks, and never raises for a failing store

    def trace_started(self, trace: TraceStart) -> None:
        self._put(trace)

    def span_started(self, span: SpanRecord) -> None:
        """Submits a started span, whose `ended_at` is None. Payloads are read later and must not be modified."""
        self._put(span)

    def span_ended(self, span: SpanRecord) -> None:
        """Submits an ended span, whose `ended_at` is set. The record is complete, whether or not its start was submitted."""
        self._put(span)

    def _put(self, event: TraceStart | SpanRecord) -> None:
        if self._closed:
            raise StoreError("The trace writer is closed.", "Open the lab again.")
        if self._queue.qsize() >= MAX_WAITING:
            self._lost += 1
            if self._lost == 1:
                log.error(
                    "The store does not respond and %d spans are queued; further spans are lost. %s",
                    MAX_WAITING,
                    self.last_error,
                )
            return
        self._queue.put(event)

    def import_spans(self, traces: Iterable[TraceStart], spans: Iterable[SpanRecord]) -> int:
        """Imports finished spans: blocks until they are durable, and returns how many were new. Not for an event loop."""
        with self._importing:
            added = self._import.records(traces, spans)
        keep_filled(self._db)
        return added

    # -- waiting

    def flush(self, timeout_s: float = 30.0) -> None:
        """Returns when everything submitted before is durable. Raises `StoreError` if it is not within `timeout_s`."""
        self.barrier().wait(timeout_s)
        lost, self._lost = self._lost, 0
        if lost:
            raise StoreError(f"{lost} spans were lost while the store did not respond.", "See `timestep-lab doctor`.")

    def barrier(self) -> Barrier:
        """Adds a barrier after everything submitted so far."""
        barrier = Barrier(self)
        self._queue.put(barrier)
        return barrier

    def give_up_in(self, seconds: float) -> None:
        """For a process that is ending: spans that the store has not taken by then are given up, which whoever waits for them is told."""
        self._gives_up_at = time.monotonic() + seconds

    @property
    def is_alive(self) -> bool:
        """Whether queued spans will be written."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes the queue and ends. Raises `StoreError` when that fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush(timeout_s)
        finally:
            self._giving_up.set()
            self._queue.put(_Stop(self))
            self._thread.join(timeout=5.0)
            stop_filling(self._db)

    # -- the writer's thread

    def _run(self) -> None:
        stopped, is_whole = False, True
        while not stopped:
            events = self._next_events()
            stopped = any(isinstance(event, _Stop) for event in events)
            is_whole = self._write(self._batches(events)) and is_whole
            for event in events:
                if isinstance(event, Barrier):
                    event.passed() if is_whole else event.failed(self.last_error)

    def _next_events(self) -> list[_Event]:
        """Waits for a first event, then for more: FLUSH_AFTER_S, or longer while the store is slow. A barrier ends the wait."""
        events = [self._queue.get()]
        deadline = time.monotonic() + min(max(FLUSH_AFTER_S, self._took), FLUSH_LATEST_S)
        while len(events) < MAX_BATCH and not isinstance(events[-1], Barrier):
            try:
                events.append(self._queue.get_nowait())
            except Empty:
                try:
                    events.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
                except Empty:
                    break
        return events

    def _batches(self, events: list[_Event]) -> list[SpanBatch]:
        """Returns one batch per user. A span that started and ended among these events is never stored as open."""
        starts: dict[str, list[Row]] = defaultdict(list)
        opened: dict[str, dict[SpanKey, Row]] = defaultdict(dict)
        ended: dict[str, dict[SpanKey, Row]] = defaultdict(dict)
        for event in events:
            if isinstance(event, Barrier):
                continue
            if isinstance(event, TraceStart):
                starts[event.user_id].append(trace_row(event))
                continue
            try:
                row = span_row(event)
            except Exception as error:  # noqa: BLE001 - a payload may be any object; one span is lost and said so, no other
                self._lost += 1
                self._report(error, f"The span {event.name!r} could not be encoded: {error!r}")
                continue
            key = span_key(row)
            if event.ended_at is None:
                opened[event.user_id][key] = row
            else:
                opened[event.user_id].pop(key, None)
                ended[event.user_id][key] = row
        return [
            SpanBatch(
                user_id, starts[user_id], list(opened[user_id].values()), list(ended[user_id].values()),
                self._open[user_id] & ended[user_id].keys(),
            )
            for user_id in {**starts, **opened, **ended}
        ]  # fmt: skip

    def _write(self, batches: Sequence[SpanBatch]) -> bool:
        """Writes batches until they are durable; returns False if they were given up, as `close` timed out. If several are rejected
        together, each is retried alone."""
        if not batches:
            return True
        spans = sum(len(batch.ended) + len(batch.opened) for batch in batches)
        wait_s = RETRY_FIRST_S
        while True:
            began = time.monotonic()
            try:
                write_together(self._db, batches, self._bodies)
            except (StoreError, BusyError) as error:
                self._report(error, f"Spans could not be written and will be retried: {error}")
                if self._giving_up.wait(wait_s) or time.monotonic() >= self._gives_up_at:
                    self._lost += spans
                    return False
                wait_s = min(wait_s * 2, RETRY_MOST_S)
            except (LabError, Exception) as error:  # noqa: BLE001 - the thread must go on; reported, counted, raised by flush
                if len(batches) > 1:
                    written = [self._write([batch]) for batch in batches]
                    return all(written)
                self._report(error, f"{spans} spans were rejected by the store: {error}")
                self._lost += spans
                return True
            else:
                self.last_error = None
                self._took = time.monotonic() - began
                keep_filled(self._db)
                for batch in batches:
                    self._open[batch.user_id] -= batch.opened_before
                    self._open[batch.user_id].update(map(span_key, [*batch.opened, *batch.taken_over]))
                return True

    def _report(self, error: Exception, message: str) -> None:
        if type(error) is not type(self.last_error):
            log.error(message)
        self.last_error = error
