"""Data sets in the store: one row a version, one row a case of it. Everything here blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.results import JUDGE
from timestep_lab.model.records import DatasetRecord
from timestep_lab.store.base import Statement

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

_COLUMNS = ("user_id", "dataset_id", "position", "case_id", "input", "messages", "expected", "vars", "assertions", "metadata")  # fmt: skip
_CORRECTIONS = "select target_id, note from scores where target = 'trace' and name = 'correction' and note is not null order by created_at"  # fmt: skip


def store_version(store: Store, record: DatasetRecord, dataset: Dataset) -> DatasetRecord:
    """All or nothing. Raises `ConflictError` when somebody else was faster with a version of that number."""
    rows = [
        (
            store.user_id, record.id, position, case.id, case.input, json.dumps(list(case.messages), ensure_ascii=False),
            None if case.expected is None else json.dumps(case.expected, ensure_ascii=False),
            json.dumps(dict(case.vars), ensure_ascii=False), json.dumps(list(case.assertions), ensure_ascii=False),
            json.dumps(dict(case.metadata), ensure_ascii=False),
        )
        for position, case in enumerate(dataset.cases)
    ]  # fmt: skip
    store.db.append(
        store.user_id, {"dataset_cases": (_COLUMNS, rows)}, then=[store.datasets.insert_statement(record)],
        changes=store.datasets.changes(record.id),
    )  # fmt: skip
    return record


def stored_cases(store: Store, dataset_id: str) -> list[Case]:
    sql = (
        f"select {', '.join(_COLUMNS[3:])} from dataset_cases where user_id = $1 and dataset_id = $2 order by position"
    )
    return [
        Case(
            id=id, input=asked, messages=tuple(_json(messages) or ()), expected=_json(expected), vars=_json(variables),
            assertions=tuple(_json(assertions) or ()), metadata=_json(metadata),
        )
        for id, asked, messages, expected, variables, assertions, metadata in store.db.query(store.user_id, sql, [store.user_id, dataset_id]).rows
    ]  # fmt: skip


def forget(store: Store, dataset_id: str) -> None:
    params = [store.user_id, dataset_id]
    store.db.write(
        store.user_id,
        [
            Statement("delete from dataset_cases where user_id = $1 and dataset_id = $2", params),
            Statement("delete from dataset_versions where user_id = $1 and id = $2", params),
        ],
        changes=store.datasets.changes(dataset_id),
    )


def cases_of_traces(
    sql: Callable[[str], list[dict[str, Any]]], filter: str, query_of: Callable[[str], str], *, expected: str | None, limit: int | None
) -> list[Case]:  # fmt: skip
    """What was asked in each trace that a filter selects, oldest first, with what it should have answered where somebody said so."""
    rows = sorted(sql(query_of(filter)), key=lambda row: str(row["started_at"]))
    corrections = {row["target_id"]: row["note"] for row in sql(_CORRECTIONS)}
    found = []
    for row in rows:
        asked = row["input"]
        if not isinstance(asked, str) or not asked.strip() or row["workflow"] == JUDGE:
            continue
        right = corrections.get(row["trace_id"], row["output"] if expected == "output" else None)
        about = {"trace_id": row["trace_id"], "agent": row["agent_path"], "model": row["model"], "status": row["status"]}  # fmt: skip
        found.append(Case(input=asked, expected=right, metadata={k: v for k, v in about.items() if v is not None}))
    return found if limit is None else found[-limit:]


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value
