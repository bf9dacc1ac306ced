"""Adapter for OpenAI Chat Completions, which most servers support: vLLM, llama.cpp, TGI, LM Studio, OpenRouter, Hugging Face's router.

Requests are built with the Agents SDK's converter, answers are parsed here: the SDK's own parser reports neither why an answer ended nor
that it was cut off. The client's `post` is used to send the request and receive chunks as plain JSON: `chat.completions.create` would
validate every message of a request and build a dozen objects per chunk, which took more CPU time than everything else together.
Reasoning is not in OpenAI's specification: it is sent as `reasoning_content` or `reasoning`, as content parts (Mistral), or as
`<think>` text, and is sent back in the same form, to the model that produced it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from agents import UserError
from agents.items import TResponseStreamEvent
from agents.models.chatcmpl_converter import Converter
from openai import APIConnectionError, APIError, APIStatusError, AsyncStream
from openai._streaming import ServerSentEvent, SSEDecoder

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import (
    COST,
    THINK_TAGS,
    AdapterModel,
    CallIds,
    Content,
    FunctionSpec,
    InputItem,
    ModelRequest,
    ThinkTags,
    between_tags,
    results_as_text,
)
from timestep_lab.runtime.adapters.chat_calls import ChatCalls, as_index, as_object, as_objects, chat_cost, chat_usage
from timestep_lab.runtime.adapters.clients import (
    IDS,
    REASONING,
    REASONING_FIELDS,
    SHORT_ID,
    USAGE,
    ServerLimits,
    is_one_value,
    json_or_error,
    json_values,
)
from timestep_lab.runtime.emitter import Emitter, Events, provider_call_id
from timestep_lab.runtime.provider_errors import WITHHELD
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.stream_items import (
    ANY_MODEL,
    CALL_EXTRAS,
    INVALID_JSON,
    MESSAGE_EXTRAS,
    arguments_object,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai._types import RequestOptions


_STOP_REASONS = {
    "end_turn": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "complete": "stop",
    "max_tokens": "length", "max_output_tokens": "length", "model_length": "length", "model_context_window_exceeded": "length",
    "function_call": "tool_calls", "tool_use": "tool_calls", "tool_call": "tool_calls",
    "error_toxic": "content_filter", "content-filter": "content_filter", "safety": "content_filter", "sensitive": "content_filter", "recitation": "content_filter",
}  # fmt: skip
"""Finish reasons in other words than OpenAI's: of the models behind a gateway, of TGI, Mistral, Gemini, GLM and Cohere."""
_FAILED = (
    "error", "abort", "network_error", "insufficient_system_resource", "malformed_function_call", "function_call_filter",
)  # fmt: skip
"""Finish reasons of servers that failed: OpenRouter's, those of the servers behind it, SGLang's, DeepSeek's and Gemini's."""
_KEEP_ALIVE = ("ping", "heartbeat", "keepalive", "keep-alive")
_BEHIND_THE_END_S = 0.25
"""How long usage is waited for that a server sends after its end marker, if it does not close the stream."""
_PLAIN = frozenset({"role", "content"})
_CALL_PARTS = ("tool_use", "tool_call", "function_call")
"""Content parts that are calls, from gateways to other APIs."""
AS_PARTS, AS_SUMMARY, AS_THINKING = "thinking", "summary", "thinking_text"
"""Forms of reasoning, besides field names and opening tags: parts of the content, of Mistral and of Databricks; and a field `thinking`."""
_AROUND = {"extra_headers": "headers", "extra_query": "params", "extra_body": "extra_json"}


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
        self._limits = ServerLimits()

    async def prepare(self) -> None:
        await self._client.prepare()

    async def _stream(self, request: ModelRequest, emitter: Emitter) -> AsyncIterator[TResponseStreamEvent]:
        answer = ChatAnswer(emitter, self._wire_name, [spec.name for spec in request.functions])
        async with await self._asked(request) as stream:
            try:
                with self.reading():
                    async for chunk in stream:
                        for one in (
                            (chunk,) if isinstance(chunk, dict) else as_objects(chunk)
                        ):  # Gemini sends errors in a list
                            if one.get("error") or (one.get("object") == "error" and "choices" not in one):
                                raise APIError(str(one.get("message")), stream.response.request, body=one)
                            for event in answer.read(one):
                                yield event
            except APIConnectionError:
                if not answer.is_whole(done=stream.done):
                    raise
        if failed := answer.fault(done=stream.done):
            raise APIError("The answer failed.", stream.response.request, body=failed)
        for event in answer.end(done=stream.done):
            yield event

    async def _asked(self, request: ModelRequest) -> _Chunks:
        """Opens the stream of the answer. Retries without optional fields that the server rejects, and omits them from then on."""
        client = self._client.get()
        if (client.base_url.host or "").endswith("mistral.ai"):
            self._limits.without.add(IDS)
        while True:
            body = chat_body(request, self._wire_name, self.prefix, self._limits.without)
            body, options = _with_extras(body, request)
            try:
                stream = await client.post(
                    "/chat/completions", body=body, options=options, cast_to=object, stream=True, stream_cls=_Chunks
                )  # fmt: skip
            except APIStatusError as error:
                if not self._limits.learned_from(error, body):
                    raise
            else:
                self._limits.took(body)
                return stream


class _Chunks(AsyncStream[object]):
    """Splits the stream into chunks. Skips empty keep-alive events. A text that is no JSON is what the server says of an error."""

    done = False
    """Whether the server sent `[DONE]`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._decoder = _Decoder()

    async def _iter_events(self) -> AsyncIterator[ServerSentEvent]:
        events = super()._iter_events()
        async for event in events:
            if event.event is None and event.data.startswith("{") and is_one_value(event.data):
                yield event
                continue
            for data in json_values(event.data):
                if data[:6].upper() == "[DONE]":
                    self.done = True
                elif event.event not in _KEEP_ALIVE and data.lower() not in _KEEP_ALIVE:
                    yield ServerSentEvent(event=event.event, data=json_or_error(data))
            if self.done:
                break
        until = asyncio.get_running_loop().time() + _BEHIND_THE_END_S
        with suppress(TimeoutError, StopAsyncIteration):
            while self.done:
                async with asyncio.timeout_at(until):
                    event = await anext(events)
                if event.data.startswith("{") and '"usage"' in event.data:
                    yield event
        if self.done:
            yield ServerSentEvent(data="[DONE]")


class _Decoder(SSEDecoder):
    """Reads errors and chunks that are lines of their own as data, too: of TGI, llama.cpp, and proxies."""

    def decode(self, line: str) -> ServerSentEvent | None:
        if not line or line[:5] == "data:":
            return super().decode(line)
        return super().decode(f"data: {line.removeprefix('error:')}" if line.startswith(("error:", "{", "<")) else line)


def chat_body(
    request: ModelRequest, model: str, prefix: str, without: Collection[str] = frozenset()
) -> dict[str, object]:
    """Returns the JSON body of a streaming request, without headers, query and the fields in `without`, which its server rejects."""
    settings = request.settings
    body: dict[str, object] = {"model": model, "messages": _messages(request, model, prefix, without), "stream": True}
    if settings.include_usage or (settings.include_usage is None and USAGE not in without):
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


def _with_extras(body: dict[str, object], request: ModelRequest) -> tuple[dict[str, object], RequestOptions]:
    """Adds the user's extras to the body and the client's options. `extra_args` are further parameters of the request."""
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


def _tool(spec: FunctionSpec) -> dict[str, object]:
    body = {"name": spec.name, "description": spec.description, "parameters": spec.parameters, "strict": spec.strict}
    return {"type": "function", "function": body}


def _messages(request: ModelRequest, model: str, prefix: str, without: Collection[str]) -> list[dict[str, Json]]:
    ids = CallIds(SHORT_ID, lambda digits: digits[:9]) if IDS in without else None
    items = _in_turns([_as_sent(item, ids) for item in results_as_text(request.input)])
    nameless: Any = [_nameless(item) for item in items]
    try:
        messages: list[Any] = Converter.items_to_messages(
            nameless,
            model=model,
            should_replay_reasoning_content=lambda context: context.reasoning.origin_model in (model, ANY_MODEL),
        )
    except UserError as error:
        raise UsageError(f"{prefix}/{model} does not support this conversation: {error}") from error
    _restore_names(messages, items)
    field, signatures = _reasoning_form(request, model)
    messages = [
        _with_thought(message, field, signatures) if "reasoning_content" in message else message for message in messages
    ]
    _restore_extras(messages, items, model)
    if REASONING in without:
        left_out = (*REASONING_FIELDS, *MESSAGE_EXTRAS)
        messages = [{name: message[name] for name in message if name not in left_out} for message in messages]
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    return [*system, *messages]


def _in_turns(items: Iterable[InputItem]) -> list[InputItem]:
    """Returns the items with each answer of a model as one message of the assistant: its reasoning, its text, and its calls, which the
    results have to follow directly. Servers may send text between and after calls, and reasoning several times."""
    turned: list[InputItem] = []
    for of_model, group in groupby(items, key=_is_of_model):
        found = [*group]
        turned += _one_answer(found) if of_model else found
    return turned


def _is_of_model(item: InputItem) -> bool:
    return item.get("role") == "assistant" or item.get("type") in ("reasoning", "function_call")


def _one_answer(items: list[InputItem]) -> list[InputItem]:
    calls = [item for item in items if item.get("type") == "function_call"]
    thoughts = [item for item in items if item.get("type") == "reasoning"]
    texts = [item for item in items if item.get("role") == "assistant"]
    if (not calls and len(texts) != 1) or len({item.get("name") for item in texts}) > 1:
        return items
    if len(texts) > 1:
        texts = [{**texts[0], "content": [part for item in texts for part in _parts(item["content"])]}]
    if len(thoughts) > 1 and all(one.get("provider_data") == thoughts[0].get("provider_data") for one in thoughts):
        thoughts = [{**thoughts[0], "summary": [part for one in thoughts for part in one.get("summary") or ()]}]
    return [*thoughts, *texts, *calls]


def _parts(content: Content) -> list[Mapping[str, Json]]:
    return [{"type": "output_text", "text": content, "annotations": []}] if isinstance(content, str) else [*content]


def _with_thought(message: Mapping[str, Any], field: str, signatures: Mapping[str, str]) -> dict[str, Json]:
    """Returns a message with its reasoning in the form in which the server sent it."""
    sent = {key: value for key, value in message.items() if key != "reasoning_content"}
    thought, text = message["reasoning_content"], message.get("content")
    if field in THINK_TAGS:
        return {**sent, "content": f"{between_tags(field, thought)}{text or ''}"}
    if field in (AS_PARTS, AS_SUMMARY):
        parts = [{"type": "text", "text": text}] if isinstance(text, str) and text else text or []
        part: dict[str, Json] = {"type": "thinking", "thinking": [{"type": "text", "text": thought}]}
        if field == AS_SUMMARY:
            signed = {"signature": signatures[thought]} if thought in signatures else {}
            part = {"type": "reasoning", "summary": [{"type": "summary_text", "text": thought, **signed}]}
        return {**sent, "content": [part, *parts]}
    return {**sent, "thinking" if field == AS_THINKING else field: thought}


def _nameless(item: InputItem) -> Mapping[str, object]:
    return {key: value for key, value in item.items() if key != "name"} if "role" in item else item


def _restore_names(messages: Sequence[dict[str, Json]], items: Sequence[InputItem]) -> None:
    """Adds the names of participants, which the converter does not know. It makes one message of each item with text."""
    for role in ("user", "assistant") if any("role" in item and "name" in item for item in items) else ():
        named = [item.get("name") for item in items if item.get("role") == role and item.get("content")]
        of_role = [message for message in messages if message["role"] == role and message.get("content")]
        for name, message in zip(named, of_role, strict=False):
            if name:
                message["name"] = name


def _restore_extras(messages: Sequence[dict[str, Any]], items: Sequence[InputItem], model: str) -> None:
    """Adds fields that this model's server sent with its calls and expects back. Ids may repeat between turns, so calls are matched by
    order."""
    by_call_id: dict[str, list[Mapping[str, object]]] = {}
    for item in items:
        if item.get("type") == "function_call" and item.get("call_id"):
            provider_data = item.get("provider_data") or {}
            own = provider_data if provider_data.get("model") in (model, ANY_MODEL) else {}
            by_call_id.setdefault(item["call_id"], []).append(own)
    for message in messages:
        for call in message.get("tool_calls") or ():
            kept = by_call_id[call["id"]].pop(0) if by_call_id.get(call["id"]) else {}
            call |= {name: kept[name] for name in CALL_EXTRAS if name in kept}
            message |= {name: kept[name] for name in MESSAGE_EXTRAS if name in kept}


def _as_sent(item: InputItem, ids: CallIds | None) -> InputItem:
    """Restores the server's own call id, or one of `ids`. Wraps arguments that are no object in one, because servers parse them."""
    if not item.get("call_id"):
        return item
    is_call = item.get("type") == "function_call"
    name_of = provider_call_id if ids is None else ids.of_call if is_call else ids.of_answer
    sent: InputItem = {**item, "call_id": name_of(item["call_id"])}
    if is_call:
        given = item.get("arguments") or "{}"
        read = arguments_object(given)
        sent["arguments"] = json.dumps(read) if INVALID_JSON in read or not isinstance(given, str) else given
    return sent


class ChatAnswer:
    """Converts chunks to events. Several calls can be open at once, with text between their deltas."""

    def __init__(self, emitter: Emitter, model: str, names: Collection[str] = ()) -> None:
        """`names` are the functions that the model may call."""
        self._emit = emitter
        self._model = model
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._calls = ChatCalls(emitter, names)
        self._has_output = False
        self._charged: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        """Addresses that the answer is based on, with their titles."""
        self._signature = ""
        """Signature of the reasoning, of Databricks."""
        self._tags = ThinkTags()
        self._seen: set[str] = set()
        """Addresses of the images so far."""
        self._extras: dict[str, list[dict[str, Any]]] = {}
        """Further reasoning data of the message, sent back with the calls that it led to."""
        self._in_messages: str | None = ""
        """Text read from messages; None once deltas had content."""
        self._place: int | None = None
        """Index of the choice that is read; others are ignored."""
        self.failed: Json = None
        """The server's error when it could not finish."""
        self.unread: Json = None
        """A chunk that is no part of an answer; explains a missing or interrupted answer."""

    def read(self, chunk: Mapping[str, Json]) -> Events:
        """Reads one `chat.completion.chunk` as JSON. Servers may omit any field, or send null."""
        self._count(chunk.get("usage"))
        self._note_sources(chunk.get("search_results"))
        self._note_sources(chunk.get("citations"))
        if "x_groq" in chunk and (groq := as_object(chunk["x_groq"])):
            self._count(groq.get("usage"))
            self.failed = groq.get("error") or self.failed
        choices = as_objects(chunk.get("choices"))
        if not choices and "usage" not in chunk and "created" not in chunk:
            self.unread = dict(chunk) or self.unread
        place = self._place
        choice = next((one for one in choices if place is None or as_index(one.get("index")) in (None, place)), None)
        if choice is None:
            return
        self._place = as_index(choice.get("index")) if self._place is None else self._place
        self._count(choice.get("usage"))
        self._end_of(choice)
        given = choice.get("delta") or choice.get("text")
        delta = {"content": given} if isinstance(given, str) else as_object(given)
        if self._in_messages is not None or "message" in choice:
            if any(delta.get(name) for name in ("content", "images", "tool_calls", "function_call", *REASONING_FIELDS)):
                self._in_messages = None
            elif message := as_object(choice.get("message")):
                delta = self._untold(message)
        if delta.keys() <= _PLAIN or not any(value and name not in _PLAIN for name, value in delta.items()):
            yield from self._content(
                delta.get("content")
            )  # As most chunks are, and the rest costs several times as much.
            return
        field, thought = next(
            ((name, text) for name in REASONING_FIELDS if isinstance(text := delta.get(name), str) and text != ""),
            ("", ""),
        )
        for name in MESSAGE_EXTRAS:
            more = "".join([self._fragment(name, detail) for detail in as_objects(delta.get(name))])
            thought = thought or more
        if thought:
            yield from self._thought(thought, AS_THINKING if field == "thinking" else field)
        google = as_object(as_object(delta.get("extra_content")).get("google"))
        yield from self._content(delta.get("content"), is_thought=google.get("thought") is True)
        refusal: Any = delta.get("refusal")
        if refusal:
            self._has_output = True
            yield from self._emit.refusal(refusal)
        yield from self._images(delta.get("images"))
        for note in as_objects(delta.get("annotations")):
            cited: Mapping[str, Any] = as_object(note.get("url_citation"))
            if cited:
                self._sources.pop(cited.get("url") or "", None)
                yield from self._emit.annotation(
                    cited.get("url") or "", cited.get("title") or "", cited.get("start_index"), cited.get("end_index")
                )
        calls, call = delta.get("tool_calls"), delta.get("function_call")
        if audio := as_object(delta.get("audio")):
            yield from self._content(audio.get("transcript"))
        if calls or call:
            yield from self._called(self._calls.read(calls))
            yield from self._calls.read_deprecated(call)

    def _note_sources(self, given: object) -> None:
        """Notes sources in the forms of Perplexity and xAI: addresses, or objects with a title, perhaps with every chunk."""
        for one in given if isinstance(given, list) else ():
            source = {"url": one} if isinstance(one, str) else as_object(one)
            if isinstance(address := source.get("url"), str):
                self._sources[address] = str(source.get("title") or "") or self._sources.get(address, "")

    def _images(self, images: object) -> Events:
        """Reads images of models that make some, in the form of OpenRouter and LiteLLM, each once: they may come with every chunk."""
        for part in as_objects(images):
            given = part.get("image_url")
            address = as_object(given).get("url") or given
            if isinstance(address, str) and address not in self._seen:
                self._seen.add(address)
                self._has_output = True
                yield from self._events_of(self._tags.end())
                yield from self._emit.image(address)

    def _called(self, calls: Events) -> Events:
        self._has_output = True
        yield from self._events_of(self._tags.end())
        yield from calls

    def _untold(self, message: Mapping[str, Json]) -> Mapping[str, Json]:
        """Returns what is new in a message that was sent beside deltas, at their end, or in their place: whole, in pieces, or growing."""
        left_out = ["tool_calls", "function_call"] if self._calls else []
        if self._in_messages is None:
            if self._has_output:
                names = ("images", "tool_calls", "function_call")
                return {name: message.get(name) for name in names if name not in left_out}
            left_out += REASONING_FIELDS
        untold = {name: value for name, value in message.items() if name not in left_out}
        if isinstance(content := untold.get("content"), str):
            untold["content"] = content.removeprefix(self._in_messages or "")
            self._in_messages = f"{self._in_messages or ''}{untold['content']}"
        return untold

    def _count(self, used_by_server: object) -> None:
        """Records usage, which may come with every chunk, or in parts: the input first, the output last, each beside zeros."""
        if (cost := chat_cost(as_object(used_by_server))) is not None:
            self._charged = {COST: repr(cost)}
        if counted := chat_usage(as_object(used_by_server)):
            before = self._usage or counted
            self._usage = Usage(**{name: n or getattr(before, name) for name, n in asdict(counted).items()})

    def _end_of(self, choice: Mapping[str, Json]) -> None:
        if not (choice.get("finish_reason") or choice.get("native_finish_reason") or choice.get("error")):
            return
        end = choice.get("finish_reason")
        reason = None if end == "null" else as_object(end).get("type", end)  # of DashScope; of SGLang
        self._finish_reason = str(reason) if reason else self._finish_reason
        for reason in (self._finish_reason, choice.get("native_finish_reason")):
            if reason and str(reason).partition(":")[0].lower() in _FAILED:  # Gemini adds a reason of its own
                words = as_object(end).get("message") or f"it ended its answer with the finish reason {reason!r}"
                self.failed = self.failed or {**as_object(end), "message": words}
        self.failed = choice.get("error") or self.failed

    def _fragment(self, name: str, fragment: Mapping[str, Json]) -> str:
        """Keeps a fragment of reasoning and returns its text."""
        kept = self._extras.setdefault(name, [])
        part = next((part for part in ("text", "summary", "thinking") if isinstance(fragment.get(part), str)), "")
        text, last = str(fragment.get(part, "")), kept[-1] if kept else {}
        goes_on = part in last and all(last.get(key) == fragment.get(key) for key in ("type", "index"))
        if goes_on and not (text and last.get("signature")):
            last |= {**fragment, part: last[part] + text}
        else:
            kept.append(dict(fragment))
        return text

    def is_whole(self, *, done: bool) -> bool:
        """Returns whether the answer is complete. `done`: the server sent the end marker."""
        return self._finish_reason is not None or (done and self._has_output and self.unread is None)

    def fault(self, *, done: bool) -> Json:
        """Returns the server's error, or what could not be read of its answer; None for an answer."""
        if self.failed or not self.is_whole(done=done):
            return self.failed or self.unread
        unread = self._calls.unread or (self._ended_as == "tool_calls" and not self._has_output and "there is none")
        return {"message": f"its tool calls are in no form that can be read: {unread}"} if unread else None

    @property
    def _ended_as(self) -> str:
        word = (self._finish_reason or ("tool_calls" if self._calls else "incomplete")).partition(":")[0].lower()
        return _STOP_REASONS.get(word, word)

    def end(self, *, done: bool) -> Events:
        yield from self._events_of(self._tags.end())
        if not self.is_whole(done=done):
            return  # cut off: the reader sees that nothing completed
        if self._emit.text_so_far:
            for address, title in self._sources.items():
                yield from self._emit.annotation(address, title)
        yield from self._calls.end({"model": self._model, **self._extras} if self._extras else {}, self._model)
        reason = self._ended_as
        if reason == "content_filter" and not self._has_output:
            yield from self._emit.refusal(WITHHELD)
        yield from self._emit.finish(self._usage, reason, self._charged)

    def _thought(self, text: str, field: str) -> Events:
        signed = {"signature": self._signature} if self._signature else {}
        yield from self._emit.reasoning(text, {"model": self._model, "field": field, **signed})

    def _content(self, content: Json, *, is_thought: bool = False) -> Events:
        """Reads content: text or, from Mistral's and Databricks' reasoning models, a list of text and reasoning parts."""
        if isinstance(content, int | float) and not isinstance(content, bool):
            content = str(content)  # of gateways in languages where text of digits is a number
        if isinstance(content, str):
            self._has_output = self._has_output or (bool(content) and not is_thought)
            yield from self._events_of(self._tags.read(content), is_thought=is_thought)
            return
        for part in content if isinstance(content, list) else as_objects(content):
            if isinstance(part, str):
                yield from self._content(part)
            elif not isinstance(part, Mapping):
                continue  # null, between parts
            elif part.get("type") in ("thinking", "reasoning"):
                inner: Any = part.get("thinking") or part.get("summary") or part.get("text") or ""
                inner = [{"text": inner}] if isinstance(inner, str) else as_objects(inner)
                self._signature += "".join(str(one.get("signature") or "") for one in inner)
                thought = "".join(str(one.get("text") or "") for one in inner)
                if thought or self._signature:
                    yield from self._thought(thought, AS_SUMMARY if part.get("summary") else AS_PARTS)
            elif part.get("type") in _CALL_PARTS:
                yield from self._called(self._calls.read(part))
            else:
                self._signature = ""
                yield from self._images([part])
                yield from self._content(part.get("text") or part.get("value") or "")

    def _events_of(self, pieces: Iterator[tuple[str, str]], *, is_thought: bool = False) -> Events:
        """`is_thought`: Gemini marks reasoning text with a flag, independent of tags."""
        for kind, text in pieces:
            if is_thought or kind == "thought":
                yield from self._thought(text, self._tags.opening or "reasoning_content")
            else:
                yield from self._emit.text(text)


def _reasoning_form(request: ModelRequest, model: str) -> tuple[str, dict[str, str]]:
    """Returns the form in which the model's server sent reasoning, and the signatures by what they sign."""
    form, signatures = "", dict[str, str]()
    for item in request.input:
        data = item.get("provider_data") or {}
        if item.get("type") == "reasoning" and "field" in data and data.get("model") in (model, ANY_MODEL):
            form = form or data["field"]
            if signature := data.get("signature"):
                signatures["\n".join(part["text"] for part in item.get("summary") or ())] = signature
    return form or "reasoning_content", signatures
