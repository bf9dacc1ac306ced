"""Shared parts of the OpenAI-compatible API: ids and pages, request parameters, and calling a model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, cast

from fastapi import Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from starlette.responses import StreamingResponse

from timestep_lab.model.codec import Json, list_of, object_of, objects_of
from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, LabError, SettingsError, UsageError
from timestep_lab.server.api.changes import HEADERS
from timestep_lab.server.errors import error_object
from timestep_lab.server.panel import detached
from timestep_lab.service.models import ModelCall, stream

if TYPE_CHECKING:
    from openai.types.responses import Response, ResponseCompletedEvent, ResponseStreamEvent

    from timestep_lab.service.operation import Scope

# --- Ids in paths, pages in OpenAI's format, Unix times


Id = Annotated[str, Path(min_length=1, max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=200)]
Include = Annotated[list[str] | None, Query(alias="include[]")]
Order = Literal["asc", "desc"]
Object = dict[str, Json]


PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")


def checked_purpose(purpose: str) -> str:
    """Validate a file purpose. Raises `UsageError`."""
    if purpose not in PURPOSES:
        raise UsageError(
            f"{purpose[:100]!r} is not a valid purpose.", f"Use one of: {', '.join(PURPOSES)}.", param="purpose"
        )
    return purpose


def content_of(content: Json, where: str, param: str) -> str | list[Mapping[str, Json]]:
    """The content of a message: text, or parts. Raises `UsageError` for anything else."""
    if isinstance(content, str):
        return content
    parts = list(objects_of(content))
    if (content is None or isinstance(content, list)) and len(parts) == len(list_of(content)):
        return parts
    raise UsageError(
        f"{where} is invalid: its content is not text or a list of parts.", "See the API reference.", param=param
    )


def unix(when: datetime) -> int:
    return int(when.timestamp())


def listed(data: Sequence[Mapping[str, Json]], *, has_more: bool = False) -> Object:
    """OpenAI's list object."""
    ids = [str(item["id"]) for item in data]
    return {
        "object": "list", "data": list(data), "has_more": has_more, "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }  # fmt: skip


def deleted(id: str, kind: str) -> Object:
    return {"id": id, "object": kind, "deleted": True}


def window(
    items: Iterable[Mapping[str, Json]], *, after: str | None, limit: int, order: Order, before: str | None = None
) -> Object:
    """One page of items, given oldest first: the first ones, those following `after`, or the last ones before `before`.
    Unknown ids have no effect.
    """
    ordered = list(items) if order == "asc" else list(items)[::-1]
    ids = [item["id"] for item in ordered]
    start = ids.index(after) + 1 if after in ids else 0
    if before in ids and after not in ids:
        end = ids.index(before)
        return listed(ordered[max(end - limit, 0) : end], has_more=end > limit)
    page = ordered[start : ids.index(before) if before in ids else None]
    return listed(page[:limit], has_more=len(page) > limit)


# --- Parameters that OpenAI's clients may send: passed on if the model's provider supports them, accepted if they do not change the
# answer, and otherwise rejected by name. Nothing that would change an answer is ignored silently.


CHAT_COMPLETIONS = ("openai_compatible", "hf_inference_providers", "hf_inference_endpoints")
"""Providers that use Chat Completions; `openai/` does, too, if `OPENAI_BASE_URL` is set."""
OF_CHAT = ("stop", "seed", "logit_bias")
NEUTRAL: tuple[object, ...] = (None, False, 0, {}, [])
"""Values without effect."""
TEXT_ONLY: tuple[object, ...] = (None, ["text"])


ABOUT_THE_CALLER = ("user", "safety_identifier")
HINTS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction")
"""Hints that make an answer cheaper or faster but do not change it; ignored for providers that do not support them."""
TIERS: tuple[object, ...] = (None, "auto", "default")
INCLUDABLE = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs", "reasoning.encrypted_content",
)  # fmt: skip
"""Accepted values of `include`. OpenAI's hosted tools do not run here, so there are no results of theirs to include;
reasoning is always included in a form that can be sent back.
"""


def beside(given: Mapping[str, Json], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings that pass the end user, the service tier, hints and whether the answer may be stored to the
    provider of `model`. The end user is also recorded in the call's trace. Raises `UsageError` for an unsupported
    service tier.
    """
    prefix = model.partition("/")[0]
    extra_args = {
        name: given.get(name) for name in (*ABOUT_THE_CALLER, *HINTS, "service_tier") if given.get(name) is not None
    }
    if prefix in CHAT_COMPLETIONS or prefix == "openai":
        if prefix == "openai" and not openai_elsewhere:
            extra_args.pop("prediction", None)  # The Responses API has no such field.
        settings = {"extra_args": extra_args, "store": given.get("store")}
        return {name: value for name, value in settings.items() if value not in ({}, None)}
    if extra_args.get("service_tier") not in TIERS:
        raise unsupported("service_tier", model)
    who = extra_args.get("safety_identifier") or extra_args.get("user")
    return {"extra_args": {"metadata": {"user_id": who}}} if prefix == "anthropic" and who else {}


def merged(*settings: Object) -> Object:
    """Merge settings; their `extra_args` are combined."""
    extra = {name: value for one in settings for name, value in object_of(one.get("extra_args")).items()}
    whole = {name: value for one in settings for name, value in one.items() if name != "extra_args"}
    return {**whole, "extra_args": extra} if extra else whole


def check_include(include: Iterable[str] | None, model: str) -> None:
    for asked in include or ():
        if asked not in INCLUDABLE:
            raise unsupported("include", model)


def known_query(request: Request) -> None:
    """Raises `UsageError` for a parameter of the URL that its endpoint does not have."""
    route: APIRoute = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        raise UsageError(
            f"{unknown[0][:100]!r} is no parameter of this endpoint.", f"It has: {', '.join(sorted(known)) or 'none'}.",
            param=unknown[0][:100], code=UNSUPPORTED_PARAMETER,
        )  # fmt: skip


def refuse(given: Mapping[str, object], model: str, *, neutral: tuple[object, ...] = NEUTRAL) -> None:
    """Raises `UsageError` for the first parameter that has an effect."""
    for name, value in given.items():
        if value not in neutral:
            raise unsupported(name, model)


def unsupported(name: str, model: str) -> UsageError:
    return UsageError(
        f"The parameter {name} is not supported for {model}.", "Omit it, or use another model.",
        param=name, code=UNSUPPORTED_PARAMETER,
    )  # fmt: skip


def passed_on(given: Mapping[str, Json], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings that pass `stop`, `seed` and `logit_bias` to the provider of `model` (`prefix/name`).

    Raises `UsageError` for an unsupported one.
    """
    prefix = model.partition("/")[0]
    wanted = {name: value for name, value in given.items() if value is not None and value not in ({}, [])}
    if not wanted:
        return {}
    if prefix in CHAT_COMPLETIONS or (prefix == "openai" and openai_elsewhere):
        return {"extra_args": wanted}
    if prefix == "local":
        return {"extra_body": wanted}
    if isinstance(wanted.get("stop"), str):
        wanted["stop"] = [wanted["stop"]]
    words = {"anthropic": {"stop": "stop_sequences"}, "ollama": {"stop": "stop", "seed": "seed"}}.get(prefix, {})
    if prefix == "demo":
        wanted.pop("seed", None)  # Deterministic, so a seed has no effect.
    for name in wanted:
        if name not in words:
            raise unsupported(name, model)
    return {"extra_args": {words[name]: value for name, value in wanted.items()}} if wanted else {}


def only_functions(kind: object) -> object:
    """Raises `UsageError` for a tool that a client does not run itself."""
    if isinstance(kind, str) and kind != "function":
        raise UsageError(
            f"Tools of the type {kind[:100]!r} are not supported: hosted tools run at OpenAI.",
            "Send functions; files are searched with vector_stores.search.", param="tools", code=UNSUPPORTED_PARAMETER,
        )  # fmt: skip
    return kind


FunctionType = Annotated[Literal["function"], BeforeValidator(only_functions)]


IN_CHAT = {"reasoning": "reasoning_effort"}
IN_RESPONSES = {"max_tokens": "max_output_tokens", "verbosity": "text.verbosity", "response_format": "text.format"}
"""API parameters that are passed on as a setting with another name."""


async def events_of(
    lab: Scope, call: ModelCall, names: Mapping[str, str] = IN_CHAT
) -> AsyncIterator[ResponseStreamEvent]:
    """Response events. An error about an unsupported setting uses the parameter name of the API."""
    try:
        async for event in stream(lab, call):
            yield event
    except SettingsError as error:
        name = (error.param or "").removeprefix("model_settings.")
        error.param = names.get(name, name) or None
        raise


async def whole(lab: Scope, call: ModelCall) -> Response:
    """The complete response."""
    last: ResponseStreamEvent | None = None
    async for event in events_of(lab, call):
        last = event
    return cast("ResponseCompletedEvent", last).response


async def event_stream(pieces: AsyncIterator[bytes]) -> StreamingResponse:
    """Server-sent events. An error before the first event is raised, to be sent with its own status; a later one
    becomes an event with OpenAI's error object."""
    return StreamingResponse(await detached(pieces, _broken), media_type="text/event-stream", headers=HEADERS)


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("Internal error.", "Try again.")
    return b"data: " + json.dumps(error_object(known)).encode() + b"\n\n"
