"""Stopping what blocks in another thread: whoever began a query may end it before its time limit does.

    wish = Interrupt()
    thread: with wish.governs(): store.sql(…)
    anywhere: wish.stop()

What blocks says through `interruptible` how it is stopped. A database is told again and again until the call has ended: a query that had
not quite begun when it was told would otherwise run on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[Interrupt | None] = ContextVar("timestep_lab_interrupt", default=None)


class Interrupt:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: list[Callable[[], object]] = []
        self.wished = False

    def stop(self) -> None:
        """May be called often, and from any thread."""
        # Under the lock: no way is called any more once it was taken out, for its cursor may be somebody else's by then.
        with self._lock:
            self.wished = True
            for way in self._ways:
                way()

    @contextmanager
    def governs(self) -> Iterator[None]:
        """What this thread calls inside is stopped by `stop`."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def stops_by(self, way: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._ways.append(way)
        try:
            yield
        finally:
            with self._lock:
                self._ways.remove(way)


@contextmanager
def interruptible(way: Callable[[], object]) -> Iterator[None]:
    """`way` stops what is called inside."""
    current = _current.get()
    if current is None:
        yield
        return
    with current.stops_by(way):
        yield


def was_interrupted() -> bool:
    current = _current.get()
    return current is not None and current.wished
