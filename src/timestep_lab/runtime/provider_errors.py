"""Maps provider errors to the lab's error tree by HTTP status, exception type and error code.

The text of a message decides only whether a conversation is too long: some servers have no code for that, but a fixed sentence.

The official clients raise exceptions of their own, which are converted here. An exception unrelated to the provider
(a programming error, a cancelled task) is left unchanged.
"""

from __future__ import annotations

import asyncio
import html
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypedDict

from timestep_lab.model.clock import to_aware_utc, utc_now
from timestep_lab.model.display import credentials_in, without_credentials
from timestep_lab.model.errors import (
    ContextLengthError,
    LabError,
    ModelNotFoundError,
    ProviderAuthError,
    ProviderError,
    ProviderRequestError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    StreamCutError,
)

# --- Retry policy
#
# A request is retried only while no part of an answer has been passed on. Two kinds of failure are distinguished: a 429 means that the
# client is too fast (wait as long as the provider asks), a 5xx or a lost connection means that the server has a problem (back off, and
# give up sooner).


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Number of retries and delays. Delays are in seconds."""

    unavailable: int = 2
    """Maximum number of retries after 5xx, timeouts and lost connections."""
    rate_limited: int = 3
    """Maximum number of retries after 429."""
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    """Longest wait accepted from a provider; if it asks for more, the error is raised with its `retry_after`."""
    jitter: Callable[[], float] = random.random
    """Returns a number from 0 to 1; a computed delay is multiplied by 0.75 to 1.0 accordingly."""

    def delay_after(self, error: ProviderError, repeats: int) -> float | None:
        """Returns the seconds to wait before a retry, or None to give up. `repeats`: number of retries of this kind so far.

        A wait requested by the provider is used unchanged; otherwise delays double.
        """
        if not error.retryable:
            return None
        limited = isinstance(error, RateLimitError)
        if repeats >= (self.rate_limited if limited else self.unavailable):
            return None
        if isinstance(error, RateLimitError | ProviderUnavailableError) and error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after_s else None
        delay = min(self.first_delay_s * 2.0**repeats, self.max_delay_s)
        return delay * (0.75 + 0.25 * self.jitter())


NO_RETRY = RetryPolicy(unavailable=0, rate_limited=0)


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Returns the seconds from `now` until a retry, according to a response's headers; None when they say nothing valid.

    `retry-after-ms` (OpenAI, Azure) takes precedence over `retry-after`, which is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000.0
    header = headers.get("retry-after")
    if (seconds := _number(header)) is not None:
        return seconds
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (to_aware_utc(moment) - (now or utc_now()).astimezone(UTC)).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


# --- Concurrency limit per provider: additive increase, multiplicative decrease
#
# Every success raises the limit slightly; a 429 halves it and pauses all requests for as long as the provider asked; a 5xx removes one
# slot without a pause. (Chiu and Jain 1989, the rule that TCP follows.)
# A limiter serves one provider and one event loop.


@dataclass(frozen=True, slots=True)
class Waited:
    """Time spent waiting for a slot, in milliseconds."""

    queue_ms: float
    rate_limit_ms: float


class PausableTimeout:
    """A timeout that is paused while its run waits for a slot, because waiting is not the model's fault.

    Bound to `PAUSABLE_TIMEOUT` by the code that sets the timeout; every slot requested in that context, in any task, pauses it.
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


PAUSABLE_TIMEOUT: ContextVar[PausableTimeout | None] = ContextVar("timestep_lab_pausable_timeout", default=None)


class AdaptiveLimiter:
    """Adaptive concurrency limit: starts at `limit`, then varies between `minimum` and `maximum`."""

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
        """Current maximum number of concurrent requests."""
        return int(self._limit)

    @property
    def active(self) -> int:
        return self._active

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Waited]:
        """Holds one slot. Waits while all are taken (counted as queue) and while the provider's rate limit is in effect."""
        timeout = PAUSABLE_TIMEOUT.get()
        with timeout.held() if timeout else nullcontext():
            queue_s, limited_s = await self._take()
        try:
            yield Waited(queue_s * 1000.0, limited_s * 1000.0)
        finally:
            self._active -= 1
            await asyncio.shield(self._wake())

    async def _take(self) -> tuple[float, float]:
        """Waits for a free slot and takes it; returns the seconds spent in the queue and on the rate limit."""
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
        """Called after a complete answer: adds one slot per `limit` of these."""
        self._limit = min(self._limit + 1.0 / self._limit, float(self._maximum))

    def rate_limited(self, retry_after_s: float | None, *, sent_at: float | None = None) -> None:
        """Called after a 429. `sent_at` (`time.monotonic`): when the request was sent; of requests sent before a cut, only the first halves
        the limit."""
        now = time.monotonic()
        hold = self._default_retry_after_s if retry_after_s is None else retry_after_s
        self._held_until = max(self._held_until, now + hold)
        if sent_at is None or sent_at >= self._last_cut:
            self._limit = max(self._limit / 2.0, float(self._minimum))
            self._last_cut = now

    def unavailable(self) -> None:
        """Called after a 5xx, a timeout or a lost connection: removes one slot."""
        self._limit = max(self._limit - 1.0, float(self._minimum))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


_TRANSPORT_ROOTS = ("httpx2", "httpx", "httpcore2", "httpcore", "openai", "anthropic", "ollama")
"""Packages whose timeout and transport errors are recognized by class name: each client has its own HTTP library."""

_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "insufficient_quota": 429, "server_error": 500,
    "api_error": 500, "internal_server_error": 500, "overloaded_error": 529, "service_unavailable": 503,
    "invalid_api_key": 401, "authentication_error": 401, "permission_error": 403, "billing_error": 402,
    "model_not_found": 404, "not_found_error": 404, "invalid_request_error": 400, "invalid_prompt": 400,
    "context_length_exceeded": 400, "exceed_context_size_error": 400, "request_too_large": 413, "timeout_error": 504,
    "vector_store_timeout": 504, "unavailable_error": 503, "exceeded_current_quota_error": 429, "insufficient_balance": 402,
    "billing_hard_limit_reached": 400, "billing_not_active": 429, "content_filter": 400, "content_policy_violation": 400,
    "moderation_blocked": 400, "data_inspection_failed": 400, "model_max_prompt_tokens_exceeded": 400,
    "tokens_limit_reached": 413,
}  # fmt: skip
"""Status of error types and codes that come without one: in a stream, or inside a `response.failed`.

<https://platform.openai.com/docs/guides/error-codes>, <https://docs.claude.com/en/api/errors>
"""

_TOO_LONG = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "model_max_prompt_tokens_exceeded", "tokens_limit_reached"}
)
"""Codes of OpenAI, llama.cpp, Copilot and GitHub Models."""
_TOO_LONG_IN_WORDS = re.compile(
    r"prompt is too long: \d+"  # Anthropic, Fireworks
    r"|exceeds? (the )?context (limit|window)|context window exceeds limit"  # Anthropic with max_tokens, OpenAI, MiniMax
    r"|input is too long for requested model"  # Bedrock
    r"|context length (is|of)( only)? \d+ tokens"  # vLLM, SGLang, DeepSeek, OpenRouter, LM Studio
    r"|longer than the (model's context|maximum model) length|too long to fit into the model"  # SGLang, vLLM
    r"|too large for model with \d+ maximum context length"  # Mistral
    r"|input length exceeds (the|maximum) context length"  # Ollama
    r"|greater than the context length|exceeds the available context size"  # LM Studio, llama.cpp
    r"|maximum prompt length is \d+ but"  # xAI
    r"|exceeded model token limit"  # Moonshot
    r"|input token count.{0,60} (exceeds the maximum number of tokens|model only supports)"  # Gemini, Vertex
    r"|`inputs` (tokens \+|must have less than \d+ tokens)"  # TGI
    r"|reduce the length of the (messages|prompt)"  # Groq, Cerebras
    r"|range of input length should be \["  # DashScope
    r"|number of tokens in the prompt cannot exceed",  # Cohere
    re.IGNORECASE,
)
_NO_CREDIT = frozenset(
    {
        "insufficient_quota",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
"""Codes for which a retry would not help, of OpenAI, Moonshot and others."""
_AGAINST_POLICY = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed"}
)
"""Codes of Azure, OpenAI and DashScope."""
_MESSAGES = (
    "error", "message", "detail", "msg", "errors", "error_description", "error_msg", "base_resp", "status_msg", "reason",
)  # fmt: skip
"""Fields in which servers say what went wrong."""
WITHHELD = "The answer was withheld by the provider's content filter."
_HTML = re.compile(r"\s*(<!doctype|<html|<head|<body|<\?xml)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """What error messages should mention."""

    provider: str
    model: str
    key_variable: str = ""
    """Environment variable of the key; empty when there is none."""
    address: str = ""
    missing_model_step: str = ""
    unreachable_step: str = ""
    secrets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


def as_provider_error(error: BaseException, context: ErrorContext, *, started: bool) -> LabError | None:
    """Returns the error to raise instead of `error`; None to leave it unchanged. `started`: part of an answer was already passed on."""
    if isinstance(error, ProviderError):
        error.provider = error.provider or context.provider
        return error
    if isinstance(error, LabError) or not isinstance(error, Exception):
        return None
    status = status_of(error)
    if status is not None:
        return from_status(
            status,
            _message_of(error),
            context,
            headers=_headers(error),
            code=_code(error),
            body=getattr(error, "body", None),
        )
    family = _family(error)
    if "timeout" in family or isinstance(error, TimeoutError):
        return ProviderTimeoutError(
            f"{context.name} did not respond in time.",
            "Try again, or increase TIMESTEP_LAB_REQUEST_TIMEOUT_S.",
            provider=context.provider,
        )
    if "transport" in family or isinstance(error, ConnectionError):
        return cut_stream(context) if started else _unreachable(context)
    if "api" in family:
        code = _code(error)
        status = _status_in_body(error) or _STATUS_OF_CODE.get(code or "", 500)
        return from_status(
            status, _message_of(error), context, headers=_headers(error), code=code, body=getattr(error, "body", None)
        )
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return cut_stream(context)  # truncated or corrupted in the middle of a line
    return None


def cut_stream(context: ErrorContext) -> StreamCutError:
    return StreamCutError(
        f"The connection to {context.name} ended before its answer was complete.",
        "Partial output is kept; run it again for a complete answer.",
        provider=context.provider,
    )


def from_code(code: str | None, message_sent: str, context: ErrorContext) -> ProviderError:
    """Returns the error for a code reported inside a stream. An unknown code counts as a server error."""
    return from_status(_STATUS_OF_CODE.get(code or "", 500), message_sent, context, code=code)


def status_in(body: object) -> int | None:
    """Returns the HTTP status in an error's JSON, by its number or its code; None when there is none."""
    if not isinstance(body, Mapping):
        return status_in(body[0]) if isinstance(body, list) and body else None
    for name in ("code", "status", "status_code", "type"):
        code = body.get(name)
        status = _STATUS_OF_CODE.get(code) if isinstance(code, str) else code
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    return status_in(body.get("error"))


class _Origin(TypedDict):
    provider: str
    status: int


def from_status(
    status: int,
    message_sent: str,
    context: ErrorContext,
    *,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
    body: object = None,
) -> ProviderError:
    """Returns the error for an HTTP status, with the provider's own message."""
    words = _clean(message_sent, context)
    where: _Origin = {"provider": context.provider, "status": status}
    if code in _NO_CREDIT or status == 402:
        message = f"{context.name} has no credit left ({status}){words}"
        return ProviderRequestError(message, "Check the plan and billing of the account.", **where)
    if code in _AGAINST_POLICY or _was_flagged(body):
        message = f"{context.name} rejected the input for its content policy ({status}){words}"
        return ProviderRequestError(
            message, "Rephrase the input, or try another model.", code="content_filter", **where
        )
    if status in (401, 403):
        key = context.key_variable or "the key"
        if status == 403:
            message = f"{context.name} denied the request (403){words}"
            return ProviderAuthError(message, f"Check what {key} permits.", **where)
        return ProviderAuthError(f"{context.name} rejected the key ({status}){words}", f"Check {key}.", **where)
    if status == 404:
        step = context.missing_model_step or f"`timestep-lab models list {context.provider}` lists its models."
        return ModelNotFoundError(f"{context.name} was not found (404){words}", step, **where)
    seconds = retry_after_seconds(headers or {})
    seconds = _retry_delay(body) if seconds is None else seconds
    wait = "a while" if seconds is None else f"{seconds:g} s"
    if status == 429:
        return RateLimitError(
            f"{context.name} rejected the request for its rate limit (429){words}",
            f"Wait {wait}, or use another model.",
            provider=context.provider,
            retry_after=seconds,
        )
    if status in (408, 504):
        return ProviderTimeoutError(f"{context.name} timed out ({status}){words}", "Try again.", **where)
    if code in _TOO_LONG or _TOO_LONG_IN_WORDS.search(message_sent):
        return ContextLengthError(
            f"The conversation exceeds the context window of {context.name} ({status}){words}",
            "Start a new thread, shorten this one, or use a model with a longer context.",
            code="context_length_exceeded",
            **where,
        )
    if status >= 500:
        later = "later" if seconds is None else f"in {wait}"
        message = f"{context.name} had a server error ({status}){words}"
        unavailable = ProviderUnavailableError(message, f"Try again {later}, or use another model.", **where)
        unavailable.retry_after = seconds
        return unavailable
    return ProviderRequestError(
        f"{context.name} rejected the request ({status}){words}", "Fix what the message names.", **where
    )


def _was_flagged(body: object) -> bool:
    """Returns whether OpenRouter's moderation rejected the input, which it reports like a rejected key."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    metadata = inner.get("metadata") if isinstance(inner, Mapping) else None
    return isinstance(metadata, Mapping) and "flagged_input" in metadata


def _retry_delay(body: object) -> float | None:
    """Returns the seconds in an error of Google's, such as `"details": [{"retryDelay": "32s"}]`."""
    if isinstance(body, list):
        return _retry_delay(body[0]) if body else None
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    details = inner.get("details") if isinstance(inner, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(delay := detail.get("retryDelay"), str):
            return _number(delay.removesuffix("s"))
    return None


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status of a client library's exception."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status <= 599 and _headers_or_root(error) else None


def _unreachable(context: ErrorContext) -> ProviderUnavailableError:
    where = f" at {without_credentials(context.address)}" if context.address else ""
    return ProviderUnavailableError(
        f"No connection to {context.provider}{where}.",
        context.unreachable_step or "Check the network and the address, or use `demo/assistant`.",
        provider=context.provider,
    )


def is_lost_connection(error: BaseException) -> bool:
    return bool(_family(error) & {"timeout", "transport"})


def _family(error: BaseException) -> set[str]:
    """Returns which of `timeout`, `transport` and `api` an exception of a client or HTTP library belongs to."""
    families = set()
    for cls in type(error).__mro__:
        if cls.__module__.split(".")[0] not in _TRANSPORT_ROOTS:
            continue
        if cls.__name__ in ("APITimeoutError", "TimeoutException"):
            families.add("timeout")
        elif cls.__name__ in ("APIConnectionError", "TransportError", "NetworkError", "ProtocolError", "StreamError"):
            families.add("transport")
        elif cls.__name__ in ("APIError", "ResponseError"):
            families.add("api")
    return families


def _headers_or_root(error: BaseException) -> bool:
    roots = {cls.__module__.split(".")[0] for cls in type(error).__mro__}
    return bool(roots & {*_TRANSPORT_ROOTS})


def _headers(error: BaseException) -> Mapping[str, str]:
    # ollama's client keeps the status but not the response; the response is on the exception that it replaced.
    for one in (error, error.__cause__, error.__context__):
        headers = getattr(getattr(one, "response", None), "headers", None)
        if headers is not None:
            return dict(headers)
    return {}


def _code(error: BaseException) -> str | None:
    body = getattr(error, "body", None)
    places: list[object] = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            places += [inner.get("code"), inner.get("type")]
    return next((place for place in places if isinstance(place, str) and place in _STATUS_OF_CODE), None)


def _status_in_body(error: BaseException) -> int | None:
    return status_in(getattr(error, "body", None))


def _message_of(error: BaseException) -> str:
    for source in (getattr(error, "body", None), getattr(error, "error", None), getattr(error, "message", None)):
        if words := words_of(source):
            return words
    return str(error)


def words_of(content: object) -> str:
    """Returns the message of a server's error in any form: OpenAI's, FastAPI's `detail`, a list of them, HTML, or plain text."""
    if isinstance(content, str):
        if content.lstrip()[:1] in ("{", "["):
            try:
                return words_of(json.loads(content)) or content
            except ValueError:
                return content
        if _HTML.match(content):
            content = html.unescape(re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", content))
        return str(content).strip()
    if isinstance(content, list):
        return "; ".join(words for one in content if (words := words_of(one)))
    if isinstance(content, Mapping):
        where = ".".join(str(part) for part in content.get("loc") or ()) if isinstance(content.get("loc"), list) else ""
        metadata = content.get("metadata")
        upstream = (
            words_of(metadata.get("raw")) if isinstance(metadata, Mapping) else ""
        )  # what a provider behind OpenRouter said
        for name in _MESSAGES:
            if words := words_of(content.get(name)):
                return ": ".join(part for part in (where, words, upstream) if part)
    return ""


def _clean(message_sent: str, context: ErrorContext) -> str:
    """Returns `: message.` on one line, shortened and without secrets."""
    message_sent = without_credentials(message_sent)
    for secret in (*context.secrets, *credentials_in(context.address)):
        message_sent = message_sent.replace(secret, "…")
    message_sent = re.sub(r"\s+", " ", message_sent).strip().rstrip(".")
    return f": {message_sent[:300]}." if message_sent else "."
