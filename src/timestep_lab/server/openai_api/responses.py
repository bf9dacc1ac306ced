"""The Responses API through the router: one model call, stored so that it can be continued."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from timestep_lab.model.codec import Json, JsonObject, object_of, objects_of
from timestep_lab.model.errors import SettingsError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.runtime.attachments import with_files
from timestep_lab.runtime.stream_items import CUT_SHORT
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.labs import CurrentLab, UserLab
from timestep_lab.server.openai_api.calling import (
    IN_RESPONSES,
    After,
    FunctionType,
    Id,
    Include,
    Limit,
    Object,
    Order,
    beside,
    check_include,
    deleted,
    event_stream,
    events_of,
    merged,
    refuse,
    unsupported,
    window,
)
from timestep_lab.server.openai_api.chat import about_the_call
from timestep_lab.server.openai_api.conversations import Conversations, Item, ResponseRecord, Responses, normal_items
from timestep_lab.service.models import ModelCall, read_format
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/responses")


class FunctionTool(Strict):
    type: FunctionType
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ResponseStreamOptions(Strict):
    include_obfuscation: bool | None = None


class ResponseBody(Strict):
    model: str | None = Field(None, max_length=500)
    input: str | list[JsonObject] = Field([], max_length=1_000_000)
    instructions: str | None = Field(None, max_length=200_000)
    previous_response_id: str | None = Field(None, max_length=200)
    conversation: str | JsonObject | None = None
    stream: bool | None = None
    store: bool | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning: JsonObject | None = None
    text: JsonObject | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    truncation: str | None = None
    stream_options: ResponseStreamOptions | None = None
    background: bool | None = None
    top_logprobs: int | None = None
    prompt: JsonObject | None = None
    # None of these changes the answer; see `calling.py` for which are passed on. `max_tool_calls` limits OpenAI's hosted tools, which do not exist here.
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    max_tool_calls: int | None = None
    prompt_cache_options: JsonObject | None = None
    # These do; they are rejected.
    access_programs: JsonObject | None = None
    background_options: JsonObject | None = None
    context_management: list[JsonObject] | None = None
    image: JsonObject | None = None
    moderation: JsonObject | None = None


UNSUPPORTED = (
    "background", "top_logprobs", "prompt", "access_programs", "background_options", "context_management", "image", "moderation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """A request with its preceding conversation."""

    id: str
    call: ModelCall
    new: list[Item]
    body: ResponseBody
    conversation_id: str | None

    def about(self) -> Object:
        """Response fields that describe the request."""
        conversation = {"id": self.conversation_id} if self.conversation_id else None
        return {
            "id": self.id, "model": self.call.model, "instructions": self.body.instructions, "conversation": conversation,
            "previous_response_id": self.body.previous_response_id, "temperature": self.body.temperature,
            "top_p": self.body.top_p, "max_output_tokens": self.body.max_output_tokens, "metadata": self.body.metadata or {},
            "tools": [tool.model_dump() for tool in self.body.tools or ()], "tool_choice": self.body.tool_choice or "auto",
            "store": self.body.store is not False, "parallel_tool_calls": self.body.parallel_tool_calls is not False,
            "truncation": self.body.truncation or "disabled", "text": self.body.text or {"format": {"type": "text"}},
            "service_tier": self.body.service_tier, "reasoning": self.body.reasoning, "user": self.body.user,
        }  # fmt: skip


@router.post("", response_class=Response)
async def create_response(body: ResponseBody, lab: CurrentLab) -> Response:
    """Create a response. With `stream`, server-sent events. The response is stored (unless `store` is false) before its
    final event is sent.
    """
    turn = await _turn(body, lab)
    if body.stream:
        return await event_stream(_pieces(turn, lab))
    answer: Json = {}
    async for event in _events(turn, lab):
        answer = event.get("response", answer)
    return Response(json.dumps(answer), media_type="application/json")


@router.get(
    "/{response_id}",
    response_model=Object,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def get_response(
    response_id: Id,
    lab: CurrentLab,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1)] = -1,
    include: Include = None,
    include_obfuscation: bool = False,
) -> Object | StreamingResponse:
    """A stored response. With `stream`, its events after the sequence number `starting_after`. `include_obfuscation` has
    no effect: it is padding.
    """
    answer = dict((await in_thread(Responses(lab.store).table.get, response_id)).response)
    check_include(include, str(answer.get("model")))
    return await event_stream(_events_after(answer, starting_after)) if stream else answer


@router.post("/{response_id}/cancel", response_model=Object)
async def cancel_response(response_id: Id, lab: CurrentLab) -> Object:
    """Cancel a background response. Always an error, since there are none here."""
    await in_thread(Responses(lab.store).table.get, response_id)
    raise UsageError(
        f"The response {response_id} is complete; only background responses can be cancelled.",
        "Close the stream of a response to stop it.",
        param="response_id",
    )


@router.delete("/{response_id}", response_model=Object)
async def delete_response(response_id: Id, lab: CurrentLab) -> Object:
    """Delete a response. Later responses of its chain can no longer be continued."""
    await in_thread(Responses(lab.store).table.delete, response_id)
    return deleted(response_id, "response")


@router.get("/{response_id}/input_items", response_model=Object)
async def list_input_items(
    response_id: Id,
    lab: CurrentLab,
    limit: Limit = 20,
    after: After = None,
    order: Order = "desc",
    include: Include = None,
) -> Object:
    record = await in_thread(Responses(lab.store).table.get, response_id)
    check_include(include, str(record.response.get("model")))
    return window(record.input, after=after, limit=limit, order=order)


async def _turn(body: ResponseBody, lab: UserLab) -> Turn:
    responses = Responses(lab.store)
    new = await in_thread(normal_items, body.input, responses.items) if body.input != "" else []
    named = body.conversation.get("id") if isinstance(body.conversation, dict) else body.conversation
    if not isinstance(named, str | None) or (named is None and body.conversation is not None):
        raise UsageError("The conversation has no id that is a string.", "Pass its id.", param="conversation")
    conversation_id = named
    before: Sequence[Item] = ()
    if conversation_id is not None and body.previous_response_id is not None:
        raise UsageError("previous_response_id and conversation cannot be combined.", "Omit one of them.")
    if conversation_id is not None:
        before = await in_thread(Conversations(lab.store).items, conversation_id)
    elif body.previous_response_id is not None:
        before = await in_thread(responses.history, body.previous_response_id)
    if not new and not before:
        raise UsageError("The input is empty.", "Pass a non-empty input.", param="input")
    before = await with_files(lab.files, before, deleted_too=True)
    model = lab.router.resolve(body.model).full
    refuse({name: getattr(body, name) for name in UNSUPPORTED}, model)
    instructions, items = split_instructions([*before, *new])
    if unknown := sorted(set(body.text or {}) - {"format", "verbosity"}):
        raise unsupported(f"text.{unknown[0]}", model)
    elsewhere = lab.settings.openai_elsewhere
    wanted = (body.text or {}).get("format")
    if wanted is not None and not isinstance(wanted, Mapping):
        raise UsageError("text.format is not an object.", 'Pass for example {"type": "text"}.', param="text.format")
    call = ModelCall(
        model=model, input=items, instructions="\n\n".join([*([body.instructions] if body.instructions else []), *instructions]) or None,
        settings=merged(_settings(body), beside(body.model_dump(), model, openai_elsewhere=elsewhere), _of_responses(body, model, elsewhere)),
        functions=[tool.model_dump() for tool in body.tools or ()], format=read_format(wanted, "text.format"),
        metadata=about_the_call(body.metadata, body.user), workflow="responses",
    )  # fmt: skip
    return Turn(new_id("response"), call, new, body, conversation_id)


def split_instructions(items: list[Item]) -> tuple[list[str], list[Item]]:
    """System and developer messages as instructions, which every provider supports; and the other items, in the
    runner's format.
    """
    instructions: list[str] = []
    rest: list[Item] = []
    for item in items:
        if item["type"] == "message" and item["role"] in ("system", "developer"):
            content: Any = item["content"]
            instructions.append("".join(str(part.get("text", "")) for part in content))
        elif item["type"] == "message" and item["role"] == "user":
            rest.append({"role": "user", "content": item["content"]})
        else:
            rest.append(dict(item))
    return instructions, rest


def _of_responses(body: ResponseBody, model: str, openai_elsewhere: bool) -> Object:
    """Settings that only OpenAI's own Responses API supports. Raises `UsageError` if they are needed for another
    provider.
    """
    openai = model.startswith("openai/") and not openai_elsewhere
    if body.truncation not in (None, "disabled") and not openai:
        raise unsupported("truncation", model)
    check_include(body.include, model)
    if not openai:
        return {}
    return {"truncation": body.truncation, "response_include": body.include or None}


def _settings(body: ResponseBody) -> Object:
    choice: Json = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            raise SettingsError(f"Unknown tool choice {choice!r}.", "Use the name of a function.", param="tool_choice")
        choice = choice["name"]
    return {
        "temperature": body.temperature, "top_p": body.top_p, "max_tokens": body.max_output_tokens, "tool_choice": choice,
        "parallel_tool_calls": body.parallel_tool_calls, "reasoning": body.reasoning,
        "verbosity": (body.text or {}).get("verbosity"),
    }  # fmt: skip


async def _events(turn: Turn, lab: UserLab) -> AsyncIterator[Object]:
    async for event in events_of(lab, turn.call, IN_RESPONSES):
        plain: Object = event.model_dump(mode="json", exclude_none=True)
        answer: Object = {}
        if "response" in plain:
            answer = plain["response"] = {**object_of(plain["response"]), **turn.about()}
        if event.type == "response.completed":
            _cut_off(answer, event.response.metadata)
            record = ResponseRecord(
                id=turn.id, user_id=lab.store.user_id, previous_id=turn.body.previous_response_id,
                conversation_id=turn.conversation_id, input=tuple(turn.new), output=tuple(objects_of(answer["output"])), response=answer,
            )  # fmt: skip
            await in_thread(Responses(lab.store).keep, record, store=turn.body.store is not False)
        yield plain


def _cut_off(answer: Object, metadata: Mapping[str, str] | None) -> None:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    stopped = (metadata or {}).get("stop_reason", "")
    if stopped in CUT_SHORT:
        details: Json = {"reason": reasons[stopped]} if stopped in reasons else None
        answer |= {"status": "incomplete", "incomplete_details": details}


async def _events_after(answer: Object, after: int) -> AsyncIterator[bytes]:
    """The events of a stored response, with each part as a single delta."""
    begun = {**answer, "output": [], "status": "in_progress", "usage": None, "incomplete_details": None}
    events: list[Object] = [
        {"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun},
    ]  # fmt: skip
    for index, item in enumerate(objects_of(answer["output"])):
        at: Object = {"output_index": index, "item_id": item["id"]}
        empty: Object = {name: [] if name in ("content", "summary") else value for name, value in item.items()}
        if item["type"] == "function_call":
            empty["arguments"] = ""
        events.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        for place, part in enumerate(objects_of(item.get("content")) if item["type"] == "message" else ()):
            kind = "refusal" if part["type"] == "refusal" else "output_text"
            word = "refusal" if kind == "refusal" else "text"
            at_part = {**at, "content_index": place}
            logprobs: Object = {"logprobs": []} if kind == "output_text" else {}
            events += [
                {"type": "response.content_part.added", **at_part, "part": {**part, word: ""}},
                {"type": f"response.{kind}.delta", **at_part, "delta": part[word], **logprobs},
                {"type": f"response.{kind}.done", **at_part, word: part[word], **logprobs},
                {"type": "response.content_part.done", **at_part, "part": part},
            ]
        for place, part in enumerate(objects_of(item.get("summary")) if item["type"] == "reasoning" else ()):
            at_part = {**at, "summary_index": place}
            events += [
                {"type": "response.reasoning_summary_part.added", **at_part, "part": {**part, "text": ""}},
                {"type": "response.reasoning_summary_text.delta", **at_part, "delta": part["text"]},
                {"type": "response.reasoning_summary_text.done", **at_part, "text": part["text"]},
                {"type": "response.reasoning_summary_part.done", **at_part, "part": part},
            ]
        if item["type"] == "function_call":
            events += [
                {"type": "response.function_call_arguments.delta", **at, "delta": item["arguments"]},
                {
                    "type": "response.function_call_arguments.done",
                    **at,
                    "arguments": item["arguments"],
                    "name": item["name"],
                },
            ]
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{answer['status']}", "response": answer})
    for number, event in enumerate(events):
        if number > after:
            yield _sse({**event, "sequence_number": number})


async def _pieces(turn: Turn, lab: UserLab) -> AsyncIterator[bytes]:
    async for event in _events(turn, lab):
        kind = event["type"]
        if kind == "response.completed" and object_of(event["response"])["status"] == "incomplete":
            kind = event["type"] = "response.incomplete"
        yield _sse(event)


def _sse(event: Object) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
