"""How many requests may be under way with one provider at once: additive increase, multiplicative decrease.

Every answer without trouble lets a little more through; a 429 halves the limit and holds everyone back for as long as the
provider asked; a 5xx takes one slot away and holds nobody back. (Chiu and Jain 1989, the rule TCP follows.)
One limiter serves one provider and one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waited:
    """What it cost to get a slot, in milliseconds."""

    queue_ms: float
    rate_limit_ms: float


class Patience:
    """A time limit that stands still while its run waits for a slot: waiting is no fault of the model.

    Bound to `PATIENCE` by whoever sets the limit; every slot taken in that context, in whichever task, pauses it.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._waits = 0
        self._left_s = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        self._waits += 1
        if self._waits == 1 and (when := self._limit.when()) is not None:
            self._left_s = when - loop.time()
            self._limit.reschedule(None)
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0 and not self._limit.expired():
                self._limit.reschedule(loop.time() + self._left_s)


PATIENCE: ContextVar[Patience | None] = ContextVar("timestep_lab_patience", default=None)


class AdaptiveLimiter:
    """`limit` at the start, then between `minimum` and `maximum`."""

    def __init__(
        self, limit: int = 8, *, minimum: int = 1, maximum: int = 64, default_retry_after_s: float = 1.0
    ) -> None:
        self._limit = float(min(max(limit, minimum), maximum))
        self._minimum, self._maximum = minimum, maximum
        self._default_retry_after_s = default_retry_after_s
        self._active = 0
        self._held_until = 0.0
        self._last_cut = 0.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """How many may be under way now."""
        return int(self._limit)

    @property
    def active(self) -> int:
        return self._active

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Waited]:
        """Hold one slot. Waits while all are taken (counted as queue) and while the provider holds us back (rate limit)."""
        patience = PATIENCE.get()
        with patience.held() if patience else nullcontext():
            queue_s, limited_s = await self._take()
        try:
            yield Waited(queue_s * 1000.0, limited_s * 1000.0)
        finally:
            self._active -= 1
            await asyncio.shield(self._wake())

    async def _take(self) -> tuple[float, float]:
        """Wait for a free slot and take it; seconds waited in the queue and for the rate limit."""
        queue_s = limited_s = 0.0
        async with self._changed:
            while True:
                before = time.monotonic()
                if (hold := self._held_until - before) > 0:
                    await self._wait(hold)
                    limited_s += time.monotonic() - before
                elif self._active >= self.limit:
                    await self._changed.wait()
                    queue_s += time.monotonic() - before
                else:
                    break
            self._active += 1
        return queue_s, limited_s

    def succeeded(self) -> None:
        """An answer came whole: one more slot for every `limit` of these."""
        self._limit = min(self._limit + 1.0 / self._limit, float(self._maximum))

    def rate_limited(self, retry_after_s: float | None, *, sent_at: float | None = None) -> None:
        """A 429. `sent_at` (`time.monotonic`): when that request went out; of several sent before one cut, only the first halves."""
        now = time.monotonic()
        hold = self._default_retry_after_s if retry_after_s is None else retry_after_s
        self._held_until = max(self._held_until, now + hold)
        if sent_at is None or sent_at >= self._last_cut:
            self._limit = max(self._limit / 2.0, float(self._minimum))
            self._last_cut = now

    def unavailable(self) -> None:
        """A 5xx, a timeout or a lost connection: theirs, so only one slot less."""
        self._limit = max(self._limit - 1.0, float(self._minimum))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
