"""What every adapter must do when things go wrong, each against a server that speaks its provider's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.providers.calling import Answer, ask
from tests.providers.cases import Case
from tests.providers.conftest import QUICK
from tests.wire import Cut, Fault, FaultInStream, Reply, Silence, WireServer, Words
from timestep_lab.model.errors import (
    ModelNotFoundError,
    ProviderAuthError,
    ProviderError,
    ProviderRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamCutError,
)
from timestep_lab.runtime.provider_errors import NO_RETRY
from timestep_lab.runtime.router import Router

LONG = "One two three four five six seven eight nine ten eleven twelve"
HELLO = Reply(Words("Hello to you"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ProviderRequestError), (401, ProviderAuthError), (403, ProviderAuthError), (404, ModelNotFoundError),
        (429, RateLimitError), (500, ProviderUnavailableError), (503, ProviderUnavailableError),
    ],
)  # fmt: skip
async def test_an_http_status_becomes_one_error_that_names_model_and_next_step(
    server: WireServer, case: Case, router_for: Callable[..., Router], status: int, error: type[ProviderError]
) -> None:
    server.will(Fault(status))
    router = router_for(case.configure(server.url), NO_RETRY)
    with pytest.raises(error, match=r"This is what the provider said\.") as raised:
        await ask(router.get_model(case.model))
    assert type(raised.value) is error
    assert (raised.value.status, raised.value.provider) == (status, case.model.split("/")[0])
    assert case.model in str(raised.value)
    assert raised.value.next_step
    assert "\n" not in str(raised.value)


async def test_a_key_that_a_provider_repeats_is_not_in_the_message(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Fault(401, message="Incorrect key: the-key"))
    with pytest.raises(ProviderAuthError) as raised:
        await ask(router_for(case.configure(server.url)).get_model(case.model))
    assert case.key is None or case.key not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500])
async def test_a_passing_fault_is_waited_out(model: Any, server: WireServer, status: int) -> None:
    server.will(Fault(status), Fault(status), HELLO)
    answer = await ask(model)
    assert answer.text == "Hello to you"
    assert answer.types.count("response.created") == 1
    timing = answer.timing
    assert timing is not None
    assert timing.attempts == len(server.requests) == 3
    waited, not_waited = (
        (timing.rate_limit_ms, timing.backoff_ms) if status == 429 else (timing.backoff_ms, timing.rate_limit_ms)
    )
    assert waited > 10
    assert not_waited == 0
    assert timing.ttft_ms is not None
    assert timing.ttft_ms < timing.duration_ms - waited


async def test_a_wait_that_the_provider_asks_for_is_kept_to_the_hundredth_second(
    model: Any, server: WireServer
) -> None:
    server.will(Fault(429, {"retry-after-ms": "150", "retry-after": "60"}), HELLO)
    answer = await ask(model)
    assert answer.text == "Hello to you"
    assert answer.timing is not None
    assert 150 <= answer.timing.rate_limit_ms + 1 < 400


async def test_a_longer_wait_than_anybody_has_is_told_instead_of_waited(model: Any, server: WireServer) -> None:
    server.will(Fault(429, {"retry-after": "3600"}))
    with pytest.raises(RateLimitError, match="3600 s") as raised:
        await ask(model)
    assert raised.value.retry_after == 3600
    assert len(server.requests) == 1


async def test_a_refused_request_is_not_repeated(model: Any, server: WireServer) -> None:
    server.will(Fault(400))
    with pytest.raises(ProviderRequestError):
        await ask(model)
    assert len(server.requests) == 1


async def test_rate_limits_and_outages_have_budgets_of_their_own(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Fault(429), Fault(500), Fault(429), Fault(500), Fault(429), HELLO)
    answer = await ask(router_for(case.configure(server.url), QUICK).get_model(case.model))
    assert answer.text == "Hello to you"


async def test_silence_before_the_answer_is_a_timeout(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Silence(5.0, HELLO))
    router = router_for(case.configure(server.url, request_timeout_s=0.15), NO_RETRY)
    with pytest.raises(ProviderTimeoutError) as raised:
        await ask(router.get_model(case.model))
    assert raised.value.provider == case.model.split("/")[0]


async def test_silence_within_the_answer_is_a_timeout_and_what_came_is_kept(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Silence(5.0, Reply(Words(LONG)), after=8))
    router = router_for(case.configure(server.url, request_timeout_s=0.3))
    so_far = Answer()
    with pytest.raises(ProviderTimeoutError):
        await ask(router.get_model(case.model), into=so_far)
    assert "response.output_text.delta" in so_far.types
    assert len(server.requests) == 1


async def test_a_cut_stream_is_told_and_not_repeated_once_words_were_passed_on(model: Any, server: WireServer) -> None:
    server.will(Cut(Reply(Words(LONG)), after=9))
    so_far = Answer()
    with pytest.raises(StreamCutError, match="before its answer was complete"):
        await ask(model, into=so_far)
    assert "response.output_text.delta" in so_far.types
    assert len(server.requests) == 1
    assert so_far.timing is not None
    assert so_far.timing.stop_reason == "error"


async def test_a_stream_cut_before_its_first_word_is_repeated(model: Any, server: WireServer) -> None:
    server.will(Cut(HELLO, after=0), HELLO)
    answer = await ask(model)
    assert answer.text == "Hello to you"
    assert answer.types.count("response.created") == 1
    assert len(server.requests) == 2


async def test_an_error_inside_the_stream_is_an_error_of_its_kind(model: Any, server: WireServer) -> None:
    server.will(FaultInStream(Reply(Words(LONG)), after=9))
    with pytest.raises(ProviderUnavailableError, match="This came in the middle"):
        await ask(model)
    assert len(server.requests) == 1


async def test_no_connection_names_the_address_and_what_to_do(case: Case, router_for: Callable[..., Router]) -> None:
    router = router_for(case.configure("http://127.0.0.1:9"), NO_RETRY)
    with pytest.raises(ProviderUnavailableError) as raised:
        await ask(router.get_model(case.model))
    assert raised.value.next_step


async def test_leaving_a_stream_hangs_up_on_the_server(model: Any, server: WireServer) -> None:
    server.will(Reply(Words(" ".join(["word"] * 200)), pause_s=0.02))
    seen = asyncio.Event()

    async def read() -> None:
        so_far = Answer()
        task = asyncio.ensure_future(ask(model, into=so_far))
        while "response.output_text.delta" not in so_far.types:
            await asyncio.sleep(0.01)
        seen.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert so_far.timing is not None
        assert so_far.timing.stop_reason == "cancelled"

    await asyncio.wait_for(read(), 10)
    assert seen.is_set()
    assert await asyncio.to_thread(server.client_left.wait, 5)
