"""Adapter for Anthropic's Messages API, streamed with the official client."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict, cast

from agents.items import TResponseStreamEvent

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, SettingsError, UsageError
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import (
    NAMELESS,
    AdapterModel,
    CallIds,
    Content,
    InputItem,
    ModelRequest,
    items_of,
    parts_of,
    plain_object,
    set_aside_note,
    text_of,
)
from timestep_lab.runtime.adapters.chat_calls import as_object
from timestep_lab.runtime.emitter import Emitter, Events
from timestep_lab.runtime.provider_errors import is_lost_connection
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.stream_items import arguments_object

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.types import (
        MessageDeltaUsage,
        RawContentBlockDeltaEvent,
        RawContentBlockStartEvent,
        RawContentBlockStopEvent,
        RawMessageDeltaEvent,
        RawMessageStartEvent,
        RawMessageStreamEvent,
    )
    from anthropic.types import Usage as MessageUsage
    from anthropic.types.raw_content_block_start_event import ContentBlock
    from openai.types.responses import ResponseFunctionToolCall


# --- Conversion of the SDK's items to an Anthropic Messages request. <https://docs.claude.com/en/api/messages>
#
# Consecutive blocks of one role are merged: parallel calls stay in one assistant turn and their results in one user turn, as the API
# requires. Reasoning is sent back unchanged, with its signature, to the model that produced it; so are results of tools that Anthropic
# executed itself.


BLOCKS: Final = "anthropic_blocks"
"""Key of a reasoning item's provider data: thinking, calls of Anthropic's own tools with their results, and unknown blocks."""

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
_ADAPTIVE_SINCE = (4, 6)
"""Models from this version on choose their thinking budget themselves; older ones require one.
<https://docs.claude.com/en/docs/build-with-claude/adaptive-thinking>"""
_NO_SAMPLING_SINCE = (4, 7)
"""<https://docs.claude.com/en/docs/about-claude/models/migration-guide>"""
_ROOM_FOR_THE_ANSWER = 4096
_CACHE: dict[str, Json] = {"cache_control": {"type": "ephemeral"}}


class _Message(TypedDict):
    role: str
    content: list[dict[str, Json]]


def message_request(model: str, request: ModelRequest) -> dict[str, Any]:
    """Returns arguments for `client.messages.create`. Raises `SettingsError` for settings that exclude each other."""
    settings = request.settings
    system, messages = conversation(model, request)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": settings.max_tokens or _usual_limit(model),
    }
    if system:
        # Caching covers everything up to a marker: one after the system text, one after the last tool.
        body["system"] = [*system[:-1], {**system[-1], **_CACHE}]
    if request.functions:
        body["tools"] = _tools(request)
        if (choice := _tool_choice(request)) is not None:
            body["tool_choice"] = choice
    output: dict[str, object] = {}
    if request.effort is not None:
        _thinking(model, request, body, output)
    if request.any_json:
        raise SettingsError(
            f"anthropic/{model} does not support an unspecified JSON object.",
            "Pass a schema (response_format json_schema).",
            param="response_format",
            code=UNSUPPORTED_PARAMETER,
        )
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    if output:
        body["output_config"] = output
    # Parameters of the API that the client lacks.
    sampling = _sampling(model, request, thinks=body.get("thinking", {}).get("type") not in (None, "disabled"))
    extra_body = {**sampling, **dict(settings.extra_body or {})}  # type: ignore[call-overload]
    for name, value in (
        ("extra_body", extra_body),
        ("extra_headers", settings.extra_headers),
        ("extra_query", settings.extra_query),
    ):
        if value:
            body[name] = value
    return {**body, **(settings.extra_args or {})}


def set_aside(model: str, request: ModelRequest) -> list[str]:
    """Returns the names of settings that can be omitted because the model behaves so anyway.

    Temperature 0 asks for the most deterministic answers. Models from 4.7 on have no temperature, and reasoning requires 1, so 0 is omitted
    (and reported in the response), while any other value is rejected.
    """
    unsteerable = _version(model) >= _NO_SAMPLING_SINCE or request.effort not in (None, "none")
    return ["temperature"] if unsteerable and request.settings.temperature == 0 else []


def _sampling(model: str, request: ModelRequest, *, thinks: bool) -> dict[str, float]:
    settings, left_out = request.settings, set_aside(model, request)
    given = {name: value for name in ("temperature", "top_p") if (value := getattr(settings, name)) is not None}
    given = {name: value for name, value in given.items() if name not in left_out}
    if given and (thinks or _version(model) >= _NO_SAMPLING_SINCE):
        why = "while it reasons" if _version(model) < _NO_SAMPLING_SINCE else "at all"
        name = next(iter(given))
        raise SettingsError(
            f"anthropic/{model} does not take {' and '.join(given)} {why}.",
            "Remove it.",
            param=f"model_settings.{name}",
            code=UNSUPPORTED_PARAMETER,
        )
    return given


def conversation(model: str, request: ModelRequest) -> tuple[list[dict[str, Json]], list[_Message]]:
    """Returns (system blocks, messages)."""
    system: list[dict[str, Json]] = [{"type": "text", "text": request.instructions}] if request.instructions else []
    messages: list[_Message] = []

    def add(role: str, block: dict[str, Json]) -> None:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].append(block)
        else:
            messages.append({"role": role, "content": [block]})

    ids = CallIds(r"[a-zA-Z0-9_-]{1,64}", lambda digits: f"call_{digits[:24]}")
    for kind, item in items_of(request.input):
        if kind == "message" and item["role"] in ("system", "developer"):
            system.append({"type": "text", "text": text_of(item["content"])})
        elif kind == "message":
            for part in parts_of(item["content"]):
                if (block := _block(part)) is not None:
                    add("assistant" if item["role"] == "assistant" else "user", block)
        elif kind == "reasoning":
            provider_data = item.get("provider_data") or {}
            for block in provider_data.get(BLOCKS, ()) if provider_data.get("model") == model else ():
                add("assistant", dict(block))
        elif kind == "function_call":
            arguments = arguments_object(item.get("arguments") or "{}")
            add(
                "assistant",
                {"type": "tool_use", "id": ids.of_call(item["call_id"]), "name": item["name"], "input": arguments},
            )
        elif kind == "function_call_output":
            answered = ids.of_answer(item["call_id"])
            add("user", {"type": "tool_result", "tool_use_id": answered, "content": _result(item.get("output"))})
        else:
            raise UsageError(f"anthropic/{model} does not support items of type {kind!r}.", "Start a new thread.")
    return system, _without_unfinished_steps(messages)


_THOUGHT = ("thinking", "redacted_thinking")


def _without_unfinished_steps(messages: list[_Message]) -> list[_Message]:
    """Removes calls of Anthropic's own tools that were cut off before their result, because the API would reject the whole thread. An answer
    at the end, which is to be continued, keeps them."""
    paused = messages.pop() if messages and messages[-1]["role"] == "assistant" else None
    finished = {block.get("tool_use_id") for message in messages for block in message["content"]}

    def whole(block: Mapping[str, object]) -> bool:
        return block["type"] not in ("server_tool_use", "mcp_tool_use") or block.get("id") in finished

    trimmed: list[_Message] = [
        {**message, "content": [block for block in message["content"] if whole(block)]} for message in messages
    ]
    # The API rejects a thread with an answer that is only reasoning, as of a model that reached its limit while it reasoned.
    kept = [message for message in trimmed if any(block["type"] not in _THOUGHT for block in message["content"])]
    if paused and (last := paused["content"][-1])["type"] == "text":
        last["text"] = str(last["text"]).rstrip()  # The API rejects white space at the end.
    return [*kept, paused] if paused else kept


def _block(part: Mapping[str, Json]) -> dict[str, Json] | None:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "refusal"):
        text = str(part.get("text") or part.get("refusal") or "")
        return {"type": "text", "text": text} if text.strip() else None  # The API rejects blank text.
    if kind == "input_image" and part.get("image_url"):
        return {"type": "image", "source": _source(str(part["image_url"]))}
    if kind == "input_file" and (address := part.get("file_data") or part.get("file_url")):
        named = {"title": part["filename"]} if part.get("filename") else {}
        return {"type": "document", "source": _source(str(address)), **named}
    raise UsageError(
        f"anthropic/ does not support content of type {kind!r} without its data or URL.",
        "Send text, an image or a PDF.",
    )


def _source(address: str) -> dict[str, str]:
    if not address.startswith("data:"):
        return {"type": "url", "url": address}
    head, _, data = address.partition(",")
    return {"type": "base64", "media_type": head[5:].split(";")[0], "data": data}


def _result(output: Content | None) -> str | list[dict[str, Json]]:
    if isinstance(output, str):
        return output
    return [block for part in parts_of(output) if (block := _block(part)) is not None]


def _tools(request: ModelRequest) -> list[dict[str, Json]]:
    tools: list[dict[str, Json]] = [
        {"name": spec.name, "description": spec.description, "input_schema": dict(spec.parameters)}
        for spec in map(plain_object, request.functions)
    ]
    tools[-1].update(_CACHE)
    return tools


def _tool_choice(request: ModelRequest) -> dict[str, object] | None:
    choice, parallel = request.settings.tool_choice, request.settings.parallel_tool_calls
    if choice is None and parallel is None:
        return None
    known = {None: "auto", "auto": "auto", "required": "any", "none": "none"}
    tool_choice: dict[str, object] = (
        {"type": known[choice]} if choice is None or choice in known else {"type": "tool", "name": choice}
    )
    if parallel is False and tool_choice["type"] != "none":
        tool_choice["disable_parallel_tool_use"] = True
    return tool_choice


def _thinking(model: str, request: ModelRequest, body: dict[str, Any], output: dict[str, object]) -> None:
    effort = str(request.effort)
    adaptive = _version(model) >= _ADAPTIVE_SINCE
    if effort == "none":
        if adaptive:
            body["thinking"] = {"type": "disabled"}
        return
    if request.settings.tool_choice not in (None, "auto", "none"):
        raise SettingsError(
            f"anthropic/{model} does not support a forced tool call while reasoning.",
            'Set tool_choice to "auto", or reasoning to {"effort": "none"}.',
            param="model_settings.tool_choice",
            code=UNSUPPORTED_PARAMETER,
        )
    if adaptive:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
        output["effort"] = "low" if effort == "minimal" else effort
        return
    budget = _BUDGETS[effort]
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    # max_tokens includes the budget and must exceed it.
    body["max_tokens"] = max(body["max_tokens"], budget + _ROOM_FOR_THE_ANSWER)


def _version(model: str) -> tuple[int, int]:
    """Parses the version of `claude-sonnet-4-6` or `claude-3-7-sonnet-20250219`; (0, 0) for a name without one."""
    numbers = [int(part) for part in re.split(r"[-.@]", model) if re.fullmatch(r"\d{1,2}", part)]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers and "claude" in model else (0, 0)


def _usual_limit(model: str) -> int:
    """Returns the default max_tokens, which the API requires. Models before 3.5 have a maximum of 4096."""
    return 4096 if (3, 0) <= _version(model) < (3, 5) else 8192


_STOP_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "refusal": "refusal", "sensitive": "content_filter",
}  # fmt: skip
DECLINED = "The model declined to answer."
_CONTINUED_AT_MOST = 20
"""Requests for one answer that the API pauses again and again."""
_LOST = "lost"
"""Id of a block whose start event was missing."""


class AnthropicModel(AdapterModel):
    takes_files: ClassVar[frozenset[str]] = frozenset({"application/pdf"})
    takes: ClassVar[frozenset[str]] = frozenset(
        {
            "temperature", "top_p", "max_tokens", "tool_choice", "parallel_tool_calls", "reasoning", "extra_query",
            "extra_body", "extra_headers", "extra_args",
        }
    )  # fmt: skip

    takes_of_reasoning: ClassVar[frozenset[str]] = frozenset({"effort", "summary"})
    """Thinking is always summarized, so `summary` has no effect."""

    def __init__(self, model: str, client: PerLoop[AsyncAnthropic]) -> None:
        super().__init__(model, "anthropic")
        self._client = client

    async def prepare(self) -> None:
        await self._client.prepare()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        usage, so_far, blocks, container = Usage(), request, list[dict[str, Any]](), dict[str, str]()
        for _ in range(_CONTINUED_AT_MOST):
            answer = _Answer(emitter, self.model, blocks)
            asked = {**container, **message_request(self.model, so_far)}
            stream = await self._client.get().messages.create(**asked, stream=True)
            async with stream:
                try:
                    async for event in stream:
                        with self.reading():
                            for ours in answer.read(event):
                                yield ours
                        if answer.is_over:
                            break
                except Exception as error:
                    if not (answer.stop_reason and is_lost_connection(error)):
                        raise
            usage += answer.usage
            if not answer.is_paused:
                break
            blocks, container = answer.blocks, answer.container
            so_far = replace(request, input=[*request.input, *cast("list[InputItem]", emitter.output())])
        for ours in answer.end(usage, set_aside_note(set_aside(self.model, request))):
            yield ours


class _Answer:
    """Converts the API's events. Completes only after `message_stop`."""

    def __init__(self, emitter: Emitter, model: str, blocks: list[dict[str, Any]]) -> None:
        """`blocks` are those of the open reasoning item, if the answer continues an earlier one."""
        self._emit = emitter
        self._model = model
        self._usage: dict[str, int] = {}
        self.stop_reason = ""
        self._declined_because = ""
        self._kind = ""
        """Type of the open block."""
        self._index: int | None = -1
        """Index of the open block in the message."""
        self._started: dict[int, tuple[str, str | None]] = {}
        """Types and call ids of blocks that have not ended, by index; some servers give every block the same one."""
        self.blocks = blocks
        """Blocks of the open reasoning item."""
        self._input = ""
        self._calls: dict[int, ResponseFunctionToolCall] = {}
        """Tool calls by block index; deltas of several calls may be interleaved."""
        self._given_inputs: dict[int, object] = {}
        """Input of these calls as given in their start events."""
        self.container: dict[str, str] = {}
        """The container in which the API runs code, by its parameter: required where its calls are pending."""
        self.is_over = False
        """Whether `message_stop` was sent."""
        self._block_start = 0
        self._citations: list[Any] = []

    def read(self, event: RawMessageStreamEvent) -> Events:
        handler = getattr(self, f"_{event.type}", None)
        if handler is not None:
            yield from handler(event)

    @property
    def is_paused(self) -> bool:
        """Whether the API paused a long turn in which it calls its own tools: it continues when the answer so far is sent back."""
        return self.stop_reason == "pause_turn" and not self._calls

    def end(self, usage: Usage, metadata: Mapping[str, str]) -> Events:
        """Completes an answer whose `message_stop` was sent, or at least its stop reason."""
        if not (self.is_over or self.stop_reason):
            return
        for index in self._calls:
            yield from self._whole_input(index)
        reason = _STOP_REASONS.get(self.stop_reason, self.stop_reason or "incomplete")
        if reason == "refusal":
            yield from self._emit.refusal(self._declined_because or DECLINED, after_text=True)
        yield from self._emit.finish(usage, reason, metadata)

    def _message_start(self, event: RawMessageStartEvent) -> Events:
        self._count(event.message.usage)
        yield from ()

    def _content_block_start(self, event: RawContentBlockStartEvent) -> Events:
        block = event.content_block
        started = (block.type, getattr(block, "id", None))
        if self._started.get(event.index) in (started, (block.type, _LOST)):
            return  # sent twice, or after its first delta
        if event.index in self._calls:
            yield from self._whole_input(event.index)
            del self._calls[event.index]
        self._started[event.index] = started
        self._index, self._kind = event.index, block.type
        if block.type not in ("text", "tool_use"):
            yield from self._keep(block)
            return
        self.blocks = []
        if block.type == "tool_use":
            call = yield from self._emit.tool_call(block.name or NAMELESS, block.id, stays_open=True)
            self._calls[event.index] = call
            self._given_inputs[event.index] = block.input or ""
        elif block.type == "text":
            self._block_start = len(self._emit.text_so_far)
            self._citations = []
            yield from self._emit.text(block.text or "")

    def _keep(self, block: ContentBlock) -> Events:
        """Keeps thinking, calls and results of Anthropic's own tools, and unknown blocks, to be sent back unchanged."""
        thought, signature = getattr(block, "thinking", "") or "", getattr(block, "signature", "") or ""
        plain = {"type": "thinking", "thinking": thought, "signature": signature}
        self.blocks.append(plain if block.type == "thinking" else block.to_dict(mode="json"))
        self._input = ""
        yield from self._emit.reasoning(thought, {"model": self._model, BLOCKS: self.blocks})

    def _whole_input(self, index: int) -> Events:
        """Emits the input of a call that was complete in its start event, as sent by some servers of this API."""
        if given := self._given_inputs.pop(index, ""):
            yield from self._emit.arguments(_json_text(given), self._calls[index])

    def _lost_beginning(self, event: RawContentBlockDeltaEvent) -> Events:
        """Opens a block for a delta whose start event was missing."""
        self._index = event.index
        self._kind = {"input_json_delta": "tool_use", "thinking_delta": "thinking"}.get(event.delta.type, "text")
        self._started[event.index] = (self._kind, _LOST)
        if self._kind == "tool_use":
            self._calls[event.index] = yield from self._emit.tool_call(NAMELESS, stays_open=True)
        elif self._kind == "text":
            self._block_start, self._citations = len(self._emit.text_so_far), []
        else:
            self.blocks.append({"type": "thinking", "thinking": "", "signature": ""})
            yield from self._emit.reasoning(provider_data={"model": self._model, BLOCKS: self.blocks})

    def _content_block_delta(self, event: RawContentBlockDeltaEvent) -> Events:
        delta: Any = event.delta
        of_call = delta.type == "input_json_delta" and event.index in self._calls
        kind = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta.type, self._kind)
        if (event.index, kind) != (self._index, self._kind) and not of_call:
            yield from self._lost_beginning(event)
            of_call = delta.type == "input_json_delta" and event.index in self._calls
        if delta.type == "text_delta" and self._kind == "text":
            yield from self._emit.text(delta.text or "")
        elif of_call:
            if delta.partial_json:
                self._given_inputs.pop(event.index, None)
            yield from self._emit.arguments(_json_text(delta.partial_json), self._calls[event.index])
        elif delta.type == "input_json_delta":
            self._input += _json_text(delta.partial_json)
        elif delta.type == "thinking_delta":
            self.blocks[-1]["thinking"] += delta.thinking or ""
            yield from self._emit.reasoning(delta.thinking or "")
        elif delta.type == "signature_delta":
            self.blocks[-1]["signature"] += delta.signature or ""
        elif delta.type == "citations_delta" and self._kind == "text":
            self._citations.append(delta.citation)

    def _content_block_stop(self, event: RawContentBlockStopEvent) -> Events:
        self._started.pop(event.index, None)
        if event.index in self._calls:
            yield from self._whole_input(event.index)
        if event.index != self._index:
            return
        if self._kind not in ("text", "tool_use", "thinking"):
            block = self.blocks[-1]
            if self._input:
                block["input"] = arguments_object(self._input)
            if step := _step(block):
                yield from self._emit.reasoning(step)
        # Citations apply to the whole text of a block, wherever they arrived.
        for citation in self._citations:
            address = getattr(citation, "url", None) or getattr(citation, "source", None)
            if address:
                yield from self._emit.annotation(address, citation.title or "", self._block_start)
            else:
                name = citation.document_title or f"document {citation.document_index + 1}"
                yield from self._emit.file_citation(getattr(citation, "file_id", None) or name, name)
        self._citations = []

    def _message_delta(self, event: RawMessageDeltaEvent) -> Events:
        self._count(event.usage)
        if event.delta is not None:
            self.stop_reason = event.delta.stop_reason or self.stop_reason
            if event.delta.container:
                self.container = {"container": event.delta.container.id}
            self._declined_because = getattr(event.delta.stop_details, "explanation", None) or self._declined_because
        yield from ()

    def _message_stop(self, event: object) -> Events:
        self.is_over = True
        yield from ()

    def _count(self, usage: MessageUsage | MessageDeltaUsage | None) -> None:
        """Records counts. Later ones replace earlier ones, except zeros, which some servers send for what they counted before."""
        counts = usage.model_dump(warnings=False) if usage else {}
        self._usage |= {name: count for name, count in counts.items() if count and isinstance(count, int)}
        thought = as_object(counts.get("output_tokens_details")).get("thinking_tokens")
        if thought and isinstance(thought, int):
            self._usage["thinking_tokens"] = thought

    @property
    def usage(self) -> Usage:
        """Total usage. The API's `input_tokens` exclude tokens read from or written to the cache; ours include them."""
        used = self._usage
        cached, written = used.get("cache_read_input_tokens", 0), used.get("cache_creation_input_tokens", 0)
        return Usage(
            requests=1,
            input_tokens=used.get("input_tokens", 0) + cached + written,
            output_tokens=used.get("output_tokens", 0),
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=used.get("thinking_tokens", 0),
        )


def _json_text(given: object) -> str:
    """Returns JSON as text; some servers send the object itself."""
    return given or "" if isinstance(given, str | None) else json.dumps(given, ensure_ascii=False)


def _step(block: Mapping[str, object]) -> str:
    """Returns a call or result of one of Anthropic's own tools as a line of text; empty if there is nothing to show."""
    if "name" in block and "input" in block:
        return f"{block['name']} {json.dumps(block['input'], ensure_ascii=False)}\n"
    content = block.get("content")
    results = content if isinstance(content, list) else [content]
    lines = [
        " ".join(str(one[key]) for key in ("title", "url", "error_code") if one.get(key))
        for one in results
        if isinstance(one, dict)
    ]
    return "".join(f"{line}\n" for line in lines if line)
