"""When to come back, in each form a server may say it, and when to give up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from timestep_lab.model.errors import ProviderRequestError, ProviderUnavailableError, RateLimitError
from timestep_lab.runtime.provider_errors import NO_RETRY, ErrorContext, RetryPolicy, from_status, retry_after_seconds

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:07 GMT"}, 7.0),
        ({"retry-after": "Sun, 22 Nov 2026 13:00:07 +0100"}, 7.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOON) == seconds


def test_delays_double_up_to_a_limit() -> None:
    policy = RetryPolicy(unavailable=9, first_delay_s=1.0, max_delay_s=5.0, jitter=lambda: 1.0)
    down = ProviderUnavailableError("down")
    assert [policy.delay_after(down, repeats) for repeats in range(4)] == [1.0, 2.0, 4.0, 5.0]


def test_jitter_takes_off_at_most_a_quarter() -> None:
    policy = RetryPolicy(first_delay_s=1.0, jitter=lambda: 0.0)
    assert policy.delay_after(ProviderUnavailableError("down"), 0) == 0.75


def test_what_the_provider_says_is_waited_exactly_unless_it_is_too_long() -> None:
    policy = RetryPolicy(max_retry_after_s=10.0)
    assert policy.delay_after(RateLimitError("slow down", retry_after=9.5), 0) == 9.5
    assert policy.delay_after(RateLimitError("slow down", retry_after=10.5), 0) is None


@pytest.mark.parametrize(("wait", "delay"), [("0.5", 0.5), ("90", None)])
def test_an_overloaded_server_that_says_when_to_come_back_is_asked_then(wait: str, delay: float | None) -> None:
    context = ErrorContext(provider="mine", model="m")
    for status in (503, 529):
        error = from_status(status, "overloaded", context, headers={"retry-after": wait})
        assert RetryPolicy().delay_after(error, 0) == delay
        assert f"in {wait} s" in error.next_step


def test_the_wait_that_google_tells_in_the_body_is_kept() -> None:
    said = {"error": {"code": 429, "message": "x", "details": [{"@type": "x/QuotaFailure"}, {"retryDelay": "32.5s"}]}}
    for body in (said, said["error"], [said]):
        error = from_status(429, "x", ErrorContext(provider="mine", model="m"), body=body)
        assert RetryPolicy().delay_after(error, 0) == 32.5


def test_each_kind_has_its_own_budget_and_a_refusal_none() -> None:
    policy = RetryPolicy(unavailable=1, rate_limited=2)
    assert policy.delay_after(ProviderUnavailableError("down"), 1) is None
    assert policy.delay_after(RateLimitError("slow down"), 1) is not None
    assert policy.delay_after(RateLimitError("slow down"), 2) is None
    assert policy.delay_after(ProviderRequestError("no"), 0) is None
    assert NO_RETRY.delay_after(RateLimitError("slow down", retry_after=0.0), 0) is None
