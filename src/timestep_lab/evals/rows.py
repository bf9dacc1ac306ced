"""Comparisons as rows. Everything here blocks and is called through `in_thread`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from timestep_lab.model.arena import VoteRecord
from timestep_lab.model.clock import to_aware_utc, to_naive_utc, utc_now
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, ScoreValue
from timestep_lab.model.errors import ConflictError
from timestep_lab.store.base import Change, Database, Statement
from timestep_lab.store.table import Table

Row = tuple[Any, ...]
CELL_COLUMNS = ("user_id", *(f.name for f in fields(CellRecord) if f.name != "scores"))
CASE_COLUMNS = ("user_id", *(f.name for f in fields(CaseRecord)))
SCORE_COLUMNS = (
    "user_id", "comparison_id", "case_id", "candidate", "epoch", "scorer", "value", "weight", "label", "note", "source", "cached",
)  # fmt: skip
CACHE_COLUMNS = ("user_id", "key", "cell", "created_at")
_JSON = {"steps", "messages", "expected", "vars", "assertions", "metadata"}
_ASKED_AT_ONCE = 500
JUDGE = "Judge"
"""The agent that judges ask as, in traces."""


class ComparisonRows:
    """One user's comparisons in one database."""

    def __init__(self, db: Database, user_id: str) -> None:
        self.db, self.user_id = db, user_id
        self.comparisons = Table(
            db, user_id, "comparison_runs", ComparisonRecord, noun="comparison", topic="comparisons"
        )
        self.votes = Table(db, user_id, "votes", VoteRecord, noun="vote", topic="comparisons")

    # -- beginning, going on

    def begin(self, comparison: ComparisonRecord, cases: Iterable[CaseRecord]) -> None:
        """The comparison with all its cases, in one transaction."""
        rows = [(self.user_id, *_values(case, CASE_COLUMNS[1:])) for case in cases]
        self.db.append(
            self.user_id, {"comparison_cases": (CASE_COLUMNS, rows)}, then=[self.comparisons.insert_statement(comparison)],
            changes=self.comparisons.changes(comparison.id),
        )  # fmt: skip

    def add_case(self, comparison: ComparisonRecord, case: CaseRecord) -> ComparisonRecord:
        """One more case of a comparison whose cases come one by one."""
        grown = replace(comparison, n_cases=comparison.n_cases + 1)
        self.db.append(
            self.user_id, {"comparison_cases": (CASE_COLUMNS, [(self.user_id, *_values(case, CASE_COLUMNS[1:]))])},
            then=[self.comparisons.update_statement(comparison.id, n_cases=grown.n_cases)],
            changes=self.comparisons.changes(comparison.id),
        )  # fmt: skip
        return grown

    def go_on(self, comparison: ComparisonRecord, *, forget_failed: bool = True) -> ComparisonRecord:
        """Claim a comparison that ended, and forget its failed cells. Raises `ConflictError` when somebody else is at it."""
        if comparison.status == "running" and self._lives(comparison.process_id):
            raise ConflictError(
                f"Comparison {comparison.id} is going on in another process.", "Wait for it, or stop it there first."
            )
        failed = "user_id = $1 and comparison_id = $2 and status = 'error'"
        params = [self.user_id, comparison.id]
        forget = [
            Statement(
                "delete from comparison_scores where user_id = $1 and comparison_id = $2 and (case_id, candidate, epoch) in "
                f"(select case_id, candidate, epoch from comparison_cells where {failed})",
                params,
            ),
            Statement(f"delete from comparison_cells where {failed}", params),
        ]
        claim = self.comparisons.update_statement(
            comparison.id, expect={"status": comparison.status}, status="running", error=None, ended_at=None,
            process_id=self.db.process_id,
        )  # fmt: skip
        results = self.db.write(
            self.user_id, [claim, *(forget if forget_failed else [])], changes=self.comparisons.changes(comparison.id)
        )
        return self.comparisons.from_row(results[0].rows[0])

    def forget_scores(self, comparison_id: str, scorers: Sequence[str]) -> None:
        """What could not be scored, what these scorers said, and `overall`, which follows from the others."""
        params = [self.user_id, comparison_id, "overall", *scorers]
        places = ", ".join(f"${n}" for n in range(3, len(params) + 1))
        sql = f"delete from comparison_scores where user_id = $1 and comparison_id = $2 and (value is null or scorer in ({places}))"
        self.db.write(self.user_id, [Statement(sql, params)], changes=self.comparisons.changes(comparison_id))

    def get(self, id: str) -> ComparisonRecord:
        """As stored, but `interrupted` when the process that ran it is gone. Raises `NotFoundError`."""
        record = self.comparisons.get(id)
        gone = (
            record.status == "running"
            and record.process_id != self.db.process_id
            and not self._lives(record.process_id)
        )
        return replace(record, status="interrupted") if gone else record

    def _lives(self, process_id: str | None) -> bool:
        if process_id is None or process_id == self.db.process_id:
            return False
        found = self.db.query(
            self.user_id,
            "select 1 from processes where process_id = $1 and lease_until > $2",
            [process_id, to_naive_utc(utc_now())],
        )
        return found.one() is not None

    # -- while it goes on

    def add_cells(
        self, comparison_id: str, cells: Sequence[CellRecord], late_scores: Sequence[tuple[CellRecord, ScoreValue]] = (),
        cache: Sequence[tuple[str, CellRecord]] = (), replies: Sequence[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        """Append answers, their scores, scores that came after their answers, and what the cache keeps of answers and of judges'
        replies: all or nothing."""
        now = to_naive_utc(utc_now())
        scores = [_score_row(self.user_id, cell, score) for cell in cells for score in cell.scores]
        scores += [_score_row(self.user_id, cell, score) for cell, score in late_scores]
        tables: dict[str, tuple[Sequence[str], Sequence[Row]]] = {}
        if cells:
            tables["comparison_cells"] = (CELL_COLUMNS, [(self.user_id, *_values(c, CELL_COLUMNS[1:])) for c in cells])
        if scores:
            tables["comparison_scores"] = (SCORE_COLUMNS, scores)
        kept = [(key, _cache_json(cell)) for key, cell in cache] + [(key, {"reply": text}) for key, text in replies]
        if kept:
            rows = [(self.user_id, key, json.dumps(value), now) for key, value in kept]
            tables["answer_cache"] = (CACHE_COLUMNS, rows)
        if tables:
            self.db.append(self.user_id, tables, changes=[Change("comparisons", self.user_id, comparison_id)])

    # -- reading

    def cases(self, comparison_id: str) -> tuple[CaseRecord, ...]:
        names = CASE_COLUMNS[1:]
        rows = self._rows("comparison_cases", names, comparison_id, "order by position")
        return tuple(CaseRecord(**_record(names, row)) for row in rows)

    def cells(self, comparison_id: str) -> list[CellRecord]:
        """Every finished cell with its scores, in order of arrival."""
        scores: dict[tuple[str, str, int], list[ScoreValue]] = {}
        for row in self._rows("comparison_scores", SCORE_COLUMNS[1:], comparison_id):
            _, case_id, candidate, epoch, *rest = row
            scores.setdefault((case_id, candidate, epoch), []).append(
                ScoreValue(**dict(zip(SCORE_COLUMNS[5:], rest, strict=True)))
            )
        names = CELL_COLUMNS[1:]
        found = [
            CellRecord(**_record(names, row))
            for row in self._rows("comparison_cells", names, comparison_id, "order by ended_at")
        ]
        return [replace(cell, scores=tuple(scores.get(cell.key, ()))) for cell in found]

    def cached(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is kept for these keys: answers as the fields of a cell, a judge's reply as `reply`."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            part = list(keys[start : start + _ASKED_AT_ONCE])
            places = ", ".join(f"${n}" for n in range(2, len(part) + 2))
            rows = self.db.query(
                self.user_id,
                f"select key, cell from answer_cache where user_id = $1 and key in ({places}) order by created_at",
                [self.user_id, *part],
            ).rows
            found.update((key, json.loads(cell) if isinstance(cell, str | bytes) else cell) for key, cell in rows)
        return found

    def history(self, model: str) -> list[tuple[float | None, float | None]]:
        """(cost, latency) of the newest answers of candidates of this name, for a plan."""
        rows = self.db.query(
            self.user_id,
            "select cost_usd, latency_ms from comparison_cells where user_id = $1 and candidate = $2 and status = 'done' and not cached "
            "order by ended_at desc limit 1000",
            [self.user_id, model],
        ).rows
        return [(row[0], row[1]) for row in rows]

    def judge_history(self, model: str) -> list[tuple[float | None, float | None]]:
        """(cost, time in ms without waits) of this judge's newest replies, for a plan."""
        return self.db.select(
            self.user_id,
            "select cost_usd, duration_ms - coalesce(queue_ms, 0) - coalesce(rate_limit_ms, 0) from generations "
            "where agent = $1 and model = $2 and status = 'ok' order by started_at desc limit 1000",
            [JUDGE, model],
        ).rows

    def _rows(self, table: str, names: Sequence[str], comparison_id: str, tail: str = "") -> list[Row]:
        sql = f"select {', '.join(names)} from {table} where user_id = $1 and comparison_id = $2 {tail}"
        return self.db.query(self.user_id, sql, [self.user_id, comparison_id]).rows


def _values(record: Any, names: Sequence[str]) -> list[Any]:
    values = []
    for name in names:
        value = getattr(record, name)
        if name in _JSON:
            value = None if value is None else json.dumps(value, ensure_ascii=False)
        elif name == "ended_at":
            value = to_naive_utc(value)
        values.append(value)
    return values


def _record(names: Sequence[str], row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in zip(names, row, strict=True):
        if name in _JSON and isinstance(value, str | bytes):
            value = json.loads(value)
        if name in ("steps", "messages", "assertions"):
            value = tuple(value or ())
        found[name] = to_aware_utc(value) if name == "ended_at" else value
    return found


def _score_row(user_id: str, cell: CellRecord, score: ScoreValue) -> Row:
    return (
        user_id, cell.comparison_id, cell.case_id, cell.candidate, cell.epoch, score.scorer, score.value, score.weight, score.label,
        score.note, score.source, score.cached,
    )  # fmt: skip


_CACHED = ("output", "latency_ms", "ttft_ms", "input_tokens", "output_tokens", "cost_usd", "trace_id", "steps")


def _cache_json(cell: CellRecord) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in _CACHED}
