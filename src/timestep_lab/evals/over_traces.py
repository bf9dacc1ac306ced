"""The same scorers over runs that happened already: rules about trajectories hold history to account, not only tests."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from timestep_lab.evals.bench import Bench
from timestep_lab.evals.budget import Budget, check_prices
from timestep_lab.evals.cell_writer import CellWriter
from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.load import is_query
from timestep_lab.evals.executor import LocalExecutor
from timestep_lab.evals.judging import Judges
from timestep_lab.evals.limits import limited
from timestep_lab.evals.options import Options
from timestep_lab.evals.rows import JUDGE, ComparisonRows
from timestep_lab.evals.scorers.apply import score_answer
from timestep_lab.evals.scorers.base import Answer, Tools
from timestep_lab.evals.scorers.registry import make_scorers
from timestep_lab.model.errors import DataError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ScoreRecord
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.store import Store

ALL_TRACES = (
    f"select trace_id from traces where status = 'completed' and workflow <> '{JUDGE}' order by started_at desc"
)
"""Judges' own answers are nobody's to score."""
_ASKED_AT_ONCE = 200
_SYSTEM = ("system", "developer")
_SCORED_AT_ONCE = 16


async def score_traces(
    bench: Bench, which: str | Sequence[str], scorers: Sequence[Any] | Any, *, limit: int | None = None, keep: bool = True,
    again: bool = False, budget_usd: float | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a trace: `trace_id`, each scorer's value, and as `note` why one could not score.

    `which`: a filter of the explorer, an SQL query that gives `trace_id` (and may give `expected`), or ids; empty: all that completed.
    `keep` stores the scores, so that the view `scores` and the explorer show them. What was scored by these scorers before is not scored
    again, unless `again` says so: then the new scores take the place of the old. Raises `QueryError`, `FilterError`, `DataError`.
    """
    made = make_scorers(scorers)
    if not made:
        raise UsageError("No scorer was named.", "Give scorers=[…].", param="scorers")
    if late := next((scorer for scorer in made if scorer.pairwise), None):
        raise UsageError(
            f"The scorer {late.name!r} judges answers against each other.", "Use it in a comparison.", param="scorers"
        )
    store = bench.store
    await bench.writer.barrier().reached()
    rows = await in_thread(_chosen, store, which, limit)
    judged = any(scorer.judges for scorer in made)
    told = await in_thread(answers_of, store, [row["trace_id"] for row in rows], conversations=judged)
    known = {} if again else await in_thread(_known, store, list(told), [scorer.name for scorer in made])
    models = sorted({str(getattr(judge, "model", None) or "") for scorer in made for judge in scorer.judges})
    judges_of = [bench.router.resolve(name or None) for name in models]
    for model in judges_of:
        bench.router.get_model(model.full)
    check_prices([], judges_of, budget_usd)
    cache = ComparisonRows(store.db, bench.user_id)
    executor = LocalExecutor(bench, Options())
    judges = Judges(bench.router, executor, Budget(budget_usd), cache)
    judges.writer = CellWriter(cache, "", lambda cell: None)
    tools, gate = Tools(ask=judges.ask, replies=None if again else judges), asyncio.Semaphore(_SCORED_AT_ONCE)

    async def one(row: dict[str, Any]) -> tuple[dict[str, Any], list[ScoreRecord]]:
        trace_id = row["trace_id"]
        asked, answer = told[trace_id]
        there = known.get(trace_id, {})
        async with gate:
            scores = await score_answer(
                [scorer for scorer in made if scorer.name not in there], answer, Case(input=asked, expected=row.get("expected")), tools
            )  # fmt: skip
        values = there | {score.scorer: score.value for score in scores}
        notes = [f"{s.scorer}: {s.note or 'it gave no reason'}" for s in scores if s.value is None]
        return (
            {"trace_id": trace_id, **{s.name: values.get(s.name) for s in made}, "note": "; ".join(notes) or None},
            [
                ScoreRecord(
                    id=new_id("score"), user_id=store.user_id, target="trace", target_id=trace_id, name=s.scorer, value=s.value,
                    label=s.label, note=s.note, source=s.source,
                )
                for s in scores if s.value is not None
            ],
        )  # fmt: skip

    try:
        with limited(bench.router, {model.prefix for model in judges_of}, None):
            done = await asyncio.gather(*(one(row) for row in rows if row["trace_id"] in told))
            await judges.writer.flush()
    finally:
        await executor.aclose()
        await bench.writer.barrier().reached()
    if keep:
        await in_thread(_keep, store, [record for _, records in done for record in records])
    return [row for row, _ in done]


def _chosen(store: Store, which: str | Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    if not isinstance(which, str):
        return [{"trace_id": str(id)} for id in which][:limit]
    query = which if is_query(which) else ALL_TRACES if not which.strip() else store.traces.sql(which)
    asked = store.sql(query, limit=limit)
    if "trace_id" not in asked.columns:
        raise DataError("The query gives no column trace_id.", "Begin it with: select trace_id from traces …")
    found: dict[str, dict[str, Any]] = {}
    for row in asked.dicts():
        if row["trace_id"] is not None:
            found.setdefault(str(row["trace_id"]), {**row, "trace_id": str(row["trace_id"])})
    return list(found.values())


def _known(store: Store, trace_ids: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """What these scorers said of these traces before."""
    found: dict[str, dict[str, float]] = {}
    for part in _parts(trace_ids):
        places = ", ".join(f"${n}" for n in range(1, len(part) + 1))
        named = ", ".join(f"${n}" for n in range(len(part) + 1, len(part) + len(names) + 1))
        sql = (
            f"select target_id, name, value from scores where target = 'trace' and source <> 'human' and target_id in ({places}) "
            f"and name in ({named}) and value is not null order by created_at"
        )
        for trace_id, name, value in store.sql(sql, [*part, *names]).rows:
            found.setdefault(trace_id, {})[name] = value
    return found


def _keep(store: Store, records: Sequence[ScoreRecord]) -> None:
    """Store them in place of what the same scorers said of the same traces."""
    for part in _parts(records):
        old = [
            Statement(
                "delete from score_rows where user_id = $1 and target = 'trace' and target_id = $2 and name = $3 and source <> 'human'",
                [store.user_id, record.target_id, record.name],
            )
            for record in part
        ]
        statements = [*old, *(store.scores.insert_statement(record) for record in part)]
        changes = [change for record in part for change in store.scores.changes(record.id)]
        store.db.write(store.user_id, statements, changes=changes)


def _parts(items: Sequence[Any]) -> Iterable[list[Any]]:
    return (list(items[start : start + _ASKED_AT_ONCE]) for start in range(0, len(items), _ASKED_AT_ONCE))


def answers_of(
    store: Store, trace_ids: Sequence[str], *, conversations: bool = False
) -> dict[str, tuple[str, Answer]]:  # fmt: skip
    """(what was asked, the answer with its steps in order) of each trace that exists; with `conversations` also all that the model was sent
    first, its system text apart. Blocks."""
    found: dict[str, tuple[str, Answer]] = {}
    for part in _parts(trace_ids):
        places = ", ".join(f"${n}" for n in range(1, len(part) + 1))
        steps: dict[str, list[tuple[Any, dict[str, Any]]]] = defaultdict(list)
        sql = f"select trace_id, agent, tool, arguments, approval, error, started_at from tool_calls where trace_id in ({places})"
        for call in store.sql(sql, part).dicts():
            step = {
                "type": "tool", "name": call["tool"], "arguments": _parsed(call["arguments"]), "agent": call["agent"],
                "approval": call["approval"], "error": call["error"],
            }  # fmt: skip
            steps[call["trace_id"]].append((call["started_at"], step))
        for move in store.sql(f"select * from handoffs where trace_id in ({places})", part).dicts():
            step = {"type": "handoff", "from": move["from_agent"], "to": move["to_agent"]}
            steps[move["trace_id"]].append((move["started_at"], step))
        sent: dict[str, list[dict[str, Any]]] = {}
        if conversations:
            sql = f"select trace_id, input from generations where trace_id in ({places}) order by started_at"
            for trace_id, given in store.sql(sql, part).rows:
                messages = _parsed(given)
                if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
                    sent.setdefault(trace_id, messages)
        sql = (
            "select trace_id, input, output, duration_ms, input_tokens, output_tokens, "
            "case when n_unpriced = 0 then cost_usd end as cost_usd "
            f"from traces where trace_id in ({places})"
        )
        for trace in store.sql(sql, part).dicts():
            ordered = sorted(steps[trace["trace_id"]], key=lambda timed: timed[0])
            first = sent.get(trace["trace_id"], [])
            system = [_text(message.get("content")) for message in first if message.get("role") in _SYSTEM]
            answer = Answer(
                asked=[message for message in first if message.get("role") not in _SYSTEM] or None,
                instructions="\n\n".join(system) or None,
                output=_text(trace["output"]), steps=tuple(step for _, step in ordered), latency_ms=trace["duration_ms"],
                input_tokens=trace["input_tokens"], output_tokens=trace["output_tokens"], cost_usd=trace["cost_usd"],
            )  # fmt: skip
            found[trace["trace_id"]] = (_text(trace["input"]), answer)
    return found


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
