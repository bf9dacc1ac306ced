"""The limiter finds a provider's pace, keeps the waits it asks for, and tells one kind of trouble from the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.providers.calling import ask
from tests.providers.cases import CHAT
from tests.wire import Fault, Reply, WireServer, Words
from timestep_lab.runtime.provider_errors import AdaptiveLimiter
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.span_records import GenerationTiming


async def test_never_more_at_once_than_the_limit() -> None:
    limiter, most = AdaptiveLimiter(3, maximum=3), 0

    async def one() -> None:
        nonlocal most
        async with limiter.slot():
            most = max(most, limiter.active)
            await asyncio.sleep(0.002)

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 3
    assert limiter.active == 0


async def test_answers_raise_the_limit_by_one_a_round_and_a_429_halves_it() -> None:
    limiter = AdaptiveLimiter(8, maximum=10)
    for _ in range(8):
        limiter.succeeded()
    assert limiter.limit == 8  # eight answers at 8 make almost one more
    limiter.succeeded()
    assert limiter.limit == 9
    limiter.rate_limited(0.0)
    assert limiter.limit == 4
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 10


async def test_requests_that_were_under_way_together_halve_it_once() -> None:
    limiter = AdaptiveLimiter(16)
    sent = time.monotonic()
    for _ in range(5):
        limiter.rate_limited(0.0, sent_at=sent)
    assert limiter.limit == 8


async def test_an_outage_takes_one_slot_and_holds_nobody_back() -> None:
    limiter = AdaptiveLimiter(8)
    limiter.unavailable()
    assert limiter.limit == 7
    async with limiter.slot() as waited:
        assert waited.rate_limit_ms == 0


async def test_a_429_holds_everyone_for_as_long_as_was_asked_and_no_longer() -> None:
    limiter = AdaptiveLimiter(8)
    limiter.rate_limited(0.12)
    before = time.monotonic()

    async def one() -> float:
        async with limiter.slot() as waited:
            assert waited.queue_ms < 10
            return waited.rate_limit_ms

    waits = await asyncio.gather(*(one() for _ in range(4)))
    assert time.monotonic() - before >= 0.12
    assert min(waits) > 60  # each counts from when it came, which is a little after the 429


async def test_the_limit_never_leaves_its_bounds() -> None:
    limiter = AdaptiveLimiter(2, minimum=1, maximum=2)
    for _ in range(5):
        limiter.rate_limited(0.0)
        limiter.unavailable()
    assert limiter.limit == 1


async def test_a_task_cancelled_while_waiting_gives_nothing_away_and_takes_nothing() -> None:
    limiter = AdaptiveLimiter(1, maximum=1)

    async def one() -> None:
        async with limiter.slot():
            await asyncio.sleep(0)

    async with limiter.slot():
        waiting = asyncio.ensure_future(one())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert limiter.active == 0
    await asyncio.wait_for(one(), 1)


async def test_the_stamped_wait_is_what_the_server_did(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(CHAT.protocol).will(Fault(429, {"retry-after-ms": "200"}), Reply(Words("Hi")))
    router = router_for(CHAT.configure(server.url))
    router.limiters["openai"] = AdaptiveLimiter(8)
    heard: list[GenerationTiming] = []
    router.observers.append(heard.append)
    await ask(router.get_model(CHAT.model))
    assert 199 <= heard[0].rate_limit_ms < 300
    assert heard[0].attempts == 2
    assert router.limiters["openai"].limit == 4
