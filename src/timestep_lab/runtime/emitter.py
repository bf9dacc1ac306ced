"""Converts a provider's deltas to the complete Responses event stream, with unique ids.

The Agents SDK only needs `response.completed`; a chat view needs every step:

    response.created, response.in_progress
      output_item.added → content_part.added → output_text.delta … → output_text.done → content_part.done → output_item.done
      output_item.added → reasoning_summary_part.added → reasoning_summary_text.delta … → .done → output_item.done
      output_item.added → function_call_arguments.delta … → function_call_arguments.done → output_item.done
        response.completed                       always last, unless the adapter raised

An adapter calls `text`, `refusal`, `reasoning`, `image`, `tool_call`, `arguments` and `annotation` as deltas arrive, and `finish` once; each
yields the events to pass on. An item closes when another one opens, except calls whose deltas may be interleaved. The stop reason is in
the response's metadata (`stop_reason`), because a truncated answer is still an answer: the SDK would drop a `response.incomplete`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias, TypeVar, cast

from agents.models.fake_id import FAKE_RESPONSES_ID
from openai import BaseModel
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
    ResponseOutputTextAnnotationAddedEvent,
    ResponseReasoningItem,
    ResponseReasoningSummaryPartAddedEvent,
    ResponseReasoningSummaryPartDoneEvent,
    ResponseReasoningSummaryTextDeltaEvent,
    ResponseReasoningSummaryTextDoneEvent,
    ResponseRefusalDeltaEvent,
    ResponseRefusalDoneEvent,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response_output_item import ImageGenerationCall
from openai.types.responses.response_output_text import Annotation, AnnotationFileCitation, AnnotationURLCitation
from openai.types.responses.response_output_text_annotation_added_event import (
    AnnotationFileCitation as AddedFileCitation,
)
from openai.types.responses.response_output_text_annotation_added_event import AnnotationURLCitation as AddedCitation
from openai.types.responses.response_reasoning_item import Summary
from openai.types.responses.response_reasoning_summary_part_added_event import Part as PartAdded
from openai.types.responses.response_reasoning_summary_part_done_event import Part as PartDone
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Usage
from timestep_lab.runtime.attachments import image_call
from timestep_lab.runtime.stream_items import CUT_SHORT, INVALID_JSON, arguments_object

# --- Unique ids for output items, whatever the wrapped model does
#
# The Agents SDK's Chat Completions adapter, and those of litellm and any-llm, use one constant id for everything, so that a
# chat view would confuse the answers of a thread. The lab's adapters create ids themselves; this fixes those of other models.
#
# Call ids are not unique either: some servers number them from 0 in every answer (`0`, `functions.look:0`), while calls and outputs
# are matched by id in a thread and in a run. The lab therefore gives a call an id of its own that encodes the provider's, which is
# decoded when the call is sent back (from a session, an approval, or a client of the OpenAI API).


T = TypeVar("T")
_KIND_OF = {"message": "message", "function_call": "function_call", "reasoning": "reasoning"}
_MISSING = (None, "", FAKE_RESPONSES_ID)
_ITEM_ID, _PROVIDER_DATA = "item_id", "provider_data"
_OWN_CALL_ID = re.compile(r"call_[0-9a-f]{12}_([A-Za-z0-9_-]+)")


def own_call_id(given: str | None) -> str:
    """Returns a unique id for a call with this provider id, or none. Only letters, digits, `_` and `-`, as every provider accepts."""
    if not given:
        return new_id("call")
    carried = base64.urlsafe_b64encode(given.encode()).decode().rstrip("=")
    return f"call_{secrets.token_hex(6)}_{carried}"


def provider_call_id(call_id: str) -> str:
    """Returns the provider's id encoded by `own_call_id`; any other id is returned unchanged."""
    if (own := _OWN_CALL_ID.fullmatch(call_id)) is None:
        return call_id
    carried = own.group(1)
    try:
        return base64.urlsafe_b64decode(carried + "=" * (-len(carried) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return call_id  # another program's id that looks like ours


async def with_unique_ids(stream: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yields the same events. Ids from the provider are kept; placeholders are replaced by one id per output index."""
    ids: dict[int, str] = {}
    response_id = new_id("response")

    def name(item: Any, index: int) -> None:
        if getattr(item, "id", None) in _MISSING:
            item.id = ids.setdefault(index, new_id(_KIND_OF.get(item.type, "item")))

    try:
        async for event in stream:
            index = getattr(event, "output_index", None)
            if index is not None and (item := getattr(event, "item", None)) is not None:
                name(item, index)
            if getattr(event, "item_id", "given") in _MISSING and index in ids:
                setattr(event, _ITEM_ID, ids[index])
            if (response := getattr(event, "response", None)) is not None:
                if response.id in _MISSING:
                    response.id = response_id
                for place, item in enumerate(response.output):
                    name(item, place)
            yield event
    finally:
        # A model may return any async iterator; a generator must be closed immediately, or its connection stays open.
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def decoded_arguments(arguments: str) -> str:
    """Returns a call's arguments as the JSON of an object. Some servers (GLM's, vLLM with some templates) encode that JSON once more."""
    if not arguments.lstrip().startswith('"'):
        return arguments
    try:
        inner = json.loads(arguments)
        return inner if isinstance(json.loads(inner), dict) else arguments
    except ValueError:
        return arguments


def is_json_object(arguments: str) -> bool:
    return bool(arguments) and INVALID_JSON not in arguments_object(decoded_arguments(arguments))


class Arguments:
    """A call's arguments, joined from pieces.

    A piece continues the one before, but some servers send everything so far in each (gateways of DeepSeek and Qianfan, SGLang with
    MiniMax). A piece that begins with all of the one before is therefore held back until the next. Only if the joined pieces are no JSON
    object and the last one is, the last one is what was meant.
    """

    def __init__(self) -> None:
        self._joined = ""
        self._n_sent = 0
        """How many characters have been passed on."""
        self._last: str | None = ""
        """The last piece, as long as each began with the one before."""

    def add(self, piece: str) -> str:
        """Returns what can be passed on. Nothing of JSON that is encoded once more, before it is complete."""
        if not piece:
            return ""
        grew = bool(self._last) and piece.startswith(str(self._last))
        self._last = piece if grew or not self._joined else None
        self._joined += piece
        if grew or self._joined.lstrip().startswith('"'):
            return ""
        more = piece if self._n_sent == len(self._joined) - len(piece) else self._joined[self._n_sent :]
        self._n_sent = len(self._joined)
        return more

    def sent(self) -> str:
        """Returns the arguments so far, as they were sent."""
        if (
            self._last
            and self._last != self._joined
            and not is_json_object(self._joined)
            and is_json_object(self._last)
        ):
            return self._last
        return self._joined

    def rest(self) -> str:
        """Returns what is left to pass on when the call is complete."""
        arguments = decoded_arguments(self.sent())
        return arguments.removeprefix(self._joined[: self._n_sent])


Event: TypeAlias = ResponseStreamEvent
Events = Iterator[Event]
Item: TypeAlias = ResponseOutputMessage | ResponseReasoningItem | ResponseFunctionToolCall | ImageGenerationCall
"""What an adapter's answer consists of."""
Part = TypeVar("Part", bound=ResponseOutputText | ResponseOutputRefusal)
B = TypeVar("B", bound=BaseModel)


class Emitter:
    """Builds the events of one response. `model` is the model name in the response.

    `brief`: only the routed model reads the events, for their type and text (a non-streamed answer). They are then plain objects with the
    same attributes, and items are not copied: a fifth of the CPU time.
    """

    def __init__(self, model: str, *, brief: bool = False) -> None:
        self._brief = brief
        self._response = Response(
            id=new_id("response"), created_at=time.time(), model=model, object="response", output=[], tools=[],
            tool_choice="auto", parallel_tool_calls=True, status="in_progress",
        )  # fmt: skip
        self._sequence = 0
        self._items: list[Item] = []
        self._open: Item | None = None
        self._open_calls: list[ResponseFunctionToolCall] = []
        """Calls that stay open while other items arrive."""
        self._arguments: dict[str | None, Arguments] = {}
        """Arguments of calls, by item id."""
        self._first_with: dict[str, ResponseFunctionToolCall] = {}
        """The first call with each of the provider's ids."""
        self._again: list[tuple[ResponseFunctionToolCall, ResponseFunctionToolCall]] = []
        """Later calls with such an id, and the first one. They are held back until it is known whether they repeat it."""
        self._half = ""
        """First half of a surrogate pair that a server split."""

    def start(self) -> Events:
        yield self._event(
            ResponseCreatedEvent,
            type="response.created",
            response=self._response.model_copy(),
            sequence_number=self._next(),
        )
        yield self._event(
            ResponseInProgressEvent,
            type="response.in_progress",
            response=self._response.model_copy(),
            sequence_number=self._next(),
        )

    def text(self, delta: str) -> Events:
        """Emits answer text. Opens a message unless one is open."""
        if not delta.isascii() or self._half:
            delta = self._whole_characters(delta)
        if delta:
            part = yield from self._message_part(ResponseOutputText)
            part.text += delta
            yield self._event(
                ResponseTextDeltaEvent,
                type="response.output_text.delta",
                delta=delta,
                logprobs=[],
                **self._at_part(),
                sequence_number=self._next(),
            )

    def refusal(self, delta: str, *, after_text: bool = False) -> Events:
        """Emits a refusal. `after_text`: the text so far becomes an incomplete message."""
        if after_text:
            yield from self._close("incomplete")
        if delta:
            part = yield from self._message_part(ResponseOutputRefusal)
            part.refusal += delta
            yield self._event(
                ResponseRefusalDeltaEvent,
                type="response.refusal.delta",
                delta=delta,
                **self._at_part(),
                sequence_number=self._next(),
            )

    def annotation(self, url: str, title: str, start_index: int | None = None, end_index: int | None = None) -> Events:
        """Emits a web citation for a range of the open message's text, by default all of it."""
        part = yield from self._message_part(ResponseOutputText)
        end = len(part.text) if end_index is None else end_index
        note = AnnotationURLCitation(
            type="url_citation", url=url, title=title, start_index=min(start_index or 0, end), end_index=end
        )
        yield from self._annotated(part, note, AddedCitation(**note.model_dump()))

    def file_citation(self, file_id: str, filename: str) -> Events:
        """Emits a citation of a document without a URL, at the end of the open message's text."""
        part = yield from self._message_part(ResponseOutputText)
        note = AnnotationFileCitation(type="file_citation", file_id=file_id, filename=filename, index=len(part.text))
        yield from self._annotated(part, note, AddedFileCitation(**note.model_dump()))

    def _annotated(self, part: ResponseOutputText, note: Annotation, sent_note: object) -> Events:
        part.annotations.append(note)
        yield self._event(
            ResponseOutputTextAnnotationAddedEvent,
            type="response.output_text.annotation.added",
            annotation=sent_note,
            annotation_index=len(part.annotations) - 1,
            **self._at_part(),
            sequence_number=self._next(),
        )

    @property
    def text_so_far(self) -> str:
        """Text of the open message; empty when none is open."""
        if self._open is None or self._open.type != "message" or not self._open.content:
            return ""
        return str(getattr(self._open.content[-1], "text", ""))

    def reasoning(self, delta: str = "", provider_data: Mapping[str, object] | None = None) -> Events:
        """Emits reasoning. `provider_data` (such as signatures) is kept with the item and sent back on replay."""
        item = self._open
        if item is None or item.type != "reasoning":
            item = ResponseReasoningItem(id=new_id("reasoning"), type="reasoning", summary=[])
            yield from self._switch_to(item)
        if provider_data is not None:
            setattr(item, _PROVIDER_DATA, dict(provider_data))
        if not (delta := self._whole_characters(delta)):
            return
        where = {"item_id": item.id, "output_index": self._index_of(item), "summary_index": 0}
        if not item.summary:
            item.summary.append(Summary(type="summary_text", text=""))
            yield self._event(ResponseReasoningSummaryPartAddedEvent, 
                type="response.reasoning_summary_part.added", part=PartAdded(type="summary_text", text=""),
                **where, sequence_number=self._next(),
            )  # fmt: skip
        item.summary[0].text += delta
        yield self._event(
            ResponseReasoningSummaryTextDeltaEvent,
            type="response.reasoning_summary_text.delta",
            delta=delta,
            **where,
            sequence_number=self._next(),
        )

    def image(self, address: str) -> Events:
        """Emits an image that the model made: a `data:` URL as an `image_generation_call`, any other address as a link in the text."""
        if (fields := image_call(address)) is None:
            yield from self.text(f"[image]({address})")
        else:
            yield from self._switch_to(ImageGenerationCall(**fields))
            yield from self._close()  # It is complete, whatever happens to the rest of the answer.

    def tool_call(
        self, name: str, call_id: str | None = None, arguments: str = "", *, stays_open: bool = False
    ) -> Generator[Event, None, ResponseFunctionToolCall]:
        """Opens a function call; `arguments` may follow in deltas. `call_id` is the provider's; the call gets a unique id.

        A generator that returns the call. `stays_open`: its deltas may be interleaved with those of other items.
        """
        call = ResponseFunctionToolCall(
            id=new_id("function_call"),
            type="function_call",
            call_id=own_call_id(call_id),
            name=name.strip(),
            arguments="",
            status="in_progress",
        )
        self._arguments[str(call.id)] = Arguments()
        first = self._first_with.setdefault(call_id, call) if call_id and stays_open else call
        if first is not call:
            self._again.append((call, first))
        else:
            yield from self._switch_to(call)
            if stays_open:
                self._open_calls.append(call)
                self._open = None
        yield from self.arguments(arguments, call)
        return call

    def arguments(self, delta: str, call: ResponseFunctionToolCall | None = None) -> Events:
        """Emits arguments of `call`, by default of the most recently opened one."""
        item = cast(ResponseFunctionToolCall, self._open) if call is None else call
        if any(item is held for held, _ in self._again):
            self._arguments[item.id].add(delta)
        elif more := self._arguments[item.id].add(delta):
            yield from self._arguments_delta(item, more)

    def _arguments_delta(self, item: ResponseFunctionToolCall, delta: str) -> Events:
        item.arguments += delta
        yield self._event(
            ResponseFunctionCallArgumentsDeltaEvent,
            type="response.function_call_arguments.delta",
            item_id=item.id,
            output_index=self._index_of(item),
            delta=delta,
            sequence_number=self._next(),
        )

    def output(self) -> list[dict[str, object]]:
        """Returns the items so far as they are sent back, for an answer that is continued by another request."""
        return [item.model_dump(exclude_none=True) for item in self._items]

    def finish(self, usage: Usage | None, stop_reason: str, metadata: Mapping[str, str] | None = None) -> Events:
        """Ends the answer. `usage` is None when the provider reported none; zeros are none, because no answer costs nothing."""
        yield from self._close("incomplete" if stop_reason in CUT_SHORT else "completed")
        for call, first in self._again:
            yield from self._repeated_call(call, first)
        for call in self._open_calls:
            yield from self._close_item(call)
        usage_block = response_usage(usage) if usage and (usage.input_tokens or usage.output_tokens) else None
        done = self._response.model_copy(
            update={
                "output": list(self._items), "status": "completed", "usage": usage_block,
                "metadata": {"stop_reason": stop_reason, **(metadata or {})},
            }
        )  # fmt: skip
        yield self._event(
            ResponseCompletedEvent, type="response.completed", response=done, sequence_number=self._next()
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _repeated_call(self, call: ResponseFunctionToolCall, first: ResponseFunctionToolCall) -> Events:
        """Opens a call with the id of an earlier one, unless it is the same again: LocalAI sends a call under several indexes, first without
        its arguments or with some of them. Other servers give different calls the same id."""
        received, before = self._arguments[call.id].sent(), self._arguments[first.id].sent()
        if (
            call.name == first.name
            and before.startswith(received)
            and (received == before or not is_json_object(received))
        ):
            return
        if call.name == first.name and received.startswith(before) and not is_json_object(before):
            yield from self.arguments(received.removeprefix(before), first)
            return
        yield from self._switch_to(call)
        self._open = None
        self._open_calls.append(call)
        self._arguments[call.id] = Arguments()
        yield from self._arguments_delta(call, self._arguments[call.id].add(received))

    def _whole_characters(self, delta: str) -> str:
        """Joins a surrogate pair that a server writing `\\ud83d\\ude00` split into two deltas: the first half waits for the second."""
        if delta.isascii() and not self._half:
            return delta
        delta, self._half = self._half + delta, ""
        if "\ud800" <= delta[-1:] <= "\udbff":
            delta, self._half = delta[:-1], delta[-1]
        return delta.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _event(self, kind: type[T], **values: object) -> T:
        return cast(T, SimpleNamespace(**values)) if self._brief else kind(**values)

    def _copy(self, part: B) -> B:
        return part if self._brief else part.model_copy(deep=True)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _index_of(self, item: object) -> int:
        last = len(self._items) - 1
        if self._items[last] is item:
            return last
        return next(n for n in range(last, -1, -1) if self._items[n] is item)

    def _at_part(self) -> dict[str, object]:
        message = cast(ResponseOutputMessage, self._open)
        return {
            "item_id": message.id,
            "output_index": self._index_of(message),
            "content_index": len(message.content) - 1,
        }

    def _switch_to(self, item: Item) -> Events:
        yield from self._close()
        self._open = item
        self._items.append(item)
        yield self._event(ResponseOutputItemAddedEvent, 
            type="response.output_item.added", item=self._copy(item), output_index=self._index_of(item),
            sequence_number=self._next(),
        )  # fmt: skip

    def _message_part(self, kind: type[Part]) -> Generator[Event, None, Part]:
        """Returns the open message's part of a kind, opening it if necessary. A generator that returns the part."""
        message = self._open
        if message is None or message.type != "message":
            message = ResponseOutputMessage(
                id=new_id("message"), type="message", role="assistant", status="in_progress", content=[]
            )
            yield from self._switch_to(message)
        if not message.content or not isinstance(message.content[-1], kind):
            yield from self._close_part(message)
            part = (
                ResponseOutputText(type="output_text", text="", annotations=[], logprobs=[])
                if kind is ResponseOutputText
                else ResponseOutputRefusal(type="refusal", refusal="")
            )
            message.content.append(part)
            yield self._event(ResponseContentPartAddedEvent, 
                type="response.content_part.added", part=self._copy(part), **self._at_part(),
                sequence_number=self._next(),
            )  # fmt: skip
        return cast(Part, message.content[-1])

    def _close_part(self, message: ResponseOutputMessage) -> Events:
        if not message.content:
            return
        part, where = message.content[-1], self._at_part()
        if isinstance(part, ResponseOutputText):
            yield self._event(
                ResponseTextDoneEvent,
                type="response.output_text.done",
                text=part.text,
                logprobs=[],
                **where,
                sequence_number=self._next(),
            )
        else:
            yield self._event(
                ResponseRefusalDoneEvent,
                type="response.refusal.done",
                refusal=part.refusal,
                **where,
                sequence_number=self._next(),
            )
        yield self._event(
            ResponseContentPartDoneEvent,
            type="response.content_part.done",
            part=self._copy(part),
            **where,
            sequence_number=self._next(),
        )

    def _close(self, status: Literal["completed", "incomplete"] = "completed") -> Events:
        if self._open is not None:
            yield from self._close_item(self._open, status)
            self._open = None

    def _close_item(self, item: Item, status: Literal["completed", "incomplete"] = "completed") -> Events:
        if item.type == "message":
            yield from self._close_part(item)
            item.status = status
        elif item.type == "function_call":
            if rest := self._arguments[item.id].rest():
                yield from self._arguments_delta(item, rest)
            item.arguments = item.arguments or "{}"
            item.status = "completed"
            yield self._event(ResponseFunctionCallArgumentsDoneEvent, 
                type="response.function_call_arguments.done", item_id=item.id, output_index=self._index_of(item),
                arguments=item.arguments, sequence_number=self._next(),
            )  # fmt: skip
        elif item.type == "reasoning" and status == "incomplete":
            item.status = status
        if item.type == "reasoning" and item.summary:
            where = {"item_id": item.id, "output_index": self._index_of(item), "summary_index": 0}
            yield self._event(ResponseReasoningSummaryTextDoneEvent, 
                type="response.reasoning_summary_text.done", text=item.summary[0].text, **where,
                sequence_number=self._next(),
            )  # fmt: skip
            yield self._event(ResponseReasoningSummaryPartDoneEvent, 
                type="response.reasoning_summary_part.done", part=PartDone(type="summary_text", text=item.summary[0].text),
                **where, sequence_number=self._next(),
            )  # fmt: skip
        yield self._event(ResponseOutputItemDoneEvent, 
            type="response.output_item.done", item=self._copy(item), output_index=self._index_of(item),
            sequence_number=self._next(),
        )  # fmt: skip


def response_usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=usage.cached_tokens, cache_write_tokens=usage.cache_write_tokens
        ),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
    )
