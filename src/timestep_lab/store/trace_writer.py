"""Spans on their way into the store: taken from any thread in microseconds, written in batches by one thread.

Live spans (`span_started`, `span_ended`) are queued and never wait, so an event loop may hand them over. What is queued is
written within FLUSH_AFTER_S; a store that fails is tried again with the same batch, which is written exactly once. `flush`, and a
`Barrier` for those who must not block, return when all that was handed over before is durable, and raise if it cannot be.
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
from timestep_lab.model.errors import BusyError, LabError, StoreError
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.store.base import Database, Statement
from timestep_lab.store.imported_trace import SpanBatch, SpanKey, span_key, write_together
from timestep_lab.store.search import keep_filled, stop_filling
from timestep_lab.store.spans import MessageBodies, Row, span_row, trace_row
from timestep_lab.store.trace_import import TraceImport

# --- Closing what a dead process left open: its spans end as errors, and their traces as interrupted


ERROR = "interrupted: the process that ran this ended"


def close_open_spans(process_ids: Sequence[str], moment: datetime) -> list[Statement]:
    """Statements for one transaction, over all users: run them as `SYSTEM_USER` when these processes are known to be dead."""
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
"""How long the first span of a batch waits for company. With the commit it stays far below the 250 ms of the contract."""
FLUSH_LATEST_S = 0.1
"""How long it waits at most, when the last write took longer."""
MAX_WAITING = 100_000
"""Spans held while the store does not answer. Those beyond are counted as lost and reported, not silently dropped."""
MAX_BATCH = 20_000
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 2.0


class Barrier:
    """Stands in the writer's queue; passed once all that was handed over before it is durable. Nobody waits for company behind it:
    what is queued is written at once. Raises `StoreError` when it is not passed within `timeout_s`."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._passed: Future[None] = Future()
        self._passed.set_running_or_notify_cancel()  # Nobody who stops waiting calls it off for the writer.

    def wait(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not wait([self._passed], _step(deadline)).done:
            self._check(deadline, timeout_s)

    async def reached(self, timeout_s: float = 30.0) -> None:
        """As `wait`, and holds neither the event loop nor a thread: hundreds of runs may end at once."""
        passed, deadline = asyncio.wrap_future(self._passed), time.monotonic() + timeout_s
        while not (await asyncio.wait([passed], timeout=_step(deadline)))[0]:
            self._check(deadline, timeout_s)

    def passed(self) -> None:
        self._passed.set_result(None)

    def _check(self, deadline: float, timeout_s: float) -> None:
        if not self._writer.is_alive and not self._passed.done():
            raise StoreError("The trace writer has stopped, and spans are not written.", "Open the lab again.")
        if time.monotonic() >= deadline:
            error = self._writer.last_error
            raise StoreError(
                f"Spans could not be written within {timeout_s:g} s: {error or 'the store is busy'}",
                "They are kept and tried again; see `timestep-lab doctor`.",
            ) from error


def _step(deadline: float) -> float:
    return min(0.5, max(0.0, deadline - time.monotonic()))


class _Stop(Barrier): ...


_Event = TraceStart | SpanRecord | Barrier


class TraceWriter:
    """One for each open database. `last_error` is the latest failure to write, None while all is well."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._queue: SimpleQueue[_Event] = SimpleQueue()
        self._bodies = MessageBodies(db)
        self._import, self._importing = TraceImport(db), threading.Lock()
        self._open: dict[str, set[SpanKey]] = defaultdict(set)
        """By user: spans that have a row in `open_spans`."""
        self._closed = False
        self._lost = 0
        self._took = 0.0
        """Seconds of the last write."""
        self._giving_up = threading.Event()
        self.last_error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="timestep-lab traces", daemon=True)
        self._thread.start()

    # -- handing over; never blocks, never raises for a failing store

    def trace_started(self, trace: TraceStart) -> None:
        self._put(trace)

    def span_started(self, span: SpanRecord) -> None:
        """`span.ended_at` is None. Payload values are read later: hand over what nobody changes any more."""
        self._put(span)

    def span_ended(self, span: SpanRecord) -> None:
        """`span.ended_at` is set; the record is whole, whether or not the span was handed over when it began."""
        self._put(span)

    def _put(self, event: TraceStart | SpanRecord) -> None:
        if self._closed:
            raise StoreError("The trace writer is closed.", "Open the lab again.")
        if self._queue.qsize() >= MAX_WAITING:
            self._lost += 1
            if self._lost == 1:
                log.error(
                    "The store does not answer and %d spans wait: spans are being lost. %s",
                    MAX_WAITING,
                    self.last_error,
                )
            return
        self._queue.put(event)

    def import_spans(self, traces: Iterable[TraceStart], spans: Iterable[SpanRecord]) -> int:
        """Many finished spans at once: blocks until they are durable, and says how many were new. Not for an event loop."""
        with self._importing:
            added = self._import.records(traces, spans)
        keep_filled(self._db)
        return added

    # -- waiting

    def flush(self, timeout_s: float = 30.0) -> None:
        """Returns when everything handed over before is durable. Raises `StoreError` when it is not within `timeout_s`."""
        self.barrier().wait(timeout_s)
        lost, self._lost = self._lost, 0
        if lost:
            raise StoreError(f"{lost} spans were lost while the store did not answer.", "See `timestep-lab doctor`.")

    def barrier(self) -> Barrier:
        """Put one behind what was handed over so far."""
        barrier = Barrier(self)
        self._queue.put(barrier)
        return barrier

    @property
    def is_alive(self) -> bool:
        """Whether what is queued will be written."""
        return self._thread.is_alive()

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is queued, then ends. Raises `StoreError` when that fails. Closing twice is fine."""
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
        stopped = False
        while not stopped:
            events = self._next_events()
            stopped = any(isinstance(event, _Stop) for event in events)
            self._write(self._batches(events))
            for event in events:
                if isinstance(event, Barrier):
                    event.passed()

    def _next_events(self) -> list[_Event]:
        """Waits for a first event, then for more: FLUSH_AFTER_S, and longer while the store is slow. A barrier ends the wait."""
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
        """One batch a user. A span that began and ended among these events was never open to anyone."""
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
                self._report(error, f"The span {event.name!r} could not be written down: {error!r}")
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

    def _write(self, batches: Sequence[SpanBatch]) -> None:
        """Until they are durable, or `close` ran out of patience. Of several that are refused together, only those that are alone, too."""
        if not batches:
            return
        spans = sum(len(batch.ended) + len(batch.opened) for batch in batches)
        wait_s = RETRY_FIRST_S
        while True:
            began = time.monotonic()
            try:
                write_together(self._db, batches, self._bodies)
            except (StoreError, BusyError) as error:
                self._report(error, f"Spans could not be written and are tried again: {error}")
                if self._giving_up.wait(wait_s):
                    self._lost += spans
                    return
                wait_s = min(wait_s * 2, RETRY_MOST_S)
            except (LabError, Exception) as error:  # noqa: BLE001 - the thread must go on; reported, counted, raised by flush
                if len(batches) > 1:
                    for batch in batches:
                        self._write([batch])
                    return
                self._report(error, f"{spans} spans were refused by the store: {error}")
                self._lost += spans
                return
            else:
                self.last_error = None
                self._took = time.monotonic() - began
                keep_filled(self._db)
                for batch in batches:
                    self._open[batch.user_id] -= batch.opened_before
                    self._open[batch.user_id].update(map(span_key, [*batch.opened, *batch.taken_over]))
                return

    def _report(self, error: Exception, message: str) -> None:
        if type(error) is not type(self.last_error):
            log.error(message)
        self.last_error = error
