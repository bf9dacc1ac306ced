"""Decodes OTLP requests in a child process, so that decoding and storing do not share one interpreter lock.

Both take about the same time, so with a second CPU core the throughput doubles. The child process also bounds the
memory and time of decompression (`store.worker`). Small uncompressed requests are decoded in this process.

The child first sends what the sender is told, then the rows, which are needed only when they are stored. For most requests of exporters,
uncompressed protobuf, what the sender is told is known in a third of a millisecond, without decoding (`known_summary`): then the sender does
not wait for the child, and decoding runs ahead of storing.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from timestep_lab.model.errors import LabError
from timestep_lab.store.worker import Worker, WorkerDied

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.export import Decoded, Summary

WORTH_SENDING = 64 * 1024
"""Size in bytes below which a request is decoded in this process."""
MEMORY = 2 * 2**30
"""Memory limit in bytes: a request may have 256 MB and exists as bytes, objects and rows."""
MOST_KNOWN = 8 * 2**20
"""Size in bytes above which a request is always decoded before it is accepted: it might exceed a limit of the child process."""
TIME_LIMIT_S = 60.0
IN_TWO = "timestep_lab.runtime.interchange.otlp_in:summary_and_rows"


def known_summary(body: bytes, content_type: str) -> Summary | None:
    """Returns the summary of an OTLP protobuf request in which the decoder will find nothing to reject; None if it might, or if the request
    has no spans."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from timestep_lab.runtime.interchange.export import Summary
    from timestep_lab.runtime.interchange.otlp_in import PROTOBUF, has_ids

    if len(body) > MOST_KNOWN or content_type.partition(";")[0].strip().lower() != PROTOBUF:
        return None
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return None
    n_spans, trace_ids = 0, set()
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                if not has_ids(trace_id := span.trace_id, span.span_id):
                    return None
                n_spans += 1
                trace_ids.add(trace_id)
    return Summary(n_spans, len(trace_ids), 0, "") if n_spans else None


class Reading:
    """A request that is being decoded. Close it."""

    def __init__(
        self,
        read: Callable[[], tuple[Summary, Decoded | Future[bytes]]],
        drop: Callable[[], object] | None = None,
        *,
        is_checked: bool = False,
    ) -> None:
        """`drop`: ends what the child process has begun, if it has. `is_checked`: the summary is known, and nothing will be rejected."""
        self._read, self._drop, self.is_checked = read, drop, is_checked
        self._rows: Decoded | Future[bytes] | None = None
        self._summary: Summary | None = None
        self._failed: LabError | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the child process works on it; otherwise `summary` begins."""
        return self._drop is not None

    def summary(self) -> Summary:
        """Waits for the summary. Raises what the reader raises."""
        self._drop = None
        if self._failed is not None:
            raise self._failed
        if self._summary is None:
            try:
                self._summary, self._rows = self._read()
            except LabError as error:
                self._failed = error
                raise
        return self._summary

    def decoded(self) -> Decoded | None:
        """Waits for the rows, after `summary`; None if the child process ended before it had sent them. Raises the
        error of a request that exceeds a limit.
        """
        if isinstance(self._rows, Future):
            try:
                rows: Decoded = pickle.loads(self._rows.result())
            except WorkerDied:
                return None
            self._rows = rows
        return self._rows

    def close(self) -> None:
        if self._drop is not None:
            self._drop()


class OtlpDecoder:
    """The decoder of one server. The child process starts with the first request that needs it, and ends with `close`
    or with this process.
    """

    def __init__(self, *, processors: int | None = None) -> None:
        self._alone = (processors or os.cpu_count() or 1) < 2
        self._worker = Worker(MEMORY)
        self._lock = threading.Lock()
        """Held from the beginning of a request in the child process until its rows have arrived."""
        self._arriving = ThreadPoolExecutor(1, thread_name_prefix="timestep-lab decoded")
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="timestep-lab decoding")
        """For requests that nobody waits for until they are stored."""
        self._closed = False

    def accept(
        self, body: bytes, content_type: str, content_encoding: str | None, user_id: str, *, reader: str = "read_otlp"
    ) -> Reading:
        """Like `begin`; a request whose summary is known without decoding it waits for the child process in a queue, in order of arrival."""
        request = (body, content_type, content_encoding, user_id)
        if (
            reader == "read_otlp"
            and not (self._alone or self._closed or _is_packed(content_encoding))
            and len(body) >= WORTH_SENDING
            and (summary := known_summary(body, content_type))
        ):
            rows = self._ahead.submit(self._whole, reader, request)
            return Reading(lambda: (summary, rows), is_checked=True)
        return self.begin(*request, reader=reader)

    def begin(
        self, body: bytes, content_type: str, content_encoding: str | None, user_id: str, *, reader: str = "read_otlp"
    ) -> Reading:
        """Begins the function `reader` of `otlp_in` in the child process, if that is free. Thread-safe."""
        request = (body, content_type, content_encoding, user_id)

        def here() -> tuple[Summary, Decoded]:
            from timestep_lab.runtime.interchange.otlp_in import READERS

            decoded = READERS[reader](*request)
            return decoded.summary(), decoded

        if not _is_packed(content_encoding) and (self._alone or len(body) < WORTH_SENDING):
            return Reading(here)
        begun = self._ask(reader, request) if not self._closed and self._lock.acquire(blocking=False) else None

        def in_child() -> tuple[Summary, Decoded | Future[bytes]]:
            pieces, ended = begun, WorkerDied(None)
            for _ in range(2):
                if pieces is None:
                    self._lock.acquire()
                    if self._closed:
                        self._lock.release()
                        return here()
                    pieces = self._ask(reader, request)
                if pieces is not None:
                    try:
                        return self._summary(pieces)
                    except WorkerDied as died:
                        pieces, ended = None, died  # Possibly killed for the previous request.
            raise ended.as_error(MEMORY)

        return Reading(in_child, None if begun is None else lambda: self._arriving.submit(self._rows, begun))

    def read(
        self, body: bytes, content_type: str, content_encoding: str | None, user_id: str, *, reader: str = "read_otlp"
    ) -> Decoded:
        """The result of that function of `otlp_in`; raises what it raises. Blocks; thread-safe."""
        reading = self.begin(body, content_type, content_encoding, user_id, reader=reader)
        reading.summary()
        decoded = reading.decoded()
        if decoded is None:
            raise WorkerDied(None).as_error(MEMORY)
        return decoded

    def _ask(self, reader: str, request: tuple[bytes, str, str | None, str]) -> Iterator[object] | None:
        """Begins in the child process, whose lock is held; None, with the lock released, if the process has ended."""
        try:
            return self._worker.stream(IN_TWO, reader, *request, time_limit_s=TIME_LIMIT_S)
        except WorkerDied:
            self._lock.release()
            return None
        except BaseException:
            self._lock.release()
            raise

    def _summary(self, pieces: Iterator[object]) -> tuple[Summary, Future[bytes]]:
        try:
            summary = cast("Summary", next(pieces))
        except BaseException:
            self._lock.release()
            raise
        return summary, self._arriving.submit(self._rows, pieces)

    def _rows(self, pieces: Iterator[object]) -> bytes:
        """Receives what is left of a request, so that the child process is free for the next."""
        try:
            *_, rows = pieces
            return cast("bytes", rows)
        finally:
            self._lock.release()

    def _whole(self, reader: str, request: tuple[bytes, str, str | None, str]) -> bytes:
        """Decodes a request in the child process and returns its pickled rows. Raises `WorkerDied` if the process ended twice."""
        for _ in range(2):
            self._lock.acquire()
            if self._closed:
                self._lock.release()
                break
            pieces = self._ask(reader, request)
            if pieces is not None:
                with suppress(WorkerDied):
                    return self._rows(pieces)
        raise WorkerDied(None)

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None if it has not started."""
        return self._worker.pid

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._worker.close()
        self._ahead.shutdown()
        self._arriving.shutdown()


def _is_packed(content_encoding: str | None) -> bool:
    return (content_encoding or "identity").strip().lower() not in ("identity", "")
