"""OTLP requests read in a process beside this one, so that reading spans and storing them do not wait for one interpreter.

Both cost about as much; where there is a second processor, twice as many spans come in. And whatever a request unpacks to, it takes no
more memory or time than it may (`runtime.worker`). Small requests that are not packed, which gain nothing, are read here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from timestep_lab.runtime.worker import Worker, WorkerDied, too_much

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.lab_rows import Decoded

WORTH_SENDING = 64 * 1024
"""Bytes of a request below which it is read here."""
MEMORY = 2 * 2**30
"""A request may have 256 MB, and is there as bytes, as objects and as rows."""
TIME_LIMIT_S = 60.0
READERS = "timestep_lab.runtime.interchange.otlp_in"


class OtlpDecoder:
    """For one server. The other process begins with the first request worth it, and ends with `close` or with this process."""

    def __init__(self, *, processors: int | None = None) -> None:
        self._alone = (processors or os.cpu_count() or 1) < 2
        self._worker = Worker(MEMORY)
        self._lock = threading.Lock()
        self._closed = False

    def read(
        self, body: bytes, content_type: str, content_encoding: str | None, user_id: str, *, reader: str = "read_otlp"
    ) -> Decoded:
        """What that function of `otlp_in` gives, and raises what it raises. Blocks; from any thread."""
        from timestep_lab.runtime.interchange import otlp_in

        read_here: Callable[..., Decoded] = getattr(otlp_in, reader)
        request = (body, content_type, content_encoding, user_id)
        is_packed = (content_encoding or "identity").strip().lower() not in ("identity", "")
        if not is_packed and (self._alone or len(body) < WORTH_SENDING):
            return read_here(*request)
        with self._lock:
            if self._closed:
                return read_here(*request)
            try:
                return self._ask(reader, request)
            except WorkerDied:
                pass  # It was killed, perhaps for the request before, or as by a machine that ran out of memory.
            try:
                return self._ask(reader, request)
            except WorkerDied:
                raise too_much(MEMORY) from None

    def _ask(self, reader: str, request: tuple[bytes, str, str | None, str]) -> Decoded:
        decoded: Decoded = self._worker.call(f"{READERS}:{reader}", *request, time_limit_s=TIME_LIMIT_S)
        return decoded

    @property
    def pid(self) -> int | None:
        """Of the other process, once there is one."""
        return self._worker.pid

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._worker.close()
