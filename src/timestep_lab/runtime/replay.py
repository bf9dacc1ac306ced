"""Forks of a run: steps before the fork point are replayed as recorded, and from there on models and tools are live.

Models are replaced by stubs that return each agent's recorded answers in order, tools by stubs that return recorded results by call id.
While an agent's answers are replayed, no other user code runs either: guardrails return their recorded result, dynamic instructions
their recorded text, and `on_handoff` is not called. The fork point is a step, not a time: of three parallel calls, only the named one
is live. Without a change there is no fork point: the whole run is replayed without calling any provider or tool.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import agents as sdk
from agents import (
    Agent,
    AgentBase,
    AgentHookContext,
    AgentHooks,
    FunctionTool,
    GuardrailFunctionOutput,
    Handoff,
    InputGuardrail,
    Model,
    ModelResponse,
    ModelTracing,
    OutputGuardrail,
    RunContextWrapper,
    Tool,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailData,
    ToolOutputGuardrail,
    TResponseInputItem,
)
from agents.tool_context import ToolContext
from agents.tracing import SpanError, generation_span
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseOutputItem,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseStreamEvent,
)
from pydantic import TypeAdapter, ValidationError

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ProviderError, RunError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.mcp.toolbox import Definitions
from timestep_lab.runtime.pricing import price
from timestep_lab.runtime.recorded import CUT_SHORT, Changes, Point, Recorded, Span, ToolStub, asked, type_of_result
from timestep_lab.runtime.routed_model import show_input
from timestep_lab.runtime.span_records import is_read_only, usage_of

_ASKED = "system_instructions", "input", "model_settings", "tools", "output_schema", "handoffs", "tracing"
_items: TypeAdapter[list[ResponseOutputItem]] = TypeAdapter(list[ResponseOutputItem])
_AgentCheck = TypeVar("_AgentCheck", InputGuardrail, OutputGuardrail)
_ToolCheck = TypeVar("_ToolCheck", ToolInputGuardrail[object], ToolOutputGuardrail[object])
_Enabled = bool | Callable[[RunContextWrapper, AgentBase], Awaitable[bool] | bool]


class Replay:
    """State of one fork's replay of a recorded run. `said`: ids of the answers it replayed before a pause."""

    def __init__(self, recorded: Recorded, point: Point | None, changes: Changes, replayed: Sequence[str] = ()) -> None:
        past = recorded.answers if point is None else recorded.answers[: point.answers]
        asked = [call_id for calls in recorded.asked[: len(past)] for call_id in calls]
        live = point.live if point else frozenset()
        self.changes = changes
        self.end = recorded.end if point is None else None
        """How the run ends after its recorded answers; None when it continues live."""
        self.whole = point is None and recorded.is_over
        """True when no part of the run is live."""
        self.calls = {i: recorded.calls[i] for i in asked if i in recorded.calls and i not in live}
        self.replayed = list(replayed)
        """Ids of the recorded answers replayed so far."""
        self.answers: dict[str, deque[Span]] = {}
        for span in past:
            if span["span_id"] not in self.replayed:
                self.answers.setdefault(span["agent"] or "", deque()).append(span)
        self.costs: list[float | None] = []
        """Cost in USD of each live non-streamed answer; None where the price is unknown."""
        self.tokens = 0
        """Tokens of the same answers."""
        self.expected: deque[Span] = deque()
        """Recorded answers that the live ones are compared with, until one is asked something else."""
        self.followed = 0
        """Number of live answers that were asked what was recorded."""
        self.decided_tools = {str(recorded.tools[i]["name"]) for i, call in self.calls.items() if call.decision}
        """Names of tools with calls that were approved or rejected."""
        self.guardrails = {name: deque(ends) for name, ends in recorded.guardrails.items()}
        self.same_input = changes.prompt is None and bool(past)

    def follow(self, agent: str, instructions: str | None, given: str | Sequence[Mapping[str, object]]) -> None:
        """Compares what a live model is asked with what was recorded. The first difference ends the comparison."""
        if self.expected and is_same_question(self.expected.popleft(), agent, instructions, given):
            self.followed += 1
        else:
            self.expected.clear()

    @property
    def decisions(self) -> dict[str, tuple[str, str]]:
        """Maps a call id to its recorded decision and, for a rejection, the message sent to the model."""
        return {i: (call.decision, str(call.heard)) for i, call in self.calls.items() if call.decision}


Offered = Mapping[str, Sequence[Tool]]
"""Maps an agent's name to the tools it is offered, including those of MCP servers."""


async def offered_tools(graph: BuiltGraph, changes: Changes, recorded: Definitions | None = None) -> Offered:
    """Returns the tools of every agent, for `rewire`. `recorded` maps a server name to its recorded tools; such a server is not contacted.

    Raises `UsageError` for a changed tool or agent that the graph does not have.
    """
    _check_agents(graph, {*changes.models, *changes.instructions})
    offered = {
        name: [*agent.tools, *(await _server_tools(agent, recorded or {}))] for name, agent in graph.agents.items()
    }
    _check_tools([tool for tools in offered.values() for tool in tools], changes.tools)
    return offered


async def _server_tools(agent: Agent, recorded: Definitions) -> Sequence[Tool]:
    """Returns the tools of the MCP servers attached to an SDK agent itself."""
    if not agent.mcp_servers:
        return ()
    from agents.mcp import MCPUtil

    from timestep_lab.runtime.mcp.sdk_tools import recorded_tool

    known = {id(server): recorded.get(server.name) for server in agent.mcp_servers}
    if not all(known.values()):
        return await agent.get_mcp_tools(RunContextWrapper(None))
    strict = bool(agent.mcp_config.get("convert_schemas_to_strict", False))
    return [
        MCPUtil.to_function_tool(
            recorded_tool(definition), server, strict, agent, tool_name_override=cast("str | None", definition["name"])
        )
        for server in agent.mcp_servers
        for definition in known[id(server)] or ()
    ]


def rewire(graph: BuiltGraph, offered: Offered, replay: Replay, model_of: Callable[[Agent], Model]) -> BuiltGraph:
    """Returns a copy of the agents that replays before going live. `model_of` returns the live model of an agent when it is needed."""
    changes = replay.changes
    models = {name: ReplayModel(agent, replay, model_of) for name, agent in graph.agents.items()}
    clones: dict[str, Agent] = {}
    for agent in graph.agents.values():
        model = models[agent.name]
        clone = agent.clone(
            model=model,
            model_settings=agent.model_settings,
            tools=[
                _stub(tool, replay, model) if isinstance(tool, FunctionTool) else tool for tool in offered[agent.name]
            ],
            mcp_servers=[],
            handoffs=[],
            input_guardrails=[_as_ended(g, replay, None) for g in agent.input_guardrails],
            output_guardrails=[_as_ended(g, replay, model) for g in agent.output_guardrails],
            hooks=None if agent.hooks is None else _LiveHooks(agent.hooks, replay, models),
        )
        if agent.name in changes.instructions:
            clone.instructions = changes.instructions[agent.name]
        elif callable(agent.instructions):
            clone.instructions = _as_recorded(agent, model)
        clones[agent.name] = clone
    for agent in graph.agents.values():
        clones[agent.name].handoffs = [_lead_to(way, clones, replay, models[agent.name]) for way in agent.handoffs]
    return replace(graph, root=clones[graph.root.name], agents=clones, own_models=True, replay=replay)


def _check_agents(graph: BuiltGraph, names: set[str]) -> None:
    for name in sorted(names - set(graph.agents)):
        raise UsageError(
            f"There is no agent {name!r} in this run.{did_you_mean(name, graph.agents)}",
            f"Its agents: {', '.join(graph.agents)}.",
        )


def _check_tools(tools: Sequence[Tool], changed: Mapping[str, ToolStub]) -> None:
    """Raises `UsageError` unless every changed tool can be replaced wherever it is offered."""
    known = {tool.name for tool in tools if isinstance(tool, FunctionTool)}
    for tool in tools:
        inner = _inner_tools(tool) & set(changed)
        if inner:
            name = min(inner)
            raise UsageError(
                f"The agent behind the tool {tool.name!r} has the tool {name!r}, which cannot be replaced separately.",
                f"Replace the whole tool: tools={{{tool.name!r}: …}}.",
                param="tools",
            )
        if tool.name in changed and not isinstance(tool, FunctionTool):
            raise UsageError(
                f"The tool {tool.name!r} is run by the provider or by the SDK itself, so it cannot be replaced.",
                "Fork with an agent that does not have it: agent=….",
                param="tools",
            )
    for name in sorted(set(changed) - known):
        raise UsageError(
            f"There is no tool {name!r} in this run.{did_you_mean(name, known)}",
            f"Its tools: {', '.join(sorted(known)) or 'none'}.",
            param="tools",
        )


def _inner_tools(tool: object) -> set[str]:
    """Returns the names of all tools, at any depth, of an agent used as a tool."""
    names: set[str] = set()
    waiting, seen = [tool], set()
    while waiting:
        inner = getattr(waiting.pop(), "_agent_instance", None)
        if isinstance(inner, Agent) and id(inner) not in seen:
            seen.add(id(inner))
            names |= {one.name for one in inner.tools}
            waiting += inner.tools
    return names


class ReplayModel(Model):
    """Model that returns the recorded answers of `agent`, then delegates to its live model."""

    def __init__(self, agent: Agent, replay: Replay, model_of: Callable[[Agent], Model]) -> None:
        self._agent, self._replay, self._model_of = agent, replay, model_of
        self._answers = replay.answers.get(agent.name, deque())
        self.repeated = bool(replay.replayed)
        """True when the latest answer was a recorded one."""

    @property
    def next(self) -> Span | None:
        """The next recorded answer, or None."""
        return self._answers[0] if self._answers else None

    @property
    def full(self) -> str:
        """Name of the model of the next answer."""
        if self._answers:
            return str(self._answers[0]["model"])
        live = self._model_of(self._agent)
        return str(getattr(live, "full", None) or type(live).__name__)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        if live := self._live():
            if self._replay.expected:
                instructions, given, _ = _asked(args, kwargs)
                self._replay.follow(self._agent.name, instructions, given)
            answer = await live.get_response(*args, **kwargs)
            provider, model = getattr(live, "provider", ""), getattr(live, "model", "")
            self._replay.costs.append(price(provider, str(model), usage_of(answer.usage)))
            self._replay.tokens += answer.usage.input_tokens + answer.usage.output_tokens
            return answer
        return ModelResponse(
            output=self._answer(self._take(), *_asked(args, kwargs)), usage=sdk.Usage(), response_id=None
        )

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[ResponseStreamEvent]:
        if live := self._live():
            async for event in live.stream_response(*args, **kwargs):
                yield event
            return
        span = self._take()
        for event in _events(str(span["model"]), self._answer(span, *_asked(args, kwargs))):
            yield event

    def _live(self) -> Model | None:
        """Returns None while there are recorded answers. Raises the recorded error of the run if nothing else is left of it."""
        self.repeated = bool(self._answers)
        if self._answers:
            return None
        if self._replay.end:
            raise self._replay.end
        return self._model_of(self._agent)

    def _take(self) -> Span:
        span = self._answers.popleft()
        self._replay.replayed.append(span["span_id"])
        return span

    def _answer(
        self, span: Span, system: str | None, given: str | Sequence[Mapping[str, object]], tracing: ModelTracing
    ) -> list[ResponseOutputItem]:
        """Returns a recorded answer, in a span that refers to the original. A failed answer fails again."""
        config = {"replayed_span": span["span_id"]}
        with generation_span(model=span["model"], model_config=config, disabled=tracing.is_disabled()) as again:
            show_input(again, system, given)
            if span["status"] != "ok":
                again.set_error(SpanError(message=str(span["error"]), data=None))
                if self._replay.end:
                    raise self._replay.end
                raise ProviderError(f"Replayed: {span['error']}", "Fork from this span with another model.")
            again.span_data.output = span["output"]
            try:
                return _items.validate_python(span["output"])
            except ValidationError as error:
                raise RunError(
                    f"The answer of span {span['span_id']} is not a Responses API output, so it cannot be replayed.",
                    "Only runs of a lab can be forked. Start a new run with lab.run.",
                ) from error


def _asked(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str | None, str | list[TResponseInputItem], ModelTracing]:
    """Returns the instructions, the input and the tracing mode among the arguments of `Model.get_response`."""
    asked = [*args, *(kwargs.get(name) for name in _ASKED[len(args) :])]
    return asked[0], asked[1], asked[6]


def is_same_question(
    recorded: Span, agent: str, instructions: str | None, given: str | Sequence[Mapping[str, object]]
) -> bool:
    """Returns whether an agent's model reads what it read when `recorded` was its answer. Ids do not matter, as long as each result belongs
    to the same call."""
    recorded_instructions, before = asked(recorded)
    now = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if recorded["agent"] != agent or recorded_instructions != (instructions or "") or len(before) != len(now):
        return False
    ids: dict[object, object] = {}
    for then, item in zip(before, now, strict=True):
        if ids.setdefault(item.get("call_id"), then.get("call_id")) != then.get("call_id"):
            return False
        if not is_same_item(then, item):
            return False
    return True


def is_same_item(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Returns whether two input items say the same. Ids do not matter."""
    return one == other or _content(one) == _content(other)


def _content(item: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value for name, value in item.items() if name not in ("id", "call_id", "status") and value is not None
    }


def _events(model: str, items: list[ResponseOutputItem]) -> list[ResponseStreamEvent]:
    response = Response(
        id=new_id("response"), created_at=0, model=model, object="response", output=[], tools=[], tool_choice="auto",
        parallel_tool_calls=True,
    )  # fmt: skip
    events: list[ResponseStreamEvent] = [
        ResponseCreatedEvent(type="response.created", response=response, sequence_number=0)
    ]
    for index, item in enumerate(items):
        events += [
            ResponseOutputItemAddedEvent(
                type="response.output_item.added", sequence_number=0, item=item, output_index=index
            ),
            ResponseOutputItemDoneEvent(
                type="response.output_item.done", sequence_number=0, item=item, output_index=index
            ),
        ]
    whole = response.model_copy(update={"output": items, "status": "completed"})
    return [*events, ResponseCompletedEvent(type="response.completed", response=whole, sequence_number=0)]


def _stub(tool: FunctionTool, replay: Replay, model: ReplayModel) -> FunctionTool:
    """Wraps `tool`: a recorded call returns its recorded result; a changed tool or call returns its replacement without approval."""
    live, ask, changes = tool.on_invoke_tool, tool.needs_approval, replay.changes
    returns = type_of_result(tool)

    async def invoke(context: ToolContext, arguments: str) -> object:
        call = replay.calls.get(context.tool_call_id)
        if call is not None:
            if call.error:
                _mark_failed(call.error)
            if call.heard is None and call.error:
                raise replay.end or RunError(CUT_SHORT, "Fork from this call.")
            return call.as_output(returns)
        if context.tool_call_id in changes.results:
            return await _changed(changes.results[context.tool_call_id], arguments)
        if tool.name in changes.tools:
            return await _changed(changes.tools[tool.name], arguments)
        return await live(context, arguments)

    async def needs_approval(context: RunContextWrapper, arguments: dict[str, Json], call_id: str) -> bool:
        call = replay.calls.get(call_id)
        if call is not None:
            return call.decision is not None  # The recorded decision is applied again.
        if call_id in changes.results or tool.name in changes.tools:
            return False
        if changes.on_tools == "ask" and not is_read_only(tool):
            return True
        return bool(await ask(context, arguments, call_id)) if callable(ask) else ask

    stub = copy.copy(tool)
    stub.on_invoke_tool = invoke
    # With a function here, the SDK asks about every call whose arguments it cannot read.
    is_asked = tool.name in replay.decided_tools or (changes.on_tools == "ask" and not is_read_only(tool)) or bool(ask)
    stub.needs_approval = needs_approval if is_asked else False
    stub.is_enabled = _as_then(tool.is_enabled, replay, model)
    stub.output_json_schema = None  # Recorded results are not parsed again.
    stub.tool_input_guardrails = _input_checks(tool, replay)
    stub.tool_output_guardrails = [_unless_recorded(one, replay) for one in tool.tool_output_guardrails or ()]
    return stub


def _input_checks(tool: FunctionTool, replay: Replay) -> list[ToolInputGuardrail[object]]:
    """Returns the tool's input guardrails, which return their recorded result for a recorded call."""
    checks = list(tool.tool_input_guardrails or ())
    if not checks:
        return []

    def as_then(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        call = replay.calls.get(data.context.tool_call_id)
        if call is None or call.ran:
            return ToolGuardrailFunctionOutput.allow()
        return ToolGuardrailFunctionOutput.reject_content(str(call.heard))

    recorded: ToolInputGuardrail[object] = ToolInputGuardrail(guardrail_function=as_then, name=checks[0].get_name())
    return [recorded, *(_unless_recorded(one, replay) for one in checks)]


def _unless_recorded(check: _ToolCheck, replay: Replay) -> _ToolCheck:
    """Wraps a tool guardrail so that it allows recorded calls: their recorded result already includes its effect."""

    async def run(data: Any) -> ToolGuardrailFunctionOutput:
        if data.context.tool_call_id in replay.calls:
            return ToolGuardrailFunctionOutput.allow()
        result: ToolGuardrailFunctionOutput | Awaitable[ToolGuardrailFunctionOutput] = check.guardrail_function(data)
        return await result if isinstance(result, Awaitable) else result

    return replace(check, guardrail_function=run, name=check.get_name())


def _as_ended(guardrail: _AgentCheck, replay: Replay, speaker: ReplayModel | None) -> _AgentCheck:
    """Wraps an agent guardrail to return its recorded result while the text it checks (the input, or `speaker`'s answer) is the recorded
    one."""
    ends = replay.guardrails.get(guardrail.get_name(), deque())

    async def run(*given: Any) -> GuardrailFunctionOutput:
        same = replay.same_input if speaker is None else speaker.repeated
        if same and ends:
            return GuardrailFunctionOutput(output_info=None, tripwire_triggered=ends.popleft())
        result: GuardrailFunctionOutput | Awaitable[GuardrailFunctionOutput] = guardrail.guardrail_function(*given)
        return await result if isinstance(result, Awaitable) else result

    return replace(guardrail, guardrail_function=run, name=guardrail.get_name())


def _as_recorded(agent: Agent, model: ReplayModel) -> Callable[[RunContextWrapper, Agent], Any]:
    """Wraps dynamic instructions to return their recorded text while the answer to them is recorded."""
    dynamic = agent.instructions
    assert callable(dynamic)

    async def run(context: RunContextWrapper, clone: Agent) -> str | None:
        if model.next is not None:
            return asked(model.next)[0] or None
        instructions = dynamic(context, clone)
        return await instructions if isinstance(instructions, Awaitable) else instructions

    return run


def _as_then(is_enabled: _Enabled, replay: Replay, model: ReplayModel) -> _Enabled:
    """Wraps `is_enabled`: a tool or handoff used by a recorded answer counts as enabled."""
    if not callable(is_enabled):
        return is_enabled

    async def run(context: RunContextWrapper, agent: AgentBase) -> bool:
        if replay.whole or model.next is not None:
            return True
        enabled = is_enabled(context, agent)
        return bool(await enabled if isinstance(enabled, Awaitable) else enabled)

    return run


async def _changed(stub: ToolStub, arguments: str) -> str:
    result = stub(json.loads(arguments or "{}")) if callable(stub) else stub
    if isinstance(result, Awaitable):
        result = await result
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


class _LiveHooks(AgentHooks):
    """An agent's hooks, which are not called for what is replayed."""

    def __init__(self, hooks: AgentHooks, replay: Replay, models: Mapping[str, ReplayModel]) -> None:
        self._hooks, self._replay, self._models = hooks, replay, models

    async def on_start(self, context: AgentHookContext, agent: Agent) -> None:
        if self._is_live(agent):
            await self._hooks.on_start(context, agent)

    async def on_end(self, context: AgentHookContext, agent: Agent, output: object) -> None:
        if not self._models[agent.name].repeated:
            await self._hooks.on_end(context, agent, output)

    async def on_handoff(self, context: RunContextWrapper, agent: Agent, source: Agent) -> None:
        if not self._models[source.name].repeated:
            await self._hooks.on_handoff(context, agent, source)

    async def on_tool_start(self, context: RunContextWrapper, agent: Agent, tool: Tool) -> None:
        if not self._is_replayed(context):
            await self._hooks.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: RunContextWrapper, agent: Agent, tool: Tool, result: object) -> None:
        if not self._is_replayed(context):
            await self._hooks.on_tool_end(context, agent, tool, result)

    async def on_llm_start(
        self, context: RunContextWrapper, agent: Agent, system_prompt: str | None, input_items: list[TResponseInputItem]
    ) -> None:
        if self._is_live(agent):
            await self._hooks.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: RunContextWrapper, agent: Agent, response: ModelResponse) -> None:
        if not self._models[agent.name].repeated:
            await self._hooks.on_llm_end(context, agent, response)

    def _is_live(self, agent: Agent) -> bool:
        """Returns whether the next answer of the agent is live."""
        return not self._replay.whole and self._models[agent.name].next is None

    def _is_replayed(self, context: RunContextWrapper) -> bool:
        return isinstance(context, ToolContext) and context.tool_call_id in self._replay.calls


def _mark_failed(message: str) -> None:
    span = sdk.get_current_span()
    if span is not None:
        span.set_error(SpanError(message=message, data=None))


def _lead_to(way: Agent | Handoff, clones: Mapping[str, Agent], replay: Replay, model: ReplayModel) -> Agent | Handoff:
    """Returns a copy of a handoff to the cloned agents. A handoff in a recorded answer happens without calling user code again."""
    if isinstance(way, Agent):
        return clones[way.name]
    original_invoke = way.on_invoke_handoff

    async def invoke(context: RunContextWrapper, arguments: str) -> Agent:
        if model.repeated and way.agent_name in clones:
            return clones[way.agent_name]
        target = await original_invoke(context, arguments)
        return clones.get(target.name, target)

    clone = copy.copy(way)
    clone.on_invoke_handoff = invoke
    clone.is_enabled = _as_then(way.is_enabled, replay, model)
    return clone
