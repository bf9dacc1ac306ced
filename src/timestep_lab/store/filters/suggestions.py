"""Completions for a filter at the cursor: fields, their frequent values, operators, and ready-made conditions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from timestep_lab.model.spans import SPAN_KINDS, SpanStatus, TraceOutcome, TraceSource, TraceStatus

# --- The names a filter may use: columns of the views `traces` and `spans`, their types, and common short names


ValueType = Literal["text", "number", "time", "bool", "none", "any"]
"""`any` is a value from a span's attributes: text or number, known only per row."""

TRACE_FIELDS: Mapping[str, ValueType] = {
    "trace_id": "text", "thread_id": "text", "end_user": "text", "workflow": "text", "agent_path": "text", "model": "text", "status": "text",
    "started_at": "time", "ended_at": "time", "duration_ms": "number", "n_spans": "number", "n_errors": "number",
    "turns": "number", "input_tokens": "number", "output_tokens": "number", "cost_usd": "number", "input": "text",
    "output": "text", "outcome": "text", "source": "text", "ttft_ms": "number", "tags": "text",
    "failed_tools": "text", "error_types": "text",
}  # fmt: skip
TRACE_LISTS: Mapping[str, str] = {"agents": " → ", "failed_tools": "\n", "error_types": "\n", "tags": "\n"}
"""Fields that are lists of words, with their separator: `"lookup" in failed_tools` matches a whole word."""
SPAN_FIELDS: Mapping[str, ValueType] = {
    "trace_id": "text", "span_id": "text", "parent_id": "text", "kind": "text", "name": "text", "agent": "text",
    "status": "text", "error": "text", "model": "text", "provider": "text", "started_at": "time", "ended_at": "time",
    "duration_ms": "number", "input_tokens": "number", "output_tokens": "number", "cached_tokens": "number",
    "reasoning_tokens": "number", "cost_usd": "number", "queue_ms": "number", "rate_limit_ms": "number", "ttft_ms": "number",
    "stop_reason": "text", "server": "text", "approval": "text", "to_agent": "text", "input": "text", "output": "text",
}  # fmt: skip
TRACE_ALIASES: Mapping[str, str] = {
    "cost": "cost_usd", "duration": "duration_ms", "agent": "agent_path", "agents": "agent_path", "thread": "thread_id",
    "id": "trace_id", "errors": "n_errors", "user": "end_user", "first_token": "ttft_ms", "ttft": "ttft_ms",
}  # fmt: skip
SPAN_ALIASES: Mapping[str, str] = {"cost": "cost_usd", "duration": "duration_ms", "id": "span_id", "ttft": "ttft_ms"}

TRACE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "status": get_args(TraceStatus), "outcome": get_args(TraceOutcome), "source": get_args(TraceSource),
}  # fmt: skip
SPAN_CHOICES: Mapping[str, tuple[str, ...]] = {
    "kind": SPAN_KINDS, "status": get_args(SpanStatus), "approval": ("not_needed", "approved", "rejected", "pending"),
}  # fmt: skip
"""Fields with a fixed set of values; comparing with any other value is rejected as a mistake."""

TRACE_WORDS: Mapping[str, Mapping[str, str]] = {
    "status": {"done": "completed", "needs approval": "needs_approval"},
    "outcome": {"completed": "done", "steps failed": "steps_failed", "needs_approval": "waiting"},
    "source": {"evaluations": "evaluation"},
}
SPAN_WORDS: Mapping[str, Mapping[str, str]] = {"status": {"done": "ok", "failed": "error", "running": "pending"}}
"""The labels that the UI shows for some of those values; filters accept them too."""

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Seconds per unit of `ago("24h")`."""


Facets = Mapping[str, Sequence[tuple[str, int]]]
MOST = 50

_STARTED_VALUE = re.compile(r"""((?:\w+\.)?\w+)\s*(?:==|!=)\s*(["'][^"']*)$""")
_WANTS_VALUE = re.compile(r"((?:\w+\.)?\w+)\s*(?:==|!=)\s*$")
_WANTS_OPERATOR = re.compile(r"((?:\w+\.)?\w+)\s+$")
_WANTS_JOIN = re.compile(r"""(?:["'\d)\]]|\bNone)\s+$""")
_WORD = re.compile(r"(?:\w+\.)?\w*$")
_READY = (
    ('any(s.kind == "tool" and s.status == "error" for s in spans)', "a tool failed"),
    ('started_at > ago("24h")', "started in the last day"),
    ('"berkeley" in input', "words in the question"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Text that may replace `filter[start:end]`. `detail` describes it (`field`, `model`, `42 traces` …)."""

    text: str
    start: int
    end: int
    detail: str = ""


def suggest(text: str, cursor: int, facets: Facets) -> list[Suggestion]:
    """Returns suggestions, best first. `facets`: field to its frequent values with the number of traces that have them."""
    left = text[:cursor]
    if match := _STARTED_VALUE.search(left):
        end = cursor + (1 if text[cursor : cursor + 1] == match[2][0] else 0)
        return _values(match[1], match[2][1:], match.start(2), end, facets)
    if match := _WANTS_VALUE.search(left):
        return _values(match[1], "", cursor, cursor, facets)
    if _WANTS_JOIN.search(left):
        return [Suggestion(text=f"{word} ", start=cursor, end=cursor) for word in ("and", "or")]
    if (match := _WANTS_OPERATOR.search(left)) and (kind := _type_of(match[1])):
        signs = ("== ", "!= ") if kind == "text" else ("> ", "< ", "== ")
        return [Suggestion(text=sign, start=cursor, end=cursor, detail=kind) for sign in signs]
    return _names(left, cursor)


def _names(left: str, cursor: int) -> list[Suggestion]:
    match = _WORD.search(left)
    word = match[0] if match else ""
    start = cursor - len(word)
    if "." in word:
        before, _, part = word.partition(".")
        fields = _starting(part, [*SPAN_FIELDS, *SPAN_ALIASES])
        return [Suggestion(text=f"{before}.{n}", start=start, end=cursor, detail="field of a step") for n in fields][
            :MOST
        ]
    details: dict[str, str] = {**TRACE_FIELDS, **TRACE_ALIASES}
    names = [name for name in _starting(word, details) if name != word]
    suggestions = [Suggestion(text=name, start=start, end=cursor, detail=details[name]) for name in names]
    if not left.strip() or left.rstrip().endswith((" and", " or", "(")):
        suggestions += [Suggestion(text=t, start=start, end=cursor, detail=d) for t, d in _READY if t.startswith(word)]
    return suggestions[:MOST]


def _starting(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word.lower())]


def _values(field: str, begun: str, start: int, end: int, facets: Facets) -> list[Suggestion]:
    counted: dict[str, str] = {}
    if "." in field:
        name = field.split(".")[-1]
        counted = dict.fromkeys(SPAN_CHOICES.get(SPAN_ALIASES.get(name, name), ()), "")
    else:
        name = TRACE_ALIASES.get(field, field)
        counted = {value: f"{n:,} traces" for value, n in facets.get(name, ())}
        counted |= {choice: counted.get(choice, "") for choice in TRACE_CHOICES.get(name, ())}
    wanted = begun.casefold()
    matching = [value for value in counted if wanted in value.casefold()]
    return [
        Suggestion(text=json.dumps(value, ensure_ascii=False), start=start, end=end, detail=counted[value])
        for value in matching[:MOST]
    ]


def _type_of(field: str) -> str | None:
    name = field.split(".")[-1]
    if "." in field:
        return SPAN_FIELDS.get(SPAN_ALIASES.get(name, name))
    return TRACE_FIELDS.get(TRACE_ALIASES.get(name, name))
