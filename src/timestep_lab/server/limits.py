"""How often one caller may call: a token bucket a user, and a stricter one for making new users."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from timestep_lab.model.errors import BusyError

KEPT = 50_000
"""Buckets kept; the least recently used one goes first, and a returning caller starts with a full one."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """`rate` calls a second in the long run, `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, what: str) -> None:
        """Raises `BusyError` with the seconds to wait."""
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(float(self.burst), now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.rate)
        bucket.at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / self.rate
            raise BusyError(f"Too many {what}.", f"Try again in {max(1, round(wait))} s.", retry_after=wait)
        bucket.tokens -= 1


class RateLimits:
    def __init__(
        self, *, requests_per_second: float = 50, request_burst: int = 500, sign_ins_per_minute: float = 60,
        sign_in_burst: int = 200,
    ) -> None:  # fmt: skip
        self._users = TokenBuckets(requests_per_second, request_burst)
        self._sign_ins = TokenBuckets(sign_ins_per_minute / 60, sign_in_burst)

    def check_user(self, user_id: str) -> None:
        self._users.take(user_id, "requests")

    def check_sign_in(self, address: str) -> None:
        self._sign_ins.take(_network_of(address), "sign-ins from this address")


def _network_of(address: str) -> str:
    """Who has one address of IPv6 has 2⁶⁴ of them."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else address
