"""Tells subscribers of changes, on a thread of its own, so that a slow subscriber never holds up a writer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from timestep_lab.store.base import Change

log = logging.getLogger("timestep_lab.store")


class Publisher:
    """`publish` only enqueues. Each subscriber hears changes in the order they were published."""

    def __init__(self) -> None:
        self._subscribers: dict[object, Callable[[Change], None]] = {}
        self._queue: SimpleQueue[Change | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def wanted(self) -> bool:
        """Somebody listens."""
        return bool(self._subscribers)

    def publish(self, changes: Sequence[Change]) -> None:
        if self._subscribers:
            for change in changes:
                self._queue.put(change)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back after each change; returns what ends it. A callback that raises is logged and called again next time."""
        key = object()
        with self._lock:
            self._subscribers[key] = callback
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timestep-lab changes", daemon=True)
                self._thread.start()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)

        return unsubscribe

    def close(self) -> None:
        """What was published before is still delivered."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's, and so are the subscribers."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while (change := self._queue.get()) is not None:
            for callback in list(self._subscribers.values()):
                try:
                    callback(change)
                except Exception:
                    log.exception("A subscriber to changes of the store failed on %s", change)
