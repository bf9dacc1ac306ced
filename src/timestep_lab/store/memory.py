"""Limits the time of one user-written query, and the memory by which this process grows meanwhile.

A database counts most memory of a query itself, but not all: DuckDB neither counts values computed while planning, nor single strings and
lists; and neither database counts a result while it becomes Python objects. The process itself is therefore measured, and a query
interrupted soon after the process has grown by more than the query may use. An interrupt does not reach into one call of a function, such
as `replace` on a long text. Guests' queries that may call such functions run in a process of their own (`duckdb.query_process`). While the
lab's own user runs a query, allocations fail on Linux once the process is about twice as much larger: the query fails, instead of the
process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from timestep_lab.model.errors import BusyError, QueryError
from timestep_lab.store.liveness import interruptible, was_interrupted

MAX_GROWTH = 2**30
"""Maximum growth of this process in bytes while a query runs, unless `growing_at_most` applies."""
MAX_PARAMS = 2**20
"""Maximum length of all parameters of a query together, in characters."""
TOO_BIG = "The query exceeds the memory limit.", "Request fewer rows or columns."


def too_slow(timeout_s: float) -> tuple[str, str]:
    """Returns message and next step of the error of a query that exceeds its time limit."""
    return (
        f"The query exceeded its time limit of {round(timeout_s, 1):g} s.",
        "Narrow it, for example to the traces of the last day.",
    )


LIMITED_AT_ONCE, PLACE_WITHIN_S = 4, 0.2
"""Number of concurrent queries in contexts of `growing_at_most`, in this process and in processes of their own, and the time in seconds that
one waits for its place."""
FAIR_S = 2.0
"""Time in seconds after which such a query in this process is stopped if another one waits for its place."""
GAVE_WAY = "Other guests' queries were waiting, so this one was stopped.", "Try again later, or narrow it."
NO_ROOM = "Other queries use the memory that queries may use.", "Try again when they have ended, in a few seconds."
RISE = 2**22
"""Growth of the process in bytes per second that is not ascribed to queries."""
CALM_S = 5.0
"""Time in seconds without queries after which all memory in use is ascribed to other work."""
LOOK_S = 0.02
"""Interval of the memory and time check in seconds."""
RELEASED, RELEASE_AFTER_S = 64 * 2**20, 0.5
"""After a query by which the process grew by so many bytes, free memory is returned to the operating system, so many seconds later, when its
rows and its traceback are gone."""
STATM = Path("/proc/self/statm")
PAGE = 4096 if sys.platform == "win32" else os.sysconf("SC_PAGE_SIZE")


def own_memory() -> int:
    """Returns this process's private memory in bytes, without mapped files; 0 if unknown (then only the database's limit applies)."""
    try:
        _, resident, shared, *_ = STATM.read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * PAGE


def check_params(params: Sequence[object]) -> None:
    """Raises `QueryError` for parameters that are too long."""
    if sum(len(value) for value in params if isinstance(value, str | bytes)) > MAX_PARAMS:
        raise QueryError(f"The parameters are together longer than {MAX_PARAMS:,} characters.", "Pass shorter values.")


ROOM_WITHIN_S = 3.0
"""Time in seconds in which there is memory again for other work."""

T = TypeVar("T")
_max_growth: ContextVar[int | None] = ContextVar("max_growth", default=None)


@contextlib.contextmanager
def growing_at_most(size: int | None) -> Iterator[None]:
    """Limits the growth of the process in bytes for queries in this context; None: to `MAX_GROWTH`."""
    token = _max_growth.set(size)
    try:
        yield
    finally:
        _max_growth.reset(token)


def growth_limit() -> int | None:
    """Returns the limit in bytes that `growing_at_most` set for this context."""
    return _max_growth.get()


def is_limited() -> bool:
    return _max_growth.get() is not None


def max_growth() -> int:
    """Returns by how many bytes this process may grow during a query in this context."""
    size = _max_growth.get()
    return MAX_GROWTH if size is None else size


class _Growth:
    """Growth of this process since now. `cached`: size in bytes of the table blocks that the database keeps to read them again, which does
    not count. It is asked as late as possible, because it takes longer than a short query."""

    def __init__(self, cached: Callable[[], int], before: int | None = None) -> None:
        """`before`: the size from which it is counted, if not the present one."""
        self._cached, self.before = cached, own_memory() if before is None else before
        self._cached_before: int | None = None

    def measure_cache(self) -> int:
        if self._cached_before is None:
            self._cached_before = self._cached()
        return self._cached_before

    def exceeds(self, size: int) -> bool:
        growth = own_memory() - self.before
        if growth <= size:
            return False
        return growth - self.of_cache() > size

    def of_cache(self) -> int:
        cached_before = self.measure_cache()
        return max(self._cached() - cached_before, 0)


@dataclass(slots=True)
class _Query:
    """A query that is running, or whose result is being encoded."""

    max_growth: int = field(default_factory=max_growth)
    is_limited: bool = field(default_factory=is_limited)
    began: float = field(default_factory=time.monotonic)
    is_apart: bool = False
    """Whether it runs in a process of its own."""
    gives_way: bool = False
    """Whether it is to be stopped for another one."""
    is_too_big: bool = False
    """Whether it is being stopped because of its size."""


class Watch:
    """Interrupts a query that takes longer than `timeout_s`, or during which this process grows too much. `interrupt` stops the query, which
    then raises one of `interrupted`. `cached`: see `_Growth`."""

    def __init__(
        self,
        interrupt: Callable[[], object],
        interrupted: tuple[type[BaseException], ...],
        timeout_s: float | None,
        cached: Callable[[], int] = lambda: 0,
    ) -> None:
        self._interrupt, self._interrupted, self._timeout_s = interrupt, interrupted, timeout_s
        self._query, self._cached, self._growth = _Query(), cached, _Growth(cached)
        self._done, self._checked = threading.Event(), self._query.began
        self._why: tuple[str, str] | None = None

    def move(self) -> None:
        """Called when the query goes on in a process of its own. Raises `BusyError`."""
        _running.move(self._query)

    def grew(self) -> bool:
        """Returns whether the process grew so much that free memory should be released."""
        return self._growth.exceeds(RELEASED) or _running.grew()

    def check(self) -> None:
        """Raises `QueryError` once a limit is exceeded. Cheap, so that it can be called for each row."""
        now = time.monotonic()
        if self._why is None and now - self._checked > LOOK_S:  # The other thread may wait for the interpreter.
            self._checked, self._why = now, self._exceeded()
        if self._why is not None:
            raise QueryError(*self._why)  # A new one: a kept one would keep its traceback, with all rows read so far.

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raises `BusyError` if too many others are running, or they use the memory that this one may use."""
        thread = threading.Thread(target=self._look, name="timestep-lab sql watch", daemon=True)
        thread.start()
        try:
            with _running.entered(self._query, self._cached), interruptible(self._interrupt):
                yield
        except self._interrupted as error:
            if self._why is not None:
                raise QueryError(*self._why) from error
            if was_interrupted():
                raise QueryError("The query was interrupted.", "Run it again.") from error
            raise
        except MemoryError as error:
            raise QueryError(*self._why or TOO_BIG) from error
        finally:
            self._done.set()
            thread.join()  # It must not interrupt the next use of this connection.

    def _look(self) -> None:
        while not self._done.wait(self._pause()):
            self._growth.measure_cache()
            if self._why is None:
                self._why = self._exceeded()
            if self._why is None:
                _running.lift()
            else:  # Repeatedly: an interrupt between two steps of the query is lost.
                self._interrupt()

    def _pause(self) -> float:
        if self._timeout_s is None:
            return LOOK_S
        return min(LOOK_S, max(self._query.began + self._timeout_s - time.monotonic(), 0.005))

    def _exceeded(self) -> tuple[str, str] | None:
        """Returns message and next step of the error."""
        if self._timeout_s is not None and time.monotonic() - self._query.began >= self._timeout_s:
            return too_slow(self._timeout_s)
        if self._query.gives_way:
            return GAVE_WAY
        self._query.is_too_big = self._growth.exceeds(self._query.max_growth)
        return TOO_BIG if self._query.is_too_big else None


class _Running:
    """The queries that are running in this process.

    Queries that are not limited may call any function. While one runs, this process's allocations fail beyond a size (Linux). It follows the
    process, as long as that grows slowly enough to be watched, and until the query is being stopped because of its size. Address space
    counts, because memory that is only reserved may be used without another request.

    Limited queries share `LIMITED_AT_ONCE` places, and the memory: another one starts only while the process has not grown by what that one
    may use. What those just before left behind counts, apart from `RISE` bytes per second for other work."""

    def __init__(self) -> None:
        self._ended = threading.Condition()
        self._queries: list[_Query] = []
        self._growth, self._grows_since = _Growth(lambda: 0), time.monotonic()
        self._calm_since = float("-inf")
        self._usual = (-1, -1)

    @contextlib.contextmanager
    def entered(self, query: _Query, cached: Callable[[], int]) -> Iterator[None]:
        self._start(query, cached)
        try:
            self.lift()
            yield
        finally:
            self._end(query)

    def _start(self, query: _Query, cached: Callable[[], int]) -> None:
        with self._ended:
            if query.is_limited:
                if not self._has_place(apart=False):
                    self._stop_longest()
                self._wait_for_place(apart=False)
            if not self._queries:
                self._growth = self._growth_of(query, cached)
                if sys.platform == "linux":
                    import resource

                    self._usual = resource.getrlimit(resource.RLIMIT_DATA)
            allowed = int(RISE * (time.monotonic() - self._grows_since))
            if query.is_limited and self._growth.exceeds(query.max_growth + allowed):
                _release_soon()
                raise BusyError(*NO_ROOM, retry_after=2.0)
            self._queries.append(query)

    def _growth_of(self, query: _Query, cached: Callable[[], int]) -> _Growth:
        now, size = time.monotonic(), own_memory()
        before = self._growth.before + int(RISE * (now - self._grows_since))
        self._grows_since = now
        if not query.is_limited or size <= before or now - self._calm_since > CALM_S:
            return _Growth(cached, size)
        return _Growth(cached, min(size, before + self._growth.of_cache()))

    def _stop_longest(self) -> None:
        """Stops the limited query in this process that has run longest, if that is at least `FAIR_S`."""
        here = [query for query in self._queries if query.is_limited and not query.is_apart and not query.gives_way]
        longest = min(here, key=lambda query: query.began, default=None)
        if longest is not None and time.monotonic() - longest.began >= FAIR_S:
            longest.gives_way = True

    def move(self, query: _Query) -> None:
        with self._ended:
            self._wait_for_place(apart=True)
            query.is_apart = True
            self._ended.notify_all()

    def _wait_for_place(self, *, apart: bool) -> None:
        if not self._ended.wait_for(lambda: self._has_place(apart=apart), PLACE_WITHIN_S):
            raise BusyError("Too many queries of guests are running.", "Try again in a few seconds.", retry_after=2.0)

    def _has_place(self, *, apart: bool) -> bool:
        return sum(query.is_limited and query.is_apart is apart for query in self._queries) < LIMITED_AT_ONCE

    def _end(self, query: _Query) -> None:
        with self._ended:
            self._queries.remove(query)
            self._ended.notify_all()
            if not query.is_limited and all(other.is_limited for other in self._queries):
                self._set(self._usual[0])
            if not self._queries:
                self._calm_since = time.monotonic()
            if self._growth.exceeds(RELEASED):
                _release_soon()

    def grew(self) -> bool:
        with self._ended:
            return self._growth.exceeds(RELEASED)

    def are_bounded(self) -> bool:
        """Returns whether allocations of this process may fail."""
        return any(not query.is_limited for query in self._queries)

    def lift(self) -> None:
        """Sets the size beyond which allocations fail above the present one."""
        try:
            size = int(STATM.read_bytes().split()[5]) * PAGE
        except OSError:  # Only on Linux.
            return
        with self._ended:
            unlimited = [query for query in self._queries if not query.is_limited]
            if unlimited and not any(query.is_too_big for query in unlimited):
                size += MAX_GROWTH
                self._set(size if self._usual[0] < 0 else min(self._usual[0], size))

    def _set(self, soft: int) -> None:
        if sys.platform == "linux":
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._usual[1]))


_running = _Running()
_releasing = threading.Lock()


def _release_soon() -> None:
    """Returns free memory to the operating system, which the C library keeps otherwise. Only for glibc."""

    def release() -> None:
        import ctypes

        try:
            trim = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError, TypeError):
            return
        finally:
            _releasing.release()
        trim(0)

    if sys.platform == "linux" and _releasing.acquire(blocking=False):
        timer = threading.Timer(RELEASE_AFTER_S, release)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # There is no memory for its stack. The next query tries again.
            _releasing.release()


def with_room(work: Callable[[], T], *no_memory: type[BaseException]) -> T:
    """Calls the function, again if it raises one of these while allocations may fail because of a user's query, which is then being
    stopped."""
    until = time.monotonic() + ROOM_WITHIN_S
    while True:
        try:
            return work()
        except no_memory:
            if not _running.are_bounded() or time.monotonic() > until:
                raise
        time.sleep(LOOK_S)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Limits the memory of work on the result of a query. Raises `QueryError`."""
    try:
        with _running.entered(_Query(), lambda: 0):
            yield
    except MemoryError as error:
        raise QueryError(*TOO_BIG) from error
