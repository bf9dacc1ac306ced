"""What the calls of a trace used, where several spans tell of one call.

Programs that are watched by two instrumentations tell a call twice: a framework's span around that of the client it uses, or two spans side
by side with the answer's id. An agent may tell the sum of its calls. So a trace's sums are over the outermost spans that know a number, and a
generation within a generation is the same call. What a span adds depends on the spans above it and, where it has no price, on those below.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

RESPONSE_ID = r'"gen_ai\.response\.id":"([^"\\]+)"'
"""In a span's attributes as JSON: the provider's name of the answer."""
_response_id = re.compile(RESPONSE_ID).search


class SpanFacts(NamedTuple):
    """A span, as far as it matters to the others of its trace."""

    parent_id: str | None
    kind: str
    name: str = ""
    agent: str | None = None
    is_open: bool = False
    failed: bool = False
    model: str | None = None
    provider: str | None = None
    started_at: datetime = datetime.min
    ended_at: datetime = datetime.min
    """Its start while it is open: what an open span used is not known yet."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    response_id: str | None = None
    has_input: bool = False
    has_output: bool = False

    @property
    def knows(self) -> bool:
        """Whether the spans below it count otherwise for it."""
        return (
            self.kind == "generation"
            or self.input_tokens is not None
            or self.output_tokens is not None
            or self.cost_usd is not None
        )

    @property
    def used(self) -> bool:
        return self.cost_usd is not None or bool(self.input_tokens or self.output_tokens)


class Used(NamedTuple):
    """None where no span knows."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    n_generations: int = 0
    n_unpriced: int = 0
    """Calls whose tokens are known and whose cost is not."""

    def since(self, before: Used) -> Used:
        """What came on top of `before`."""
        cost = None if self.cost_usd is None else round(self.cost_usd - (before.cost_usd or 0.0), 15)
        return Used(
            None if self.input_tokens is None else self.input_tokens - (before.input_tokens or 0),
            None if self.output_tokens is None else self.output_tokens - (before.output_tokens or 0),
            cost,
            self.n_generations - before.n_generations,
            self.n_unpriced - before.n_unpriced,
        )


Repeated = tuple[int, int, int, float]
"""Of a generation: calls, input tokens, output tokens and cost that another generation tells as well."""

_INPUT, _OUTPUT, _COST, _CALL, _CALL_INPUT, _CALL_OUTPUT, _CALL_COST = (1 << bit for bit in range(7))
"""What a span or one above it knows; the last three: what a generation among them knows."""


def response_id(attributes: str | None) -> str | None:
    """From a span's attributes as JSON."""
    found = _response_id(attributes) if attributes else None
    return found[1] if found else None


def used(spans: Mapping[str, SpanFacts]) -> tuple[Used, dict[str, Repeated]]:
    """What these spans of one trace used, and the generations among them that repeat what another tells."""
    parents = {span_id: span.parent_id for span_id, span in spans.items()}
    _join_answers(spans, parents)
    known: dict[str, int] = {}
    tells: set[str] = set()
    """Spans below which something was used."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    n_generations = 0
    unpriced: list[str] = []
    repeated: dict[str, Repeated] = {}
    path: list[str] = []
    for first in spans:
        at: str | None = first
        while at is not None and at in parents and at not in known:
            known[at] = 0  # A circle of parents ends here.
            path.append(at)
            at = parents[at]
        flags = known.get(at, 0) if at is not None else 0
        while path:
            span_id = path.pop()
            span = spans[span_id]
            generation = span.kind == "generation"
            above = flags
            if generation:
                flags |= _CALL
                n_generations += not above & _CALL
                if above & _CALL:
                    repeated[span_id] = _repeated(span, above)
            if span.input_tokens is not None:
                if not above & _INPUT:
                    tokens_in = (tokens_in or 0) + span.input_tokens
                flags |= _INPUT | _CALL_INPUT if generation else _INPUT
            if span.output_tokens is not None:
                if not above & _OUTPUT:
                    tokens_out = (tokens_out or 0) + span.output_tokens
                flags |= _OUTPUT | _CALL_OUTPUT if generation else _OUTPUT
            if span.cost_usd is not None:
                if not above & _COST:
                    cost = (cost or 0.0) + span.cost_usd
                flags |= _COST | _CALL_COST if generation else _COST
            elif not above & _COST and (span.input_tokens or span.output_tokens):
                unpriced.append(span_id)
            known[span_id] = flags
            if span.used:
                up = span.parent_id
                while up is not None and up in spans and up not in tells:
                    tells.add(up)
                    up = spans[up].parent_id
    n_unpriced = sum(span_id not in tells for span_id in unpriced)
    return Used(tokens_in, tokens_out, cost, n_generations, n_unpriced), repeated


def _repeated(span: SpanFacts, above: int) -> Repeated:
    return (
        1,
        (span.input_tokens or 0) if above & _CALL_INPUT else 0,
        (span.output_tokens or 0) if above & _CALL_OUTPUT else 0,
        (span.cost_usd or 0.0) if above & _CALL_COST else 0.0,
    )


def _join_answers(spans: Mapping[str, SpanFacts], parents: dict[str, str | None]) -> None:
    """Generations side by side that tell of the same answer at the same time: the others count as parts of the one that knows most."""
    same: dict[str, list[str]] = {}
    for span_id, span in spans.items():
        if span.response_id is not None:
            same.setdefault(span.response_id, []).append(span_id)
    for span_ids in same.values():
        if len(span_ids) < 2:
            continue
        among = set(span_ids)
        outermost = [span_id for span_id in span_ids if among.isdisjoint(_above(span_id, parents))]
        outermost.sort(key=lambda i: (spans[i].cost_usd is None, spans[i].input_tokens is None, i))
        calls: list[tuple[datetime, str]] = []
        """In order of start. No two of them overlap, so of those that began before a span only the last may reach into it."""
        for span_id in outermost:
            began, place = spans[span_id].started_at, bisect_right(calls, (spans[span_id].started_at, "~"))
            near = [other for _, other in calls[max(place - 1, 0) : place + 1]]
            call = next((other for other in near if overlap(spans[other], spans[span_id])), None)
            if call is None:
                calls.insert(place, (began, span_id))
            elif span_id not in _above(call, parents):
                parents[span_id] = call


def overlap(one: SpanFacts, other: SpanFacts) -> bool:
    return one.started_at <= other.ended_at and other.started_at <= one.ended_at


def _above(span_id: str, parents: Mapping[str, str | None]) -> set[str]:
    found: set[str] = set()
    at = parents.get(span_id)
    while at is not None and at != span_id and at not in found:
        found.add(at)
        at = parents.get(at)
    return found
