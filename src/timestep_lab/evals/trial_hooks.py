"""Tells the trace which tool call a span belongs to, and whether somebody approved it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agents import Agent, RunContextWrapper, RunHooks, Tool, get_current_span
from agents.tool_context import ToolContext

from timestep_lab.runtime.tracing import StoreProcessor

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolset import ToolSet


class TrialHooks(RunHooks[Any]):
    def __init__(self, processor: StoreProcessor, sdk_trace_id: str, kits: Mapping[str, ToolSet]) -> None:
        self._processor, self._trace, self._kits = processor, sdk_trace_id, kits
        self.approved: set[str] = set()

    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        span = get_current_span()
        if isinstance(context, ToolContext) and span is not None:
            kit = self._kits.get(agent.name)
            server = kit.server_of(context.tool_name) if kit else None
            approval = "approved" if context.tool_call_id in self.approved else "not_needed"
            self._processor.tool_started(span, context.tool_call_id, server, approval)
