"""Fork a run: what was recorded up to a span is said again word for word, and from there on models and tools are real.

Models are replaced by stubs that give each agent its recorded answers in order; tools by stubs that know the recorded results by call id.
Everything that began before the fork point is replayed, everything else is live. Without a change there is no fork point: the whole
run is said again, with no call of any provider or tool.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import agents as sdk
from agents import Agent, FunctionTool, Handoff, Model, ModelResponse, RunContextWrapper
from agents.tool_context import ToolContext
from agents.tracing import SpanError, generation_span
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseOutputItem,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
)
from pydantic import TypeAdapter, ValidationError

from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.types.errors import NotFoundError, ProviderError, RunError
from timestep_lab.types.ids import new_id
from timestep_lab.types.records import Json
from timestep_lab.types.spans import GenAI

Span = Mapping[str, Any]
"""One span as `store.traces.payloads` gives it."""
ToolStub = Json | Callable[[dict[str, Any]], Any]
"""What a changed tool says: a fixed result, or a function of its arguments (which may be a coroutine function)."""

_items: TypeAdapter[list[Any]] = TypeAdapter(list[ResponseOutputItem])


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different in a fork. `again`: nothing is, but it runs live from the span on."""

    prompt: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: Mapping[str, ToolStub] = field(default_factory=dict)
    again: bool = False

    @property
    def none(self) -> bool:
        return not (self.prompt is not None or self.model or self.instructions is not None or self.tools or self.again)


@dataclass(frozen=True, slots=True)
class Recording:
    """What is replayed: each agent's answers in order, and tool results by call id."""

    answers: Mapping[str, deque[Span]]
    results: Mapping[str, Span]


def fork_point(spans: Sequence[Span], span_id: str | None, changes: Changes) -> datetime | None:
    """From when on the run is live; None when all of it is replayed.

    Without `span_id`, that is where the first change can be felt. Raises `NotFoundError` for an unknown span.
    """
    if span_id is not None and span_id not in {span["span_id"] for span in spans}:
        raise NotFoundError(f"There is no span {span_id!r} in this trace.", "Take a span id of the trace's tree.")
    if changes.none:
        return None
    if span_id is not None:
        return next(_began(span) for span in spans if span["span_id"] == span_id)
    if changes.prompt is not None or changes.model or changes.instructions is not None or changes.again:
        return min(_began(span) for span in spans)
    return min((_began(s) for s in spans if s["kind"] == "tool" and s["name"] in changes.tools), default=None)


def record(spans: Sequence[Span], point: datetime | None) -> Recording:
    """What began before `point`. Raises `RunError` for a trace whose answers were not recorded as the lab records them."""
    past = [s for s in sorted(spans, key=_began) if s["ended_at"] and (point is None or _began(s) < point)]
    answers: dict[str, deque[Span]] = {}
    for span in past:
        if span["kind"] != "generation":
            continue
        if span["status"] == "ok" and not isinstance(span["output"], list):
            raise RunError(
                f"The answer of span {span['span_id']} was not recorded, so it cannot be said again.",
                "Only runs of a lab can be forked. Run it again with lab.run.",
            )
        answers.setdefault(span["agent"] or "", deque()).append(span)
    results = {
        span["attributes"][GenAI.TOOL_CALL_ID]: span
        for span in past
        if span["kind"] == "tool" and GenAI.TOOL_CALL_ID in span["attributes"]
    }
    return Recording(answers, results)


async def rewire(
    graph: BuiltGraph, recording: Recording, changes: Changes, model_of: Callable[[Agent[Any]], Model]
) -> BuiltGraph:
    """A copy of the agents whose models and tools replay first. `model_of` gives the model an agent goes on with, when it is needed."""
    twins: dict[int, Agent[Any]] = {}
    for agent in graph.agents.values():
        tools = [*agent.tools, *(await agent.get_mcp_tools(RunContextWrapper(None)) if agent.mcp_servers else [])]
        twin = agent.clone(
            model=ReplayModel(agent, recording.answers.get(agent.name, deque()), model_of),
            model_settings=agent.model_settings,
            tools=[_stub(tool, recording, changes) if isinstance(tool, FunctionTool) else tool for tool in tools],
            mcp_servers=[],
            handoffs=[],
        )
        if changes.instructions is not None and agent is graph.root:
            twin.instructions = changes.instructions
        twins[id(agent)] = twin
    by_name = {agent.name: twins[id(agent)] for agent in graph.agents.values()}
    for agent in graph.agents.values():
        twins[id(agent)].handoffs = [_lead_to(way, by_name) for way in agent.handoffs]
    return replace(graph, root=twins[id(graph.root)], agents=by_name, own_models=True)


class ReplayModel(Model):
    """Says the recorded answers of `agent`, then hands over to its live model."""

    def __init__(self, agent: Agent[Any], answers: deque[Span], model_of: Callable[[Agent[Any]], Model]) -> None:
        self._agent, self._answers, self._model_of = agent, answers, model_of

    @property
    def full(self) -> str:
        """The name shown for it: that of the answer to come."""
        if self._answers:
            return str(self._answers[0]["model"])
        live = self._model_of(self._agent)
        return str(getattr(live, "full", None) or type(live).__name__)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        if not self._answers:
            return await self._model_of(self._agent).get_response(*args, **kwargs)
        usage = sdk.Usage()
        return ModelResponse(output=self._say(self._answers.popleft(), args, kwargs), usage=usage, response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if not self._answers:
            async for event in self._model_of(self._agent).stream_response(*args, **kwargs):
                yield event
            return
        span = self._answers.popleft()
        for event in _events(str(span["model"]), self._say(span, args, kwargs)):
            yield event

    def _say(self, span: Span, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The recorded answer, in a span of its own that says where it is from. An answer that failed fails again."""
        asked = [*args, *(kwargs.get(name) for name in ("system_instructions", "input")[len(args) :])]
        system, given = asked[0], asked[1]
        shown = [{"role": "system", "content": system}] if system else []
        shown += [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        config = {"replayed_span": span["span_id"]}
        with generation_span(model=span["model"], model_config=config, input=shown) as again:
            if span["status"] != "ok":
                again.set_error(SpanError(message=str(span["error"]), data=None))
                raise ProviderError(f"Replayed: {span['error']}", "Fork from this span on with another model.")
            again.span_data.output = span["output"]
            try:
                return _items.validate_python(span["output"])
            except ValidationError as error:
                raise RunError(
                    f"The answer of span {span['span_id']} is not one of the Responses API, so it cannot be said again.",
                    "Only runs of a lab can be forked. Run it again with lab.run.",
                ) from error


def _events(model: str, items: list[Any]) -> list[Any]:
    response = Response(
        id=new_id("response"), created_at=0, model=model, object="response", output=[], tools=[], tool_choice="auto",
        parallel_tool_calls=True,
    )  # fmt: skip
    events: list[Any] = [ResponseCreatedEvent(type="response.created", response=response, sequence_number=0)]
    for index, item in enumerate(items):
        place = {"item": item, "output_index": index}
        events.append(ResponseOutputItemAddedEvent(type="response.output_item.added", sequence_number=0, **place))
        events.append(ResponseOutputItemDoneEvent(type="response.output_item.done", sequence_number=0, **place))
    whole = response.model_copy(update={"output": items, "status": "completed"})
    return [*events, ResponseCompletedEvent(type="response.completed", response=whole, sequence_number=0)]


def _stub(tool: FunctionTool, recording: Recording, changes: Changes) -> FunctionTool:
    """`tool`, but a recorded call gets its recorded result, unasked; and a changed tool says what it was changed to."""
    live, ask = tool.on_invoke_tool, tool.needs_approval

    async def invoke(context: ToolContext[Any], arguments: str) -> Any:
        span = recording.results.get(context.tool_call_id)
        if span is not None:
            if span["status"] == "error":
                _mark_failed(str(span["error"]))
            return span["output"] if span["output"] is not None else ""
        if tool.name in changes.tools:
            return await _changed(changes.tools[tool.name], arguments)
        return await live(context, arguments)

    async def needs_approval(context: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
        if call_id in recording.results:
            return False
        return bool(await ask(context, arguments, call_id)) if callable(ask) else ask

    stub = copy.copy(tool)
    stub.on_invoke_tool = invoke
    stub.needs_approval = needs_approval
    return stub


async def _changed(stub: ToolStub, arguments: str) -> Any:
    said = stub(json.loads(arguments or "{}")) if callable(stub) else stub
    if isinstance(said, Awaitable):
        said = await said
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _mark_failed(message: str) -> None:
    span = sdk.get_current_span()
    if span is not None:
        span.set_error(SpanError(message=message, data=None))


def _lead_to(way: Agent[Any] | Handoff[Any, Any], twins: Mapping[str, Agent[Any]]) -> Agent[Any] | Handoff[Any, Any]:
    """The same handoff, leading to the copies."""
    if isinstance(way, Agent):
        return twins[way.name]
    lead = way.on_invoke_handoff

    async def invoke(context: RunContextWrapper[Any], arguments: str) -> Agent[Any]:
        target = await lead(context, arguments)
        return twins.get(target.name, target)

    twin = copy.copy(way)
    twin.on_invoke_handoff = invoke
    return twin


def _began(span: Span) -> datetime:
    began: datetime = span["started_at"]
    return began
