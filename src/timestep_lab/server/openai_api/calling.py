"""What every part of the OpenAI-compatible layer needs: ids and pages, parameters beside the question, one call of a model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from starlette.responses import StreamingResponse

from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, LabError, SettingsError, UsageError
from timestep_lab.model.records import Json
from timestep_lab.server.api.changes import HEADERS
from timestep_lab.server.errors import error_object
from timestep_lab.server.panel import detached
from timestep_lab.service.model_call import ModelCall, stream

# --- Ids in paths, pages as OpenAI lists them, Unix times


Id = Annotated[str, Path(min_length=1, max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=200)]
Order = Literal["asc", "desc"]
Object = dict[str, Any]


PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")


def checked_purpose(purpose: str) -> str:
    """Raises `UsageError`."""
    if purpose not in PURPOSES:
        raise UsageError(f"{purpose[:100]!r} is not a purpose.", f"There are: {', '.join(PURPOSES)}.", param="purpose")
    return purpose


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


def window(items: Iterable[Mapping[str, Json]], *, after: str | None, limit: int, order: Order) -> Object:
    """One page of items that stand oldest first. An `after` that is not among them begins at the first."""
    ordered = list(items) if order == "asc" else list(items)[::-1]
    ids = [item["id"] for item in ordered]
    start = ids.index(after) + 1 if after in ids else 0
    return listed(ordered[start : start + limit], has_more=len(ordered) > start + limit)


# --- What OpenAI's clients may send beside the question: passed on where the model's provider has a word for it, taken where it changes no
# answer, and else refused by its name. Nothing that would change an answer is dropped in silence.


CHAT_COMPLETIONS = ("openai_compatible", "hf_inference_providers", "hf_inference_endpoints")
"""Providers that speak it; `openai/` does too, where `OPENAI_BASE_URL` points elsewhere."""
OF_CHAT = ("stop", "seed", "logit_bias")
NEUTRAL: tuple[Any, ...] = (None, False, 0, {}, [])
"""Asks for nothing."""
TEXT_ONLY: tuple[Any, ...] = (None, ["text"])


ABOUT_THE_CALLER = ("user", "safety_identifier")
HINTS = ("prompt_cache_key", "prompt_cache_retention", "prediction")
"""They make an answer cheaper or faster, never another: a provider that has no word for them need not be told."""
TIERS: tuple[Any, ...] = (None, "auto", "default")
INCLUDABLE = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs", "reasoning.encrypted_content",
)  # fmt: skip
"""OpenAI's own tools do not run here, so there is nothing of theirs to include; reasoning always comes with what sends it back."""


def beside(given: Mapping[str, object], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings by which the provider of `model` hears of the caller, the service tier and hints. The call's trace has the former
    whatever the provider. Raises `UsageError` for a tier that it does not have.
    """
    prefix = model.partition("/")[0]
    extra_args = {
        name: given.get(name) for name in (*ABOUT_THE_CALLER, *HINTS, "service_tier") if given.get(name) is not None
    }
    if prefix in CHAT_COMPLETIONS or prefix == "openai":
        if prefix == "openai" and not openai_elsewhere:
            extra_args.pop("prediction", None)  # The Responses API has none.
        return {"extra_args": extra_args} if extra_args else {}
    if extra_args.get("service_tier") not in TIERS:
        raise unsupported("service_tier", model)
    who = extra_args.get("safety_identifier") or extra_args.get("user")
    return {"extra_args": {"metadata": {"user_id": who}}} if prefix == "anthropic" and who else {}


def merged(*settings: Object) -> Object:
    """One set of settings; what several give as `extra_args` comes together."""
    extra = {name: value for one in settings for name, value in (one.get("extra_args") or {}).items()}
    whole = {name: value for one in settings for name, value in one.items() if name != "extra_args"}
    return {**whole, "extra_args": extra} if extra else whole


def refuse(given: Mapping[str, object], model: str, *, neutral: tuple[object, ...] = NEUTRAL) -> None:
    """Raises `UsageError` for the first parameter that asks for something."""
    for name, value in given.items():
        if value not in neutral:
            raise unsupported(name, model)


def unsupported(name: str, model: str) -> UsageError:
    return UsageError(
        f"The parameter {name} cannot be honoured for {model}.", "Leave it out, or ask another model.",
        param=name, code=UNSUPPORTED_PARAMETER,
    )  # fmt: skip


def passed_on(given: Mapping[str, object], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings by which the provider of `model` (`prefix/name`) hears of `stop`, `seed` and `logit_bias`.

    Raises `UsageError` for one that it has no word for.
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
        wanted.pop("seed", None)  # Its answers are the same whatever the seed.
    for name in wanted:
        if name not in words:
            raise unsupported(name, model)
    return {"extra_args": {words[name]: value for name, value in wanted.items()}} if wanted else {}


IN_CHAT = {"reasoning": "reasoning_effort"}
IN_RESPONSES = {"max_tokens": "max_output_tokens", "verbosity": "text.verbosity", "response_format": "text.format"}
"""The parameters of these APIs that become a setting of another name."""


async def events_of(lab: Any, call: ModelCall, names: Mapping[str, str] = IN_CHAT) -> AsyncIterator[Any]:
    """The response's events. A setting that the model does not take is refused by the name that the caller gave it."""
    try:
        async for event in stream(lab, call):
            yield event
    except SettingsError as error:
        name = (error.param or "").removeprefix("model_settings.")
        error.param = names.get(name, name) or None
        raise


async def whole(lab: Any, call: ModelCall) -> Any:
    """The response when it is complete."""
    last: Any = None
    async for event in events_of(lab, call):
        last = event
    return last.response


async def event_stream(pieces: AsyncIterator[bytes]) -> StreamingResponse:
    """Server-sent events. What is refused before the first one is raised, so that it is answered with its own status; what fails
    later is an event with OpenAI's error object."""
    return StreamingResponse(await detached(pieces, _broken), media_type="text/event-stream", headers=HEADERS)


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("The lab met a fault of its own.", "Ask again.")
    return b"data: " + json.dumps(error_object(known)).encode() + b"\n\n"
