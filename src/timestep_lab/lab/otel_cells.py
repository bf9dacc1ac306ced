"""Spans that a cell makes with OpenTelemetry's SDK: taken from the process's own tracer provider, beside whatever exports them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from timestep_lab.runtime.interchange.otel_spans import otlp_request
from timestep_lab.runtime.interchange.otlp_in import read_otlp_json

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from timestep_lab.lab.lab import Lab

LATEST = 256
"""Traces that spans are still taken of after their cell is over."""


class Cell(Protocol):
    lab: Lab

    def began(self, trace_id: str, lab: Lab) -> None: ...


class OtelCells:
    """A span processor. `cell()` is the traced cell that the caller runs in, if any."""

    def __init__(self, cell: Callable[[], Cell | None]) -> None:
        self._cell = cell
        self._provider: Any = None
        self._lock = threading.Lock()
        self._labs: dict[int, Lab] = {}
        self._held: list[tuple[Lab, ReadableSpan]] | None = None

    def attach(self) -> None:
        """Listen to the process's tracer provider, if it has one of the SDK. Cheap to call again."""
        if "opentelemetry.sdk.trace" not in sys.modules:
            return
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import get_tracer_provider

        provider = get_tracer_provider()
        if isinstance(provider, TracerProvider) and provider is not self._provider:
            self._provider = provider
            provider.add_span_processor(self)  # type: ignore[arg-type] # it has the methods, without the class

    def hold(self) -> None:
        """Spans that end from here on are kept for `store`."""
        self._held = []

    def store(self) -> None:
        """Write what was held; later spans are written as they end."""
        with self._lock:
            held, self._held = self._held or [], None
        for lab in dict.fromkeys(lab for lab, _ in held):
            _store(lab, [span for owner, span in held if owner is lab])

    # What OpenTelemetry calls

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        cell = self._cell()
        trace_id = span.get_span_context().trace_id
        if cell is None or trace_id in self._labs:
            return
        with self._lock:
            self._labs[trace_id] = cell.lab
            while len(self._labs) > LATEST:
                del self._labs[next(iter(self._labs))]
        cell.began(f"{trace_id:032x}", cell.lab)

    def _on_ending(self, span: Any) -> None:
        """Called just before a span's end, while it may still be changed."""

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        lab = self._labs.get(context.trace_id) if context else None
        if lab is None:
            return
        with self._lock:
            if self._held is not None:
                self._held.append((lab, span))
                return
        _store(lab, [span])

    def shutdown(self) -> None:
        """The lab closes by itself."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _store(lab: Lab, spans: list[ReadableSpan]) -> None:
    read_otlp_json(otlp_request(spans), lab.store.user_id).store(lab.store.db)
