"""Converts the Agents SDK's event stream of a run to thread items.

Messages, reasoning and tool calls are read from the model's own (Responses) events, so that they are streamed.
Tool results come from the run's hooks as soon as each tool ends; the stream reports them only when all tools of a turn have ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast

from agents import (
    Agent,
    AgentUpdatedStreamEvent,
    ModelResponse,
    RawResponsesStreamEvent,
    RunItemStreamEvent,
    StreamEvent,
)
from agents.exceptions import (
    AgentsException,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelRefusalError,
    ModelTimeoutError,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
    ToolTimeoutError,
    UserError,
)
from agents.items import HandoffOutputItem, RunItem, ToolCallItem, ToolCallOutputItem, TResponseOutputItem
from openai.types.responses import ResponseOutputMessage, ResponseReasoningItem

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, LabError, ProviderTimeoutError, RunError, ToolError
from timestep_lab.model.events import Event, ItemAdded, ItemDone, ItemReplaced, ItemUpdated
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import RunRecord, ThreadItem
from timestep_lab.runtime.agent_graph import handoff_targets
from timestep_lab.runtime.attachments import generated_image
from timestep_lab.runtime.provider_errors import words_of
from timestep_lab.runtime.span_records import jsonable
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.store.store import Store, ThreadTail


# --- The thread items of a run in progress
#
# Every change is stored before its event is sent. The exception is what the model is generating: its start and its deltas are sent at
# once and written a few times per second, so that a killed process loses little.
#
# Writes are serialized and shielded from cancellation: a run cancelled during a write finds it completed.


T = TypeVar("T")
logger = logging.getLogger("timestep_lab")

WRITE_EVERY_S, WRITE_RARELY_S = 0.25, 2.0
"""Maximum age in seconds of the stored text of a growing item; the second applies when many runs are active."""
WRITES_A_S = 100.0  # Maximum writes per second for growing items, over all runs of this process.
STREAMED = ("assistant_message", "reasoning")  # Sent before they are stored, until they are complete.

CUT_OFF = "The run ended before this call did."
ID_KIND = {
    "assistant_message": "message", "user_message": "message", "reasoning": "reasoning", "tool_call": "function_call",
    "client_tool_call": "client_tool_call",
}  # fmt: skip


class ItemLog:
    """The thread items of one run."""

    def __init__(self, store: Store, run: RunRecord, emit: Callable[[Event], None], tail: ThreadTail) -> None:
        self._store, self._run, self._emit, self._tail = store, run, emit, tail
        self._items: dict[str, ThreadItem] = {}
        self._grown: dict[str, tuple[str, list[str]]] = {}
        """Maps an item id to its growing field and the deltas not yet merged into it."""
        self._dirty: dict[str, None] = {}
        """Ids of items whose stored text is outdated."""
        self._new: dict[str, None] = {}
        """Ids of items that are not stored yet."""
        self._one_at_a_time = asyncio.Lock()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.agent: str | None = run.agent

    def adopt(self, items: list[ThreadItem]) -> None:
        """Adds items that this run wrote before it was paused."""
        self._items.update((item.id, item) for item in items)

    def get(self, item_id: str) -> ThreadItem:
        if grown := self._grown.pop(item_id, None):
            item, (field, pieces) = self._items[item_id], grown
            text = f"{item.data.get(field, '')}{''.join(pieces)}"
            self._items[item_id] = replace(item, data={**item.data, field: text})
            self._dirty[item_id] = None
        return self._items[item_id]

    def mine(self, item_type: str) -> list[ThreadItem]:
        return [self.get(item.id) for item in list(self._items.values()) if item.type == item_type]

    async def add(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        """Opens an item and emits `ItemAdded` after storing it, or immediately for an item that the model generates."""
        if item_type in STREAMED:
            item = self._draft(item_type, data)
            self._write_soon()
        else:
            item = await _unbroken(self._append(item_type, data))
        self._emit(ItemAdded(item=item))
        return item

    async def add_done(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        """Adds an item that is already complete."""
        item = await _unbroken(self._append(item_type, data))
        self._emit(ItemDone(item=item))
        return item

    def grow(self, item_id: str, delta: str, field: Literal["text", "arguments"] = "text") -> None:
        self._grown.setdefault(item_id, (field, []))[1].append(delta)
        self._emit(ItemUpdated(item_id=item_id, field=field, delta=delta))
        self._write_soon()

    async def finish(self, item_id: str, **data: Json) -> ThreadItem:
        item = await _unbroken(self._change(item_id, data))
        self._emit(ItemDone(item=item))
        return item

    async def change(self, item_id: str, **data: Json) -> ThreadItem:
        """Changes a completed item."""
        item = await _unbroken(self._change(item_id, data))
        self._emit(ItemReplaced(item=item))
        return item

    async def close(self) -> None:
        """Writes pending changes and closes open items: partial messages as incomplete, unfinished calls as failed."""
        self._closing.set()
        if self._writer:
            await asyncio.wait([self._writer])
        async with self._one_at_a_time:
            left = [item for item in map(self.get, list(self._items)) if item.data.get("status") == "in_progress"]
        for item in left:
            if item.type == "tool_call":
                await self.change(item.id, status="failed", error=CUT_OFF)
            else:
                await self.finish(item.id, status="incomplete")
        self._closing.clear()

    def _draft(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        item = ThreadItem(
            id=new_id(ID_KIND.get(item_type, "item")), thread_id=self._run.thread_id, user_id=self._run.user_id,
            type=item_type, data=data, run_id=self._run.id, trace_id=self._run.trace_id, agent=self.agent,
        )  # fmt: skip
        self._items[item.id] = item
        self._new[item.id] = None
        return item

    async def _append(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        async with self._one_at_a_time:
            item = self._draft(item_type, data)
            await self._write()
        return self._items[item.id]

    async def _change(self, item_id: str, data: dict[str, Json]) -> ThreadItem:
        async with self._one_at_a_time:
            self._items[item_id] = replace(known := self.get(item_id), data={**known.data, **data})
            self._dirty[item_id] = None
            await self._write()
        return self._items[item_id]

    async def _write(self) -> None:
        """Writes all pending changes in one transaction. Raises `NotFoundError` when the thread was deleted."""
        threads, thread_id = self._store.threads, self._run.thread_id
        for item_id in list(self._grown):
            self.get(item_id)
        new = [self._items[item_id] for item_id in self._new]
        changed = [self._items[item_id] for item_id in self._dirty if item_id not in self._new]
        self._new, self._dirty = {}, {}
        statements = [*map(threads.data_statement, changed)]
        try:
            placed = await self._tail.append(new, then=statements, changes=threads.changes(thread_id))
        except BaseException as error:
            self._new = dict.fromkeys([*(item.id for item in new), *self._new])
            self._dirty = dict.fromkeys([*(item.id for item in changed), *self._dirty])
            if isinstance(error, ConflictError) and await in_thread(threads.try_get, thread_id) is None:
                raise threads.missing(thread_id) from None
            raise
        for item in placed:
            self._items[item.id] = replace(self._items[item.id], item_index=item.item_index)

    def _write_soon(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_now_and_then())

    async def _write_now_and_then(self) -> None:
        _growing.add(self)
        try:
            while (self._grown or self._dirty or self._new) and not self._closing.is_set():
                await _at_most(min(max(WRITE_EVERY_S, len(_growing) / WRITES_A_S), WRITE_RARELY_S), self._closing)
                try:
                    async with self._one_at_a_time:
                        if self._grown or self._dirty or self._new:
                            await _unbroken(self._write())
                except LabError as error:  # The end of the item is written too, and raises if that fails.
                    logger.info("the partial output of run %s could not be stored: %s", self._run.id, error)
        finally:
            _growing.discard(self)


_growing: set[ItemLog] = set()  # Logs with pending periodic writes.


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait([waiting], timeout=seconds)
    waiting.cancel()


async def _unbroken(work: Coroutine[object, None, T]) -> T:
    return await asyncio.shield(asyncio.create_task(work))


# --- Text of model and tool outputs


def output_text(value: object) -> str:
    """Returns a tool result or a final output as text: strings unchanged, text parts joined, anything else as JSON."""
    if isinstance(value, str):
        return value
    plain = jsonable(value)
    parts = plain if isinstance(plain, list) else [plain]
    texts = [_part_text(part) for part in parts]
    if parts and all(text is not None for text in texts):
        return "".join(text for text in texts if text is not None)
    return json.dumps(plain, ensure_ascii=False)


def message_text(item: ResponseOutputMessage) -> str:
    """Returns the text of an assistant message of the Responses API, including refusals."""
    return "".join(getattr(part, "text", None) or getattr(part, "refusal", None) or "" for part in item.content)


def message_annotations(item: ResponseOutputMessage) -> list[Json]:
    return [jsonable(note) for part in item.content for note in getattr(part, "annotations", None) or ()]


def reasoning_text(item: ResponseReasoningItem) -> str:
    return "\n\n".join(part.text for part in item.summary or item.content or [])


CUT_SHORT = frozenset({"length", "content_filter", "incomplete", "pause_turn"})
"""Reasons for which an answer ended early. `incomplete`: the server closed the stream without a reason."""
ANY_MODEL = "*"  # Key of provider data that any model may receive.
CALL_EXTRAS, MESSAGE_EXTRAS = ("extra_content", "provider_specific_fields"), ("reasoning_details", "thinking_blocks")
"""Provider data: fields of a call, and of its message, that a server expects to be sent back."""
INVALID_JSON = "INVALID_JSON"


def arguments_object(given: object) -> dict[str, Json]:
    """Returns a call's arguments as an object. Anything else (truncated JSON, a list) is wrapped under the key `INVALID_JSON`, which models
    are trained on: <https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming>."""
    value = written = cast(Json, given)
    if isinstance(written, str):
        try:
            value = json.loads(written or "{}", parse_constant=_no_json)
        except (ValueError, RecursionError):
            return {INVALID_JSON: written}
    return value if isinstance(value, dict) else {INVALID_JSON: written}


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _part_text(part: Json) -> str | None:
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text"):
        return text if isinstance(text := part.get("text"), str) else None
    return None


# --- Errors of a run


SHOWN_ROUND = 8
"""Number of agents listed for an endless loop of handoffs."""


def as_lab_error(error: BaseException, *, speakers: Sequence[str], max_turns: int | None) -> LabError:
    """Converts an exception of a run to a `LabError`. `speakers`: the agents in the order in which they were active, for
    `MaxTurnsExceeded`."""
    if isinstance(error, LabError):
        return error
    if isinstance(error, MaxTurnsExceeded):
        return _max_turns(speakers, max_turns)
    if isinstance(error, ModelRefusalError):
        return RunError(
            f"The model refused: {error.refusal}", "Rephrase the input, or try another model.", code="refusal"
        )
    if guardrail := _guardrail(error):
        return RunError(guardrail, "Change the input, or the guardrail.", code="guardrail")
    if isinstance(error, ModelTimeoutError):
        return ProviderTimeoutError(str(error), "Try again, or increase the timeout: model_settings={'timeout': …}")
    if isinstance(error, ToolTimeoutError):
        return ToolError(str(error), "Try again, or give the tool a longer timeout.", tool=error.tool_name)
    # The SDK wraps exceptions of tools and models; the inner one is more specific.
    if isinstance(error, UserError | AgentsException) and isinstance(error.__cause__, Exception):
        return as_lab_error(error.__cause__, speakers=speakers, max_turns=max_turns)
    if isinstance(error, ModelBehaviorError):
        return RunError(
            f"The model did something invalid: {error.message}",
            "Try again; if it recurs, use fewer tools or a stronger model.",
            code="model_behavior",
        )
    if isinstance(error, UserError):
        return RunError(f"The agent is not valid: {error.message}", "Fix the agent and run it again.")
    return RunError(
        f"{type(error).__name__}: {error}", "The traceback is in the log of 'timestep_lab'.", code="unexpected"
    )


def error_json(error: LabError) -> dict[str, Json]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "next_step": error.next_step,
        **({"code": error.code} if error.code else {}),
    }


def _max_turns(speakers: Sequence[str], max_turns: int | None) -> RunError:
    message = f"The run was stopped after {max_turns} turns without an answer."
    handoffs = sum(a != b for a, b in pairwise(speakers))
    if handoffs >= SHOWN_ROUND // 2:
        shown = " → ".join(speakers[-SHOWN_ROUND:])
        return RunError(
            f"{message} The agents handed off in a loop: {'… → ' if len(speakers) > SHOWN_ROUND else ''}{shown}",
            "Remove one of these handoffs, or instruct one of the agents when to answer.",
            code="max_turns",
        )
    message += f" {speakers[-1]} kept calling tools." if speakers else ""
    return RunError(message, "Increase max_turns=…, or instruct the agent when to stop.", code="max_turns")


def _guardrail(error: BaseException) -> str | None:
    if isinstance(error, InputGuardrailTripwireTriggered | OutputGuardrailTripwireTriggered):
        side, what = ("input", "run") if isinstance(error, InputGuardrailTripwireTriggered) else ("output", "answer")
        return f"The {side} guardrail {error.guardrail_result.guardrail.get_name()!r} stopped the {what}."
    if isinstance(error, ToolInputGuardrailTripwireTriggered | ToolOutputGuardrailTripwireTriggered):
        side = "input" if isinstance(error, ToolInputGuardrailTripwireTriggered) else "output"
        return f"The tool {side} guardrail {error.guardrail.get_name()!r} stopped the run."
    return None


TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")
REASONING_DELTAS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
CALL_KNOWN_WITHIN_S = 5.0  # How long a starting tool waits for its call to be read from the stream.
NOT_SHOWN = (
    "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "tool_search_call", "tool_search_output",
)  # fmt: skip


class StreamItems:
    """Converts the stream's events to thread items; call `take` with every event, in order."""

    def __init__(
        self,
        log: ItemLog,
        is_client_tool: Callable[[str], bool],
        server_of: Callable[[str], str | None],
        on_text: Callable[[], None],
    ) -> None:
        """`on_text` is called for every text delta of an answer."""
        self.log = log
        self.calls: dict[str, str] = {}
        """Maps a call id to the id of its item."""
        self.speaker: Agent | None = None
        self._is_client_tool = is_client_tool
        self._server_of = server_of
        self._on_text = on_text
        self.on_permitted: Callable[[ThreadItem], None] = lambda item: None
        """Called for a call that the provider made after a person had approved it."""
        self._open: dict[int, str | None] = {}
        """Maps an output index of the model's response to an item id; None for items that are not shown."""
        self._done: set[int] = set()
        self.answers = 0
        """Number of responses that were read completely."""
        self._heard: dict[str, asyncio.Event] = {}
        self._opening: dict[str, asyncio.Future[str]] = {}
        """Items of calls that were not read to their end yet, by call id."""

    def adopt(self, items: list[ThreadItem]) -> None:
        """Adds the items that the run wrote before its pause."""
        self.log.adopt(items)
        for item in items:
            if item.type in ("tool_call", "client_tool_call"):
                self._know(cast(str, item.data["call_id"]), item.id)

    async def take(self, event: StreamEvent) -> None:
        if isinstance(event, RawResponsesStreamEvent):
            await self._raw(event.data)
        elif isinstance(event, AgentUpdatedStreamEvent):
            self.speaker = event.new_agent
            self.log.agent = event.new_agent.name
        elif isinstance(event, RunItemStreamEvent):
            await self._run_item(event.item)

    async def catch_up(self, answers: Sequence[ModelResponse], error: Exception) -> None:
        """Handles a stream that ended with `error`: adds what the model had sent, and removes what a guardrail blocked."""
        if len(answers) > self.answers:
            await self._answered(answers[-1].output)
        if isinstance(error, ModelRefusalError):
            await self._refused(error.refusal)
        await self._next_response()
        messages = self.log.mine("assistant_message")
        if isinstance(error, OutputGuardrailTripwireTriggered) and messages:
            await self.log.change(messages[-1].id, text="", status="incomplete", annotations=[])

    async def _refused(self, refusal: str) -> None:
        messages = self.log.mine("assistant_message")
        if messages and messages[-1].data["status"] == "in_progress":
            await self.log.finish(messages[-1].id, text=refusal, status="completed")
            self._open.clear()
        elif not messages or messages[-1].data["text"] != refusal:
            data: dict[str, Json] = {"text": refusal, "attachments": [], "status": "completed", "annotations": []}
            await self.log.add_done("assistant_message", data)

    # -- tools, reported by the hooks

    async def call_item(
        self, call_id: str, name: str, arguments: str, *, longest_wait_s: float = CALL_KNOWN_WITHIN_S
    ) -> ThreadItem:
        """Returns the item of a starting tool call; creates it if the stream does not provide it (a call of a nested agent)."""
        heard = self._heard.setdefault(call_id, asyncio.Event())
        if longest_wait_s and not heard.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), longest_wait_s)
        if call_id not in self.calls:
            await self._finish_call(await self._open_call(call_id, name), call_id, arguments)
        return self.log.get(self.calls[call_id])

    async def call_ended(self, item_id: str, result: object, duration_ms: float, error: str | None) -> None:
        if self.log.get(item_id).type == "tool_call":
            await self.log.change(
                item_id, status="failed" if error else "completed", output=output_text(result),
                duration_ms=round(duration_ms, 3), error=error,
            )  # fmt: skip

    # -- the model's events

    async def _raw(self, event: Any) -> None:
        kind = event.type
        if kind == "response.created":
            await self._next_response()
        elif kind == "response.output_item.added":
            await self._item_added(event.output_index, event.item)
        elif kind in TEXT_DELTAS:
            self._on_text()
            self._grow(event.output_index, event.delta)
        elif kind in REASONING_DELTAS:
            self._grow(event.output_index, event.delta)
        elif kind == "response.function_call_arguments.delta":
            item_id = self._open.get(event.output_index)
            if item_id and event.delta and self.log.get(item_id).type == "tool_call":
                self.log.grow(item_id, event.delta, "arguments")
        elif kind == "response.output_item.done":
            await self._item_done(event.output_index, event.item)
        elif kind == "response.completed":
            await self._answered(event.response.output)

    async def _answered(self, output: Sequence[TResponseOutputItem]) -> None:
        for index, item in enumerate(output):
            await self._item_done(index, item)
        self.answers += 1
        await self._next_response()

    def _grow(self, index: int, delta: str) -> None:
        if (item_id := self._open.get(index)) and delta:
            self.log.grow(item_id, delta)

    async def _next_response(self) -> None:
        """Marks open items of an interrupted answer as incomplete (the model is asked again)."""
        for index, item_id in self._open.items():
            if item_id and index not in self._done and self.log.get(item_id).type != "tool_call":
                await self.log.finish(item_id, status="incomplete")
        self._open.clear()
        self._done.clear()

    async def _item_added(self, index: int, item: TResponseOutputItem) -> None:
        if index in self._open:
            return
        self._open[index] = None
        if item.type == "message":
            data: dict[str, Json] = {"text": "", "attachments": [], "status": "in_progress", "annotations": []}
            self._open[index] = (await self.log.add("assistant_message", data)).id
        elif item.type == "reasoning":
            self._open[index] = (await self.log.add("reasoning", {"text": "", "status": "in_progress"})).id
        elif item.type == "function_call" and not self._is_handoff(item.name):
            self._open[index] = await self._open_call(item.call_id, item.name)

    async def _item_done(self, index: int, item: TResponseOutputItem) -> None:
        if index in self._done:
            return
        await self._item_added(index, item)
        self._done.add(index)
        status = "incomplete" if getattr(item, "status", None) == "incomplete" else "completed"
        if (item_id := self._open[index]) is None:
            if item.type not in ("message", "reasoning", "function_call", *NOT_SHOWN) or getattr(item, "error", None):
                await self._hosted_call(item)
        elif item.type == "message":
            notes = message_annotations(item)
            await self.log.finish(item_id, text=message_text(item), status=status, annotations=notes)
        elif item.type == "reasoning":
            text = reasoning_text(item) or self.log.get(item_id).data["text"]
            await self.log.finish(item_id, text=text, status=status)
        elif item.type == "function_call":
            await self._finish_call(item_id, item.call_id, item.arguments)
            self._opening.pop(item.call_id, None)

    async def _open_call(self, call_id: str, name: str) -> str:
        """Returns the item of a call, which may also be opened by its tool, if that starts before the call is read."""
        if call_id not in self._opening:
            self._opening[call_id] = asyncio.ensure_future(self._add_call(call_id, name))
        return await asyncio.shield(self._opening[call_id])

    async def _add_call(self, call_id: str, name: str) -> str:
        if self._is_client_tool(name):
            data: dict[str, Json] = {
                "call_id": call_id, "name": name, "arguments": {}, "status": "pending", "output": None,
            }  # fmt: skip
            return (await self.log.add("client_tool_call", data)).id
        data = {
            "call_id": call_id, "name": name, "server": self._server_of(name), "arguments": "", "output": None,
            "status": "in_progress", "duration_ms": None, "error": None,
        }  # fmt: skip
        return (await self.log.add("tool_call", data)).id

    async def _finish_call(self, item_id: str, call_id: str, arguments: str) -> None:
        is_client = self.log.get(item_id).type == "client_tool_call"
        await self.log.finish(item_id, arguments=arguments_object(arguments) if is_client else arguments)
        self._know(call_id, item_id)

    async def _hosted_call(self, item: TResponseOutputItem) -> None:
        """Adds a tool call that the provider executed itself, such as web search, which is reported only when it has ended."""
        plain = item.model_dump(mode="json", exclude_none=True)
        image, error = generated_image(plain), plain.get("error")
        asked = {key: plain[key] for key in ("size", "quality", "revised_prompt") if key in plain} if image else plain
        of_mcp = item.type == "mcp_call"
        data: dict[str, Json] = {
            "call_id": plain.get("approval_request_id") or plain.get("call_id") or plain.get("id"),
            "name": plain["name"] if of_mcp else item.type.removesuffix("_call"), "server": plain.get("server_label"),
            "arguments": plain["arguments"] if of_mcp else output_text(asked),
            "output": output_text([image]) if image else plain.get("output") if of_mcp else None, "duration_ms": None,
            "status": "failed" if error or plain.get("status") == "failed" else "completed",
            "error": (words_of(error) or output_text(error)) if error else None,
        }  # fmt: skip
        if permitted := self.calls.get(str(data["call_id"])):
            self.on_permitted(await self.log.change(permitted, **data))
        else:
            await self.log.add_done("tool_call", data)

    # -- the SDK's own events

    async def _run_item(self, item: RunItem) -> None:
        if isinstance(item, HandoffOutputItem):
            agents: dict[str, Json] = {"from_agent": item.source_agent.name, "to_agent": item.target_agent.name}
            await self.log.add_done("handoff", agents)
        elif isinstance(item, ToolCallItem):
            await self._learn_server(item)
        elif isinstance(item, ToolCallOutputItem):
            await self._late_output(item)

    async def _learn_server(self, item: ToolCallItem) -> None:
        origin = item.tool_origin
        item_id = self.calls.get(item.call_id or "")
        if origin and origin.mcp_server_name and item_id and self.log.get(item_id).data.get("server") is None:
            await self.log.change(item_id, server=origin.mcp_server_name)

    async def _late_output(self, item: ToolCallOutputItem) -> None:
        """Handles the output of a call that no hook reported: it was rejected, or the tool does not exist."""
        item_id = self.calls.get(item.call_id or "")
        call = self.log.get(item_id) if item_id else None
        if call and call.type == "tool_call" and call.data["status"] in ("in_progress", "needs_approval"):
            text = output_text(item.output)
            await self.log.change(call.id, status="failed", output=text, error=text)

    def _is_handoff(self, name: str) -> bool:
        return self.speaker is not None and name in handoff_targets(self.speaker)

    def _know(self, call_id: str, item_id: str) -> None:
        self.calls[call_id] = item_id
        self._heard.setdefault(call_id, asyncio.Event()).set()
