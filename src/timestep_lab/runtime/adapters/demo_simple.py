"""`demo/echo`, `demo/slow` and `demo/flaky`: three things a model can be, on their own, for teaching and for tests."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from timestep_lab.model.errors import (
    ProviderAuthError,
    ProviderError,
    ProviderRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamCutError,
)
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import ModelRequest
from timestep_lab.runtime.adapters.conversation import read_turn
from timestep_lab.runtime.adapters.demo_base import ESTIMATE, NO_MODEL, DemoModel
from timestep_lab.runtime.emitter import Emitter


class DemoEcho(DemoModel):
    """Says back what the user said last; with `bare`, without the words that it is no language model."""

    def __init__(self, model: str, *, delay_ms: float, bare: bool) -> None:
        super().__init__(model, delay_ms=delay_ms)
        self._before = "" if bare else f"Echo ({NO_MODEL}): "

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        async for event in self.say(emitter, self._before + read_turn(request.input).user, request):
            yield event


class DemoSlow(DemoModel):
    """Exactly `n` pieces, the first after `ttft_ms`, then `tps` a second. Each counts as one token."""

    def __init__(self, model: str, *, ttft_ms: float, tps: float, n: int) -> None:
        super().__init__(model, delay_ms=0.0)
        self._ttft_ms, self._tps, self._n = ttft_ms, tps, n

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        start = loop.time() + self._ttft_ms / 1000.0
        count = self._n if request.settings.max_tokens is None else min(self._n, request.settings.max_tokens)
        for index in range(count):
            # Each piece has its own due time, so that lateness of one does not add up over all.
            await asyncio.sleep(max(0.0, start + index / self._tps - loop.time()))
            for event in emitter.text(f"demo/slow ({NO_MODEL}):" if index == 0 else f" {index}"):
                yield event
        usage = Usage(requests=1, input_tokens=self.usage(request, "").input_tokens, output_tokens=count)
        for event in emitter.finish(usage, "stop" if count == self._n else "length", ESTIMATE):
            yield event


FAULTS = ("rate_limit", "unavailable", "timeout", "cut", "auth", "request")
_USUAL = FAULTS[:3]


class DemoFlaky(DemoModel):
    """Fails with probability `rate`: which calls fail follows from `seed`, the message and how often it was asked before."""

    def __init__(self, model: str, *, delay_ms: float, rate: float, seed: int, error: str | None) -> None:
        super().__init__(model, delay_ms=delay_ms)
        self._rate, self._seed, self._error = rate, seed, error
        self._asked: Counter[str] = Counter()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        said = read_turn(request.input).user
        draw = hashlib.sha256(f"{self._seed}|{self._asked[said]}|{said}".encode()).digest()
        self._asked[said] += 1
        if int.from_bytes(draw[:4], "big") / 2**32 < self._rate:
            kind = self._error or _USUAL[draw[4] % len(_USUAL)]
            if kind == "cut":
                for event in emitter.text("demo/flaky breaks off"):
                    yield event
            raise _fault(kind)
        async for event in self.say(emitter, f"demo/flaky ({NO_MODEL}) did not fail this time.", request):
            yield event


def _fault(kind: str) -> ProviderError:
    what, step = f"demo/flaky failed on purpose ({kind}).", "Lower its rate, or ask again."
    if kind == "rate_limit":
        return RateLimitError(what, step, provider="demo", retry_after=0.05)
    status, of = {
        "unavailable": (503, ProviderUnavailableError), "timeout": (None, ProviderTimeoutError),
        "cut": (None, StreamCutError), "auth": (401, ProviderAuthError), "request": (400, ProviderRequestError),
    }[kind]  # fmt: skip
    return of(what, step, provider="demo", status=status)
