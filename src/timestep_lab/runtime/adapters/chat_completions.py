"""OpenAI Chat Completions, which most servers speak: vLLM, llama.cpp, TGI, LM Studio, OpenRouter, Hugging Face's router.

Requests are written by the Agents SDK's converter, answers read here: the SDK's own reader says neither why an answer ended nor
that one broke off. The client sends the JSON and hands over the JSON of each chunk as it is, by its `post`: `chat.completions.create`
would walk through every message of every request and build a dozen objects for every few letters of an answer, which took more CPU than all
else together. Reasoning is not in OpenAI's specification: it comes as `reasoning_content` or `reasoning`, as parts of the content
(Mistral), or as `<think>` text, and goes back the way it came, to the model that wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
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
from timestep_lab.runtime.emitter import Emitter, Events, provider_call_id
from timestep_lab.runtime.provider_errors import status_in
from timestep_lab.runtime.router import PerLoop
from timestep_lab.runtime.stream_items import ANY_MODEL, INVALID_JSON, arguments_object

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai._types import RequestOptions


# --- What servers answer instead of the stream that was asked for, in the form in which the official clients read it
#
#     an error although the status is 200     the status that its code tells, so that the client raises it with the server's words
#     a page of HTML, or plain text           502, with its text
#     the whole answer at once                the events of a stream that says the same
#
# The clients would read such a body as a stream without events, and what the server said would be lost.


BAD_GATEWAY = 502
_SSE = re.compile(rb"\s*(data|event|id|retry)?\s?:")
_LONGEST_FIRST_LINE = 8192


def response_hook(http: ModuleType) -> Callable[[Any], Awaitable[None]]:
    """For `event_hooks` of `http` (httpx or httpx2): looks at the beginning of each answer to a POST."""

    async def read_what_is_no_stream(response: Any) -> None:
        if response.request.method != "POST":
            return
        if response.headers.get("content-encoding", "identity") != "identity":
            return
        chunks = aiter(response.stream)
        begun = b"" if response.is_error else await _beginning(chunks)
        if response.is_success and _is_stream(begun, str(response.headers.get("content-type", ""))):
            response.stream = _continued(http, begun, chunks, response.stream)
            return
        body = begun + b"".join([chunk async for chunk in chunks])
        await response.stream.aclose()
        if response.is_success:
            asked_to_stream = _asked_to_stream(response.request)
            response.status_code, body = _read(body, asked_to_stream=asked_to_stream)
        response.stream = http.ByteStream(_error_object(body) if response.is_error else body)
        response.headers.pop("content-length", None)

    return read_what_is_no_stream


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    """As much as tells what it is: the first line, if it is not too long."""
    begun = b""
    async for chunk in chunks:
        begun += chunk
        if b"\n" in begun.lstrip() or len(begun) > _LONGEST_FIRST_LINE:
            break
    return begun


def _is_stream(begun: bytes, media_type: str) -> bool:
    line = begun.lstrip()
    if media_type.startswith("text/event-stream"):
        return not line.startswith((b"{", b"[", b"<"))
    if _SSE.match(begun) or not line:
        return True
    first, newline, _ = line.partition(b"\n")
    try:
        part = json.loads(first)
    except ValueError:
        # A line of JSON, the way Ollama streams, too long to be seen whole.
        return line.startswith(b"{") and not newline and len(begun) > _LONGEST_FIRST_LINE and "ndjson" in media_type
    return isinstance(part, dict) and "done" in part


def _continued(http: ModuleType, begun: bytes, rest: AsyncIterator[bytes], whole: Any) -> Any:
    class Continued(http.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield begun
            async for chunk in rest:
                yield chunk

        async def aclose(self) -> None:
            await whole.aclose()

    return Continued()


def _asked_to_stream(request: Any) -> bool:
    try:
        asked = json.loads(request.content)
    except ValueError:
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


def _read(body: bytes, *, asked_to_stream: bool) -> tuple[int, bytes]:
    """(status, body) as the client is to see them."""
    try:
        said = json.loads(body)
    except ValueError:
        return BAD_GATEWAY, body
    if _is_error(said):
        return status_in(said) or BAD_GATEWAY, body
    if not asked_to_stream or not isinstance(said, dict):
        return 200, body
    return 200, b"".join(_as_stream(said)) or body


def _error_object(body: bytes) -> bytes:
    """An error as an object, when it is JSON: Ollama's client trips over any other."""
    try:
        said = json.loads(body)
    except ValueError:
        return body
    if isinstance(said, dict):
        return body
    first = said[0] if isinstance(said, list) and said and isinstance(said[0], dict) else {"error": str(said)}
    return json.dumps(first).encode()


def _is_error(said: Any) -> bool:
    if isinstance(said, list):  # Google's
        return bool(said) and _is_error(said[0])
    return isinstance(said, dict) and (bool(said.get("error")) or "error" in (said.get("object"), said.get("type")))


def _as_stream(said: Mapping[str, Any]) -> Iterator[bytes]:
    if said.get("object") == "response":
        ended = "response.incomplete" if said.get("status") == "incomplete" else "response.completed"
        yield _event({"type": ended, "sequence_number": 0, "response": said})
    elif said.get("type") == "message":
        yield from map(_event, _message_events(said))
    elif said.get("choices"):
        yield _event(_one_chunk(said))
        yield b"data: [DONE]\n\n"
    elif "done" in said:
        yield json.dumps(said).encode() + b"\n"


def _one_chunk(said: Mapping[str, Any]) -> dict[str, Any]:
    """A `chat.completion` as one chunk."""
    choice = dict(said["choices"][0])
    delta = dict(choice.pop("message", None) or {})
    calls = [{"index": place, **call} for place, call in enumerate(delta.pop("tool_calls", None) or ())]
    if calls:
        delta["tool_calls"] = calls
    return {**said, "object": "chat.completion.chunk", "choices": [{**choice, "delta": delta}]}


def _message_events(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A message of Anthropic's as the events that would have built it."""
    yield {"type": "message_start", "message": {**said, "content": [], "stop_reason": None}}
    for index, block in enumerate(said.get("content") or ()):
        begun, deltas = dict(block), []
        if block["type"] in ("tool_use", "server_tool_use"):
            begun["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block.get("input") or {})}]
        elif block["type"] == "thinking":
            begun |= {"thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block.get("thinking") or ""},
                {"type": "signature_delta", "signature": block.get("signature") or ""},
            ]
        elif block["type"] == "text":
            begun["citations"] = None
            deltas = [{"type": "citations_delta", "citation": one} for one in block.get("citations") or ()]
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": said.get("stop_reason"), "stop_sequence": said.get("stop_sequence")}
    yield {"type": "message_delta", "delta": ended, "usage": said.get("usage") or {}}
    yield {"type": "message_stop"}


def _event(data: Mapping[str, Any]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


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
                with self.reading():
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
    empty: str = ""
    """`{}` that came before any arguments: what they are if nothing follows, else only a place kept for them."""
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
        if counted := _object(chunk.get("usage")):
            self._usage = _usage(counted)
        choice = next(iter(_objects(chunk.get("choices"))), None)
        if choice is None:
            return
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if self._finish_reason in _FAILED:
            said = {"message": f"it ended its answer with the finish reason {self._finish_reason!r}"}
            self.failed = choice.get("error") or self.failed or said
        delta = _object(choice.get("delta")) or _object(choice.get("message"))
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
        for note in _objects(delta.get("annotations")):
            if cited := _object(note.get("url_citation")):
                yield from self._emit.annotation(
                    cited.get("url", ""), cited.get("title", ""), cited.get("start_index"), cited.get("end_index")
                )
        for piece in _objects(delta.get("tool_calls")):
            yield from self._tool_piece(piece)
        if asked := _object(delta.get("function_call")):  # the form from before there were several calls
            yield from self._tool_piece({"function": asked})

    def end(self, *, done: bool) -> Events:
        """`done`: the server said that this is all."""
        yield from self._told(self._tags.end())
        if self._finish_reason is None and not (done and self._said_anything):
            return  # broken off: whoever reads this sees that nothing completed
        for call in self._calls:
            if call.item is None:  # its name never came: the model is told that there is no such tool
                call.name = NAMELESS
                yield from self._open(call)
            if not call.arguments:
                yield from self._emit.arguments(call.empty, call.item)
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
        for part in content if isinstance(content, list) else _objects(content):
            if isinstance(part, str):
                yield from self._content(part)
            elif not isinstance(part, Mapping):
                continue  # null, between parts
            elif part.get("type") == "thinking":
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
        function = _object(piece.get("function"))
        name, arguments = str(function.get("name") or ""), _arguments(function.get("arguments"))
        call = self._call_of(piece, name, arguments)
        call.name = call.name or name
        if name and arguments == call.arguments:
            arguments = ""  # the whole call is told once more
        if not call.arguments and arguments.strip() == "{}":
            call.empty, arguments = arguments, ""
        call.arguments += arguments
        if call.item is not None:
            yield from self._emit.arguments(arguments, call.item)
        elif call.name:
            yield from self._open(call)

    def _open(self, call: _Call) -> Events:
        call.item = yield from self._emit.tool_call(call.name, call.id, call.arguments, stays_open=True)

    def _call_of(self, piece: Mapping[str, Any], name: str, arguments: str) -> _Call:
        """The call to which a piece belongs: that of its index. Where servers give every call the same index, or none, a new id
        begins a new call, and so does a name with other arguments after some that are already whole. A piece that has neither
        an index that is known, nor an id, nor a name goes on with the last call where a server leaves the index out."""
        index, given = _index(piece.get("index")), str(piece["id"] if piece.get("id") is not None else "")
        known = [call for call in self._calls if call.index == index]
        if not (known or given or name) and self._calls and None in (index, self._calls[-1].index):
            return self._calls[-1]
        if given and (same := [call for call in known if call.id == given]):
            known = same
        if known:
            last = known[-1]
            begun_anew = bool(given and last.id and given != last.id) or (
                arguments not in ("", last.arguments) and _whole(last.arguments)
            )
            if not (name and begun_anew):
                last.id = last.id or given
                return last
        self._calls.append(_Call(index, given))
        return self._calls[-1]


def _whole(arguments: str) -> bool:
    return bool(arguments) and INVALID_JSON not in arguments_object(arguments)


def _index(given: Any) -> int | None:
    """A number, which some servers send as text."""
    return int(given) if str(given).isdecimal() else None


def _object(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _objects(given: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; an object that stands alone is the only one."""
    return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, Mapping)]


def _count(given: Any) -> int:
    return given if isinstance(given, int) else 0


def _arguments(given: Any) -> str:
    """Arguments as text, which is what they are in this API; some servers send the object itself."""
    if given is None or isinstance(given, str):
        return given or ""
    return json.dumps(given, ensure_ascii=False)


def _usage(counted: Mapping[str, Any]) -> Usage:
    into, out = _object(counted.get("prompt_tokens_details")), _object(counted.get("completion_tokens_details"))
    return Usage(
        requests=1,
        input_tokens=_count(counted.get("prompt_tokens")),
        output_tokens=_count(counted.get("completion_tokens")),
        cached_tokens=_count(into.get("cached_tokens")),
        cache_write_tokens=_count(into.get("cache_write_tokens")),
        reasoning_tokens=_count(out.get("reasoning_tokens")),
    )


def _reasoning_field(request: ModelRequest, model: str) -> str:
    for item in request.input:
        kept = item.get("provider_data") or {}
        if item.get("type") == "reasoning" and kept.get("model") in (model, ANY_MODEL) and kept.get("field"):
            return str(kept["field"])
    return "reasoning_content"
