"""Runs reads whose cost users control (SQL, filters, searches, large data) on separate threads: a few at a time per
user, with a time limit, and cancelled when the client disconnects. Used by HTTP requests and pages.

A query may run up to its time limit. On the shared thread pool, a few such queries would delay every response to every
user.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Generic, TypeVar

from timestep_lab.model.errors import BusyError, QueryError, StoreUnavailableError
from timestep_lab.store.base import in_thread
from timestep_lab.store.liveness import Interrupt

if TYPE_CHECKING:
    from starlette.requests import Request

    from timestep_lab.server.labs import UserLab

T = TypeVar("T")
THREADS = 8
AT_ONCE = 2
"""Number of concurrent queries per user."""
WAITING = 18
"""Number of queued queries per user. Opening a page starts about five."""
WAITING_IN_ALL = 100
STOP_S = 2.0
"""Time in seconds that queries have to finish when the server shuts down."""
TIME_LIMIT_S = 30.0
LOOK_S = 0.2
"""Interval in seconds for checking whether the server is shutting down, and for repeating an interrupt."""


class FairReads:
    """The scheduler of costly reads. `stopping` returns whether the server is shutting down."""

    def __init__(
        self,
        stopping: Callable[[], bool],
        *,
        threads: int = THREADS,
        waiting: int = WAITING,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._stopping, self._waiting, self._time_limit_s = stopping, waiting, time_limit_s
        self._n_threads = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="timestep-lab reads")
        self._of_user: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def for_request(self, request: Request, user_id: str, work: Callable[[], T]) -> T:
        """Like `run`, cancelled when the client of an HTTP request disconnects."""
        return await self.run(user_id, work, lambda: _client_goes(request))

    async def run(self, user_id: str, work: Callable[[], T], asker_goes: Callable[[], Awaitable[object]]) -> T:
        """Run `work`, which queries the database, and return its result. It is stopped when `asker_goes` returns, or
        after the time limit.

        Raises `BusyError` if this user has too many queries, `StoreUnavailableError` if the server shuts down first.
        """
        if (
            self._of_user[user_id] >= AT_ONCE + self._waiting
            or self._of_user.total() >= self._n_threads + WAITING_IN_ALL
        ):
            raise BusyError("Too many queries are running.", "Wait until one has finished.", retry_after=2.0)
        self._of_user[user_id] += 1
        query = _Query(self._turns.setdefault(user_id, asyncio.Semaphore(AT_ONCE)), self._threads, work)
        query.task.add_done_callback(lambda _: self._ended(user_id))
        gone = asyncio.ensure_future(asker_goes())
        try:
            last_moment = limit = (
                time.monotonic() + self._time_limit_s + LOOK_S
            )  # So that the query's own time limit takes effect first.
            while not query.task.done() and not gone.done() and time.monotonic() < last_moment:
                await asyncio.wait((query.task, gone), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if self._stopping():
                    last_moment = min(last_moment, time.monotonic() + STOP_S)
        finally:
            gone.cancel()
            was_stopped = await query.stop()
        if not was_stopped:
            return query.task.result()
        if self._stopping():
            raise StoreUnavailableError("The server is shutting down and stopped this query.", "Try again later.")
        if time.monotonic() >= limit:
            raise QueryError(
                f"This took longer than {self._time_limit_s:g} s and was stopped.",
                "Use a shorter time range or a simpler filter.",
            )
        raise QueryError("The query was stopped because the client disconnected.")

    def _ended(self, user_id: str) -> None:
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id], self._turns[user_id]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Query(Generic[T]):
    def __init__(self, turn: asyncio.Semaphore, threads: ThreadPoolExecutor, work: Callable[[], T]) -> None:
        self._turn, self._threads, self._work = turn, threads, work
        self._wish, self._began = Interrupt(), False
        self.task = asyncio.create_task(self._ask())

    async def stop(self) -> bool:
        """Stop the query for good. Returns whether there was anything to stop."""
        if self.task.done():
            return False
        self._wish.wished = True
        if not self._began:  # If it is just starting, it sees this flag.
            self.task.cancel()
        while not self.task.done():
            await in_thread(self._wish.stop)
            await asyncio.wait((self.task,), timeout=LOOK_S)
        if not self.task.cancelled():
            self.task.exception()  # Retrieve the exception, since nobody awaits it any more.
        return True

    async def _ask(self) -> T:
        async with self._turn:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, copy_context().run, self._in_thread)

    def _in_thread(self) -> T:
        self._began = True
        if self._wish.wished:
            raise QueryError("The query was stopped before it started.")
        with self._wish.governs():
            return self._work()


async def in_turn(request: Request, lab: UserLab, work: Callable[[], T]) -> T:
    """Run a costly read for the user of this request, in the user's queue."""
    reads: FairReads = request.app.state.reads
    return await reads.for_request(request, lab.store.user_id, work)


async def _client_goes(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
