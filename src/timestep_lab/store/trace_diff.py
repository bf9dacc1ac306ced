"""Aligns two traces: which steps correspond to each other, and where they first diverge.

Trees are aligned from the roots down. Among the children of two aligned spans, spans with equal subtrees are matched first, then equal
steps, then steps of the same kind and name; each time as many as possible without crossings.

An approval ends one pass of a run and starts another, each with its own spans of the run and of the waiting agent. Such a pair is
treated as one step, so that a run with a pause has the same steps as one without.

Steps differ by what was decided in them: a tool's arguments and result, a generation's input and text. A run, an agent or a turn only
contains such steps. Differences of model names, times, tokens and costs are reported but are no divergence. Ids of messages and calls are
ignored; a tool's argument that is named `id` is none of them.

A replay may start in the middle of a recorded run (`Lab.WARM_START`). The earlier steps of that run count as the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

from timestep_lab.model.codec import Json
from timestep_lab.model.spans import Lab
from timestep_lab.store.spans import answered
from timestep_lab.store.table import to_json

# -- The longest common subsequence of two lists, bit-parallel: one big-integer step per element, so that 2,000 × 2,000 take milliseconds


def common_pairs(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Returns a maximal list of index pairs (i, j), increasing in both, with `left[i] == right[j]`."""
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    middle = _lcs(left[start : len(left) - end], right[start : len(right) - end])
    return [
        *((i, i) for i in range(start)),
        *((i + start, j + start) for i, j in middle),
        *((len(left) - k, len(right) - k) for k in range(end, 0, -1)),
    ]


def _lcs(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[tuple[int, int]]:
    places: dict[Hashable, int] = {}
    for i, item in enumerate(left):
        places[item] = places.get(item, 0) | 1 << i
    every = (1 << len(left)) - 1
    row = every
    rows = [row]
    for item in right:
        matches = row & places.get(item, 0)
        row = ((row + matches) | (row - matches)) & every
        rows.append(row)
    pairs = []
    i, j = len(left) - 1, len(right)
    while i >= 0 and j > 0:
        if rows[j] >> i & 1:  # Element i contributes nothing here.
            i -= 1
        elif rows[j - 1] >> i & 1:  # It does, but not without right[j - 1]: these two are a pair.
            pairs.append((i, j - 1))
            i, j = i - 1, j - 1
        else:
            j -= 1
    return pairs[::-1]


# --

CONTAINERS = ("task", "agent", "turn")
_IDS = frozenset({"id", "call_id", "tool_call_id", "response_id", "item_id", "created_at", "timestamp", "status"})
CLIPPED = 400
"""Maximum length shown of a payload that differs, starting shortly before the first difference."""

Number = TypeVar("Number", int, float)
Change = Literal["same", "changed", "only_left", "only_right"]
SpanDict = Mapping[str, Any]
"""A span with the columns of the view `spans`; `input` and `output` as recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSide:
    """One side of a row. The time is the span's own; tokens and cost are those of its subtree."""

    span_id: str
    duration_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRow:
    """Two spans aligned as the same step, or one without a partner, in reading order."""

    change: Change
    depth: int
    kind: str
    name: str
    left: DiffSide | None = None
    right: DiffSide | None = None
    first_divergence: bool = False
    fields: Mapping[str, tuple[Json, Json]] = field(default_factory=dict)
    """Maps a differing field to (left, right); payloads are text, clipped around the first difference."""


def diff_traces(left: Sequence[SpanDict], right: Sequence[SpanDict], skipped: Collection[str] = ()) -> list[DiffRow]:
    """Aligns two traces, each given by all its spans in any order. `skipped`: ids of the spans before the point at which the other trace
    starts."""
    a, b = _Tree(left, skipped), _Tree(right, skipped)
    rows = list(_aligned(a, b))
    for place, row in enumerate(rows):
        if row.change != "same":
            rows[place] = replace(row, first_divergence=True)
            break
    return rows


def _aligned(a: _Tree, b: _Tree) -> Iterator[DiffRow]:
    """Traverses depth first with an explicit stack, because traces may exceed Python's recursion limit."""
    levels = [_partners(a, b, a.roots, b.roots)]
    while levels:
        pair = next(levels[-1], None)
        if pair is None:
            levels.pop()
            continue
        i, j = pair
        depth = len(levels) - 1
        span = a.spans[i] if i is not None else b.spans[j or 0]
        row = DiffRow(change="same", depth=depth, kind=span["kind"], name=span["name"], left=a.side(i), right=b.side(j))
        if i is not None and j is not None:
            change: Change = "same" if a.own[i] == b.own[j] else "changed"
            yield replace(row, change=change, fields=_differences(a, b, i, j))
        else:
            is_skipped = (i is not None and i in a.skipped) or (j is not None and j in b.skipped)
            yield row if is_skipped else replace(row, change="only_left" if j is None else "only_right")
        below_a = a.children.get(i, []) if i is not None else []
        below_b = b.children.get(j, []) if j is not None else []
        levels.append(_partners(a, b, below_a, below_b))


def _partners(a: _Tree, b: _Tree, left: list[int], right: list[int]) -> Iterator[tuple[int | None, int | None]]:
    """Yields every element of both lists once, in order; None where there is no partner."""
    yield from ((n, None) for n in left if n in a.skipped)
    yield from ((None, n) for n in right if n in b.skipped)
    left, right = [n for n in left if n not in a.skipped], [n for n in right if n not in b.skipped]
    pairs = [(0, 0, len(left), len(right))]
    matches: list[tuple[int, int]] = []
    for keys_a, keys_b in ((a.branch, b.branch), (a.own, b.own), (a.label, b.label)):
        gaps: list[tuple[int, int, int, int]] = []
        for i0, j0, i1, j1 in pairs:
            here = common_pairs([keys_a[n] for n in left[i0:i1]], [keys_b[n] for n in right[j0:j1]])
            edges = [(-1, -1), *here, (i1 - i0, j1 - j0)]
            matches.extend((i + i0, j + j0) for i, j in here)
            gaps.extend(
                (p + 1 + i0, q + 1 + j0, i + i0, j + j0)
                for (p, q), (i, j) in pairwise(edges)
                if i - p > 1 and j - q > 1
            )
        pairs = gaps
    i = j = 0
    for p, q in [*sorted(matches), (len(left), len(right))]:
        yield from ((left[n], None) for n in range(i, p))
        yield from ((None, right[n]) for n in range(j, q))
        if p < len(left):
            yield left[p], right[q]
        i, j = p + 1, q + 1


class _Tree:
    """A trace's spans, numbered in order of start, with their comparison keys."""

    def __init__(self, spans: Sequence[SpanDict], skipped: Collection[str] = ()) -> None:
        self.spans = sorted(spans, key=lambda span: (span["started_at"], span["span_id"]))
        self.skipped = {n for n, span in enumerate(self.spans) if span["span_id"] in skipped}
        number = {span["span_id"]: n for n, span in enumerate(self.spans)}
        self.children: dict[int, list[int]] = defaultdict(list)
        self.roots: list[int] = []
        parents: list[int | None] = []
        for n, span in enumerate(self.spans):
            above = number.get(span["parent_id"] or "")
            # A parent that started later could form a cycle; such a span is shown at the top.
            parents.append(None if above is None or above >= n else above)
        self._join_passes(parents)
        for n, above in enumerate(parents):
            if n not in self.joined:
                (self.roots if above is None else self.children[above]).append(n)
        self.label = [_label(span) for span in self.spans]
        self.parts = [_decided(span) for span in self.spans]
        self.own = [hash((label, part)) for label, part in zip(self.label, self.parts, strict=True)]
        self.branch = [0] * len(self.spans)
        self._sums: list[tuple[int | None, int | None, float | None]] = [(None, None, None)] * len(self.spans)
        for n in reversed(range(len(self.spans))):  # Children have higher numbers.
            below = self.children.get(n, [])
            self.branch[n] = hash((self.own[n], *(self.branch[child] for child in below)))
            self._sums[n] = self._sum(n, below)

    def _join_passes(self, parents: list[int | None]) -> None:
        """Moves what a resumed agent did to the agent that had paused, and the rest of the later pass to the earlier one."""
        self.joined: set[int] = set()
        agents: dict[str, int] = {}
        """Maps an agent's name to its latest span."""
        into: dict[int, int] = {}
        last_turn: dict[int, int] = {}
        for n, span in enumerate(self.spans):
            above = parents[n]
            if above in into:
                above = parents[n] = into[above]
                # Calls that had waited belong to the turn that made them.
                if span["kind"] != "turn" and self.spans[above]["kind"] == "agent":
                    parents[n] = last_turn.get(above, above)
            if span["kind"] == "turn" and above is not None:
                last_turn[above] = n
            if span["kind"] != "agent":
                continue
            before = agents.get(span["name"])
            if before is not None and Lab.RESUMED in (span.get("attributes") or {}):
                into[n] = before
                self.joined.add(n)
                task, earlier = above, parents[before]
                if task is not None and earlier is not None and task != earlier and self.spans[task]["kind"] == "task":
                    into[task] = earlier
                    self.joined.add(task)
            else:
                agents[span["name"]] = n

    def side(self, n: int | None) -> DiffSide | None:
        if n is None:
            return None
        span = self.spans[n]
        in_tokens, out_tokens, cost = self._sums[n]
        return DiffSide(
            span_id=span["span_id"],
            duration_ms=span["duration_ms"],
            input_tokens=in_tokens,
            output_tokens=out_tokens,
            cost_usd=cost,
        )

    def _sum(self, n: int, below: list[int]) -> tuple[int | None, int | None, float | None]:
        span = self.spans[n]
        own = (
            (span["input_tokens"], span["output_tokens"], span["cost_usd"])
            if span["kind"] == "generation"
            else (None,) * 3
        )
        parts = [own, *(self._sums[child] for child in below)]
        return (
            _total([part[0] for part in parts]),
            _total([part[1] for part in parts]),
            _total([part[2] for part in parts]),
        )


def _total(numbers: list[Number | None]) -> Number | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _label(span: SpanDict) -> tuple[str, str | None]:
    match span["kind"]:
        case "generation" | "turn" | "task":
            return span["kind"], span["agent"]
        case "handoff":
            return "handoff", span["to_agent"] or span["name"]
    return span["kind"], span["name"]


def _decided(span: SpanDict) -> tuple[str, ...]:
    """Returns what was decided in a step, as texts."""
    if span["kind"] in CONTAINERS:
        return ()
    output = answered(span["output"]) if span["kind"] == "generation" else span["output"]
    ids = frozenset() if span["kind"] == "tool" else _IDS
    return _normal(span["input"], ids), _normal(output, ids), span["error"] or ""


def _normal(value: object, ids: frozenset[str]) -> str:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return value if isinstance(value, str) else to_json(_without(ids, value))


def _without(ids: frozenset[str], value: object) -> object:
    """Returns the value with sorted keys, without keys that only hold ids or times. What a tool is told, and what it answers, is kept."""
    if isinstance(value, Mapping):
        return {
            key: _without(frozenset() if key in ("arguments", "output") else ids, value[key])
            for key in sorted(value, key=str)
            if key not in ids
        }
    if isinstance(value, list):
        return [_without(ids, inner) for inner in value]
    if isinstance(value, str) and value[:1] == "{":
        return _normal(value, ids)
    return value


def _differences(a: _Tree, b: _Tree, i: int, j: int) -> dict[str, tuple[Json, Json]]:
    left, right = a.spans[i], b.spans[j]
    names = ["name", "agent", "model", "status", "approval"]
    if not _is_replayed(left) and not _is_replayed(
        right
    ):  # A replayed answer has no provider and no reason of its own.
        names += ["provider", "stop_reason"]
    fields: dict[str, tuple[Json, Json]] = {
        name: (left[name], right[name]) for name in names if left.get(name) != right.get(name)
    }
    for name, x, y in zip(("input", "output", "error"), a.parts[i], b.parts[j], strict=False):
        if x != y:
            fields[name] = _clipped(x, y)
    return fields


def _is_replayed(span: SpanDict) -> bool:
    config = (span.get("attributes") or {}).get("model_config")
    return isinstance(config, Mapping) and "replayed_span" in config


def _clipped(left: str, right: str) -> tuple[str, str]:
    same = 0
    for x, y in zip(left, right, strict=False):
        if x != y:
            break
        same += 1
    return _clip(left, max(0, same - 40)), _clip(right, max(0, same - 40))


def _clip(text: str, start: int) -> str:
    return ("…" if start else "") + text[start : start + CLIPPED] + ("…" if len(text) > start + CLIPPED else "")
