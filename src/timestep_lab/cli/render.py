"""A run's events as lines on a terminal, and a run as the JSON object of `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from timestep_lab.model.events import (
    AgentUpdated,
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    Progress,
    RunEnded,
    RunFailed,
    RunPaused,
    RunStopped,
)
from timestep_lab.model.numbers import cost_text, duration_text, tokens_text
from timestep_lab.model.records import RunRecord, ThreadItem

if TYPE_CHECKING:
    from timestep_lab.lab import Run


class Renderer:
    """Writes each event as it comes. Streaming text goes on in place; everything else is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open_text = False
        self._streams: dict[str, str] = {}
        self._shown: set[str] = set()

    def show(self, event: Event) -> None:
        if isinstance(event, AgentUpdated) and event.previous is None:
            self._line(f"[bold blue]{escape(event.agent)}[/] [dim]{escape(event.model)}[/]")
        elif isinstance(event, ItemAdded):
            self._streams[event.item.id] = event.item.type
        elif isinstance(event, ItemUpdated):
            self._delta(event)
        elif isinstance(event, ItemDone | ItemReplaced):
            self._item(event.item)
        elif isinstance(event, Progress):
            self._line(f"  [dim]… {escape(event.text)}[/]")
        elif isinstance(event, RunPaused):
            for waiting in event.interruptions:
                reason = f" [dim]because {escape(waiting.reason)}[/]" if waiting.reason else ""
                self._line(f"  [bold yellow]? {escape(waiting.name)}[/] wants {_arguments(waiting.arguments)}{reason}")
        elif isinstance(event, RunFailed | RunStopped):
            self._line(f"  [red]✕ {escape(str(event.error.get('message', '')))}[/]")
        if isinstance(event, RunEnded):
            self._line(f"  [dim]{escape(_facts(event.run))}[/]")

    def _delta(self, event: ItemUpdated) -> None:
        if event.field == "text" and self._streams.get(event.item_id) == "assistant_message":
            if not self._open_text:
                self._console.print("  ", end="")
            self._open_text = True
            self._console.print(escape(event.delta), end="")

    def _item(self, item: ThreadItem) -> None:
        data = item.data
        if item.type == "handoff":
            self._line(
                f"  [magenta]⇢ {escape(str(data.get('from_agent')))} handed off to[/] "
                f"[bold blue]{escape(str(data.get('to_agent')))}[/]"
            )
        elif item.type == "tool_call" and data.get("status") not in ("in_progress", "needs_approval"):
            if item.id in self._shown:
                return
            self._shown.add(item.id)
            sign = {"completed": "[green]✓[/]", "rejected": "[yellow]✕ rejected[/]"}.get(
                str(data.get("status")), "[red]✕[/]"
            )
            where = f" [dim]{escape(str(data['server']))}[/]" if data.get("server") else ""
            took = f" [dim]{duration_text(data.get('duration_ms'))}[/]" if data.get("duration_ms") is not None else ""
            self._line(
                f"  [green]{escape(str(data.get('name')))}[/]({_arguments(str(data.get('arguments') or ''))}){where}{took} {sign}"
            )
        elif item.type == "user_message":
            self._line(f"[bold]> {escape(str(data.get('text', '')))}[/]")
        elif item.type == "client_tool_call":
            self._line(
                f"  [green]{escape(str(data.get('name')))}[/]({escape(json.dumps(data.get('arguments')))}) [dim]for the view[/]"
            )

    def _line(self, markup: str) -> None:
        if self._open_text:
            self._console.print()
            self._open_text = False
        self._console.print(markup)


def _arguments(text: str) -> str:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return escape(text)
    if not isinstance(value, Mapping):
        return escape(text)
    return escape(", ".join(f"{name}={json.dumps(inner, ensure_ascii=False)}" for name, inner in value.items()))


def _facts(run: RunRecord) -> str:
    duration = (run.ended_at - run.started_at).total_seconds() * 1000 if run.ended_at else None
    first = f"first token {duration_text(run.ttft_ms)}" if run.ttft_ms is not None else ""
    tokens = tokens_text(run.usage.input_tokens + run.usage.output_tokens)
    return " · ".join(p for p in (run.model, duration_text(duration), first, tokens, cost_text(run.cost_usd)) if p)


def run_object(run: Run) -> dict[str, Any]:
    """The object of `timestep-lab run --json`."""
    usage = run.usage
    return {
        "output": run.output,
        "status": run.status,
        "thread_id": run.thread_id,
        "trace_id": run.trace_id,
        "run_id": run.id,
        "agent": run.agent,
        "model": run.model,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "requests": usage.requests,
        },
        "cost_usd": run.cost,
        "ttft_ms": run.record.ttft_ms,
        "duration_ms": run.duration_ms,
        "error": run.error,
        "interruptions": [
            {
                "call_id": i.call_id,
                "name": i.name,
                "server": i.server,
                "arguments": i.arguments,
                "agent": i.agent,
                "reason": i.reason,
            }
            for i in run.interruptions
        ],
    }
