"""Limits the time of one user-written query, and the memory by which this process grows meanwhile.

A database counts most memory of a query itself, but not all: DuckDB neither counts values computed while planning, nor single strings and
lists; and neither database counts a result while it becomes Python objects. The process itself is therefore measured, and the query
interrupted soon after it has grown by `MAX_GROWTH`. An interrupt does not reach into one call of a function, such as `replace` on a long
text. On Linux, allocations therefore fail once the process is about `2 * MAX_GROWTH` larger: the query fails, instead of the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from timestep_lab.model.errors import QueryError
from timestep_lab.store.liveness import interruptible, was_interrupted

MAX_GROWTH = 2**30
"""Maximum growth of this process in bytes while a query runs."""
MAX_PARAMS = 2**20
"""Maximum length of all parameters of a query together, in characters."""
TOO_BIG = "The query exceeds the memory limit.", "Request fewer rows or columns."
LOOK_S = 0.05
"""Interval of the memory and time check in seconds."""
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


class Watch:
    """Interrupts a query that takes longer than `timeout_s`, or during which this process grows too much. `interrupt` stops the query, which
    then raises `interrupted`."""

    def __init__(
        self, interrupt: Callable[[], object], interrupted: type[BaseException], timeout_s: float | None
    ) -> None:
        self._interrupt, self._interrupted, self._timeout_s = interrupt, interrupted, timeout_s
        self._began, self._before = time.monotonic(), own_memory()
        self._done = threading.Event()
        self._why: tuple[str, str] | None = None

    def check(self) -> None:
        """Raises `QueryError` once a limit is exceeded."""
        if self._why is not None:
            raise QueryError(*self._why)  # A new one: a kept one would keep its traceback, with all rows read so far.

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, name="timestep-lab sql watch", daemon=True)
        thread.start()
        try:
            with _ceiling, interruptible(self._interrupt):
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
            if self._why is None:
                self._why = self._too_much()
            if self._why is None:
                _ceiling.lift()
            else:  # Repeatedly: an interrupt between two steps of the query is lost.
                self._interrupt()

    def _pause(self) -> float:
        if self._timeout_s is None:
            return LOOK_S
        return min(LOOK_S, max(self._began + self._timeout_s - time.monotonic(), 0.005))

    def _too_much(self) -> tuple[str, str] | None:
        """Returns message and next step of the error."""
        if self._timeout_s is not None and time.monotonic() - self._began >= self._timeout_s:
            return (
                f"The query exceeded its time limit of {self._timeout_s:g} s.",
                "Narrow it, for example to the traces of the last day.",
            )
        return TOO_BIG if own_memory() - self._before > MAX_GROWTH else None


class _Ceiling:
    """While queries run, the size beyond which this process's allocations fail. It follows the process, as long as that grows slowly
    enough to be watched. Address space counts, because memory that is only reserved may be used without another request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_queries, self._usual = 0, (-1, -1)

    def __enter__(self) -> None:
        with self._lock:
            self._n_queries += 1
            if self._n_queries == 1 and sys.platform == "linux":
                import resource

                self._usual = resource.getrlimit(resource.RLIMIT_DATA)
        self.lift()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_queries -= 1
            if self._n_queries == 0:
                self._set(self._usual[0])

    def lift(self) -> None:
        """Sets it above the present size of the process."""
        try:
            size = int(STATM.read_bytes().split()[5]) * PAGE
        except OSError:  # Only on Linux.
            return
        with self._lock:
            if self._n_queries:
                usual = self._usual[0]
                self._set(size + MAX_GROWTH if usual < 0 else min(usual, size + MAX_GROWTH))

    def _set(self, soft: int) -> None:
        if sys.platform == "linux":
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._usual[1]))


_ceiling = _Ceiling()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Limits the memory of work on the result of a query. Raises `QueryError`."""
    try:
        with _ceiling:
            yield
    except MemoryError as error:
        raise QueryError(*TOO_BIG) from error
