"""How long each part of a generation took, measured the same way for every provider.

    queue_ms        waiting for a free slot of the limiter, or for a local model to be loaded
    rate_limit_ms   waiting because the provider said 429
    ttft_ms         from sending the request that was answered to the first content of its answer
    inter_token_*   between one piece of content and the next, as they arrived
    duration_ms     everything, waits and repeats included
    overhead_ms     what this process added: until a connection was there and the request written, and since the answer had come

A busy event loop writes late and reads late. Both are no time of the provider's: `HTTP_HOOKS` let an HTTP client tell the stopwatch when
its request went out, and the kernel tells when its answer came.

`timing_of(span)` gives a trace processor what belongs to an Agents SDK generation span. It is published before the span ends
(and before the last event is passed on, because a reader may stop there).
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from timestep_lab.model.records import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTiming:
    """One generation. Milliseconds; None where there was nothing to measure."""

    provider: str
    """The router's prefix."""
    model: str
    """The model's name without the prefix."""
    queue_ms: float = 0.0
    rate_limit_ms: float = 0.0
    backoff_ms: float = 0.0
    """Waiting before repeats after 5xx, timeouts and lost connections."""
    ttft_ms: float | None = None
    inter_token_p50_ms: float | None = None
    inter_token_p95_ms: float | None = None
    duration_ms: float = 0.0
    overhead_ms: float = 0.0
    """Of the request that was answered."""
    chunks: int = 0
    """Pieces of content that arrived."""
    attempts: int = 1
    stop_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `content_filter`, `refusal`, `cancelled`, `error`, or the provider's own word for something else."""
    usage: Usage | None = None
    """None when the provider counted nothing."""
    usage_is_estimate: bool = False
    set_aside: tuple[str, ...] = ()
    """Settings that were left out because the model has no such knob (temperature 0, for a model that takes none)."""


class Exchange:
    """One HTTP request and its answer, as the network saw them. Times of `time.perf_counter`."""

    def __init__(self) -> None:
        self.sent_at: float | None = None
        """None: not written yet, or not by HTTP."""
        self._complete_at: float | None = None
        self._socket: socket.socket | None = None

    def arrived_at(self) -> float:
        """When the newest of what was read came to this machine; now, where that cannot be known."""
        return self._complete_at or time.perf_counter() - unread_s(self._socket)

    async def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """For the extension `trace` of httpx."""
        if name.endswith("send_request_body.complete"):  # Before that, each write waits for its turn on the event loop.
            self.sent_at, self._complete_at, self._socket = time.perf_counter(), None, None
        elif name.endswith(("receive_response_body.complete", "response_closed.started")):
            self._complete_at = self.arrived_at()

    def answered(self, response: Any) -> None:
        """Its headers are there: from now on the socket can be asked."""
        stream = response.extensions.get("network_stream")
        found = stream.get_extra_info("socket") if stream is not None else None
        self._socket = found if hasattr(found, "getsockopt") else None


EXCHANGE: ContextVar[Exchange | None] = ContextVar("timestep_lab_exchange", default=None)
"""Bound by whoever measures; HTTP clients with `HTTP_HOOKS` fill it."""


async def _going_out(request: Any) -> None:
    if exchange := EXCHANGE.get():
        request.extensions["trace"] = exchange.trace


async def _coming_in(response: Any) -> None:
    if exchange := EXCHANGE.get():
        exchange.answered(response)


HTTP_HOOKS: Mapping[str, list[Callable[..., Any]]] = {"request": [_going_out], "response": [_coming_in]}
"""`event_hooks` of an httpx client whose exchanges are measured."""

_LAST_DATA_RECEIVED = 52
"""Place of `tcpi_last_data_recv` in Linux' `struct tcp_info`: milliseconds since data came, to the kernel's tick."""


def unread_s(connection: socket.socket | None) -> float:
    """How long ago the newest data came over a TCP connection, which may have waited for a busy event loop; 0 where the system does not say."""
    if connection is None or sys.platform != "linux":
        return 0.0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
    except OSError:  # Closed in the meantime, or no TCP.
        return 0.0
    return (
        struct.unpack_from("I", told, _LAST_DATA_RECEIVED)[0] / 1000.0 if len(told) >= _LAST_DATA_RECEIVED + 4 else 0.0
    )


class Stopwatch:
    """Collects the times of one generation. Not shared between tasks."""

    def __init__(self, provider: str, model: str) -> None:
        self._so_far = GenerationTiming(provider=provider, model=model, attempts=0)
        self._started = time.perf_counter()
        self._sent = self._started
        self._arrivals: list[float] = []
        self._exchange: Exchange | None = None

    def waited(self, *, queue_ms: float = 0.0, rate_limit_ms: float = 0.0, backoff_ms: float = 0.0) -> None:
        now = self._so_far
        self._so_far = replace(
            now,
            queue_ms=now.queue_ms + queue_ms,
            rate_limit_ms=now.rate_limit_ms + rate_limit_ms,
            backoff_ms=now.backoff_ms + backoff_ms,
        )

    def sent(self) -> None:
        """A request goes out."""
        self._so_far = replace(self._so_far, attempts=self._so_far.attempts + 1)
        self._sent = time.perf_counter()
        self._arrivals.clear()
        self._exchange = Exchange()
        EXCHANGE.set(self._exchange)

    @property
    def _written(self) -> float:
        """When the request went out."""
        return self._sent if self._exchange is None else self._exchange.sent_at or self._sent

    def _arrived(self) -> float:
        now = time.perf_counter()
        if self._exchange is None or self._exchange.sent_at is None:
            return now
        return min(now, max(self._exchange.arrived_at(), self._exchange.sent_at))

    def content(self) -> None:
        """A piece of content arrived."""
        self._arrivals.append(self._arrived())

    def read(self, stop_reason: str | None, usage: Usage | None = None) -> GenerationTiming:
        """The times up to now."""
        now = time.perf_counter()
        late = now - self._arrived()
        gaps = sorted((b - a) * 1000.0 for a, b in zip(self._arrivals, self._arrivals[1:], strict=False))
        return replace(
            self._so_far,
            ttft_ms=max(0.0, self._arrivals[0] - self._written) * 1000.0 if self._arrivals else None,
            inter_token_p50_ms=_quantile(gaps, 0.50),
            inter_token_p95_ms=_quantile(gaps, 0.95),
            duration_ms=(now - self._started) * 1000.0,
            overhead_ms=(self._written - self._sent + late) * 1000.0,
            chunks=len(self._arrivals),
            stop_reason=stop_reason,
            usage=usage,
        )


def _quantile(ordered: list[float], q: float) -> float | None:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


@dataclass(slots=True)
class _Published:
    of: WeakKeyDictionary[Any, GenerationTiming] = field(default_factory=WeakKeyDictionary)


_published = _Published()


def publish(span: Any, timing: GenerationTiming) -> None:
    """Attach `timing` to an SDK span for as long as the span lives."""
    _published.of[span] = timing


_offered: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def offer(span: Any, tools: list[Any]) -> None:
    """Attach the tools that the model was offered, likewise."""
    _offered[span] = tools


def offered_of(span: Any) -> list[Any] | None:
    """The tools that the model was offered; None where that is not known."""
    return _offered.get(span)


def timing_of(span: Any) -> GenerationTiming | None:
    """The times of a generation span; None for any other span."""
    return _published.of.get(span)
