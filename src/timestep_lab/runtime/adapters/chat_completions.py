"""OpenAI Chat Completions, which most servers speak: vLLM, llama.cpp, TGI, LM Studio, OpenRouter, Hugging Face's router.

Requests are written by the Agents SDK's converter, answers read here: the SDK's own reader says neither why an answer ended nor
that one broke off. The client sends the JSON and hands over the JSON of each chunk as it is, by its `post`: `chat.completions.create`
would walk through every message of every request and build a dozen objects for every few letters of an answer, which took more CPU than all
else together. Reasoning is not in OpenAI's specification: it comes as `reasoning_content` or `reasoning`, as parts of the content
(Mistral), or as `<think>` text, and goes back the way it came, to the model that wrote it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from agents import UserError
from agents.models.chatcmpl_converter import Converter
from openai import APIError, AsyncStream

from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import (
    NAMELESS,
    THINK_CLOSE,
    THINK_OPEN,
    AdapterModel,
    FunctionSpec,
    ModelRequest,
    ThinkTags,
    results_as_text,
)
from timestep_lab.runtime.emitter import Emitter, Events
from timestep_lab.runtime.output_text import ANY_MODEL, INVALID_JSON, arguments_object
from timestep_lab.runtime.provider import PerLoop
from timestep_lab.runtime.unique_ids import provider_call_id

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai._types import RequestOptions

_STOP_REASONS = {
    "stop": "stop", "length": "length", "max_tokens": "length", "model_length": "length", "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}  # fmt: skip
_FAILED = ("error", "abort")
"""Reasons by which a server says that it could not finish: OpenRouter's and SGLang's."""
AS_THINK_TAGS, AS_PARTS = "<think>", "thinking"
"""Ways in which reasoning comes, beside those that are a field's name."""
_AROUND = {"extra_headers": "headers", "extra_query": "params", "extra_body": "extra_json"}
WITHHELD = "The answer was withheld by the provider's content filter."


class ChatCompletionsModel(AdapterModel):
    takes: ClassVar[frozenset[str]] = frozenset(
        {
            "temperature", "top_p", "frequency_penalty", "presence_penalty", "tool_choice", "parallel_tool_calls",
            "max_tokens", "reasoning", "verbosity", "metadata", "store", "extra_query", "extra_body", "extra_headers",
            "extra_args",
        }
    )  # fmt: skip

    def __init__(
        self, model: str, provider: str, client: PerLoop[AsyncOpenAI], *, name_on_wire: str | None = None
    ) -> None:
        super().__init__(model, provider)
        self._client = client
        self._wire_name = name_on_wire or model

    async def prepare(self) -> None:
        await self._client.prepare()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[Any]:
        answer = ChatAnswer(emitter, self._wire_name)
        body, options = _with_extras(chat_body(request, self._wire_name, self.prefix), request)
        stream = await self._client.get().post(
            "/chat/completions",
            body=body,
            options=options,
            cast_to=object,
            stream=True,
            stream_cls=_Chunks,
        )
        async with stream:
            async for chunk in stream:
                if "choices" not in chunk and chunk.get("object") == "error":  # FastChat's and vLLM's form
                    raise APIError(str(chunk.get("message")), stream.response.request, body=chunk)
                for event in answer.read(chunk):
                    yield event
        if answer.failed:
            raise APIError("The answer failed.", stream.response.request, body=answer.failed)
        for event in answer.end(done=stream.done):
            yield event


class _Chunks(AsyncStream[Any]):
    done = False
    """Whether the server said `[DONE]`."""

    async def _iter_events(self) -> AsyncIterator[Any]:
        async for event in super()._iter_events():
            self.done = self.done or event.data.startswith("[DONE]")
            yield event


def chat_body(request: ModelRequest, model: str, prefix: str) -> dict[str, Any]:
    """The JSON of a streaming request, without what goes round it (headers, query)."""
    settings = request.settings
    body: dict[str, Any] = {"model": model, "messages": _messages(request, model, prefix), "stream": True}
    if settings.include_usage is not False:
        body["stream_options"] = {"include_usage": True}
    for name in (
        "temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "verbosity", "metadata", "store",
    ):  # fmt: skip
        if (value := getattr(settings, name)) is not None:
            body[name] = value
    if request.effort is not None:
        body["reasoning_effort"] = request.effort
    if request.functions:
        body["tools"] = [_tool(spec) for spec in request.functions]
        if settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = settings.parallel_tool_calls
        if settings.tool_choice is not None:
            body["tool_choice"] = Converter.convert_tool_choice(settings.tool_choice)
    if request.any_json:
        body["response_format"] = {"type": "json_object"}
    elif request.schema is not None:
        asked = {"name": request.schema_name, "strict": request.schema_strict, "schema": request.schema}
        if request.schema_description is not None:
            asked["description"] = request.schema_description
        body["response_format"] = {"type": "json_schema", "json_schema": asked}
    return body


def _with_extras(body: dict[str, Any], request: ModelRequest) -> tuple[dict[str, Any], RequestOptions]:
    """The body and the client's options with what the user adds to them. `extra_args` are further parameters of the request."""
    settings = request.settings
    options: RequestOptions = {"security": {"bearer_auth": True}}
    more = dict(settings.extra_args or {})
    for name, option in _AROUND.items():
        given = [value for value in (getattr(settings, name, None), more.pop(name, None)) if value is not None]
        if given:
            options[option] = {**given[0], **given[-1]}  # type: ignore[literal-required]
    if "timeout" in more:
        options["timeout"] = more.pop("timeout")
    return {**body, **more}, options


def _tool(spec: FunctionSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
            "strict": spec.strict,
        },
    }


def _messages(request: ModelRequest, model: str, prefix: str) -> list[dict[str, Any]]:
    try:
        messages: list[Any] = Converter.items_to_messages(
            [_as_sent(item) for item in results_as_text(request.input)],  # type: ignore[misc]
            model=model,
            should_replay_reasoning_content=lambda context: context.reasoning.origin_model in (model, ANY_MODEL),
        )
    except UserError as error:
        raise UsageError(f"{prefix}/{model} cannot be sent this conversation: {error}") from error
    field = _reasoning_field(request, model)
    messages = [_with_thought(message, field) if "reasoning_content" in message else message for message in messages]
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    return [*system, *messages]


def _with_thought(message: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A message whose `reasoning_content` goes the way in which the server sent it."""
    sent = {key: value for key, value in message.items() if key != "reasoning_content"}
    thought, text = message["reasoning_content"], message.get("content")
    if field == AS_THINK_TAGS:
        return {**sent, "content": f"{THINK_OPEN}{thought}{THINK_CLOSE}\n\n{text or ''}"}
    if field == AS_PARTS:
        said = [{"type": "text", "text": text}] if isinstance(text, str) and text else text or []
        return {**sent, "content": [{"type": "thinking", "thinking": [{"type": "text", "text": thought}]}, *said]}
    return {**sent, field: thought}


def _as_sent(item: dict[str, Any]) -> dict[str, Any]:
    """A call or its result with the server's own id; arguments that are no object in one, since servers read them."""
    if not item.get("call_id"):
        return item
    sent = {**item, "call_id": provider_call_id(item["call_id"])}
    if item.get("type") == "function_call":
        given = item.get("arguments") or "{}"
        read = arguments_object(given)
        sent["arguments"] = json.dumps(read) if INVALID_JSON in read or not isinstance(given, str) else given
    return sent


@dataclass
class _Call:
    """A call as its pieces make it. It is told as soon as its name is known."""

    index: int | None
    id: str
    name: str = ""
    arguments: str = ""
    item: Any = None


class ChatAnswer:
    """Reads chunks into events. Several calls may be open at once, with text between their pieces."""

    def __init__(self, emitter: Emitter, model: str) -> None:
        self._emit = emitter
        self._model = model
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._calls: list[_Call] = []
        self._said_anything = False
        self._tags = ThinkTags()
        self.failed: Any = None
        """What the server said when it could not finish."""

    def read(self, chunk: Any) -> Events:
        """One `chat.completion.chunk` as JSON. Servers leave out, or send as null, whatever they have nothing to say for."""
        if counted := chunk.get("usage"):
            self._usage = _usage(counted)
        choices = chunk.get("choices")
        if not choices:
            return
        choice = choices[0]
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if self._finish_reason in _FAILED:
            said = {"message": f"it ended its answer with the finish reason {self._finish_reason!r}"}
            self.failed = choice.get("error") or self.failed or said
        delta = choice.get("delta")
        if not delta:
            return
        for field in ("reasoning_content", "reasoning"):
            if isinstance(thought := delta.get(field), str) and thought:
                yield from self._thought(thought, field)
                break
        yield from self._content(delta.get("content"))
        if refusal := delta.get("refusal"):
            self._said_anything = True
            yield from self._emit.refusal(refusal)
        for note in delta.get("annotations") or ():
            if (cited := note.get("url_citation")) is not None:
                yield from self._emit.annotation(
                    cited.get("url", ""), cited.get("title", ""), cited.get("start_index"), cited.get("end_index")
                )
        for piece in delta.get("tool_calls") or ():
            yield from self._tool_piece(piece)

    def end(self, *, done: bool) -> Events:
        """`done`: the server said that this is all."""
        yield from self._told(self._tags.end())
        if self._finish_reason is None and not (done and self._said_anything):
            return  # broken off: whoever reads this sees that nothing completed
        for call in self._calls:
            if call.item is None:  # its name never came: the model is told that there is no such tool
                call.name = NAMELESS
                yield from self._open(call)
        usual = "tool_calls" if self._calls else "incomplete"
        reason = _STOP_REASONS.get(self._finish_reason, self._finish_reason) if self._finish_reason else usual
        if reason == "content_filter" and not self._said_anything:
            yield from self._emit.refusal(WITHHELD)
        yield from self._emit.finish(self._usage, reason)

    def _thought(self, text: str, field: str) -> Events:
        yield from self._emit.reasoning(text, {"model": self._model, "field": field})

    def _content(self, content: Any) -> Events:
        """Text; or, from Mistral's reasoning models, a list of parts that are text or thinking."""
        if isinstance(content, str):
            self._said_anything = self._said_anything or bool(content)
            yield from self._told(self._tags.read(content))
            return
        for part in content or ():
            if part.get("type") == "thinking":
                inner = part.get("thinking") or ""
                thought = inner if isinstance(inner, str) else "".join(str(one.get("text") or "") for one in inner)
                if thought:
                    yield from self._thought(thought, AS_PARTS)
            else:
                yield from self._content(part.get("text") or "")

    def _told(self, pieces: Iterator[tuple[str, str]]) -> Events:
        for kind, text in pieces:
            yield from self._thought(text, AS_THINK_TAGS) if kind == "thought" else self._emit.text(text)

    def _tool_piece(self, piece: Mapping[str, Any]) -> Events:
        self._said_anything = True
        yield from self._told(self._tags.end())
        function = piece.get("function") or {}
        name, arguments = function.get("name") or "", _arguments(function.get("arguments"))
        call = self._call_of(piece, name, arguments)
        call.name = call.name or name
        call.arguments += arguments
        if call.item is not None:
            yield from self._emit.arguments(arguments, call.item)
        elif call.name:
            yield from self._open(call)

    def _open(self, call: _Call) -> Events:
        call.item = yield from self._emit.tool_call(call.name, call.id, call.arguments, stays_open=True)

    def _call_of(self, piece: Mapping[str, Any], name: str, arguments: str) -> _Call:
        """The call to which a piece belongs: that of its index. Where servers give every call the same index, or none, a new id
        begins a new call; and where they give no ids either, so does a name after arguments that are already whole."""
        index, given = piece.get("index"), str(piece.get("id") or "")
        known = [call for call in self._calls if call.index == index]
        if given and (same := [call for call in known if call.id == given]):
            return same[-1]
        if known:
            last = known[-1]
            another = (
                last.id
                if given
                else arguments and last.arguments and INVALID_JSON not in arguments_object(last.arguments)
            )
            if not (name and another):
                last.id = last.id or given
                return last
        self._calls.append(_Call(index, given))
        return self._calls[-1]


def _arguments(given: Any) -> str:
    """Arguments as text, which is what they are in this API; some servers send the object itself."""
    if given is None or isinstance(given, str):
        return given or ""
    return json.dumps(given, ensure_ascii=False)


def _usage(counted: Mapping[str, Any]) -> Usage:
    into, out = counted.get("prompt_tokens_details") or {}, counted.get("completion_tokens_details") or {}
    return Usage(
        requests=1,
        input_tokens=counted.get("prompt_tokens") or 0,
        output_tokens=counted.get("completion_tokens") or 0,
        cached_tokens=into.get("cached_tokens") or 0,
        cache_write_tokens=into.get("cache_write_tokens") or 0,
        reasoning_tokens=out.get("reasoning_tokens") or 0,
    )


def _reasoning_field(request: ModelRequest, model: str) -> str:
    for item in request.input:
        kept = item.get("provider_data") or {}
        if item.get("type") == "reasoning" and kept.get("model") in (model, ANY_MODEL) and kept.get("field"):
            return str(kept["field"])
    return "reasoning_content"
