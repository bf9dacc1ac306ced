"""A trace read as a conversation: who said what, which tools were called, who handed off to whom, in order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from timestep_lab.types.clock import ms_between
from timestep_lab.types.spans import Lab
from timestep_lab.ui.messages import as_text, read_messages

Entry = dict[str, Any]
KINDS = frozenset({"generation", "tool", "handoff"})


def conversation_of(spans: Sequence[Mapping[str, Any]], start: datetime) -> list[Entry]:
    """Entries from whole spans (any order; only generations, tools and handoffs speak). `at` counts in ms from `start`.

    | kind | fields beside `at, span_id, duration_ms` |
    |---|---|
    | `message` | `role, parts, agent, model, tokens, cost_usd` |
    | `tool` | `name, arguments, result, status, error, approval` |
    | `handoff` | `from, to` |
    | `error` | `name, error` of a model that did not answer |
    """
    entries: list[Entry] = []
    told: set[str] = set()
    for span in sorted((s for s in spans if s["kind"] in KINDS), key=lambda s: (s["started_at"], s["span_id"])):
        at = ms_between(start, span["started_at"])
        about = {"at": at, "span_id": span["span_id"], "duration_ms": span.get("duration_ms")}
        if span["kind"] == "handoff":
            attributes = span.get("attributes") or {}
            way = {"from": attributes.get(Lab.FROM_AGENT), "to": attributes.get(Lab.TO_AGENT)}
            entries.append({"kind": "handoff", **about, **way})
        elif span["kind"] == "tool":
            entries.append({"kind": "tool", **about, **_tool(span)})
        else:
            entries += _asked(span, about, told)
            entries += _answered(span, about)
            if span.get("error"):
                failed = {**about, "at": about["at"] + (about["duration_ms"] or 0.0)}
                entries.append({"kind": "error", **failed, "name": span["name"], "error": span["error"]})
    return entries


def _tool(span: Mapping[str, Any]) -> Entry:
    return {
        "name": span["name"],
        "arguments": as_text(span.get("input")),
        "result": as_text(span.get("output")),
        "status": span.get("status"),
        "error": span.get("error"),
        "approval": (span.get("attributes") or {}).get(Lab.APPROVAL),
    }


def _asked(span: Mapping[str, Any], about: Entry, told: set[str]) -> list[Entry]:
    """Instructions and users' words that no earlier generation was given. Each generation is given the whole history."""
    entries = []
    for message in read_messages(span.get("input")) or ():
        if message["role"] in ("assistant", "tool", "function"):
            continue
        seen = repr((message["role"], message["parts"]))
        if seen not in told:
            told.add(seen)
            agent = span.get("agent") if message["role"] in ("system", "developer") else None
            facts = {"role": message["role"], "parts": message["parts"], "agent": agent}
            entries.append({"kind": "message", **about, **facts, "duration_ms": None})
    return entries


def _answered(span: Mapping[str, Any], about: Entry) -> list[Entry]:
    end = about["at"] + (about["duration_ms"] or 0.0)
    tokens = [n for n in (span.get("input_tokens"), span.get("output_tokens")) if n is not None]
    entries = []
    for message in read_messages(span.get("output"), role="assistant") or ():
        # Calls are told by the tool spans and handoffs that follow, with what came of them.
        parts = [part for part in message["parts"] if part["type"] != "call"]
        if parts:
            facts = {"role": "assistant", "parts": parts, "agent": span.get("agent"), "model": span.get("model")}
            sums = {"tokens": sum(tokens) if tokens else None, "cost_usd": span.get("cost_usd")}
            entries.append({"kind": "message", **about, "at": end, **facts, **sums})
    return entries
