"""When to call a provider again, and how long to wait before it.

A request is repeated only while nothing of an answer has been passed on. Two kinds of failure are kept apart, because they
mean different things: a 429 says *you* are too fast (wait as long as it says), a 5xx or a lost connection says *they* are
in trouble (back off, and give up sooner).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from timestep_lab.model.clock import to_aware_utc, utc_now
from timestep_lab.model.errors import ProviderError, RateLimitError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently. Delays in seconds."""

    unavailable: int = 2
    """Most repeats after 5xx, timeouts and lost connections."""
    rate_limited: int = 3
    """Most repeats after 429."""
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    """A provider that asks for a longer wait than this is not waited for: the error, with its `retry_after`, is raised."""
    jitter: Callable[[], float] = random.random
    """Gives a number from 0 to 1; a computed delay is multiplied by 0.75 to 1.0 with it."""

    def delay_after(self, error: ProviderError, repeats: int) -> float | None:
        """Seconds to wait before repeating, None to give up. `repeats`: how many of this kind were made before.

        A wait that the provider asked for is taken as it is; otherwise delays double.
        """
        if not error.retryable:
            return None
        limited = isinstance(error, RateLimitError)
        if repeats >= (self.rate_limited if limited else self.unavailable):
            return None
        if isinstance(error, RateLimitError) and error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after_s else None
        delay = min(self.first_delay_s * 2.0**repeats, self.max_delay_s)
        return delay * (0.75 + 0.25 * self.jitter())


NO_RETRY = RetryPolicy(unavailable=0, rate_limited=0)


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """What a response says about when to come back, in seconds from `now`; None when it says nothing readable.

    `retry-after-ms` (OpenAI, Azure) before `retry-after`, which is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000.0
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    if said is None:
        return None
    try:
        moment = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (to_aware_utc(moment) - (now or utc_now()).astimezone(UTC)).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
