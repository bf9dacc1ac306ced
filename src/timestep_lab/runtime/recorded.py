"""A recorded run prepared for replay (answers, tool results, fork point), and the changes of a fork."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypedDict, cast, get_type_hints

from agents import FunctionTool, ToolOutputFileContent, ToolOutputImage, ToolOutputText
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, list_of
from timestep_lab.model.errors import LabError, NotFoundError, RunError, UsageError
from timestep_lab.model.spans import GenAI, Lab


class Span(TypedDict):
    """The fields of a span as returned by `store.traces.payloads` that replays and tapes read."""

    trace_id: str
    span_id: str
    parent_id: str | None
    kind: str
    name: str
    agent: str | None
    model: str | None
    status: str
    error: str | None
    started_at: datetime
    ended_at: datetime | None
    duration_ms: float | None
    attributes: Mapping[str, Json]
    input: Any
    """As recorded: text, or JSON of any form. The same holds for `output`."""
    output: Any


class TapeSpec(TypedDict):
    """JSON form of a `Tape`, as its `spec` returns it."""

    traces: Sequence[str]
    ignore: Mapping[str, Sequence[str]]
    near: Mapping[str, Sequence[str]]
    on_miss: str


ToolStub = Json | Callable[[dict[str, Any]], object]
"""Result of a replaced tool: a fixed value, or a function of its arguments (which may be async)."""
CUT_SHORT = "The recorded run ended before this step did."


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Changes of a fork. `again`: no change, but live from the span on."""

    prompt: str | None = None
    model: str | None = None
    """Model of every agent that is not in `models`."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Maps an agent name to its model."""
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Maps an agent name to its instructions."""
    tools: Mapping[str, ToolStub] = field(default_factory=dict)
    """Maps a tool name to the result of its live calls."""
    results: Mapping[str, ToolStub] = field(default_factory=dict)
    """Maps the id of a recorded call to its new result."""
    again: bool = False
    on_tools: str = "live"
    """`ask`: a live call of a tool with possible side effects needs approval. `live`: the tools' own rules apply. `tape`: answered by
    `tape`."""
    tape: Mapping[str, Json] | None = None
    """`Tape.spec` of the tape that answers live calls."""

    @property
    def none(self) -> bool:
        return replace(self, on_tools="live", tape=None) == Changes()

    def over(self, earlier: Changes) -> Changes:
        """Returns the changes for a fork of a fork: the earlier replacements apply unless overridden here."""
        return replace(
            self,
            models={**({} if self.model else earlier.models), **self.models},
            instructions={**earlier.instructions, **self.instructions},
            tools={**earlier.tools, **self.tools},
        )

    def to_json(self) -> dict[str, Json]:
        """Returns the changes as JSON for the run's row. Functions cannot be stored; only their names are."""
        plain: dict[str, Json] = {
            name: getattr(self, name) for name in ("prompt", "model", "again", "on_tools", "tape")
        }
        for name in ("models", "instructions", "tools", "results"):
            plain[name] = {key: value for key, value in getattr(self, name).items() if not callable(value)}
        functions = [name for name, value in [*self.tools.items(), *self.results.items()] if callable(value)]
        return {**plain, "functions": functions}

    @classmethod
    def from_json(cls, plain: Mapping[str, Json]) -> Changes:
        """Inverse of `to_json`. Raises `RunError` when something was replaced by a function, which other processes do not have."""
        if lost := cast("Sequence[str]", plain["functions"]):
            raise RunError(
                f"This fork replaced {', '.join(map(repr, lost))} by a function, which exists only in the process that created it.",
                "Continue it there, or fork again with a fixed result: tools={'name': 'result'}.",
            )
        make: Callable[..., Changes] = cls  # The stored fields are not checked again.
        return make(**{name: value for name, value in plain.items() if name != "functions"})


@dataclass(frozen=True, slots=True)
class Point:
    """The fork point: after `answers` model answers, and at the calls `live` that the last of them made."""

    answers: int
    live: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A tool call that has ended."""

    heard: Json = None
    """Result sent to the model, as text or content parts. None when the tool's error ended the run."""
    output: Json = None
    """The tool's return value, as JSON."""
    error: str | None = None
    is_text: bool = True
    """Whether the tool's return value was the text sent to the model."""
    decision: str | None = None
    """`approved` or `rejected` if the call needed approval."""
    ran: bool = True
    """False for a call that a guardrail answered instead of the tool."""

    def as_output(self, returns: object = None) -> object:
        """Returns a value that the SDK sends to the model as `heard`, and that is stored and shown as `output`. It has the type that the tool
        `returns` if it can be read back, as for `tool_use_behavior`, which gets the value itself."""
        if isinstance(self.heard, list):
            parts = [_part(part) for part in cast("list[Mapping[str, Json]]", self.heard)]
            return parts if isinstance(self.output, list) or len(parts) != 1 else parts[0]
        if self.is_text:
            return self.heard
        heard = str(self.heard)
        values = (_read_back(self.output, returns), self.output)
        return next((one for one in values if type(one) is not str and str(one) == heard), _Output(heard, self.output))


RETURNS = "_timestep_returns"
"""Attribute of a tool whose function was replaced: the type of its results."""


def type_of_result(tool: FunctionTool) -> object:
    """Returns the type that the function behind a tool says it returns; None if that is unknown."""
    if hasattr(tool, RETURNS):
        return getattr(tool, RETURNS)
    function = getattr(tool, "__wrapped__", None)
    try:
        return get_type_hints(function).get("return") if callable(function) else None
    except (NameError, TypeError):  # A type that exists only inside another function.
        return None


def _read_back(output: Json, returns: object) -> object:
    try:
        return TypeAdapter(cast("type[object]", returns)).validate_python(output)
    except (PydanticUserError, PydanticSchemaGenerationError, ValidationError, TypeError, NameError):
        return output


class _Output:
    """A non-text result that cannot be read back: the SDK sends `str` of it to the model; `model_dump` is stored and shown."""

    def __init__(self, heard: str, output: Json) -> None:
        self._heard, self._output = heard, output

    def __str__(self) -> str:
        return self._heard

    def model_dump(self, **_: object) -> Json:
        return self._output


def _part(part: Mapping[str, Json]) -> object:
    kinds: Mapping[Json, Callable[..., object]] = {
        "input_text": ToolOutputText, "input_image": ToolOutputImage, "input_file": ToolOutputFileContent,
    }  # fmt: skip
    return kinds[part["type"]](**{name: value for name, value in part.items() if name != "type"})


def asked(answer: Mapping[str, Any]) -> tuple[str, list[dict[str, Json]]]:
    """Returns the instructions and the input that the model of a recorded answer read."""
    items = [dict(item) for item in list_of(answer["input"]) if isinstance(item, Mapping)]
    is_told = bool(items) and items[0].get("role") == "system" and not answer["attributes"].get(Lab.NO_INSTRUCTIONS)
    return str(items[0].get("content") or "") if is_told else "", items[is_told:]


def attribute(span: Span, name: str) -> str | None:
    """Returns an attribute that is a text."""
    return cast("str | None", span["attributes"].get(name))


def definitions_of(spans: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Json]]]:
    """Maps an MCP server's name to its tools as offered to models; the latest definition of each tool wins."""
    by_server: dict[str, dict[str, Mapping[str, Json]]] = {}
    for span in spans:
        for definition in span["attributes"].get(GenAI.TOOL_DEFINITIONS) or ():
            if isinstance(definition, Mapping) and (server := definition.get("server")):  # Other programs send texts.
                by_server.setdefault(server, {})[definition["server_tool"]] = definition
    return {server: list(tools.values()) for server, tools in by_server.items()}


class Recorded:
    """A recorded run prepared for replay: the models' answers in order, the calls of each answer, and the calls' results.

    Steps inside a call of an agent used as a tool are not included: such a call is replayed or live as a whole. `heard` maps a call id to
    its output in the session log. `end` is the error that ended the run, None if it completed or waits (`is_over`). Raises `RunError` for a
    trace whose answers were not recorded by the lab.
    """

    def __init__(
        self, spans: Sequence[Span], heard: Mapping[str, Json], end: LabError | None, *, is_over: bool
    ) -> None:
        self.end, self.is_over = end, is_over
        self._spans = {span["span_id"]: span for span in spans}
        outer = sorted((s for s in spans if self._around(s) is s), key=_began)
        self.answers = [span for span in outer if span["kind"] == "generation"]
        self.definitions = definitions_of(self.answers)
        for span in self.answers:
            if span["status"] == "ok" and not isinstance(span["output"], list):
                raise RunError(
                    f"The answer of span {span['span_id']} was not recorded, so it cannot be replayed.",
                    "Only runs of a lab can be forked. Start a new run with lab.run.",
                )
        self.asked = [_calls_of(span) for span in self.answers]
        self.turn_of = {call_id: turn for turn, calls in enumerate(self.asked) for call_id in calls}
        self.tools = {_call_id(span): span for span in outer if span["kind"] == "tool" and _call_id(span)}
        self.calls = {i: call for i in self.turn_of if (call := _recorded(self.tools.get(i), heard.get(i))) is not None}
        self.guardrails: dict[str, list[bool]] = {}
        for span in outer:
            if span["kind"] == "guardrail" and isinstance(span["output"], Mapping):
                self.guardrails.setdefault(span["name"], []).append(bool(span["output"].get("triggered")))

    def point(self, span_id: str | None, changes: Changes) -> Point | None:
        """Returns the fork point; None when everything is replayed. Without `span_id`, it is where the first change takes effect.

        Raises `NotFoundError` for an unknown span, `UsageError` for changed results that cannot all take effect.
        """
        if span_id is not None and span_id not in self._spans:
            raise NotFoundError(f"There is no span {span_id!r} in this trace.", "Use a span id from the trace's tree.")
        if changes.none:
            return None
        felt = self._changed_calls(changes)
        if span_id is not None:
            if changes.results:
                raise UsageError(
                    "results= already defines where the fork goes live.", "Omit the span.", param="span_id"
                )
            return self._at(self._spans[span_id])
        if changes.prompt is not None or changes.model or changes.again:
            felt.append(Point(0))
        agents = {*changes.models, *changes.instructions}
        felt += [Point(turn) for turn, span in enumerate(self.answers) if span["agent"] in agents][:1]
        if not felt:
            return None
        first = min(point.answers for point in felt)
        return Point(first, frozenset().union(*(point.live for point in felt if point.answers == first)))

    def warm_start(self, point: Point) -> int:
        """Returns the turn at which a replay of `point` can start: that of its first live answer, or of the answer whose calls are live."""
        if point.live or point.answers >= len(self.answers):
            return point.answers - 1
        return point.answers

    def input_of(self, turn: int) -> list[dict[str, Json]]:
        """Returns the model's input at a turn, without its instructions."""
        return asked(self.answers[turn])[1]

    def with_answer(self, turn: int, output: Sequence[Mapping[str, object]]) -> Recorded:
        """Returns the run with a different answer at a turn; changed calls have no recorded result."""
        other = copy.copy(self)
        was = {
            item["call_id"]: item for item in self.answers[turn]["output"] or () if item.get("type") == "function_call"
        }
        other.answers = [*self.answers]
        other.answers[turn] = {**self.answers[turn], "output": [dict(item) for item in output]}
        other.asked = [_calls_of(span) for span in other.answers]
        other.turn_of = {call_id: at for at, calls in enumerate(other.asked) for call_id in calls}
        now = {item["call_id"]: item for item in output if item.get("type") == "function_call"}
        changed = {
            i for i, item in was.items() if i not in now or any(now[i][n] != item[n] for n in ("name", "arguments"))
        }
        other.calls = {i: call for i, call in self.calls.items() if i not in changed}
        return other

    def used_tools(self, turn: int) -> set[str]:
        """Returns the agents that had called a tool or handed off before a turn."""
        return {
            str(answer["agent"])
            for answer in self.answers[:turn]
            if any(_is_call(item) for item in answer["output"] or () if isinstance(item, Mapping))
        }

    def _changed_calls(self, changes: Changes) -> list[Point]:
        for call_id in changes.results:
            if call_id not in self.turn_of:
                raise UsageError(
                    f"This run has no call {call_id!r}.{did_you_mean(call_id, self.turn_of)}",
                    f"Its calls: {', '.join(self.turn_of) or 'none'}.",
                    param="results",
                )
        if len({self.turn_of[call_id] for call_id in changes.results}) > 1:
            raise UsageError(
                "Calls of several turns cannot be changed in one fork: everything after the first is live and makes new calls.",
                "Change the calls of one turn, then fork the fork.",
                param="results",
            )
        named = {
            i: self.turn_of[i] for i, span in self.tools.items() if i in self.turn_of and span["name"] in changes.tools
        }
        first = min(named.values(), default=None)
        calls = [*changes.results, *(call_id for call_id, turn in named.items() if turn == first)]
        return [Point(self.turn_of[call_id] + 1, frozenset({call_id})) for call_id in calls]

    def _at(self, span: Span) -> Point:
        outer = self._around(span)
        call_id = _call_id(outer)
        if outer["kind"] == "tool" and call_id in self.turn_of:
            return Point(self.turn_of[call_id] + 1, frozenset({call_id}))
        return Point(sum(_began(answer) < _began(outer) for answer in self.answers))

    def _around(self, span: Span) -> Span:
        """Returns the outermost tool call that contains the span, or the span itself."""
        outer, here = span, self._spans.get(span["parent_id"] or "")
        while here is not None:
            outer = here if here["kind"] == "tool" else outer
            here = self._spans.get(here["parent_id"] or "")
        return outer


def _call_id(span: Span) -> str:
    return str(attribute(span, GenAI.TOOL_CALL_ID) or "")


def _calls_of(answer: Span) -> list[str]:
    items = answer["output"] if isinstance(answer["output"], list) else []
    return [item["call_id"] for item in items if isinstance(item, Mapping) and item.get("type") == "function_call"]


def _is_call(item: Mapping[str, object]) -> bool:
    kind = str(item.get("type"))
    return kind not in ("message", "reasoning") and not kind.startswith("tool_search")


def _recorded(span: Span | None, heard: Json) -> RecordedCall | None:
    """Returns the recorded call, or None for a call that has not ended."""
    if span is None:
        return None if heard is None else RecordedCall(heard, heard, ran=False)
    if span["ended_at"] is None:
        return None
    approval, exact = attribute(span, Lab.APPROVAL), attribute(span, Lab.HEARD)
    if exact is not None:
        heard = json.loads(exact)
    elif isinstance(span["output"], str) or heard is None:
        heard = span["output"]
    return RecordedCall(
        heard if heard is None or isinstance(heard, str | list) else json.dumps(heard, ensure_ascii=False),
        span["output"],
        str(span["error"]) if span["status"] == "error" else None,
        exact is None and isinstance(span["output"], str | None),
        approval if approval in ("approved", "rejected") else None,
    )


def _began(span: Span) -> datetime:
    return span["started_at"]
