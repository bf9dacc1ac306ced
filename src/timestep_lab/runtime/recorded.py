"""A recorded run, read for replaying, and what is to be different: what models said, what they heard of each call, where it goes live."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from agents import ToolOutputFileContent, ToolOutputImage, ToolOutputText

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import LabError, NotFoundError, RunError, UsageError
from timestep_lab.model.records import Json
from timestep_lab.model.spans import GenAI, Lab

Span = Mapping[str, Any]
"""One span as `store.traces.payloads` gives it."""
ToolStub = Json | Callable[[dict[str, Any]], Any]
"""What a changed tool says: a fixed result, or a function of its arguments (which may be a coroutine function)."""
CUT_SHORT = "The recorded run ended before this step did."


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different in a fork. `again`: nothing is, but it runs live from the span on."""

    prompt: str | None = None
    model: str | None = None
    """For every agent that is not in `models`."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Agent name to model."""
    instructions: Mapping[str, str] = field(default_factory=dict)
    """Agent name to instructions."""
    tools: Mapping[str, ToolStub] = field(default_factory=dict)
    """Tool name to what each of its live calls says."""
    results: Mapping[str, ToolStub] = field(default_factory=dict)
    """Id of a recorded call to what that call says."""
    again: bool = False
    on_tools: str = "live"
    """`ask`: a live call of a tool that may change the world waits for a person. `live`: by the tools' own rules. `tape`: by the `tape`."""
    tape: Mapping[str, Json] | None = None
    """`Tape.spec` of what live calls are answered from."""

    @property
    def none(self) -> bool:
        return replace(self, on_tools="live", tape=None) == Changes()

    def over(self, earlier: Changes) -> Changes:
        """What is live in a fork of a fork: the earlier replacements hold where these say nothing else."""
        return replace(
            self,
            models={**({} if self.model else earlier.models), **self.models},
            instructions={**earlier.instructions, **self.instructions},
            tools={**earlier.tools, **self.tools},
        )

    def to_json(self) -> dict[str, Json]:
        """For the run's row. Functions cannot be written down: of them only the names are kept."""
        plain: dict[str, Json] = {
            name: getattr(self, name) for name in ("prompt", "model", "again", "on_tools", "tape")
        }
        for name in ("models", "instructions", "tools", "results"):
            plain[name] = {key: value for key, value in getattr(self, name).items() if not callable(value)}
        functions = [name for name, value in [*self.tools.items(), *self.results.items()] if callable(value)]
        return {**plain, "functions": functions}

    @classmethod
    def from_json(cls, plain: Mapping[str, Json]) -> Changes:
        """Raises `RunError` when something was replaced by a function, which no other process has."""
        if lost := plain["functions"]:
            raise RunError(
                f"This fork replaced {', '.join(map(repr, lost))} by a function, which lives only in the process that made it.",
                "Go on with it there, or fork again with a fixed result: tools={'name': 'what it says'}.",
            )
        return cls(**{name: value for name, value in plain.items() if name != "functions"})


@dataclass(frozen=True, slots=True)
class Point:
    """Where a fork goes live: after `answers` answers of models, and in the calls `live` that the last of them asked for."""

    answers: int
    live: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A tool call that is over."""

    heard: Json = None
    """What the model read as its answer: a text, or content parts. None when it read nothing, since the tool's error ended the run."""
    output: Json = None
    """What the tool returned, as far as JSON can say it."""
    error: str | None = None
    is_text: bool = True
    """Whether the tool returned what was heard."""
    decision: str | None = None
    """`approved` or `rejected`, when it was asked about."""
    ran: bool = True
    """False for a call that a guardrail answered in the tool's place."""

    def said(self) -> Any:
        """Something that the SDK gives to the model as `heard`, and everybody else sees as `output`."""
        if isinstance(self.heard, list):
            parts = [_part(part) for part in self.heard]
            return parts if isinstance(self.output, list) or len(parts) != 1 else parts[0]
        return self.heard if self.is_text else _Said(str(self.heard), self.output)


class _Said:
    """A result that is not text: `str` is what the SDK gives to the model, `model_dump` what is stored and shown."""

    def __init__(self, heard: str, output: Json) -> None:
        self._heard, self._output = heard, output

    def __str__(self) -> str:
        return self._heard

    def model_dump(self, **_: object) -> Json:
        return self._output


def _part(part: Mapping[str, Any]) -> Any:
    kinds = {"input_text": ToolOutputText, "input_image": ToolOutputImage, "input_file": ToolOutputFileContent}
    return kinds[part["type"]](**{name: value for name, value in part.items() if name != "type"})


def definitions_of(spans: Iterable[Span]) -> dict[str, list[Mapping[str, Json]]]:
    """By the name of an MCP server, its tools as models were offered them; what was said last of each tool holds."""
    by_server: dict[str, dict[str, Mapping[str, Json]]] = {}
    for span in spans:
        for definition in span["attributes"].get(GenAI.TOOL_DEFINITIONS) or ():
            if server := definition.get("server"):
                by_server.setdefault(server, {})[definition["server_tool"]] = definition
    return {server: list(tools.values()) for server, tools in by_server.items()}


class Recorded:
    """A recorded run, read for replaying: what models said in order, which calls each answer asked for, how they ended.

    What an agent used as a tool did inside its call is not part of it: the call as a whole is replayed, or is live.
    `heard`: by call id, the outputs of the conversation's log. `end`: how the run ended, unless it completed or waits (`is_over`).
    Raises `RunError` for a trace whose answers were not recorded as the lab records them.
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
                    f"The answer of span {span['span_id']} was not recorded, so it cannot be said again.",
                    "Only runs of a lab can be forked. Run it again with lab.run.",
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
        """Where a fork goes live; None when all of it is replayed. Without `span_id`, that is where the first change is felt.

        Raises `NotFoundError` for an unknown span, `UsageError` for changed results that cannot all be felt.
        """
        if span_id is not None and span_id not in self._spans:
            raise NotFoundError(f"There is no span {span_id!r} in this trace.", "Take a span id of the trace's tree.")
        if changes.none:
            return None
        felt = self._changed_calls(changes)
        if span_id is not None:
            if changes.results:
                raise UsageError(
                    "results= says by itself where the fork goes live.", "Leave the span out.", param="span_id"
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
        """The turn at which a replay of `point` can begin: that of its first live answer, or of the answer whose calls are live."""
        if point.live or point.answers >= len(self.answers):
            return point.answers - 1
        return point.answers

    def input_of(self, turn: int) -> list[dict[str, Any]]:
        """What the model read at that turn, without its instructions."""
        items = [dict(item) for item in self.answers[turn]["input"] or ()]
        return items[1:] if items and items[0].get("role") == "system" else items

    def with_answer(self, turn: int, output: Sequence[Mapping[str, object]]) -> Recorded:
        """The same run, in which the model said something else at that turn; a call that is not as it was has no recorded end."""
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
        """The agents that had called a tool or handed off before that turn."""
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
                "Calls of several turns cannot be changed in one fork: what follows the first is live, and asks anew.",
                "Change the calls of one turn, and fork the fork.",
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
        """The outermost tool call that the span is inside of, or the span itself."""
        outer, here = span, self._spans.get(span["parent_id"] or "")
        while here is not None:
            outer = here if here["kind"] == "tool" else outer
            here = self._spans.get(here["parent_id"] or "")
        return outer


def _call_id(span: Span) -> str:
    return str(span["attributes"].get(GenAI.TOOL_CALL_ID) or "")


def _calls_of(answer: Span) -> list[str]:
    items = answer["output"] if isinstance(answer["output"], list) else []
    return [item["call_id"] for item in items if isinstance(item, Mapping) and item.get("type") == "function_call"]


def _is_call(item: Mapping[str, object]) -> bool:
    kind = str(item.get("type"))
    return kind not in ("message", "reasoning") and not kind.startswith("tool_search")


def _recorded(span: Span | None, heard: Json) -> RecordedCall | None:
    """None for a call that is not over."""
    if span is None:
        return None if heard is None else RecordedCall(heard, heard, ran=False)
    if span["ended_at"] is None:
        return None
    approval = span["attributes"].get(Lab.APPROVAL)
    exact = span["attributes"].get(Lab.HEARD)
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
    began: datetime = span["started_at"]
    return began
