"""For as long as a comparison goes on, the router lets only so much through to each provider."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from timestep_lab.evals.plan import DEFAULT_CONCURRENCY, MOST_CONCURRENCY
from timestep_lab.runtime.provider_errors import AdaptiveLimiter

if TYPE_CHECKING:
    from timestep_lab.runtime.router import Router


_without: list[int] = [0]
"""Comparisons under way that set the rest aside."""


@contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Python's collector looks through all objects again and again while thousands are made, a quarter of the time of a call. What is there
    already, mostly imported code, is left out of that until the last comparison under way ends."""
    gc.freeze()
    _without[0] += 1
    try:
        yield
    finally:
        _without[0] -= 1
        if not _without[0]:
            gc.unfreeze()


@contextmanager
def limited(router: Router, prefixes: Iterable[str], concurrency: int | None) -> Iterator[None]:
    """What runs in this process computes one answer after the other, so its calls wait here, where the wait is told as such.
    Providers that somebody else limits already (a comparison beside this one) keep that limit."""
    ours: dict[str, AdaptiveLimiter] = {}
    for prefix in set(prefixes):
        if prefix not in router.limiters:
            most = concurrency or MOST_CONCURRENCY
            most = min(most, router.provider(prefix).most_at_once or most)
            limiter = AdaptiveLimiter(min(concurrency or DEFAULT_CONCURRENCY, most), maximum=most)
            ours[prefix] = router.limiters[prefix] = limiter
    try:
        yield
    finally:
        for prefix, limiter in ours.items():
            if router.limiters.get(prefix) is limiter:
                del router.limiters[prefix]
