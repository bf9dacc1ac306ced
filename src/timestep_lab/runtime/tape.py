"""Recorded tool results that answer tool calls, so that an agent can be tried without side effects.

A `Tape` holds the tool calls of a pool of traces, as rows. A call is answered by the same recorded call: same agent, same tool, same
arguments, in order of occurrence, and preferably from the case's own trace. A `Player` does this for one run. A call that the tape does
not have is a miss, handled according to `on_miss`. A tool that may have side effects is never called for real unless a person approves
that call.
"""

from __future__ import annotations

import copy
import difflib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from agents import Agent, FunctionTool, Handoff, Model, ModelSettings, ModelTracing, RunContextWrapper, get_current_span
from agents.tool import Tool
from agents.tool_context import ToolContext
from agents.tracing import SpanError

from timestep_lab.model.arguments import did_you_mean, shown
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import BudgetError, NotFoundError, TapeMissError, ToolError, UsageError
from timestep_lab.model.spans import GenAI, Lab
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.recorded import (
    RETURNS,
    RecordedCall,
    Span,
    TapeSpec,
    attribute,
    definitions_of,
    type_of_result,
)
from timestep_lab.runtime.span_records import is_read_only, parsed
from timestep_lab.runtime.stream_items import message_text
from timestep_lab.runtime.tracing import note

if TYPE_CHECKING:
    import pandas

    from timestep_lab.runtime.mcp.toolbox import Definitions
    from timestep_lab.store.store import Store

FIRST_AGENT = ""
"""Path of the agent that a run starts with, whatever its name, so that differently named agents can use the same tape."""
ALL = "*"
IGNORABLE = "x-timestep-ignorable"
"""JSON Schema extension of a tool's argument: its value does not affect the result."""
MOST_TRACES = 200
NEARLY = 0.8
"""Similarity from which two strings count as near, from 0 to 1 (`difflib`)."""
EXAMPLES = 5
"""Number of recorded calls shown to a simulating model."""
_READ_AT_ONCE = 50
_SIMULATE = "simulate:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapedCall:
    """One recorded tool call: a row of a tape."""

    trace_id: str
    span_id: str
    path: str
    """The calling agent, preceded by the agents and tools it is nested in, joined by `/`. Empty for the run's first agent."""
    tool: str
    arguments: Json
    heard: Json
    """Result sent to the model, as text or content parts; None when the tool's error ended the run."""
    output: Json = None
    """The tool's return value, as JSON."""
    error: str | None = None
    error_type: str | None = None
    approval: str = "not_needed"
    ms: float | None = None
    server: str | None = None
    occurrence: int = 0
    """Number of identical earlier calls in the trace."""


@dataclass(frozen=True)
class Tape:
    """Recorded tool calls of a pool of traces. Created by `lab.tape(…)`; `.df()` shows it as a table.

    Example:
        run = await lab.run("What's the weather in Oslo?", model="demo/assistant")
        again = await lab.run("What's the weather in Oslo?", model="demo/assistant", tools=lab.tape([run]))
        print(again.output == run.output)
    """

    calls: tuple[TapedCall, ...]
    traces: tuple[str, ...]
    """Trace ids of the pool, in order of preference."""
    ignore: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Maps a tool to arguments that are ignored when matching (`*`: all)."""
    near: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Maps a tool to text arguments that only need to be similar."""
    definitions: Definitions = field(default_factory=dict)
    """Tool definitions of MCP servers, as offered to the models in the pool."""

    @cached_property
    def version(self) -> str:
        """Hash of everything that can affect an answer."""
        import hashlib

        rows = [[c.trace_id, c.path, c.tool, c.arguments, c.heard, c.error, c.approval] for c in self.calls]
        has_calls = {call.trace_id for call in self.calls}
        used = [trace_id for trace_id in self.traces if trace_id in has_calls]
        text = json.dumps([rows, used, _lists(self.ignore), _lists(self.near)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def df(self) -> pandas.DataFrame:
        """Returns a DataFrame with one row per recorded call."""
        import pandas

        names = [f.name for f in fields(TapedCall)]
        return pandas.DataFrame([[getattr(c, name) for name in names] for c in self.calls], columns=names)

    def spec(self, on_miss: str) -> dict[str, Json]:
        """Returns a JSON specification from which `read_tape` restores the tape."""
        return {
            "traces": list(self.traces), "ignore": _lists(self.ignore), "near": _lists(self.near), "on_miss": on_miss,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.calls)

    def __repr__(self) -> str:
        tools = len({call.tool for call in self.calls})
        counted = [(len(self.calls), "call"), (tools, "tool"), (len(self.traces), "trace")]
        calls, of, traces = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in counted)
        return f"<Tape: {calls} of {of} in {traces}>"

    @cached_property
    def _of(self) -> dict[tuple[str, str], list[TapedCall]]:
        by_tool: dict[tuple[str, str], list[TapedCall]] = defaultdict(list)
        for call in self.calls:
            by_tool[call.path, call.tool].append(call)
        return dict(by_tool)

    @cached_property
    def _indexes(self) -> dict[tuple[str, str, str], dict[str, dict[str, list[TapedCall]]]]:
        return {}

    def calls_of(self, path: str, tool: str) -> list[TapedCall]:
        return self._of.get((path, tool), [])

    def index(self, path: str, tool: str, reading: Reading) -> dict[str, dict[str, list[TapedCall]]]:
        """Maps canonical arguments to trace ids to the matching calls, in order."""
        key = path, tool, reading.key
        if key not in self._indexes:
            index: dict[str, dict[str, list[TapedCall]]] = {}
            for call in self.calls_of(path, tool):
                index.setdefault(reading.canonical(call.arguments), {}).setdefault(call.trace_id, []).append(call)
            self._indexes[key] = index
        return self._indexes[key]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the arguments of one tool are compared. Raises `UsageError` for a near argument that must match exactly."""

    ignored: frozenset[str]
    defaults: Mapping[str, Json]
    key: str

    @classmethod
    def of(cls, tool: str, schema: Mapping[str, Json], tape: Tape) -> Reading:
        properties = cast("Mapping[str, Json]", schema.get("properties") or {})
        hinted = {name for name, spec in properties.items() if isinstance(spec, Mapping) and spec.get(IGNORABLE)}
        ignored = frozenset({*hinted, *tape.ignore.get(tool, ())})
        defaults = {
            n: spec["default"] for n, spec in properties.items() if isinstance(spec, Mapping) and "default" in spec
        }
        for name in tape.near.get(tool, ()):
            _check_near(tool, name, properties)
        return cls(ignored, defaults, json.dumps([sorted(ignored), defaults], sort_keys=True, default=str))

    def canonical(self, arguments: Json) -> str:
        """Returns equal text for equivalent arguments: key order, `1.0` vs. `1`, nulls and default values do not matter."""
        return json.dumps(self.kept(arguments), sort_keys=True, ensure_ascii=False)

    def kept(self, arguments: Json) -> Json:
        if not isinstance(arguments, Mapping):
            return _canonical(arguments)
        if ALL in self.ignored:
            return {}
        return {
            name: _canonical(value)
            for name, value in arguments.items()
            if name not in self.ignored and value != self.defaults.get(name)
        }


def _check_near(tool: str, name: str, properties: Mapping[str, Json]) -> None:
    spec = properties.get(name)
    if spec is None:
        raise UsageError(
            f"near={{{tool!r}: [{name!r}]}}: the tool has no such argument.{did_you_mean(name, properties)}",
            f"Its arguments: {', '.join(properties) or 'none'}.",
            param="near",
        )
    described = object_of(spec)
    is_text = described.get("type") in ("string", ["string", "null"])
    if not is_text or {"enum", "const", "format", "pattern"} & set(described):
        raise UsageError(
            f"near={{{tool!r}: [{name!r}]}}: only free text can match approximately; ids, numbers and choices must match exactly.",
            "Remove it, or list it in ignore= if it does not matter.",
            param="near",
        )


def _canonical(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {name: _canonical(inner) for name, inner in value.items() if inner is not None}
    return [_canonical(inner) for inner in value] if isinstance(value, list | tuple) else value


def _lists(by_tool: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    return {tool: list(names) for tool, names in sorted(by_tool.items())}


def read_names(given: Mapping[str, Sequence[str] | str] | None) -> dict[str, tuple[str, ...]]:
    """Reads a mapping such as `{"think": "*", "search": ["reason"]}`."""
    return {tool: (names,) if isinstance(names, str) else tuple(names) for tool, names in (given or {}).items()}


def check_on_miss(
    on_miss: object, *, may_ask: bool, model_of: Callable[[str], Model] | None = None, lacks: str | None = None
) -> None:
    """Validates `on_miss`; `lacks`: the argument that gives the missing tape. Raises `UsageError`, and what `model_of` raises for a model."""
    if lacks and on_miss != "fail":
        raise UsageError(f"on_miss={on_miss!r} needs a tape.", f"Add {lacks}.", param="on_miss")
    known = ["fail", "live-if-readonly", *(["ask"] if may_ask else [])]
    if isinstance(on_miss, str) and (on_miss in known or (on_miss.startswith(_SIMULATE) and on_miss != _SIMULATE)):
        if model_of and on_miss.startswith(_SIMULATE):
            model_of(on_miss.removeprefix(_SIMULATE))
        return
    why = " here, because nobody can be asked" if on_miss == "ask" else ""
    step = f"Use {', '.join(map(repr, known))} or 'simulate:<model>'."
    raise UsageError(f"on_miss={on_miss!r} is not possible{why}.", step, param="on_miss")


# -- reading traces


def record(
    store: Store, trace_ids: Sequence[str], *, ignore: Mapping[str, Sequence[str] | str] | None = None,
    near: Mapping[str, Sequence[str] | str] | None = None,
) -> Tape:  # fmt: skip
    """Records a tape from traces. Blocks. Raises `UsageError` when none of them exists."""
    wanted = tuple(dict.fromkeys(trace_ids))
    spans: dict[str, list[Span]] = defaultdict(list)
    columns = (
        "trace_id, span_id, parent_id, kind, name, agent, status, error, started_at, ended_at, duration_ms, attributes"
    )
    for start in range(0, len(wanted), _READ_AT_ONCE):
        part = list(wanted[start : start + _READ_AT_ONCE])
        places = ", ".join(f"${n}" for n in range(1, len(part) + 1))
        sql = (
            f"select {columns}, case when kind = 'tool' then input end as input, case when kind = 'tool' then output end as output "
            f"from spans where trace_id in ({places}) order by started_at, span_id"
        )
        for row in store.sql(sql, part, limit=None).dicts():
            attributes = row["attributes"]
            row["attributes"] = json.loads(attributes) if isinstance(attributes, str) else attributes or {}
            span = cast("Span", row)
            spans[span["trace_id"]].append(span)
    if not spans:
        raise UsageError(
            "A tape needs recorded traces, but there are none.", "Run the agent first, or import its traces."
        )
    pool = tuple(trace_id for trace_id in wanted if trace_id in spans)
    calls = [call for trace_id in pool for call in _calls(trace_id, spans[trace_id])]
    newest_last = [span for trace_id in reversed(pool) for span in spans[trace_id]]
    return Tape(tuple(calls), pool, read_names(ignore), read_names(near), definitions_of(newest_last))


def _calls(trace_id: str, spans: Sequence[Span]) -> Iterable[TapedCall]:
    by_id = {span["span_id"]: span for span in spans}
    first = next((span["agent"] or span["name"] for span in spans if span["kind"] == "agent"), None)
    before: Counter[str] = Counter()
    for span in spans:
        if span["kind"] != "tool" or span["ended_at"] is None or _left_open(span):
            continue
        if attribute(span, Lab.TAPE) not in (None, "live"):
            continue  # Answered from a tape or simulated: not a result of the tool.
        path, arguments = _path(span, by_id, first), parsed(span["input"])
        same = json.dumps([path, span["name"], _canonical(arguments)], sort_keys=True, default=str)
        exact = attribute(span, Lab.HEARD)
        if exact is None and span["output"] is None and span["status"] != "error":
            continue  # Sent by a program that does not send results.
        yield TapedCall(
            trace_id=trace_id, span_id=span["span_id"], path=path, tool=span["name"], arguments=arguments,
            heard=span["output"] if exact is None else json.loads(exact),
            output=span["output"] if exact is None else parsed(span["output"]),
            error=str(span["error"]) if span["status"] == "error" else None, error_type=attribute(span, GenAI.ERROR_TYPE),
            approval=attribute(span, Lab.APPROVAL) or "not_needed", ms=span["duration_ms"], server=attribute(span, Lab.SERVER),
            occurrence=before[same],
        )  # fmt: skip
        before[same] += 1


def _left_open(span: Span) -> bool:
    """Returns whether a call has no result because the run ended during it, or before it by a limit. A call that raised has an error class."""
    attributes = span["attributes"]
    is_open = span["status"] == "error" and span["output"] is None and Lab.SDK_ID in attributes
    return is_open and attributes.get(GenAI.ERROR_TYPE) in (None, BudgetError.__name__)


def _path(span: Span, by_id: Mapping[str, Span], first: str | None) -> str:
    parts = [named(span["agent"], first)]
    here = by_id.get(span["parent_id"] or "")
    while here is not None:
        if here["kind"] == "tool":
            parts += [here["name"], named(here["agent"], first)]
        here = by_id.get(here["parent_id"] or "")
    return "/".join(reversed(parts))


def named(agent: str | None, first: str | None) -> str:
    return FIRST_AGENT if agent is None or agent == first else agent


def pool_of(store: Store, agent: str, own: str | None = None, most: int = MOST_TRACES) -> list[str]:
    """Returns the newest completed traces of runs that started with this agent, with `own` first. Blocks."""
    replays = store.traces.kept_replays()
    sql = "select trace_id from traces where workflow = $1 and status = 'completed' order by started_at desc"
    trace_ids = [row[0] for row in store.sql(sql, [agent], limit=most + len(replays)).rows if row[0] not in replays]
    return list(dict.fromkeys([*([own] if own else []), *trace_ids[:most]]))


def matching(store: Store, expression: str, most: int = MOST_TRACES) -> list[str]:
    """Returns the newest traces that match a filter, without those that a search kept of its replays: a tape would be another one after
    each search. Blocks. Raises `FilterError`, and `NotFoundError` when none matches."""
    replays = store.traces.kept_replays()
    rows = store.traces.list(expression, limit=most + len(replays)).data
    trace_ids = [str(row["trace_id"]) for row in rows if row["trace_id"] not in replays]
    if not trace_ids:
        raise NotFoundError(f"No trace matches {expression!r}.", "Try the filter in lab.traces.")
    return trace_ids[:most]


def read_tape(
    store: Store, given: object, *, agent: str | None = None, own: str | None = None
) -> Tape:  # fmt: skip
    """Reads `tape` (the newest runs of `agent`, with `own` first), `tape:<filter>`, trace ids, or a `Tape.spec`. Blocks.

    Raises `UsageError` for anything else, and what `matching` and `record` raise.
    """
    if isinstance(given, Tape):
        return given
    if isinstance(given, Mapping) and "traces" in given:
        spec = cast("TapeSpec", given)
        return record(store, spec["traces"], ignore=spec.get("ignore"), near=spec.get("near"))
    if not isinstance(given, str):
        return record(store, read_ids(given))
    word, colon, expression = given.partition(":")
    if word != "tape" or (colon and not expression.strip()):
        raise _not_a_tape(given)
    if expression:
        return record(store, [*([own] if own else []), *matching(store, expression)])
    if agent is None:
        raise UsageError(
            "'tape' alone does not specify an agent.", "Add a filter: 'tape:agent == \"Front desk\"'.", param="tools"
        )
    return record(store, pool_of(store, agent, own))


def read_ids(given: object) -> list[str]:
    """The trace ids that a tape is given as. Raises `UsageError` for anything else, such as tools."""
    if isinstance(given, Mapping) or not isinstance(given, Iterable) or any(not isinstance(one, str) for one in given):
        raise _not_a_tape(given)
    return [*given]


def _not_a_tape(given: object) -> UsageError:
    step = "Use 'tape', 'tape:<filter of traces>', or lab.tape(…)."
    return UsageError(f"tools={shown(given)} is not a tape.", step, param="tools")


# -- playing


class Player:
    """Answers the tool calls of one run from a tape. `own` is the preferred trace; `model_of` is the router's, for `simulate:`."""

    def __init__(
        self,
        tape: Tape,
        on_miss: str = "fail",
        *,
        own: str | None = None,
        model_of: Callable[[str], Model] | None = None,
    ) -> None:
        self.tape, self.on_miss = tape, on_miss
        self._order = tuple(dict.fromkeys([*([own] if own else []), *tape.traces]))
        self._model_of = model_of
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._asked: set[str] = set()
        self._tools: dict[tuple[str, str], FunctionTool] = {}
        self.used: Counter[str] = Counter()
        """Counts of calls by outcome: `hit`, `drifted`, `live`, `simulated`, `miss`."""
        self.missed: TapeMissError | None = None
        """The miss that ended the run, if any."""

    def advance(self, calls: Iterable[tuple[str, str, Json]]) -> None:
        """Skips calls that were already made: (path, tool, arguments). Call it after `taped`."""
        for path, tool, arguments in calls:
            if (path, tool) in self._tools:
                self._seen[path, tool, self._reading(self._tools[path, tool]).canonical(arguments)] += 1

    def find(self, path: str, tool: FunctionTool, arguments: Json) -> tuple[str, TapedCall] | None:
        """Returns how the next such call is answered (`hit` or `drifted`) and the recorded call, or None for a miss."""
        reading = self._reading(tool)
        index, wanted = self.tape.index(path, tool.name, reading), reading.canonical(arguments)
        done = self._seen[path, tool.name, wanted]
        if call := self._nth(index.get(wanted, {}), done):
            return "hit", call
        if wanted in index or not (near := self.tape.near.get(tool.name)):
            return None
        for other, calls in index.items():
            if _nearly(reading.kept(arguments), json.loads(other), near) and (call := self._nth(calls, done)):
                return "drifted", call
        return None

    def _nth(self, calls: Mapping[str, Sequence[TapedCall]], n: int) -> TapedCall | None:
        """Returns the nth call of the first trace with that many; beyond all of them, the last answer if all answers are equal."""
        traces = [calls[trace_id] for trace_id in self._order if trace_id in calls]
        for recorded in traces:
            if len(recorded) > n:
                return recorded[n]
        answers = {json.dumps([c.heard, c.error], sort_keys=True, default=str) for recorded in traces for c in recorded}
        return traces[0][-1] if len(answers) == 1 else None

    def _reading(self, tool: FunctionTool) -> Reading:
        return Reading.of(tool.name, tool.params_json_schema, self.tape)

    def taped(self, tool: FunctionTool, path: str) -> FunctionTool:
        """Returns a copy of `tool` that answers from the tape."""
        live, ask, returns = tool.on_invoke_tool, tool.needs_approval, type_of_result(tool)
        self._tools[path, tool.name] = tool
        self._reading(tool)  # Raises for arguments that cannot be near, before anything runs.

        async def invoke(context: ToolContext, text: str) -> object:
            arguments = parsed(text or "{}")
            match = self.find(path, tool, arguments)
            this = path, tool.name, self._reading(tool).canonical(arguments)
            self._seen[this] += 1
            if match is not None:
                return self._answer(*match, returns)
            if self.on_miss.startswith(_SIMULATE):
                self._count("simulated")
                return await self._simulate(tool, path, arguments)
            if self._may_go_live(tool, context):
                self._count("live")
                return await live(context, text)
            self._count("miss")
            self.missed = TapeMissError.of(tool.name, text, self._seen[this])
            raise self.missed

        async def needs_approval(context: RunContextWrapper, arguments: dict[str, Json], call_id: str) -> bool:
            if self.find(path, tool, arguments) is not None:
                return False
            if self.on_miss == "ask":
                self._asked.add(call_id)
                return True
            return bool(await ask(context, arguments, call_id)) if callable(ask) else ask

        clone = copy.copy(tool)
        clone.on_invoke_tool = invoke
        is_asked = self.on_miss == "ask" or (self.on_miss == "live-if-readonly" and is_read_only(tool) and bool(ask))
        # With a function here, the SDK asks about every call whose arguments it cannot read.
        clone.needs_approval = needs_approval if is_asked else False
        setattr(clone, RETURNS, returns)
        clone.output_json_schema = None  # Recorded results are not parsed again.
        return clone

    def _answer(self, how: str, call: TapedCall, returns: object) -> object:
        decided = {} if call.approval == "not_needed" else {Lab.APPROVAL: call.approval}
        typed = {GenAI.ERROR_TYPE: call.error_type} if call.error_type else {}
        self._count(how, {Lab.TAPE_SPAN: call.span_id, **decided, **typed})
        if call.error:
            if (span := get_current_span()) is not None:
                span.set_error(SpanError(message=call.error, data=None))
            if call.heard is None:
                raise ToolError(call.error, "The tool failed when this was recorded.", tool=call.tool)
        return RecordedCall(call.heard, call.output, is_text=False).as_output(returns)

    def _may_go_live(self, tool: FunctionTool, context: ToolContext) -> bool:
        if self.on_miss == "ask":
            return context.tool_call_id in self._asked or bool(
                context.is_tool_approved(tool.name, context.tool_call_id)
            )
        return self.on_miss == "live-if-readonly" and is_read_only(tool)

    def _count(self, how: str, more: Mapping[str, Json] | None = None) -> None:
        self.used[how] += 1
        if (span := get_current_span()) is not None:
            note(span, {Lab.TAPE: how, **(more or {})})

    async def _simulate(self, tool: FunctionTool, path: str, arguments: Json) -> str:
        assert self._model_of is not None
        model = self._model_of(self.on_miss.removeprefix(_SIMULATE))
        shown = [{"arguments": c.arguments, "answer": c.heard} for c in self.tape.calls_of(path, tool.name)[:EXAMPLES]]
        asked = {"tool": tool.name, "description": tool.description, "parameters": tool.params_json_schema,
                 "recorded_calls": shown, "arguments": arguments}  # fmt: skip
        answer = await model.get_response(
            "You stand in for a tool. Answer with exactly what it would return for these arguments, and nothing else.",
            json.dumps(asked, ensure_ascii=False, default=str), ModelSettings(), [], None, [], ModelTracing.ENABLED,
            previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        return "".join(message_text(item) for item in answer.output if item.type == "message")


def _nearly(asked: Json, recorded: Json, near: Sequence[str]) -> bool:
    """Returns whether all arguments are equal, or similar for those in `near`. Words with digits are ids or numbers and must be equal."""
    if not isinstance(asked, Mapping) or not isinstance(recorded, Mapping) or set(asked) != set(recorded):
        return False
    for name, value in asked.items():
        other = recorded[name]
        if value == other:
            continue
        if name not in near or not isinstance(value, str) or not isinstance(other, str):
            return False
        ours, theirs = value.casefold().split(), other.casefold().split()
        if Counter(filter(_has_digit, ours)) != Counter(filter(_has_digit, theirs)):
            return False
        if difflib.SequenceMatcher(None, " ".join(ours), " ".join(theirs), autojunk=False).ratio() < NEARLY:
            return False
    return True


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def check_tools(offered: Mapping[str, Sequence[Tool]]) -> None:
    """Raises `UsageError` for a tool that a tape cannot answer for."""
    for name, tools in offered.items():
        for tool in tools:
            if not isinstance(tool, FunctionTool):
                raise UsageError(
                    f"The tool {tool.name!r} of {name!r} is run by its provider or by the SDK itself, so a tape cannot answer for it.",
                    "Use an agent without it, or run without a tape.",
                    param="tools",
                )


def taped_tools(
    graph: BuiltGraph, offered: Mapping[str, Sequence[Tool]], player: Player
) -> dict[str, list[FunctionTool]]:
    """Returns each agent's tools, answered from the tape; client-side tools are unchanged. Raises `UsageError`."""
    check_tools(offered)
    return {
        name: [
            tool if tool.name in graph.client_tools else player.taped(tool, named(name, graph.root.name))
            for tool in tools
        ]
        for name, tools in cast("Mapping[str, Sequence[FunctionTool]]", offered).items()
    }


def on_tape(graph: BuiltGraph, offered: Mapping[str, Sequence[Tool]], player: Player) -> BuiltGraph:
    """Returns a copy of the agents whose tools are answered by `player`. Raises `UsageError`."""
    tools = taped_tools(graph, offered, player)
    clones = {
        name: agent.clone(tools=tools[name], mcp_servers=[], handoffs=[], model_settings=agent.model_settings)
        for name, agent in graph.agents.items()
    }
    for name, agent in graph.agents.items():
        clones[name].handoffs = [_lead_to(handoff, clones) for handoff in agent.handoffs]
    return replace(graph, root=clones[graph.root.name], agents=clones)


def _lead_to(handoff: Agent | Handoff, clones: Mapping[str, Agent]) -> Agent | Handoff:
    if isinstance(handoff, Agent):
        return clones[handoff.name]
    original_invoke = handoff.on_invoke_handoff

    async def invoke(context: RunContextWrapper, arguments: str) -> Agent:
        target = await original_invoke(context, arguments)
        return clones.get(target.name, target)

    clone = copy.copy(handoff)
    clone.on_invoke_handoff = invoke
    return clone
