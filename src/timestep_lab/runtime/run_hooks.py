"""Run hooks: record the id and the result of every tool call on its span and, in a thread, store its result as soon as the tool
ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextvars import Token
from types import FunctionType
from typing import TYPE_CHECKING, Unpack

from agents import (
    Agent,
    AgentHookContext,
    FunctionTool,
    ItemHelpers,
    ModelResponse,
    RunContextWrapper,
    RunHooks,
    RunResult,
    RunResultStreaming,
    RunState,
    Tool,
    TResponseInputItem,
    _run_state_agent_identity,
    get_current_span,
)
from agents.run import AgentRunner, RunOptions, get_default_agent_runner, set_default_agent_runner
from agents.tool_context import ToolContext

from timestep_lab.model.spans import Lab
from timestep_lab.runtime.approval_gate import call_data
from timestep_lab.runtime.pricing import WATCH, LimitWatch
from timestep_lab.runtime.stream_items import StreamItems
from timestep_lab.runtime.tracing import StoreProcessor

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolSet


class PassingOn(RunHooks):
    """Delegates to `inner`, the hooks given by the user."""

    def __init__(self, inner: RunHooks | None = None) -> None:
        self._inner: RunHooks = inner or RunHooks()

    async def on_tool_start(self, context: RunContextWrapper, agent: Agent, tool: Tool) -> None:
        await self._inner.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: RunContextWrapper, agent: Agent, tool: Tool, result: object) -> None:
        await self._inner.on_tool_end(context, agent, tool, result)

    async def on_llm_start(
        self, context: RunContextWrapper, agent: Agent, system_prompt: str | None, input_items: list[TResponseInputItem]
    ) -> None:
        await self._inner.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: RunContextWrapper, agent: Agent, response: ModelResponse) -> None:
        await self._inner.on_llm_end(context, agent, response)

    async def on_agent_start(self, context: AgentHookContext, agent: Agent) -> None:
        await self._inner.on_agent_start(context, agent)

    async def on_agent_end(self, context: AgentHookContext, agent: Agent, output: object) -> None:
        await self._inner.on_agent_end(context, agent, output)

    async def on_handoff(self, context: RunContextWrapper, from_agent: Agent, to_agent: Agent) -> None:
        await self._inner.on_handoff(context, from_agent, to_agent)


class CountingHooks(PassingOn):
    """Counts the tool calls of a nested run towards the limits of the outer run."""

    async def on_tool_start(self, context: RunContextWrapper, agent: Agent, tool: Tool) -> None:
        if watch := WATCH.get():
            watch.tool_call()
        await super().on_tool_start(context, agent, tool)

    async def on_llm_end(self, context: RunContextWrapper, agent: Agent, response: ModelResponse) -> None:
        if watch := WATCH.get():
            watch.answered(response.response_id)
        await super().on_llm_end(context, agent, response)


class WatchedRunner(AgentRunner):
    """The SDK's runner, extended for limits: tool calls of agents used as tools, and of runs started by a tool, count towards the limits of
    the outer run, as their answers do."""

    async def run(
        self, starting_agent: Agent, input: str | list[TResponseInputItem] | RunState, **options: Unpack[RunOptions]
    ) -> RunResult:
        return await super().run(starting_agent, input, **_counted(options))

    def run_streamed(
        self, starting_agent: Agent, input: str | list[TResponseInputItem] | RunState, **options: Unpack[RunOptions]
    ) -> RunResultStreaming:
        return super().run_streamed(starting_agent, input, **_counted(options))


def _counted(options: RunOptions) -> RunOptions:
    hooks = options.get("hooks")
    if WATCH.get() is None or isinstance(hooks, RecordingHooks | TracingHooks | CountingHooks):
        return options
    return {**options, "hooks": CountingHooks(hooks)}


def untie(result: RunResultStreaming) -> None:
    """Removes what refers back to a streamed result that was read to its end: its finished tasks, whose exceptions hold frames, and its cleanup.
    Otherwise only the next full garbage collection would free it, with all its payloads."""
    for name, value in list(vars(result).items()):
        if isinstance(value, asyncio.Task | FunctionType):
            setattr(result, name, None)


def identify_by_name() -> None:
    """Spares the SDK the signatures of agents whose names are unique. It tells agents of one name apart by a signature of all their settings
    and tools, and computes it twice a run for every agent, which takes a fifth of a short run. The identities are the same."""
    signed = _run_state_agent_identity._build_agent_identity_map
    if signed.__module__ == __name__:
        return

    def identities(initial_agent: Agent) -> dict[str, Agent]:
        agents = list(_run_state_agent_identity._iter_agent_graph(initial_agent))
        by_name = {agent.name: agent for agent in agents}
        return by_name if len(by_name) == len(agents) else signed(initial_agent)

    _run_state_agent_identity._build_agent_identity_map = identities


def watch_from_here(watch: LimitWatch) -> Token[LimitWatch | None]:
    """Makes everything in this task count towards the limits. A custom default runner is left in place."""
    if type(get_default_agent_runner()) is AgentRunner:
        set_default_agent_runner(WatchedRunner())
    return WATCH.set(watch)


class TracingHooks(RunHooks):
    """Hooks for a run without a thread. `approved`: ids of approved calls. Without a `processor`, the run is not traced."""

    def __init__(self, processor: StoreProcessor | None, tool_sets: Mapping[str, ToolSet], watch: LimitWatch) -> None:
        self._processor, self._tool_sets, self._watch = processor, tool_sets, watch
        self.approved: set[str] = set()

    async def on_tool_start(self, context: RunContextWrapper, agent: Agent, tool: Tool) -> None:
        self._watch.check()
        self._watch.tool_call()
        if self._processor is None:
            return
        span = get_current_span()
        if isinstance(context, ToolContext) and span is not None:
            tool_set = self._tool_sets.get(agent.name)
            server = tool_set.server_of(context.tool_name) if tool_set else None
            approval = "approved" if context.tool_call_id in self.approved else "not_needed"
            self._processor.tool_started(span, context.tool_call_id, server, approval)

    async def on_tool_end(self, context: RunContextWrapper, agent: Agent, tool: Tool, result: object) -> None:
        if self._processor is not None:
            _record_heard(self._processor, context, tool, result)

    async def on_llm_start(self, context: RunContextWrapper, agent: Agent, *asked: object) -> None:
        self._watch.check()

    async def on_llm_end(self, context: RunContextWrapper, agent: Agent, response: ModelResponse) -> None:
        self._watch.answered(response.response_id)


class RecordingHooks(PassingOn):
    """Hooks for a run in a thread. `inner` are the user's hooks, called after an event is stored."""

    def __init__(
        self,
        items: StreamItems,
        processor: StoreProcessor,
        approval_of: Callable[[str], str],
        watch: LimitWatch,
        inner: RunHooks | None = None,
    ) -> None:
        super().__init__(inner)
        self._watch = watch
        self._items, self._processor, self._approval_of = items, processor, approval_of
        self._began: dict[str, tuple[str, float]] = {}
        """Maps a call id to (item id, start time)."""

    async def on_tool_start(self, context: RunContextWrapper, agent: Agent, tool: Tool) -> None:
        self._watch.check()
        self._watch.tool_call()
        if isinstance(context, ToolContext):
            call_id = context.tool_call_id
            item = await self._items.call_item(call_id, context.tool_name, context.tool_arguments)
            span = get_current_span()
            if span is not None:
                server = call_data(item).get("server")
                self._processor.tool_started(span, call_id, server, self._approval_of(call_id))
            self._began[call_id] = (item.id, time.perf_counter())
        await self._inner.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: RunContextWrapper, agent: Agent, tool: Tool, result: object) -> None:
        if isinstance(context, ToolContext) and context.tool_call_id in self._began:
            item_id, began = self._began.pop(context.tool_call_id)
            # The SDK converts a tool's exception to text for the model; the span shows that it failed.
            span = get_current_span()
            failed = span.error if span is not None else None
            error = str(failed["message"]) if failed else None
            _record_heard(self._processor, context, tool, result)
            await self._items.call_ended(item_id, result, (time.perf_counter() - began) * 1000.0, error)
        await self._inner.on_tool_end(context, agent, tool, result)

    async def on_llm_start(
        self, context: RunContextWrapper, agent: Agent, system_prompt: str | None, input_items: list[TResponseInputItem]
    ) -> None:
        self._watch.check()
        await self._inner.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(self, context: RunContextWrapper, agent: Agent, response: ModelResponse) -> None:
        self._watch.answered(response.response_id)
        await self._inner.on_llm_end(context, agent, response)


def _record_heard(processor: StoreProcessor, context: RunContextWrapper, tool: Tool, result: object) -> None:
    """Records on the call's span what the model receives of a non-text result, as converted by the SDK."""
    span = get_current_span()
    call = context.tool_call if isinstance(context, ToolContext) else None
    if span is None or call is None or not isinstance(tool, FunctionTool) or isinstance(result, str):
        return
    item = ItemHelpers.tool_call_output_item(call, result, output_json_schema=tool.output_json_schema)
    processor.tool_noted(span, {Lab.HEARD: json.dumps(item["output"], ensure_ascii=False)})
