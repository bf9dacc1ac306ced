"""`TraceReader`: the handlers of an open trace, shared by the trace view, the explorer and exported pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

from timestep_lab.model.clock import ms_between, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, NotFoundError, UsageError
from timestep_lab.model.events import CauseFound, CauseProgress, Event
from timestep_lab.model.spans import Lab
from timestep_lab.service.traces import Row, SpanColumns, Traces
from timestep_lab.store.base import in_thread
from timestep_lab.store.table import CodedText
from timestep_lab.ui.columns import encode_spans, json_safe, numbers, parent_rows
from timestep_lab.ui.messages import as_text, read_messages
from timestep_lab.ui.view import Reply, View, handles

if TYPE_CHECKING:
    from timestep_lab.service.causes import Causes
    from timestep_lab.service.datasets import Datasets
    from timestep_lab.service.runs import AgainChanges
    from timestep_lab.ui.columns import Rows
    from timestep_lab.ui.view import ViewOptions

    class ReaderOptions(ViewOptions, total=False):
        """The options of `TraceReader`."""

        datasets: Datasets | None

# --- The first rows of a trace's tree, for the waterfall and its static copy


def tree_rows(spans: SpanColumns, most: int, parents: Rows | None = None) -> list[tuple[int, int]]:
    """(row, depth) of the first `most` rows: depth first, siblings by start time. Rows that are only reachable through
    a cycle of parents come last.

    `parents`: the spans' `parent_rows`, if already computed.
    """
    import numpy as np

    starts = numbers(spans["started_us"])
    parents = parent_rows(spans) if parents is None else parents

    def below(parent: int, depth: int) -> list[tuple[int, int]]:
        rows = np.flatnonzero(parents == parent)
        return [(row, depth) for row in rows[np.argsort(starts[rows], kind="stable")].tolist()]

    order: list[tuple[int, int]] = []
    stack = below(-1, 0)[::-1]
    while stack and len(order) < most:
        row, depth = stack.pop()
        order.append((row, depth))
        stack += below(row, depth + 1)[::-1]
    if len(order) < min(most, len(starts)):
        placed = {row for row, _ in order}
        order += [(row, 0) for row in range(len(starts)) if row not in placed][: most - len(order)]
    return order


def part_of(spans: SpanColumns, rows: list[int]) -> SpanColumns:
    """The columns restricted to these rows."""
    return {name: [values[row] for row in rows] if len(values) else [] for name, values in spans.items()}


# -- A trace as a conversation: messages, tool calls and handoffs in chronological order

Entry = dict[str, Any]
KINDS = frozenset({"generation", "tool", "handoff"})


class Conversation(TypedDict):
    """`truncated`: there are more steps."""

    entries: list[Entry]
    truncated: bool


def conversation_of(spans: Sequence[Row], start: datetime) -> list[Entry]:
    """Conversation entries from complete spans (in any order; only generations, tools and handoffs are used). `at` is
    in ms from `start`.

    | kind | fields beside `at, span_id, duration_ms` |
    |---|---|
    | `message` | `role, parts, agent, model, tokens, cost_usd` |
    | `tool` | `name, arguments, result, status, error, approval` |
    | `handoff` | `from, to` |
    | `error` | `name, error` of a failed model call |
    """
    entries: list[Entry] = []
    seen: set[str] = set()
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
            entries += _asked(span, about, seen)
            entries += _answered(span, about)
            if span.get("error"):
                failed = {**about, "at": about["at"] + (about["duration_ms"] or 0.0)}
                entries.append({"kind": "error", **failed, "name": span["name"], "error": span["error"]})
    return entries


def _tool(span: Row) -> Entry:
    return {
        "name": span["name"],
        "arguments": as_text(span.get("input")),
        "result": as_text(span.get("output")),
        "status": span.get("status"),
        "error": span.get("error"),
        "approval": (span.get("attributes") or {}).get(Lab.APPROVAL),
    }


def _asked(span: Mapping[str, object], about: Entry, shown: set[str]) -> list[Entry]:
    """Instructions and user messages that are new in this generation. Each generation receives the whole history."""
    entries = []
    for message in read_messages(span.get("input")) or ():
        if message["role"] in ("assistant", "tool", "function"):
            continue
        seen = repr((message["role"], message["parts"]))
        if seen not in shown:
            shown.add(seen)
            agent = span.get("agent") if message["role"] in ("system", "developer") else None
            facts = {"role": message["role"], "parts": message["parts"], "agent": agent}
            entries.append({"kind": "message", **about, **facts, "duration_ms": None})
    return entries


def _answered(span: Row, about: Entry) -> list[Entry]:
    end = about["at"] + (about["duration_ms"] or 0.0)
    tokens = [n for n in (span.get("input_tokens"), span.get("output_tokens")) if n is not None]
    entries = []
    for message in read_messages(span.get("output"), role="assistant") or ():
        # Calls are shown by the following tool spans and handoffs, with their results.
        parts = [part for part in message["parts"] if part["type"] != "call"]
        if parts:
            facts = {"role": "assistant", "parts": parts, "agent": span.get("agent"), "model": span.get("model")}
            sums = {"tokens": sum(tokens) if tokens else None, "cost_usd": span.get("cost_usd")}
            entries.append({"kind": "message", **about, "at": end, **facts, **sums})
    return entries


# --

MOST_ENTRIES = 400
"""Maximum number of steps in a conversation."""
MOST_SEARCHED = 2_000
"""Maximum number of steps whose contents are searched; beyond it only names are."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PROGRESS_EVERY_S = 0.2
"""Interval in seconds between progress messages of a search."""
MOST_JSON = 1_000
"""Maximum number of steps in the JSON tab."""


class TraceReader(View):
    """Base class of views that open traces of `source`."""

    def __init__(self, source: Traces, *, datasets: Datasets | None = None, **options: Unpack[ViewOptions]) -> None:
        super().__init__(**options)
        self.source, self._datasets = source, datasets
        self._causes: dict[str, dict[str, Json]] = {}
        """Trace id to the state of its root-cause analysis."""
        self._searches: dict[str, asyncio.Task[None]] = {}

    @handles("trace")
    async def _open_trace(self, trace_id: str) -> Reply:
        return await self.in_turn(read_trace, self.source, trace_id)

    @handles("span")
    async def _open_span(self, trace_id: str, span_id: str) -> dict[str, object]:
        return await self.in_turn(read_span, self.source, trace_id, span_id)

    @handles("conversation")
    async def _conversation(self, trace_id: str) -> Conversation:
        return await self.in_turn(read_conversation, self.source, trace_id)

    @handles("graph")
    async def _graph(self, trace_id: str) -> Json:
        return asdict(await self.in_turn(self.source.graph_of, trace_id))

    @handles("json")
    async def _json(self, trace_id: str) -> Json:
        return await self.in_turn(read_json, self.source, trace_id)

    @handles("find")
    async def _find(self, trace_id: str, text: str) -> Json:
        return await self.in_turn(find_in_trace, self.source, trace_id, text)

    @handles("comparable")
    async def _comparable(self, trace_id: str) -> Json:
        return await self.in_turn(comparable_traces, self.source, trace_id)

    @handles("diff")
    async def _diff(self, left: str, right: str) -> Json:
        rows = await self.in_turn(self.source.diff, left, right)
        sides = {
            "left": await self.in_turn(self.source.read, left),
            "right": await self.in_turn(self.source.read, right),
        }
        return {**sides, "rows": [asdict(row) for row in rows]}

    @handles("score")
    async def _score(
        self,
        target: str,
        target_id: str,
        name: str,
        trace_id: str,
        value: float | None = None,
        label: str | None = None,
        note: str | None = None,
    ) -> Json:
        kind = cast(Literal["trace", "span"], target)
        score = await in_thread(self.source.score, kind, target_id, name, value, label=label, note=note)
        return asdict(score)

    # Actions on one trace: each is an operation of `Traces` or `Datasets`

    @handles("waiting")
    async def _waiting(self, trace_id: str) -> Json:
        return [asdict(call) for call in await self.in_turn(self.source.waiting, trace_id)]

    @handles("decide")
    async def _decide(
        self, trace_id: str, call_id: str, decision: str, message: str = "", always: bool = False, answer: dict[str, Json] | None = None
    ) -> None:  # fmt: skip
        chosen = cast(Literal["approved", "rejected"], decision)
        await self.source.decide(trace_id, call_id, chosen, message=message, always=always, answer=answer)

    @handles("share")
    async def _share(self, trace_id: str, days: int) -> Json:
        return asdict(await in_thread(self.source.share, trace_id, days=days))

    @handles("shares")
    async def _shares(self, trace_id: str) -> Json:
        return [asdict(link) for link in await self.in_turn(self.source.shares, trace_id=trace_id)]

    @handles("revoke")
    async def _revoke(self, trace_id: str, share_id: str) -> None:
        await in_thread(self.source.revoke, share_id)

    @handles("delete")
    async def _delete(self, trace_id: str) -> None:
        await in_thread(self.source.delete, trace_id)

    @handles("datasets")
    async def _names_of_datasets(self, trace_id: str) -> Json:
        return [] if self._datasets is None else [record.name for record in await self.in_turn(self._datasets.list)]

    @handles("add_to_dataset")
    async def _add_to_dataset(self, trace_id: str, name: str, expected: str | None = None) -> Json:
        if self._datasets is None:
            raise UsageError("This view has no access to data sets.", "Show the trace with lab.traces or lab.trace(…).")
        wanted = cast(Literal["output"] | None, expected)
        record = await in_thread(self._datasets.add_traces, name=name, trace_ids=[trace_id], expected=wanted)
        return {"name": record.name, "version": record.version, "n_cases": record.n_cases}

    @handles("plan_again")
    async def _plan_again(self, trace_id: str, changes: AgainChanges) -> Json:
        return asdict(await self.source.plan_again(trace_id, **changes))

    @handles("run_again")
    async def _run_again(self, trace_id: str, changes: AgainChanges) -> Json:
        return {"trace_id": (await self.source.run_again(trace_id, **changes)).trace_id}

    @handles("page")
    async def _page(self, trace_id: str) -> Json:
        from timestep_lab.ui.html_export import trace_page

        return {"page": await self.in_turn(trace_page, self.source, trace_id)}

    # -- root-cause analysis

    @handles("cause")
    async def _cause(self, trace_id: str) -> Json:
        return {"can_replay": self.source.causes is not None, "state": self._causes.get(trace_id)}

    @handles("cause_plan")
    async def _cause_plan(self, trace_id: str, asked: str, text: str = "", tools: str = "tape") -> Json:
        """The maximum cost of a search; nothing is replayed."""
        plan = await self._finder().plan(trace_id, tools=tools, **_criterion(asked, text))
        return {"words": repr(plan)}

    @handles("cause_find")
    async def _cause_find(
        self, trace_id: str, asked: str, text: str = "", tools: str = "tape", budget_usd: float | None = None
    ) -> Json:
        state = self._causes.get(trace_id)
        if state is None or not state.get("running"):
            state = self._causes[trace_id] = {"running": True, "done": 0, "planned": 0, "said": _criterion(asked, text)}
            events = self._finder().why(trace_id, tools=tools, budget_usd=budget_usd, **_criterion(asked, text))
            self._searches[trace_id] = asyncio.ensure_future(self._search(trace_id, events))
        return state

    @handles("cause_stop")
    async def _cause_stop(self, trace_id: str) -> None:
        if (task := self._searches.get(trace_id)) is not None:
            task.cancel()

    @handles("cause_keep")
    async def _cause_keep(self, trace_id: str, name: str) -> Json:
        criteria = cast("dict[str, str]", (self._causes.get(trace_id) or {}).get("said") or {})
        return asdict(await in_thread(self._finder().keep, trace_id, name, **criteria))

    def _finder(self) -> Causes:
        if self.source.causes is None:
            raise UsageError("These traces are not in a lab.", "Open them through their lab: lab.trace(…).")
        return self.source.causes()

    async def _search(self, trace_id: str, events: AsyncIterator[Event]) -> None:
        state = self._causes[trace_id]
        sent_at = 0.0
        try:
            async for event in events:
                if isinstance(event, CauseProgress):
                    state |= {"done": event.done, "planned": event.planned, "spent_usd": event.spent_usd}
                    if time.monotonic() - sent_at > PROGRESS_EVERY_S:
                        sent_at = time.monotonic()
                        self.emit({"kind": "cause", "trace_id": trace_id, "state": dict(state)})
                elif isinstance(event, CauseFound):
                    from timestep_lab.service.causes import why_of

                    why = why_of(event)
                    state |= {
                        "verdict": why.verdict, "outlook": why.outlook.rows(), "right": why.outlook.right, "suspects": why.rows(),
                        "notes": [*why.notes],
                    }  # fmt: skip
        except LabError as error:
            state["error"] = str(error)
        finally:
            state["running"] = False
            self._searches.pop(trace_id, None)
            self.emit({"kind": "cause", "trace_id": trace_id, "state": dict(state)})


def _criterion(asked: str, text: str) -> dict[str, Any]:
    """The user's criterion as arguments of `why`."""
    return {"wrong": {"wrong": f"contains:{text}"}, "right": {"right": text}}.get(asked, {})


def read_trace(source: Traces, trace_id: str) -> Reply:
    """The reply to `trace`: row, annotations, the clock, and the spans as binary columns."""
    spans = source.columns(trace_id)
    return Reply(read_about(source, trace_id, spans), [encode_spans(spans)])


def read_about(source: Traces, trace_id: str, spans: SpanColumns, trace: Row | None = None) -> dict[str, Json]:
    """That reply without the spans. `trace`: its row, if already read."""
    trace = source.read(trace_id) if trace is None else trace
    return {
        "trace": dict(trace),
        "failure": read_failure(source, trace_id, spans) if trace["status"] == "failed" else None,
        "scores": [asdict(score) for score in source.scores(trace_id) if score.target == "trace"],
        "now": utc_now().timestamp() * 1000.0,
    }


def read_failure(source: Traces, trace_id: str, spans: SpanColumns) -> dict[str, Json] | None:
    """Why a trace failed: the failed step and its error; None if no step has an error.

    An error propagates to all enclosing steps, with longer and longer messages. So the latest failed step is the most
    specific, provided that the step that ended last has the same error; a run that recovered from a tool error and
    failed for another reason has that reason there.
    """
    import numpy as np

    failed = np.flatnonzero(CodedText.of(spans["status"]).where("error"))
    if not len(failed):
        return None
    starts = np.array(spans["started_us"], dtype="f8")[failed]
    ends = np.array(spans.get("ended_us", spans["started_us"]), dtype="f8")[failed]
    inner = spans["span_id"][int(failed[np.lexsort((-ends, starts))[-1]])]
    outer = spans["span_id"][int(failed[np.lexsort((-starts, np.nan_to_num(ends)))[-1]])]
    payloads = {str(span["span_id"]): span for span in source.payloads(trace_id, list(dict.fromkeys((inner, outer))))}
    best, last = (payloads.get(span_id, {}) for span_id in (inner, outer))
    span = best if best.get("error") and str(best["error"]) in str(last.get("error") or best["error"]) else last
    if not span.get("error"):
        return None
    return {"span_id": span["span_id"], "name": span["name"], "error": str(span["error"])}


def read_span(source: Traces, trace_id: str, span_id: str) -> dict[str, object]:
    """A complete span, with its messages in the common format and its annotations. Raises `NotFoundError`."""
    payloads = source.payloads(trace_id, [span_id])
    if not payloads:
        raise NotFoundError(f"The step {span_id} is no longer in the trace.", "Open the trace again.")
    span = dict(payloads[0])
    speaks = span["kind"] in ("generation", "agent", "task", "turn", "other")
    return {
        "span": span,
        "input_messages": read_messages(span.get("input")) if speaks else None,
        "output_messages": read_messages(span.get("output"), role="assistant") if speaks else None,
        "scores": [asdict(score) for score in source.scores(trace_id) if score.target_id == span_id],
    }


def read_conversation(
    source: Traces, trace_id: str, spans: SpanColumns | None = None, most: int = MOST_ENTRIES
) -> Conversation:
    """The conversation in the first `most` relevant steps."""
    import numpy as np

    spans = source.columns(trace_id) if spans is None else spans
    starts = np.array(spans["started_us"], dtype="f8")
    rows = np.flatnonzero(CodedText.of(spans["kind"]).where(*KINDS))
    speaking = rows[np.argsort(starts[rows], kind="stable")].tolist()
    whole = source.payloads(trace_id, [spans["span_id"][row] for row in speaking[:most]])
    start = EPOCH + timedelta(microseconds=int(starts.min())) if len(starts) else utc_now()
    entries = conversation_of(whole, start)
    if CodedText.of(spans["status"]).where("error").any() and source.read(trace_id)["status"] == "failed":
        entries += _untold(read_failure(source, trace_id, spans), entries)
    return {"entries": entries, "truncated": len(speaking) > most}


def _untold(failure: dict[str, Json] | None, entries: Sequence[Entry]) -> list[Entry]:
    """The reason why the trace failed, if no entry of the conversation has it."""
    if failure is None or any(entry.get("error") == failure["error"] for entry in entries):
        return []
    end = max((entry["at"] for entry in entries), default=0.0)
    return [{"kind": "error", "at": end, "duration_ms": None, **failure}]


def read_json(source: Traces, trace_id: str) -> dict[str, Json]:
    spans = source.columns(trace_id)
    ids = [i for _, i in sorted(_columns(spans, "started_us", "span_id"))][:MOST_JSON]
    whole: dict[str, Json] = {
        "trace": dict(source.read(trace_id)),
        "spans": [dict(span) for span in source.payloads(trace_id, ids)],
    }
    if len(spans["span_id"]) > MOST_JSON:
        whole["more_spans"] = len(spans["span_id"]) - MOST_JSON
    return whole


def find_in_trace(source: Traces, trace_id: str, text: str) -> list[str]:
    """Ids of spans whose contents contain the text, case-insensitively. Names are searched in the browser."""
    ids = list(source.columns(trace_id)["span_id"])[:MOST_SEARCHED]
    wanted = text.casefold()
    return [str(span["span_id"]) for span in source.payloads(trace_id, ids) if wanted in _contents(span)]


def _contents(span: Mapping[str, object]) -> str:
    values = (span.get("input"), span.get("output"), span.get("error"), span.get("attributes"))
    return " ".join(str(json_safe(value)) for value in values if value).casefold()


def comparable_traces(source: Traces, trace_id: str) -> list[dict[str, Json]]:
    """Recent traces to compare with, those with the same input first."""
    asked = source.read(trace_id).get("input")
    rows = [dict(row) for row in source.page(limit=50).data if row["trace_id"] != trace_id]
    return sorted(rows, key=lambda row: row.get("input") != asked)


def _columns(spans: SpanColumns, *names: str) -> Sequence[tuple[Any, ...]]:
    return list(zip(*(spans[name] for name in names), strict=True))
