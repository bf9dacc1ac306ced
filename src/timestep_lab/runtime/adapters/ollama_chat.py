"""Adapter for Ollama's `/api/chat`, streamed with the official client. Its OpenAI-compatible API lacks `num_ctx`, `keep_alive` and `think`.

Ollama has no call ids (they are generated here), no `tool_choice`, and accepts images only as data.
`extra_args` can have `think`, `keep_alive`, `options` (a dict) and any single option such as `num_ctx`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict, cast

from agents.items import TResponseStreamEvent

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UNSUPPORTED_PARAMETER, SettingsError, UsageError
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import (
    NAMELESS,
    TEXT_PARTS,
    AdapterModel,
    FunctionSpec,
    ModelRequest,
    ThinkTags,
    between_tags,
    items_of,
    parts_of,
    plain_object,
    results_as_text,
    text_of,
)
from timestep_lab.runtime.emitter import Emitter, Events
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.stream_items import INVALID_JSON, arguments_object

if TYPE_CHECKING:
    from ollama import AsyncClient, ChatResponse

_OPTIONS = {
    "temperature": "temperature", "top_p": "top_p", "max_tokens": "num_predict",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
}  # fmt: skip
_KEPT_BY_CLIENT = frozenset({"type", "items", "description", "enum"})
"""Fields of a parameter's schema that the official client passes on; it drops the rest."""
INLINE: Final = "think_tags"
"""Key of a reasoning item's provider data: the opening tag, if it was sent as text; it is sent back in the same form."""
_LEVELS = {"minimal": "low", "xhigh": "high", "max": "high"}


class ChatMessage(TypedDict, total=False):
    """A message of Ollama's API."""

    role: str
    content: str
    images: list[bytes]
    thinking: str
    tool_calls: list[dict[str, Json]]
    tool_name: str


class OllamaModel(AdapterModel):
    takes: ClassVar[frozenset[str]] = frozenset(
        {*_OPTIONS, "tool_choice", "parallel_tool_calls", "reasoning", "extra_args"}
    )

    def __init__(self, model: str, client: PerLoop[AsyncClient]) -> None:
        super().__init__(model, "ollama")
        self._client = client

    async def prepare(self) -> None:
        await self._client.prepare()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        body = self._body(request)
        called = False
        tags = ThinkTags()

        def events_of(pieces: Iterator[tuple[str, str]]) -> Events:
            for kind, text in pieces:
                thought = kind == "thought"
                data = {"model": self.model, INLINE: tags.opening}
                yield from emitter.reasoning(text, data) if thought else emitter.text(text)

        parts = cast("AsyncGenerator[ChatResponse, None]", await self._client.get().chat(**body, stream=True))
        try:
            with self.reading():  # the client parses each line inside the loop
                async with aclosing(parts):
                    async for part in parts:
                        message = part.message
                        if message.thinking:
                            for event in emitter.reasoning(message.thinking, {"model": self.model}):
                                yield event
                        for event in events_of(tags.read(message.content or "")):
                            yield event
                        for call in message.tool_calls or ():
                            if called and request.settings.parallel_tool_calls is False:
                                break  # Ollama does not support it: the first call is made, and the model is asked again afterwards
                            called = True
                            arguments = _text_of_arguments(call.function.arguments)
                            for event in emitter.tool_call(call.function.name or NAMELESS, arguments=arguments):
                                yield event
                        if part.done:
                            for event in events_of(tags.end()):
                                yield event
                            reason = "tool_calls" if called else part.done_reason or "stop"
                            for event in emitter.finish(_usage(part), reason):
                                yield event
        except json.JSONDecodeError:
            return  # cut off in the middle of a line: the reader sees that nothing completed

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        settings = request.settings
        if settings.tool_choice not in (None, "auto", "none"):
            raise SettingsError(
                f"ollama/{self.model} does not support a forced tool call: Ollama has no tool_choice.",
                'Use "auto" or "none".',
                param="model_settings.tool_choice",
                code=UNSUPPORTED_PARAMETER,
            )
        extra = dict(settings.extra_args or {})
        options = {theirs: value for ours, theirs in _OPTIONS.items() if (value := getattr(settings, ours)) is not None}
        think, keep_alive = extra.pop("think", self._think(request)), extra.pop("keep_alive", None)
        options |= {**extra.pop("options", {}), **extra}
        functions = () if settings.tool_choice == "none" else request.functions
        return {
            "model": self.model,
            "messages": messages_of(request),
            "tools": [_tool(spec) for spec in functions] or None,
            "think": think,
            "format": "json" if request.any_json else request.schema,
            "options": options or None,
            "keep_alive": keep_alive,
        }

    def _think(self, request: ModelRequest) -> bool | str | None:
        """Returns a level for gpt-oss, which cannot be turned off; on or off for others. <https://docs.ollama.com/capabilities/thinking>"""
        effort = request.effort
        if effort is None:
            return None
        if "gpt-oss" in self.model:
            return "low" if effort == "none" else _LEVELS.get(effort, effort)
        return effort != "none"


def _usage(part: ChatResponse) -> Usage | None:
    """Returns the counts of the last part; None if there are none."""
    read, written = part.prompt_eval_count, part.eval_count
    if read is None and written is None:
        return None
    return Usage(requests=1, input_tokens=read or 0, output_tokens=written or 0)


def _text_of_arguments(given: Mapping[str, object]) -> str:
    raw = given.get(INVALID_JSON) if len(given) == 1 else None
    return raw if isinstance(raw, str) else json.dumps(dict(given), ensure_ascii=False)


def messages_of(request: ModelRequest) -> list[ChatMessage]:
    """Returns chat messages. Text, reasoning and calls of one assistant turn are one message."""
    out: list[ChatMessage] = []
    names: dict[str, str] = {}
    if request.instructions:
        out.append({"role": "system", "content": request.instructions})

    def assistant() -> ChatMessage:
        if not out or out[-1]["role"] != "assistant":
            out.append({"role": "assistant", "content": ""})
        return out[-1]

    for kind, item in items_of(results_as_text(request.input)):
        if kind == "message":
            text = text_of(item["content"])
            if item["role"] == "assistant":
                assistant()["content"] += text
                continue
            message: ChatMessage = {"role": "user" if item["role"] == "user" else "system", "content": text}
            if images := [_image(part) for part in parts_of(item["content"]) if part.get("type") not in TEXT_PARTS]:
                message["images"] = images
            out.append(message)
        elif kind == "reasoning":
            thought = "".join(part.get("text", "") for part in item.get("summary") or ())
            if tag := (item.get("provider_data") or {}).get(INLINE):
                assistant()["content"] += between_tags("<think>" if tag is True else tag, thought)
            else:
                before = assistant().get("thinking")
                assistant()["thinking"] = f"{before}\n{thought}" if before else thought
        elif kind == "function_call":
            names[item["call_id"]] = item["name"]
            call: dict[str, Json] = {
                "function": {"name": item["name"], "arguments": arguments_object(item.get("arguments") or "{}")}
            }
            assistant().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            name = names.get(item["call_id"], "")
            out.append({"role": "tool", "content": text_of(item.get("output")), "tool_name": name})
        else:
            raise UsageError(f"ollama/ does not support items of type {kind!r}.", "Start a new thread.")
    return out


def _image(part: Mapping[str, object]) -> bytes:
    """Returns bytes instead of base64 text: the client takes a string for a file path if such a file exists."""
    address = str(part.get("image_url") or "")
    if part.get("type") != "input_image" or not address.startswith("data:"):
        raise UsageError(f"ollama/ supports text and image data, but not content of type {part.get('type')!r} by URL.")
    try:
        return base64.b64decode(address.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise UsageError("The image is not valid base64.") from error


def _tool(spec: FunctionSpec) -> dict[str, Json]:
    spec = plain_object(spec)
    schema = spec.parameters
    parameters: dict[str, Json] = {
        "type": "object",
        "required": list(schema.get("required") or ()),
        "properties": {name: _property(inner) for name, inner in (schema.get("properties") or {}).items()},
    }
    if "$defs" in schema:
        parameters["$defs"] = schema["$defs"]
    return {
        "type": "function",
        "function": {"name": spec.name, "description": spec.description, "parameters": parameters},
    }


def _property(schema: Mapping[str, Any] | bool) -> dict[str, Json]:
    """Returns a parameter's schema; parts that the client would drop are appended to the description."""
    if isinstance(schema, bool):  # JSON Schema's shortest forms: anything, and nothing
        return {} if schema else {"description": "JSON schema: false"}
    plain = {key: value for key, value in schema.items() if key in _KEPT_BY_CLIENT}
    choices = [
        choice
        for choice in schema.get("anyOf") or ()
        if not isinstance(choice, Mapping) or choice.get("type") != "null"
    ]
    if len(choices) == 1 and isinstance(choices[0], Mapping) and "type" in choices[0]:
        plain = {**plain, **{key: value for key, value in choices[0].items() if key in _KEPT_BY_CLIENT}}
    lost = {
        key: value for key, value in schema.items() if key not in _KEPT_BY_CLIENT and key not in ("title", "default")
    }
    if lost and not (len(choices) == 1 and set(lost) == {"anyOf"}):
        plain["description"] = f"{plain.get('description', '')} JSON schema: {json.dumps(schema)}".strip()
    return plain
