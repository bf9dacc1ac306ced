"""The one event stream of a run. Chat view, command line, HTTP server and trace writer all read this.

The words are those of ChatKit (`thread.item.added`, `.updated`, `.done`) and of the Responses API for what grows
inside an item. An event is acknowledged to the reader only after what it reports is in the store, except for what a model is still
saying: the item's opening and its growing text, whose whole comes with `thread.item.done` (and, as far as it got, when the run ends early).

    run.started                       first, always
      thread.created                  when the run opened a new thread
      thread.item.done                the user's message
      agent.updated                   who speaks now; again after each handoff
      thread.item.added               an item opened: assistant message, reasoning, tool call
      thread.item.updated             `delta` appended to the item's text (or to a tool call's arguments)
      thread.item.done                the item, whole
      thread.item.replaced            an item changed afterwards (an approval decided, a tool call finished)
      progress                        a tool says how far it is
    run.completed | run.needs_approval | run.stopped | run.failed | run.cancelled     last, always exactly one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from timestep_lab.model.clock import iso
from timestep_lab.model.records import Interruption, Json, ModelAnswer, RunRecord, ThreadItem, ThreadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`type` is the event's name on every wire."""

    type: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with `type` first; datetimes as ISO 8601 UTC; records as objects."""
        return {"type": self.type, **{name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The first event of a run, and again when it goes on after a pause (`resumed`)."""

    type: ClassVar[str] = "run.started"
    run: RunRecord
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCreated(Event):
    """The run made the thread it speaks in."""

    type: ClassVar[str] = "thread.created"
    thread: ThreadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUpdated(Event):
    """Who speaks from here on: at the beginning, and after each handoff."""

    type: ClassVar[str] = "agent.updated"
    agent: str
    model: str
    previous: str | None = None
    """None for the agent the run begins with; else who handed off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAdded(Event):
    """A message, a tool call or another step appears, perhaps still empty."""

    type: ClassVar[str] = "thread.item.added"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemUpdated(Event):
    """More text, or more arguments, for an item that was added."""

    type: ClassVar[str] = "thread.item.updated"
    item_id: str
    field: Literal["text", "arguments"] = "text"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDone(Event):
    """An item is whole, and stored."""

    type: ClassVar[str] = "thread.item.done"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReplaced(Event):
    """An item that was done changed afterwards, for example a tool call that was decided."""

    type: ClassVar[str] = "thread.item.replaced"
    item: ThreadItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """What a tool says of its progress, for people to read."""

    type: ClassVar[str] = "progress"
    text: str
    call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """Base of the last events. `run` is the row as it now stands in the store."""

    run: RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted(RunEnded):
    """The run ended with an answer."""

    type: ClassVar[str] = "run.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(RunEnded):
    """The run waits for somebody to decide `interruptions`; it is stored and survives a restart."""

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
    """The run reached a limit that was set for it. What was said until then is kept."""

    type: ClassVar[str] = "run.stopped"
    limit: Literal["budget_usd", "max_tokens_total", "timeout_s", "max_tool_calls"]
    error: Mapping[str, Json] = field(default_factory=dict)
    """As of `RunFailed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(RunEnded):
    """Somebody stopped the run. What was said until then is kept."""

    type: ClassVar[str] = "run.cancelled"


# -- One answer of one model, asked without an agent


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStarted(Event):
    """The model is being asked; the call is recorded as the trace `trace_id`."""

    type: ClassVar[str] = "answer.started"
    model: str
    trace_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta(Event):
    """More of the answer: of its text, of what the model thinks, or of the arguments of the call `call_id` of the tool `tool`."""

    type: ClassVar[str] = "answer.delta"
    field: Literal["text", "reasoning", "arguments"] = "text"
    delta: str
    call_id: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCompleted(Event):
    """The answer, whole. Its trace can be read."""

    type: ClassVar[str] = "answer.completed"
    answer: ModelAnswer


# -- Long work over a run that is recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseProgress(Event):
    """How many replays of a run are done, of at most so many."""

    type: ClassVar[str] = "cause.progress"
    done: int
    planned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseFound(Event):
    """What the replays say: the fields of a `Why` or an `Outlook`."""

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


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(inner) for key, inner in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
