"""The event stream of a run, read by the chat view, the command line, the HTTP server and the trace writer.

Names follow ChatKit (`thread.item.added`, `.updated`, `.done`) and, for growing content of an item, the Responses API. An event is
sent only after what it reports is stored. The exception is what a model is still generating: the opening of an item and its deltas,
whose complete item comes with `thread.item.done` (partial if the run ends early).

        run.started                       always first
          thread.created                  the run opened a new thread
          thread.item.done                the user's message
          agent.updated                   the active agent; again after each handoff
          thread.item.added               an item was opened: assistant message, reasoning, tool call
          thread.item.updated             `delta` appended to the item's text (or to a tool call's arguments)
          thread.item.done                the complete item
          thread.item.replaced            an item changed afterwards (an approval decided, a tool call finished)
          progress                        progress reported by a tool
        run.completed | run.needs_approval | run.stopped | run.failed | run.cancelled     last, always exactly one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from timestep_lab.model.clock import iso
from timestep_lab.model.codec import Json
from timestep_lab.model.records import Interruption, ModelAnswer, RunRecord, ThreadItem, ThreadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. `type` is the event's name in every encoding.

    Example:
        async for event in lab.stream("Say 4.", model="demo/echo"):
            assert isinstance(event, Event)
            if event.type == "text.delta":
                print(event.text, end="")
    """

    type: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object with `type` first; datetimes are ISO 8601 UTC, records are objects."""
        return {"type": self.type, **{name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The first event of a run, sent again with `resumed` when it continues after a pause."""

    type: ClassVar[str] = "run.started"
    run: RunRecord
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCreated(Event):
    """The run created a new thread."""

    type: ClassVar[str] = "thread.created"
    thread: ThreadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUpdated(Event):
    """The active agent: sent at the start and after each handoff."""

    type: ClassVar[str] = "agent.updated"
    agent: str
    model: str
    previous: str | None = None
    """The agent that handed off; None at the start of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAdded(Event):
    """An item was opened: a message, a tool call or another step, possibly still empty."""

    type: ClassVar[str] = "thread.item.added"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemUpdated(Event):
    """Text or arguments appended to an open item."""

    type: ClassVar[str] = "thread.item.updated"
    item_id: str
    field: Literal["text", "arguments"] = "text"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(Event):
    """An item is complete and stored."""

    type: ClassVar[str] = "thread.item.done"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReplaced(Event):
    """A completed item changed afterwards, for example when a tool call was approved."""

    type: ClassVar[str] = "thread.item.replaced"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """Progress reported by a tool, as text for people."""

    type: ClassVar[str] = "progress"
    text: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """Base of the final events. `run` is the row as stored."""

    run: RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted(RunEnded):
    """The run ended with an answer."""

    type: ClassVar[str] = "run.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(RunEnded):
    """The run waits for decisions on `interruptions`; it is stored and survives a restart."""

    type: ClassVar[str] = "run.needs_approval"
    interruptions: tuple[Interruption, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(RunEnded):
    """The run ended with an error."""

    type: ClassVar[str] = "run.failed"
    error: Mapping[str, Json] = field(default_factory=dict)
    """`{"type": error class name, "message": str, "next_step": str}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(RunEnded):
    """The run reached one of its limits. Output up to then is kept."""

    type: ClassVar[str] = "run.stopped"
    limit: Literal["budget_usd", "max_tokens_total", "timeout_s", "max_tool_calls"]
    error: Mapping[str, Json] = field(default_factory=dict)
    """As in `RunFailed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(RunEnded):
    """The run was cancelled. Output up to then is kept."""

    type: ClassVar[str] = "run.cancelled"


# -- One answer of one model, without an agent


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStarted(Event):
    """The request was sent to the model; the call is recorded as the trace `trace_id`."""

    type: ClassVar[str] = "answer.started"
    model: str
    trace_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta(Event):
    """A delta of the answer's text, of the model's reasoning, or of the arguments of call `call_id` to the tool `tool`."""

    type: ClassVar[str] = "answer.delta"
    field: Literal["text", "reasoning", "arguments"] = "text"
    delta: str
    call_id: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCompleted(Event):
    """The complete answer. Its trace is stored."""

    type: ClassVar[str] = "answer.completed"
    answer: ModelAnswer


# -- Long-running analyses of a recorded run


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseProgress(Event):
    """Number of replays done, out of at most `planned`."""

    type: ClassVar[str] = "cause.progress"
    done: int
    planned: int
    spent_usd: float | None = None
    """So far; None if a price is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseFound(Event):
    """The result of the replays: the fields of a `Why` or an `Outlook`."""

    type: ClassVar[str] = "cause.found"
    found: Mapping[str, Json]


EVENT_TYPES: dict[str, type[Event]] = {
    cls.type: cls
    for cls in (
        RunStarted, ThreadCreated, AgentUpdated, ItemAdded, ItemUpdated, ItemDone, ItemReplaced, Progress,
        RunCompleted, RunPaused, RunStopped, RunFailed, RunCancelled, AnswerStarted, AnswerDelta, AnswerCompleted,
        CauseProgress, CauseFound,
    )
}  # fmt: skip


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(inner) for key, inner in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
