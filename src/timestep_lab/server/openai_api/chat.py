"""Chat Completions over the router."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from timestep_lab.model.errors import SettingsError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.server.api.schemas import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import ModelCall, event_stream, read_format, stream, whole
from timestep_lab.server.openai_api.chat_form import answer_message, finish_reason, read_messages, usage
from timestep_lab.server.openai_api.parameters import OF_CHAT, TEXT_ONLY, beside, merged, passed_on, refuse
from timestep_lab.server.openai_api.shared import Object

router = APIRouter()

REASONING_DELTAS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class Function(Strict):
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatBody(Strict):
    model: str | None = Field(None, max_length=500)
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    response_format: dict[str, Any] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    # None of these changes the answer; `parameters.py` says who hears of them.
    store: bool | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prediction: dict[str, Any] | None = None


@router.post("/chat/completions", response_class=Response)
async def create_completion(body: ChatBody, lab: CurrentLab) -> Response:
    """With `stream`, server-sent events and `data: [DONE]`."""
    call = _call(body, lab.router.resolve(body.model).full, openai_elsewhere=lab.settings.openai_elsewhere)
    head: Object = {"id": f"chatcmpl-{new_id('response')}", "created": int(time.time()), "model": call.model}
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await event_stream(_chunks(lab, call, head, with_usage))
    response = await whole(lab, call)
    choice = {
        "index": 0, "message": answer_message(response.output), "finish_reason": finish_reason(response), "logprobs": None,
    }  # fmt: skip
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage(response)}
    return Response(json.dumps(answer), media_type="application/json")


def _call(body: ChatBody, model: str, *, openai_elsewhere: bool) -> ModelCall:
    refuse({name: getattr(body, name) for name in ("logprobs", "top_logprobs", "audio")}, model)
    refuse({"n": body.n}, model, neutral=(None, 1))
    refuse({"modalities": body.modalities}, model, neutral=TEXT_ONLY)
    refuse({"web_search_options": body.web_search_options}, model, neutral=(None,))
    more = merged(
        passed_on({name: getattr(body, name) for name in OF_CHAT}, model, openai_elsewhere=openai_elsewhere),
        beside(body.model_dump(), model, openai_elsewhere=openai_elsewhere),
    )
    instructions, items = read_messages(body.messages)
    if not items:
        raise UsageError("There is nothing to answer: no message is the user's.", "Add one.", param="messages")
    return ModelCall(
        model=model, input=items, instructions=instructions, settings={**_settings(body), **more},
        functions=[tool.function.model_dump() for tool in body.tools], format=_format(body.response_format),
        metadata=about_the_call(body.metadata, body.user), workflow="chat.completions",
    )  # fmt: skip


def _settings(body: ChatBody) -> Object:
    choice: Any = body.tool_choice
    if isinstance(choice, dict):
        choice = (choice.get("function") or {}).get("name")
        if not isinstance(choice, str):
            raise SettingsError(f"The tool choice {body.tool_choice!r} names no function.", param="tool_choice")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return {
        "temperature": body.temperature, "top_p": body.top_p, "max_tokens": limit, "tool_choice": choice,
        "frequency_penalty": body.frequency_penalty, "presence_penalty": body.presence_penalty,
        "parallel_tool_calls": body.parallel_tool_calls, "verbosity": body.verbosity,
        "reasoning": {"effort": body.reasoning_effort} if body.reasoning_effort else None,
    }  # fmt: skip


def about_the_call(metadata: Object | None, user: str | None) -> Object:
    """What the call's trace keeps of the caller's own words."""
    return {**(metadata or {}), **({"user": user} if user else {})}


def _format(wanted: Object | None) -> Any:
    """Chat Completions keep a schema one level deeper than the Responses API."""
    inner = (wanted or {}).get("json_schema")
    flat = {"type": "json_schema", **inner} if wanted and isinstance(inner, dict) else wanted
    return read_format(flat, "response_format")


async def _chunks(lab: Any, call: ModelCall, head: Object, with_usage: bool) -> AsyncIterator[bytes]:
    calls: dict[int, int] = {}
    """Place of a call among the answer's items to its place among the calls."""

    def chunk(delta: Object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _piece({**head, "object": "chat.completion.chunk", "choices": [choice]})

    async for event in stream(lab, call):
        if event.type == "response.created":
            yield chunk({"role": "assistant", "content": ""})
        elif event.type == "response.output_text.delta":
            yield chunk({"content": event.delta})
        elif event.type in REASONING_DELTAS:
            yield chunk({"reasoning_content": event.delta})
        elif event.type == "response.refusal.delta":
            yield chunk({"refusal": event.delta})
        elif event.type == "response.output_item.added" and event.item.type == "function_call":
            calls[event.output_index] = len(calls)
            function = {"name": event.item.name, "arguments": ""}
            opened = {
                "index": calls[event.output_index],
                "id": event.item.call_id,
                "type": "function",
                "function": function,
            }
            yield chunk({"tool_calls": [opened]})
        elif event.type == "response.function_call_arguments.delta":
            grown = {"index": calls[event.output_index], "function": {"arguments": event.delta}}
            yield chunk({"tool_calls": [grown]})
        elif event.type == "response.completed":
            yield chunk({}, finish_reason(event.response))
            if with_usage:
                counted: Object = {"choices": [], "usage": usage(event.response)}
                yield _piece({**head, "object": "chat.completion.chunk", **counted})
    yield b"data: [DONE]\n\n"


def _piece(value: Object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
