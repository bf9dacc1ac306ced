"""Adapter for OpenAI's Responses API with the Agents SDK's own model, one per event loop; rejects settings that it would ignore."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents import AgentOutputSchemaBase, Handoff, Model, ModelResponse, ModelSettings, ModelTracing
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.models.openai_responses import OpenAIResponsesModel
from agents.tool import Tool
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputItem, ResponseUsage
from openai.types.responses.response_prompt_param import ResponsePromptParam
from pydantic import BaseModel

from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, SettingsError
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import (
    AnswerSchema,
    CallIds,
    images_as_parts,
    reading,
    set_aside_note,
    whole_response,
)
from timestep_lab.runtime.emitter import decoded_arguments, own_call_id, response_usage
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.stream_items import REASONING_DELTAS, TEXT_DELTAS

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_WITH_RESPONSE = (
    "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed", "response.queued",
)  # fmt: skip
_WITH_ITEM = ("response.output_item.added", "response.output_item.done")
_WITH_TEXT = (*TEXT_DELTAS, *REASONING_DELTAS, "response.function_call_arguments.delta")
_NOT_IN_THIS_API = ("frequency_penalty", "presence_penalty")


class ResponsesModel(Model):
    """`model` is OpenAI's name of the model."""

    def __init__(self, model: str, client: PerLoop[AsyncOpenAI]) -> None:
        self.model = model

        async def nothing_of_its_own(_: OpenAIResponsesModel) -> None:
            return None

        self._of_loop = PerLoop(lambda: OpenAIResponsesModel(model, client.get()), nothing_of_its_own)

    async def prepare(self) -> None:
        await self._of_loop.prepare()

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        return await whole_response(self.stream_response(*args, **kwargs))

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        for name in _NOT_IN_THIS_API:
            if getattr(model_settings, name) is not None:
                raise SettingsError(
                    f"openai/{self.model} does not take the model setting {name}.",
                    "Remove it.",
                    param=f"model_settings.{name}",
                    code=UNSUPPORTED_PARAMETER,
                )
        if isinstance(output_schema, AnswerSchema):
            # The SDK supports one form of schema and would use a fixed name.
            text: dict[str, object] = {"format": output_schema.response_format()}
            if model_settings.verbosity is not None:
                text["verbosity"] = model_settings.verbosity
            more = {**(model_settings.extra_args or {}), "text": text}
            model_settings, output_schema = replace(model_settings, extra_args=more, verbosity=None), None
        left_out = _set_aside(self.model, model_settings)
        if left_out:
            model_settings = replace(model_settings, **dict.fromkeys(left_out))
        stream = self._of_loop.get().stream_response(
            system_instructions,
            _as_ours(input) if isinstance(input, list) else input,
            model_settings, tools, output_schema, handoffs, tracing,
            previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt,
        )  # fmt: skip
        done: list[ResponseOutputItem] = []
        ids = _CallIds()
        try:
            with reading("openai", self.model):
                async for event in stream:
                    if not _is_of_this_api(event):
                        continue  # inserted by a gateway between the events
                    if event.type == "response.output_item.added":
                        ids.begun(event.item, event.output_index)
                    elif event.type == "response.output_item.done":
                        done.append(_as_specified(event.item))
                        ids.ended(event.item, event.output_index)
                    elif event.type in ("response.completed", "response.incomplete"):
                        response = event.response
                        response.output = [_as_specified(item) for item in response.output]
                        ids.whole(response.output)
                        response.output = response.output or done
                        response.usage = _usage(response.usage)
                        response.metadata = {**(response.metadata or {}), **set_aside_note(left_out)}
                    yield event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]


class _CallIds:
    """Gives each function call an id of our own, because some servers use the same ones again, in the next answer or in the same one. A call
    is sent when it begins, when it ends, and with the whole answer; vLLM gives it another id each time."""

    def __init__(self) -> None:
        self._open: dict[object, str] = {}
        """Our ids of calls that have begun, by output index."""
        self._ended: list[tuple[str, str, str]] = []
        """(name, the server's id, our id) of calls that have ended."""
        self._last: object = None

    def begun(self, item: ResponseOutputItem, index: object) -> None:
        if isinstance(item, ResponseFunctionToolCall):
            item.call_id = self._open.setdefault(index, own_call_id(item.call_id or item.id))

    def ended(self, item: ResponseOutputItem, index: object) -> None:
        if isinstance(item, ResponseFunctionToolCall):
            given = item.call_id or item.id or ""
            is_sent_twice, self._last = self._last == (index, given), (index, given)
            if is_sent_twice and index not in self._open:
                item.call_id = self._ended[-1][2]
                return
            item.call_id = self._open.pop(index, "") or own_call_id(given)
            self._ended.append((item.name, given, item.call_id))

    def whole(self, output: Sequence[ResponseOutputItem]) -> None:
        calls = [item for item in output if isinstance(item, ResponseFunctionToolCall)]
        for with_id in (True, False):
            for call in [*calls]:
                given = call.call_id or call.id or ""
                known = next(
                    (one for one in self._ended if one[0] == call.name and (not with_id or one[1] == given)), None
                )
                if known:
                    self._ended.remove(known)
                    calls.remove(call)
                    call.call_id = known[2]
        for call in calls:
            call.call_id = own_call_id(call.call_id or call.id)


# --- Servers of this API other than OpenAI's leave out what they have said before, or do not count


def _is_of_this_api(event: Any) -> bool:
    """Returns whether an event can be read. Raises `TypeError` if one of this API cannot."""
    kind = getattr(event, "type", None)
    if not isinstance(kind, str):
        return False
    response, item = getattr(event, "response", None), getattr(event, "item", None)
    if kind not in (*_WITH_RESPONSE, *_WITH_ITEM) and (response is not None or item is not None):
        return False
    if kind.endswith(".delta") and not isinstance(getattr(event, "delta", None), str):
        if kind not in _WITH_TEXT:
            return False
        raise TypeError(f"the delta of {kind} is no text")
    if kind in _WITH_RESPONSE:
        if not isinstance(response, Response) or not isinstance(response.output, list | None):
            raise TypeError(f"{kind} has no response")
        response.output = response.output or []
    if kind in _WITH_ITEM and not isinstance(item, BaseModel):
        raise TypeError(f"{kind} has no item")
    return True


def _as_specified(item: ResponseOutputItem) -> ResponseOutputItem:
    """Returns an output item with a call's arguments as text."""
    if not isinstance(item, BaseModel):
        raise TypeError("an output item is no object")
    if isinstance(item, ResponseFunctionToolCall):
        given: object = item.arguments
        item.arguments = decoded_arguments(given) if isinstance(given, str) else json.dumps(given or {})
    return item


def _usage(counted: Any) -> ResponseUsage | None:
    """Returns complete usage; None without counts."""
    read, written = getattr(counted, "input_tokens", None), getattr(counted, "output_tokens", None)
    if not isinstance(read, int) or not isinstance(written, int) or not (read or written):
        return None
    into, out = counted.input_tokens_details, counted.output_tokens_details
    return response_usage(
        Usage(
            requests=1,
            input_tokens=read,
            output_tokens=written,
            cached_tokens=getattr(into, "cached_tokens", 0) or 0,
            cache_write_tokens=getattr(into, "cache_write_tokens", 0) or 0,
            reasoning_tokens=getattr(out, "reasoning_tokens", 0) or 0,
        )
    )


def _set_aside(model: str, settings: ModelSettings) -> list[str]:
    """Reasoning models have no temperature; 0 is omitted, and other values are rejected by OpenAI itself."""
    return ["temperature"] if settings.temperature == 0 and re.match(r"o\d|gpt-5", model) else []


def _as_ours(items: Sequence[object]) -> list[Any]:
    """Returns the items as OpenAI accepts them, wherever they were generated."""
    ids = CallIds(".{1,64}", lambda digits: f"call_{digits[:24]}")
    kept = _without_lone_reasoning([item for item in items if not _thought_elsewhere(item)])
    if any(isinstance(item, dict) and item.get("type") == "image_generation_call" for item in kept):
        kept = images_as_parts(kept, only_of_adapters=True)
    return [_ours_out(item, ids) for item in kept]


def _without_lone_reasoning(items: Sequence[object]) -> list[Any]:
    """Removes reasoning that nothing followed, because the model reached its limit: OpenAI requires the item that it led to."""
    kept: list[object] = []
    led_to = False
    for item in reversed(items):
        if isinstance(item, dict) and item.get("type") == "reasoning":
            if led_to:
                kept.append(item)
            continue
        led_to = isinstance(item, dict) and item.get("role") not in ("user", "system", "developer")
        kept.append(item)
    return kept[::-1]


def _thought_elsewhere(item: object) -> bool:
    """Returns whether an item is another model's reasoning, which OpenAI would reject."""
    return isinstance(item, dict) and item.get("type") == "reasoning" and "provider_data" in item


def _ours_out(item: object, ids: CallIds) -> object:
    """Restores the server's own call ids, and removes what OpenAI would reject: data that other providers' adapters attached for replay, and
    names of participants."""
    if not isinstance(item, dict):
        return item
    left_out = ("provider_data", "name") if "role" in item else ("provider_data",)
    sent = {key: value for key, value in item.items() if key not in left_out}
    if call_id := item.get("call_id"):
        is_answer = str(item.get("type", "")).endswith("_output")
        sent["call_id"] = ids.of_answer(call_id) if is_answer else ids.of_call(call_id)
    return sent
