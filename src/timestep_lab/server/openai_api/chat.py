"""Chat Completions, and legacy Completions, through the router."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from timestep_lab.model.codec import Json, JsonObject, list_of, object_of
from timestep_lab.model.errors import SettingsError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.runtime.attachments import generated_image, image_call
from timestep_lab.runtime.stream_items import ANY_MODEL, CALL_EXTRAS, MESSAGE_EXTRAS, reasoning_text
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.labs import CurrentLab, UserLab
from timestep_lab.server.openai_api.calling import (
    OF_CHAT,
    TEXT_ONLY,
    FunctionType,
    Object,
    beside,
    content_of,
    event_stream,
    events_of,
    merged,
    passed_on,
    refuse,
    whole,
)
from timestep_lab.server.openai_api.conversations import Item
from timestep_lab.service.models import ModelCall, read_format

if TYPE_CHECKING:
    from openai.types.responses import Response as ModelResponse
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputItem

router = APIRouter()


def _piece(value: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


# --- Conversion between Chat Completions messages and Responses items. https://platform.openai.com/docs/api-reference/chat


FINISH = {"length": "length", "incomplete": "length", "content_filter": "content_filter"}
"""OpenAI has no finish reason for an incomplete stream; `length` is the closest that says that the answer is not
complete.
"""


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Item]]:
    """Instructions (system and developer messages) and items. Raises `UsageError` identifying an invalid message."""
    instructions: list[str] = []
    items: list[Item] = []
    for place, message in enumerate(messages):
        role, content = (
            message.get("role"),
            content_of(message.get("content"), f"Message {place}", f"messages[{place}]"),
        )
        if role in ("system", "developer"):
            instructions.append(_only_text(content, place))
        elif role == "user":
            items.append({"role": "user", "content": _parts(content, place), **_name_of(message, place)})
        elif role == "assistant":
            items += _assistant({**message, "content": content}, place)
        elif role == "tool":
            if not _is_name(message.get("tool_call_id")):
                raise _unreadable(place, "a tool message needs the tool_call_id of its call")
            # As a string if possible, which every provider accepts.
            plain = isinstance(content, str) or all(part.get("type") == "text" for part in content or ())
            output: Json = _only_text(content, place) if plain else _parts(content, place)
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": output})
        else:
            raise _unreadable(place, f"the role {role!r} is not known")
    return "\n\n".join(instructions) or None, items


def _assistant(message: Mapping[str, Any], place: int) -> list[Item]:
    """The items of an assistant message. Each has an id, which distinguishes it from a user message in the Responses
    API.
    """
    if not isinstance(message.get("tool_calls"), list | None):
        raise _unreadable(place, "its tool_calls are not a list")
    for name in ("function_call", "audio"):
        if message.get(name):
            raise _unreadable(place, f"its {name} is not supported (calls are in tool_calls)")
    parts: list[Json] = []
    content = message.get("content")
    if text := _only_text(content, place, "refusal", "thinking"):
        parts.append({"type": "output_text", "text": text, "annotations": []})
    refusals = (
        [part.get("refusal") for part in content if part["type"] == "refusal"] if isinstance(content, list) else []
    )
    for refusal in filter(None, [message.get("refusal"), *refusals]):
        if not isinstance(refusal, str):
            raise _unreadable(place, "a refusal of it is not a string")
        parts.append({"type": "refusal", "refusal": refusal})
    items: list[Item] = _thoughts(message)
    if parts:
        items.append(
            {
                "id": new_id("message"),
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": parts,
                **_name_of(message, place),
            }
        )
    images = message.get("images") or []
    for image in images if isinstance(images, list) else [images]:
        given = image.get("image_url") if isinstance(image, Mapping) else None
        address = given.get("url") if isinstance(given, Mapping) else given
        if (fields := image_call(str(address))) is None:
            raise _unreadable(place, "an image of it is no data: URL in image_url.url")
        items.append(fields)
    for call in map(object_of, list_of(message.get("tool_calls"))):
        function = object_of(call.get("function"))
        if not _is_name(call.get("id")) or not _is_name(function.get("name")):
            raise _unreadable(place, "a tool call has no id or no function")
        arguments = function.get("arguments") or "{}"
        provider_data = {
            name: source[name]
            for source, names in ((call, CALL_EXTRAS), (message, MESSAGE_EXTRAS))
            for name in names
            if source.get(name)
        }
        items.append(
            {
                **({"provider_data": {"model": ANY_MODEL, **provider_data}} if provider_data else {}),
                "id": new_id("function_call"), "type": "function_call", "call_id": call["id"], "name": function["name"],
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
            }
        )  # fmt: skip
    return items


def _thoughts(message: Mapping[str, object]) -> list[Item]:
    """The model's reasoning, in the format in which servers send it and clients send it back."""
    content = message.get("content")
    parts = [part for part in content if part.get("type") == "thinking"] if isinstance(content, list) else []
    in_parts = "".join(_text(part.get("thinking")) for part in parts)
    for field, thought in (
        ("reasoning_content", message.get("reasoning_content")), ("reasoning", message.get("reasoning")), ("thinking", in_parts),
    ):  # fmt: skip
        if isinstance(thought, str) and thought:
            return [
                {
                    "id": new_id("reasoning"), "type": "reasoning", "summary": [{"type": "summary_text", "text": thought}],
                    "provider_data": {"model": ANY_MODEL, "field": field},
                }
            ]  # fmt: skip
    return []


def _name_of(message: Mapping[str, object], place: int) -> Item:
    """The name of a participant, which Chat Completions servers are told."""
    name = message.get("name") or None
    if not isinstance(name, str | None):
        raise _unreadable(place, "its name is not a string")
    return {"name": name} if name else {}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _only_text(content: str | list[Mapping[str, Json]] | None, place: int, *others: str) -> str:
    """The text of content whose parts are texts. Raises `UsageError` for a part of another type that is not in `others`."""
    for part in content if isinstance(content, list) else ():
        if part.get("type") not in ("text", *others):
            raise _unreadable(place, f"a part of type {part.get('type')!r} is not known here")
        if part["type"] == "text":
            _checked_text(part, place)
    return _text(content)


def _checked_text(part: Mapping[str, Json], place: int) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise _unreadable(place, "the text of a part is not a string")
    return text


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())


def _parts(content: Any, place: int) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    return [_part(part, place) for part in content or ()]


def _part(part: Mapping[str, Any], place: int) -> Json:
    kind = part.get("type")
    if kind == "text":
        return {"type": "input_text", "text": _checked_text(part, place), **_breakpoint(part)}
    if kind == "image_url":
        given = part.get("image_url")
        image: Mapping[str, Json] = {"url": given} if isinstance(given, str) else object_of(given)
        if not isinstance(image.get("url"), str):
            raise _unreadable(place, "an image has no url")
        detail = image.get("detail") or "auto"
        return {"type": "input_image", "image_url": image["url"], "detail": detail, **_breakpoint(part)}
    if kind == "file":
        file = object_of(part.get("file"))
        if not any(isinstance(file.get(name), str) for name in ("file_id", "file_data")):
            raise _unreadable(place, "a file has no file_id and no file_data")
        return {"type": "input_file", **file}
    raise _unreadable(place, f"a part of type {kind!r} is not known")


def _breakpoint(part: Mapping[str, Json]) -> dict[str, Json]:
    name = "prompt_cache_breakpoint"
    return {name: part[name]} if part.get(name) else {}


def _unreadable(place: int, why: str) -> UsageError:
    return UsageError(f"Message {place} is invalid: {why}.", "See the API reference.", param=f"messages[{place}]")


def answer_message(output: Sequence[ResponseOutputItem]) -> dict[str, Json]:
    """A Chat Completions message from the output items of a Responses response."""
    texts = [
        part.text for item in output if item.type == "message" for part in item.content if part.type == "output_text"
    ]
    refusals = [
        part.refusal for item in output if item.type == "message" for part in item.content if part.type == "refusal"
    ]
    calls = [tool_call(item) for item in output if item.type == "function_call"]
    thoughts = [reasoning_text(item) for item in output if item.type == "reasoning"]
    message: dict[str, Json] = {
        "role": "assistant", "content": "".join(texts) if texts else None, "refusal": "".join(refusals) or None,
    }  # fmt: skip
    if thought := "\n\n".join(filter(None, thoughts)):
        message["reasoning_content"] = thought
    if images := [image for item in output for image in _images(item)]:
        message["images"] = images
    for name in MESSAGE_EXTRAS:
        if extras := [one for item in output for one in fields_to_return(item).get(name) or ()]:
            message[name] = extras
    return {**message, "tool_calls": calls} if calls else message


def _images(item: ResponseOutputItem) -> list[dict[str, Json]]:
    """The image that an item is, if it is one, in the form of OpenRouter and LiteLLM; OpenAI's Chat Completions has none."""
    if item.type != "image_generation_call" or (image := generated_image(item.model_dump())) is None:
        return []
    return [{"type": "image_url", "image_url": {"url": image["image_url"]}}]


def tool_call(item: ResponseFunctionToolCall) -> dict[str, Json]:
    call: dict[str, Json] = {
        "id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments or ""},
    }  # fmt: skip
    return {**call, **{name: extra for name, extra in fields_to_return(item).items() if name in CALL_EXTRAS}}


def fields_to_return(item: ResponseOutputItem) -> Mapping[str, Any]:
    """Fields of a call that the model's server needs to get back (such as thought signatures)."""
    provider_data: Mapping[str, Any] = getattr(item, "provider_data", None) or {}
    return provider_data if item.type == "function_call" else {}


def finish_reason(response: ModelResponse) -> str:
    reason = (response.metadata or {}).get("stop_reason", "stop")
    has_calls = any(item.type == "function_call" for item in response.output)
    return FINISH.get(reason, "tool_calls" if has_calls else "stop")


class Usage(TypedDict):
    """Token counts in the form of Chat Completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


def usage(response: ModelResponse) -> Usage | None:
    """Token usage; None if the provider did not report it."""
    used = response.usage
    if used is None:
        return None
    return {
        "prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens, "total_tokens": used.total_tokens,
        "prompt_tokens_details": {"cached_tokens": used.input_tokens_details.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": used.output_tokens_details.reasoning_tokens or 0},
    }  # fmt: skip


class Function(Strict):
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Strict):
    type: FunctionType
    function: Function


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatBody(Strict):
    model: str | None = Field(None, max_length=500)
    messages: list[JsonObject] = Field(min_length=1, max_length=10_000)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    response_format: JsonObject | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: JsonObject | None = None
    web_search_options: JsonObject | None = None
    # None of these changes the answer; see `calling.py` for which are passed on.
    store: bool | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonObject | None = None
    prediction: JsonObject | None = None
    # These do; they are rejected.
    moderation: JsonObject | None = None
    functions: list[JsonObject] | None = None
    function_call: str | JsonObject | None = None


UNSUPPORTED = ("logprobs", "top_logprobs", "audio", "moderation", "functions", "function_call")


@router.post("/chat/completions", response_class=Response)
async def create_completion(body: ChatBody, lab: CurrentLab) -> Response:
    """Create a chat completion. With `stream`, server-sent events that end with `data: [DONE]`."""
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
    refuse({name: getattr(body, name) for name in UNSUPPORTED}, model)
    refuse({"n": body.n}, model, neutral=(None, 1))
    refuse({"modalities": body.modalities}, model, neutral=TEXT_ONLY)
    refuse({"web_search_options": body.web_search_options}, model, neutral=(None,))
    more = merged(
        passed_on({name: getattr(body, name) for name in OF_CHAT}, model, openai_elsewhere=openai_elsewhere),
        beside(body.model_dump(), model, openai_elsewhere=openai_elsewhere),
    )
    instructions, items = read_messages(body.messages)
    if not items:
        raise UsageError("There is no user message to answer.", "Add one.", param="messages")
    return ModelCall(
        model=model, input=items, instructions=instructions, settings={**_settings(body), **more},
        functions=[tool.function.model_dump() for tool in body.tools or ()], format=_format(body.response_format),
        metadata=about_the_call(body.metadata, body.user), workflow="chat.completions",
    )  # fmt: skip


def _settings(body: ChatBody) -> Object:
    choice: Json = body.tool_choice
    if isinstance(choice, dict):
        choice = object_of(choice.get("function")).get("name")
        if not isinstance(choice, str):
            raise SettingsError(f"The tool choice {body.tool_choice!r} does not name a function.", param="tool_choice")
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return {
        "temperature": body.temperature, "top_p": body.top_p, "max_tokens": limit, "tool_choice": choice,
        "frequency_penalty": body.frequency_penalty, "presence_penalty": body.presence_penalty,
        "parallel_tool_calls": body.parallel_tool_calls, "verbosity": body.verbosity,
        "reasoning": {"effort": body.reasoning_effort} if body.reasoning_effort else None,
    }  # fmt: skip


def about_the_call(metadata: Mapping[str, Json] | None, user: str | None) -> Object:
    """Metadata from the caller that is recorded with the call's trace."""
    return {**(metadata or {}), **({"user": user} if user else {})}


def _format(wanted: Object | None) -> Mapping[str, Json] | None:
    """The response format for the Responses API; in Chat Completions, the schema is nested one level deeper."""
    inner = (wanted or {}).get("json_schema")
    flat = {"type": "json_schema", **inner} if wanted and isinstance(inner, dict) else wanted
    return read_format(flat, "response_format")


async def _chunks(lab: UserLab, call: ModelCall, head: Object, with_usage: bool) -> AsyncIterator[bytes]:
    calls: dict[int, int] = {}
    """Index of a call among the output items to its index among the tool calls."""

    def chunk(delta: Mapping[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _piece({**head, "object": "chat.completion.chunk", "choices": [choice]})

    async for event in events_of(lab, call):
        if event.type == "response.created":
            yield chunk({"role": "assistant", "content": ""})
        elif event.type == "response.output_text.delta":
            yield chunk({"content": event.delta})
        elif event.type == "response.reasoning_summary_text.delta" or event.type == "response.reasoning_text.delta":
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
        elif event.type == "response.output_item.done" and (provider_data := fields_to_return(event.item)):
            if extra := {name: provider_data[name] for name in CALL_EXTRAS if name in provider_data}:
                yield chunk({"tool_calls": [{"index": calls[event.output_index], **extra}]})
            if extra := {name: provider_data[name] for name in MESSAGE_EXTRAS if name in provider_data}:
                yield chunk(extra)
        elif event.type == "response.output_item.done" and (images := _images(event.item)):
            yield chunk({"images": images})
        elif event.type == "response.completed":
            yield chunk({}, finish_reason(event.response))
            if with_usage:
                yield _piece({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage(event.response)})
    yield b"data: [DONE]\n\n"


# --- Legacy Completions: the prompt is sent as a user message


class CompletionBody(Strict):
    model: str | None = Field(None, max_length=500)
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=100)]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None


@router.post("/completions", response_class=Response)
async def create_text_completion(body: CompletionBody, lab: CurrentLab) -> Response:
    """Create completions, one choice per prompt. With `stream`, server-sent events that end with `data: [DONE]`."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("A prompt is empty.", "Use a non-empty text.", param="prompt")
    model = lab.router.resolve(body.model).full
    calls = [
        _completions_call(body, prompt, model, openai_elsewhere=lab.settings.openai_elsewhere) for prompt in prompts
    ]
    head: Object = {
        "id": f"cmpl-{new_id('response')}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await event_stream(_completions_chunks(lab, calls, head, with_usage))
    choices, counted = [], []
    for index, call in enumerate(calls):
        response = await whole(lab, call)
        text = answer_message(response.output)["content"] or ""
        choices.append(_choice(index, text, finish_reason(response)))
        counted.append(usage(response))
    return Response(json.dumps({**head, "choices": choices, "usage": _total(counted)}), media_type="application/json")


def _completions_call(body: CompletionBody, prompt: str, model: str, *, openai_elsewhere: bool) -> ModelCall:
    refuse({"suffix": body.suffix, "echo": body.echo, "logprobs": body.logprobs}, model, neutral=(None, "", False))
    refuse({"n": body.n, "best_of": body.best_of}, model, neutral=(None, 1))
    settings = {
        "temperature": body.temperature, "top_p": body.top_p, "max_tokens": body.max_tokens,
        "frequency_penalty": body.frequency_penalty, "presence_penalty": body.presence_penalty,
    }  # fmt: skip
    more = merged(
        passed_on({name: getattr(body, name) for name in OF_CHAT}, model, openai_elsewhere=openai_elsewhere),
        beside({"user": body.user}, model, openai_elsewhere=openai_elsewhere),
    )
    content = [{"type": "input_text", "text": prompt}]
    return ModelCall(
        model=model, input=[{"role": "user", "content": content}], settings={**settings, **more}, workflow="completions",
        metadata=about_the_call(None, body.user),
    )  # fmt: skip


async def _completions_chunks(
    lab: UserLab, calls: list[ModelCall], head: Object, with_usage: bool
) -> AsyncIterator[bytes]:
    counted = []
    for index, call in enumerate(calls):
        async for event in events_of(lab, call):
            if event.type == "response.output_text.delta" or event.type == "response.refusal.delta":
                yield _piece({**head, "choices": [_choice(index, event.delta, None)]})
            elif event.type == "response.completed":
                yield _piece({**head, "choices": [_choice(index, "", finish_reason(event.response))]})
                counted.append(usage(event.response))
    if with_usage:
        yield _piece({**head, "choices": [], "usage": _total(counted)})
    yield b"data: [DONE]\n\n"


def _choice(index: int, text: Json, finish: str | None) -> Object:
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}


def _total(counted: list[Usage | None]) -> dict[str, int] | None:
    """Total usage; None if a provider did not report it."""
    known = [one for one in counted if one is not None]
    if len(known) != len(counted):
        return None
    return {
        "prompt_tokens": sum(one["prompt_tokens"] for one in known),
        "completion_tokens": sum(one["completion_tokens"] for one in known),
        "total_tokens": sum(one["total_tokens"] for one in known),
    }
