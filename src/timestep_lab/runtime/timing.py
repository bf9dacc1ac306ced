"""How long each part of a generation took, measured the same way for every provider.

    queue_ms        waiting for a free slot of the limiter, or for a local model to be loaded
    rate_limit_ms   waiting because the provider said 429
    ttft_ms         from sending the request that was answered to the first content of its answer
    inter_token_*   between one piece of content and the next, as they arrived
    duration_ms     everything, waits and repeats included

`timing_of(span)` gives a trace processor what belongs to an Agents SDK generation span. It is published before the span ends
(and before the last event is passed on, because a reader may stop there).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from timestep_lab.types.records import Usage


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


class Stopwatch:
    """Collects the times of one generation. Not shared between tasks."""

    def __init__(self, provider: str, model: str) -> None:
        self._so_far = GenerationTiming(provider=provider, model=model, attempts=0)
        self._started = time.perf_counter()
        self._sent = self._started
        self._arrivals: list[float] = []

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

    def content(self) -> None:
        """A piece of content arrived."""
        self._arrivals.append(time.perf_counter())

    def read(self, stop_reason: str | None, usage: Usage | None = None) -> GenerationTiming:
        """The times up to now."""
        gaps = sorted((b - a) * 1000.0 for a, b in zip(self._arrivals, self._arrivals[1:], strict=False))
        return replace(
            self._so_far,
            ttft_ms=(self._arrivals[0] - self._sent) * 1000.0 if self._arrivals else None,
            inter_token_p50_ms=_quantile(gaps, 0.50),
            inter_token_p95_ms=_quantile(gaps, 0.95),
            duration_ms=(time.perf_counter() - self._started) * 1000.0,
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


def timing_of(span: Any) -> GenerationTiming | None:
    """The times of a generation span; None for any other span."""
    return _published.of.get(span)
