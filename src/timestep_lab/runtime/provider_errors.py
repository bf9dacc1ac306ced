"""One error tree for every provider: by HTTP status, exception type and the code that a server gives.

What a message says decides one thing only, whether a conversation is too long: some servers have no code for that, and say it in a
sentence that is always the same.

The official clients raise errors of their own; this maps them. An exception that is not about talking to the provider
(a programming error, a cancelled task) is not touched.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from timestep_lab.model.shown_url import credentials_in, without_credentials
from timestep_lab.runtime.retry import retry_after_seconds

_TRANSPORT_ROOTS = ("httpx2", "httpx", "httpcore2", "httpcore", "openai", "anthropic", "ollama")
"""Packages whose timeout and transport errors are read by class name: each client brings its own http library."""

_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "insufficient_quota": 429, "server_error": 500,
    "api_error": 500, "internal_server_error": 500, "overloaded_error": 529, "service_unavailable": 503,
    "invalid_api_key": 401, "authentication_error": 401, "permission_error": 403, "billing_error": 402,
    "model_not_found": 404, "not_found_error": 404, "invalid_request_error": 400, "invalid_prompt": 400,
    "context_length_exceeded": 400, "exceed_context_size_error": 400, "request_too_large": 413, "timeout_error": 504,
    "vector_store_timeout": 504, "unavailable_error": 503,
}  # fmt: skip
"""Error types and codes that come without a status: in the middle of a stream, or inside a `response.failed`.

<https://platform.openai.com/docs/guides/error-codes>, <https://docs.claude.com/en/api/errors>
"""

_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
"""OpenAI's code and llama.cpp's."""
_TOO_LONG_IN_WORDS = re.compile(
    r"prompt is too long: \d+ tokens"  # Anthropic
    r"|maximum context length (is|of) \d+ tokens"  # vLLM, SGLang, DeepSeek
    r"|input length exceeds (the|maximum) context length"  # Ollama
    r"|input token count.{0,40} exceeds the maximum number of tokens",  # Gemini
    re.IGNORECASE,
)
_HTML = re.compile(r"\s*(<!doctype|<html|<head|<body|<\?xml)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """What a message should name."""

    provider: str
    model: str
    key_variable: str = ""
    """The environment variable that holds the key; empty when there is none."""
    address: str = ""
    missing_model_step: str = ""
    unreachable_step: str = ""
    secrets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


def as_provider_error(error: BaseException, context: ErrorContext, *, started: bool) -> LabError | None:
    """The error to raise instead of `error`; None to let it go on as it is. `started`: part of an answer had been passed on."""
    if isinstance(error, ProviderError):
        error.provider = error.provider or context.provider
        return error
    if isinstance(error, LabError) or not isinstance(error, Exception):
        return None
    status = status_of(error)
    if status == 429 and _code(error) == "insufficient_quota":
        return ProviderRequestError(  # asking again would not help
            f"{context.name} has no credit left (429){_clean(_said(error), context)}",
            "Check the plan and billing of the account.",
            provider=context.provider,
            status=status,
        )
    if status is not None:
        return from_status(status, _said(error), context, headers=_headers(error), code=_code(error))
    family = _family(error)
    if "timeout" in family or isinstance(error, TimeoutError):
        return ProviderTimeoutError(
            f"{context.name} gave no answer in time.",
            "Try again, or raise TIMESTEP_LAB_REQUEST_TIMEOUT_S.",
            provider=context.provider,
        )
    if "transport" in family or isinstance(error, ConnectionError):
        return cut_stream(context) if started else _unreachable(context)
    if "api" in family:
        code = _code(error)
        status = _status_told(error) or _STATUS_OF_CODE.get(code or "", 500)
        return from_status(status, _said(error), context, headers=_headers(error), code=code)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return cut_stream(context)  # broken off, or damaged, in the middle of a line
    return None


def cut_stream(context: ErrorContext) -> StreamCutError:
    return StreamCutError(
        f"The connection to {context.name} ended before its answer was complete.",
        "What had arrived is kept; run it again for a whole answer.",
        provider=context.provider,
    )


def from_code(code: str | None, said: str, context: ErrorContext) -> ProviderError:
    """An error that a provider reported inside its stream. A code that nobody documented counts as trouble on their side."""
    return from_status(_STATUS_OF_CODE.get(code or "", 500), said, context, code=code)


def status_in(body: Any) -> int | None:
    """The HTTP status that an error's JSON tells, by its number or by its code; None when it tells neither."""
    if not isinstance(body, Mapping):
        return status_in(body[0]) if isinstance(body, list) and body else None
    for name in ("code", "status", "status_code", "type"):
        told = body.get(name)
        status = _STATUS_OF_CODE.get(told) if isinstance(told, str) else told
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    return status_in(body.get("error"))


def from_status(
    status: int,
    said: str,
    context: ErrorContext,
    *,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
) -> ProviderError:
    """The class for an HTTP status, with the provider's own words in the message."""
    words = _clean(said, context)
    where: dict[str, Any] = {"provider": context.provider, "status": status}
    if status in (401, 403):
        step = f"Check {context.key_variable}." if context.key_variable else "Check the key."
        return ProviderAuthError(f"{context.name} refused the key ({status}){words}", step, **where)
    if status == 404:
        step = context.missing_model_step or f"`timestep-lab models list {context.provider}` lists what it offers."
        return ModelNotFoundError(f"{context.name} was not found (404){words}", step, **where)
    if status == 429:
        seconds = retry_after_seconds(headers or {})
        wait = "a while" if seconds is None else f"{seconds:g} s"
        return RateLimitError(
            f"{context.name} says there were too many requests (429){words}",
            f"Wait {wait}, or use another model.",
            provider=context.provider,
            retry_after=seconds,
        )
    if status in (408, 504):
        return ProviderTimeoutError(f"{context.name} timed out ({status}){words}", "Try again.", **where)
    if status >= 500:
        return ProviderUnavailableError(
            f"{context.name} is in trouble ({status}){words}", "Try again in a while, or use another model.", **where
        )
    if code in _TOO_LONG or _TOO_LONG_IN_WORDS.search(said):
        return ContextLengthError(
            f"The conversation is longer than {context.name} can read ({status}){words}",
            "Start a new thread, shorten this one, or use a model with a longer context.",
            code="context_length_exceeded",
            **where,
        )
    return ProviderRequestError(
        f"{context.name} refused the request ({status}){words}", "Change what it names.", **where
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of a client library carries."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status <= 599 and _headers_or_root(error) else None


def _unreachable(context: ErrorContext) -> ProviderUnavailableError:
    where = f" at {without_credentials(context.address)}" if context.address else ""
    return ProviderUnavailableError(
        f"No connection to {context.provider}{where}.",
        context.unreachable_step or "Check the network and the address, or use `demo/assistant`.",
        provider=context.provider,
    )


def _family(error: BaseException) -> set[str]:
    """Which of `timeout`, `transport`, `api` an exception of a client or http library belongs to."""
    found = set()
    for cls in type(error).__mro__:
        if cls.__module__.split(".")[0] not in _TRANSPORT_ROOTS:
            continue
        if cls.__name__ in ("APITimeoutError", "TimeoutException"):
            found.add("timeout")
        elif cls.__name__ in ("APIConnectionError", "TransportError", "NetworkError", "ProtocolError", "StreamError"):
            found.add("transport")
        elif cls.__name__ in ("APIError", "ResponseError"):
            found.add("api")
    return found


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
    places: list[Any] = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            places += [inner.get("code"), inner.get("type")]
    return next((place for place in places if isinstance(place, str) and place in _STATUS_OF_CODE), None)


def _status_told(error: BaseException) -> int | None:
    return status_in(getattr(error, "body", None))


def _said(error: BaseException) -> str:
    for told in (getattr(error, "body", None), getattr(error, "error", None), getattr(error, "message", None)):
        if words := _words(told):
            return words
    return str(error)


def _words(told: Any) -> str:
    """What a server said of an error, in whichever form: OpenAI's, FastAPI's `detail`, a list of them, HTML, or plain text."""
    if isinstance(told, str):
        if told.lstrip()[:1] in ("{", "["):
            try:
                return _words(json.loads(told)) or told
            except ValueError:
                return told
        if _HTML.match(told):
            told = html.unescape(re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", told))
        return str(told).strip()
    if isinstance(told, list):
        return "; ".join(words for one in told if (words := _words(one)))
    if isinstance(told, Mapping):
        where = ".".join(str(part) for part in told.get("loc") or ()) if isinstance(told.get("loc"), list) else ""
        for name in ("error", "message", "detail", "msg", "errors", "error_description"):
            if words := _words(told.get(name)):
                return f"{where}: {words}" if where else words
    return ""


def _clean(said: str, context: ErrorContext) -> str:
    """`: words.` on one line, short, without any secret."""
    said = without_credentials(said)
    for secret in (*context.secrets, *credentials_in(context.address)):
        said = said.replace(secret, "…")
    said = re.sub(r"\s+", " ", said).strip().rstrip(".")
    return f": {said[:300]}." if said else "."
