"""Decodes OTLP requests in a child process, so that decoding and storing do not share one interpreter lock.

Both take about the same time, so with a second CPU core the throughput doubles. The child process also bounds the
memory and time of decompression (`runtime.worker`). Small uncompressed requests are decoded in this process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from timestep_lab.runtime.worker import Worker, WorkerDied, too_much

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.export import Decoded

WORTH_SENDING = 64 * 1024
"""Size in bytes below which a request is decoded in this process."""
MEMORY = 2 * 2**30
"""Memory limit in bytes: a request may have 256 MB and exists as bytes, objects and rows."""
TIME_LIMIT_S = 60.0
READERS = "timestep_lab.runtime.interchange.otlp_in"


class OtlpDecoder:
    """The decoder of one server. The child process starts with the first request that needs it, and ends with `close`
    or with this process.
    """

    def __init__(self, *, processors: int | None = None) -> None:
        self._alone = (processors or os.cpu_count() or 1) < 2
        self._worker = Worker(MEMORY)
        self._lock = threading.Lock()
        self._closed = False

    def read(
        self, body: bytes, content_type: str, content_encoding: str | None, user_id: str, *, reader: str = "read_otlp"
    ) -> Decoded:
        """The result of that function of `otlp_in`; raises what it raises. Blocks; thread-safe."""
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
                pass  # The process was killed, possibly for the previous request, or because the machine ran out of memory.
            try:
                return self._ask(reader, request)
            except WorkerDied:
                raise too_much(MEMORY) from None

    def _ask(self, reader: str, request: tuple[bytes, str, str | None, str]) -> Decoded:
        decoded: Decoded = self._worker.call(f"{READERS}:{reader}", *request, time_limit_s=TIME_LIMIT_S)
        return decoded

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None if it has not started."""
        return self._worker.pid

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._worker.close()
