"""The same scorers over runs that happened already: rules about trajectories hold history to account, not only tests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.apply import score_answer
from timestep_lab.evals.scorers.base import Answer, Ask, Scorer, Tools
from timestep_lab.store.base import in_thread
from timestep_lab.types.errors import DataError
from timestep_lab.types.ids import new_id
from timestep_lab.types.records import ScoreRecord

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

ALL_TRACES = "select trace_id from traces where status = 'completed' order by started_at desc"
_ASKED_AT_ONCE = 200


async def score_traces(
    store: Store,
    scorers: Sequence[Scorer],
    query: str = ALL_TRACES,
    *,
    keep: bool = False,
    limit: int | None = None,
    ask: Ask | None = None,
) -> list[dict[str, Any]]:
    """One row a trace: `trace_id`, and each scorer's value. `query` gives the column `trace_id`, and may give `expected`.

    `keep` stores the scores, so that the view `scores` and the explorer show them. Raises `QueryError`, `DataError`.
    """
    asked = await in_thread(store.sql, query, limit=limit)
    if "trace_id" not in asked.columns:
        raise DataError("The query gives no column trace_id.", "Begin it with: select trace_id from traces …")
    rows = asked.dicts()
    told = await in_thread(answers_of, store, [row["trace_id"] for row in rows])
    results, records = [], []
    for row in rows:
        trace_id = row["trace_id"]
        if trace_id not in told:
            continue
        asked_text, answer = told[trace_id]
        scores = await score_answer(
            scorers, answer, Case(input=asked_text, expected=row.get("expected")), Tools(ask=ask)
        )
        results.append({"trace_id": trace_id, **{score.scorer: score.value for score in scores}})
        records += [
            ScoreRecord(
                id=new_id("score"), user_id=store.user_id, target="trace", target_id=trace_id, name=s.scorer, value=s.value, note=s.note,
                source=s.source,
            )
            for s in scores if s.value is not None
        ]  # fmt: skip
    if keep and records:
        statements = [store.scores.insert_statement(record) for record in records]
        changes = [change for record in records for change in store.scores.changes(record.id)]
        await in_thread(store.db.write, store.user_id, statements, changes=changes)
    return results


def answers_of(store: Store, trace_ids: Sequence[str]) -> dict[str, tuple[str, Answer]]:
    """(what was asked, the answer with its steps in order) of each trace that exists. Blocks."""
    found: dict[str, tuple[str, Answer]] = {}
    for start in range(0, len(trace_ids), _ASKED_AT_ONCE):
        part = list(trace_ids[start : start + _ASKED_AT_ONCE])
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
        sql = (
            "select trace_id, input, output, duration_ms, input_tokens, output_tokens, "
            "case when n_unpriced = 0 then cost_usd end as cost_usd "
            f"from traces where trace_id in ({places})"
        )
        for trace in store.sql(sql, part).dicts():
            ordered = sorted(steps[trace["trace_id"]], key=lambda timed: timed[0])
            answer = Answer(
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
