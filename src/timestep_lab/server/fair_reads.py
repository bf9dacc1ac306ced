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
    from starlette.types import Message, Send

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
STUCK_S = 3.0
"""Time in seconds that a query has to end after it was stopped. A database cannot be interrupted inside one call of a function."""
LONG_S, MOST_LONG = 2.0, 16
"""A query that has run for so many seconds gives its place to another one and goes on beside it, if no more than so many do."""
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
        self._n_places, self._places = threads, asyncio.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads + MOST_LONG, thread_name_prefix="timestep-lab reads")
        self._of_user: Counter[str] = Counter()
        self._stuck: Counter[str] = Counter()
        self._n_long = 0
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def for_request(self, request: Request, user_id: str, work: Callable[[], T]) -> T:
        """Like `run`, cancelled when the client of an HTTP request disconnects."""
        return await self.run(user_id, work, lambda: _client_goes(request))

    async def run(self, user_id: str, work: Callable[[], T], asker_goes: Callable[[], Awaitable[object]]) -> T:
        """Run `work`, which queries the database, and return its result. It is stopped when `asker_goes` returns, or
        after the time limit.

        Raises `BusyError` if this user has too many queries, `StoreUnavailableError` if the server shuts down first.
        """
        if self._stuck[user_id]:
            raise BusyError(
                "An earlier query of yours was stopped but has not ended yet.", "Wait for its end.", retry_after=10.0
            )
        if (
            self._of_user[user_id] >= AT_ONCE + self._waiting
            or self._of_user.total() >= self._n_places + WAITING_IN_ALL
        ):
            raise BusyError("Too many queries are running.", "Wait until one has finished.", retry_after=2.0)
        self._of_user[user_id] += 1
        turn = self._turns.setdefault(user_id, asyncio.Semaphore(AT_ONCE))
        query = _Query(turn, self._places, self._threads, work)
        query.task.add_done_callback(lambda _: self._ended(user_id))
        gone = asyncio.ensure_future(asker_goes())
        try:
            last_moment = limit = (
                time.monotonic() + self._time_limit_s + LOOK_S
            )  # So that the query's own time limit takes effect first.
            while not query.task.done() and not gone.done() and time.monotonic() < last_moment:
                await asyncio.wait((query.task, gone), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if query.is_long() and self._n_long < MOST_LONG:
                    self._goes_beside(query)
                if self._stopping():
                    last_moment = min(last_moment, time.monotonic() + STOP_S)
        finally:
            gone.cancel()
            was_stopped = await query.stop()
            if not query.task.done():
                self._is_stuck(user_id, query)
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

    def _goes_beside(self, query: _Query[T]) -> None:
        def ended(task: asyncio.Task[T]) -> None:
            self._n_long -= 1

        self._n_long += 1
        query.leave()
        query.task.add_done_callback(ended)

    def _is_stuck(self, user_id: str, query: _Query[T]) -> None:
        """The user has to wait for the end of a query that goes on although it was stopped."""

        def ended(task: asyncio.Task[T]) -> None:
            self._stuck -= Counter({user_id: 1})
            if not task.cancelled():
                task.exception()  # Retrieve the exception, since nobody awaits it any more.

        self._stuck[user_id] += 1
        query.task.add_done_callback(ended)

    def _ended(self, user_id: str) -> None:
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id], self._turns[user_id]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Query(Generic[T]):
    def __init__(
        self, turn: asyncio.Semaphore, places: asyncio.Semaphore, threads: ThreadPoolExecutor, work: Callable[[], T]
    ) -> None:
        self._turn, self._places, self._threads, self._work = turn, places, threads, work
        self._wish, self._began = Interrupt(), False
        self._place_since: float | None = None
        self.task = asyncio.create_task(self._ask())

    async def stop(self) -> bool:
        """Stop the query for good. Returns whether there was anything to stop; if it does not end soon, its task is not done."""
        if self.task.done():
            return False
        self._wish.wished = True
        if not self._began:  # If it is just starting, it sees this flag.
            self.task.cancel()
        until = time.monotonic() + STUCK_S
        while not self.task.done() and time.monotonic() < until:
            await in_thread(self._wish.stop)
            await asyncio.wait((self.task,), timeout=LOOK_S)
        if self.task.done() and not self.task.cancelled():
            self.task.exception()  # Retrieve the exception, since nobody awaits it any more.
        return True

    def is_long(self) -> bool:
        return self._place_since is not None and time.monotonic() - self._place_since > LONG_S

    def leave(self) -> None:
        """Give the place to another query. Idempotent."""
        if self._place_since is not None:
            self._place_since = None
            self._places.release()

    async def _ask(self) -> T:
        async with self._turn:
            await self._places.acquire()
            self._place_since = time.monotonic()
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, copy_context().run, self._in_thread)
            finally:
                self.leave()

    def _in_thread(self) -> T:
        self._began = True
        if self._wish.wished:
            raise QueryError("The query was stopped before it started.")
        with self._wish.governs():
            return self._work()


LARGE, PIECE = 2**20, 2**17
"""Responses of at least `LARGE` bytes that are in memory are sent in pieces of `PIECE` bytes, each when the client has read the one before."""
UNREAD, UNREAD_IN_ALL = 2**28, 2**30
"""Maximum size of such responses that one caller, and all callers, have not read yet. One response may always be larger."""
READ_S = 60.0
"""Time limit in seconds for reading a piece."""


class Unread:
    """Sizes of large responses that clients have not read yet. Without a limit, clients that ask and do not read would use all memory."""

    def __init__(self) -> None:
        self._of_caller: Counter[str] = Counter()

    def limiting(self, send: Send, caller: str, refuse: Callable[[BusyError], Awaitable[None]]) -> Send:
        """Returns a `send` that keeps the connection's buffer small. `refuse` responds instead if the response would be too much."""
        start: Message | None = None
        refused = False

        async def limited(message: Message) -> None:
            nonlocal start, refused
            if message["type"] == "http.response.start" and _length(message) >= LARGE:
                start = message
                return
            body: bytes = message.get("body", b"")
            if start is not None and len(body) >= LARGE and not self._has_room(caller, len(body)):
                start, refused = None, True
                await refuse(
                    BusyError("You have not read earlier responses yet.", "Read or close them.", retry_after=5.0)
                )
            if refused:
                return
            if start is not None:
                begun, start = start, None
                await send(begun)
            if len(body) < LARGE:
                await send(message)
            else:
                await self._in_pieces(send, body, message, caller)

        return limited

    def _has_room(self, caller: str, size: int) -> bool:
        mine, every = self._of_caller[caller], self._of_caller.total()
        return not mine or (mine + size <= UNREAD and every + size <= UNREAD_IN_ALL)

    async def _in_pieces(self, send: Send, body: bytes, message: Message, caller: str) -> None:
        self._of_caller[caller] += len(body)
        try:
            async with asyncio.timeout(READ_S) as limit:
                for at in range(0, len(body), PIECE):
                    more = at + PIECE < len(body) or message.get("more_body", False)
                    await send({**message, "body": bytes(body[at : at + PIECE]), "more_body": more})
                    limit.reschedule(asyncio.get_running_loop().time() + READ_S)
        except TimeoutError:
            return  # The server closes the connection, since the response is not complete.
        finally:
            self._of_caller -= Counter({caller: len(body)})


def _length(message: Message) -> int:
    return next((int(value) for name, value in message.get("headers", ()) if name.lower() == b"content-length"), 0)


async def in_turn(request: Request, lab: UserLab, work: Callable[[], T]) -> T:
    """Run a costly read for the user of this request, in the user's queue."""
    reads: FairReads = request.app.state.reads
    return await reads.for_request(request, lab.store.user_id, work)


async def _client_goes(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
