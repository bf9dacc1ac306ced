"""Storage of comparisons, and statistics from cells: one row per candidate and one per pair."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.registry import ASSERTIONS, OVERALL, PASSED, assertion_names
from timestep_lab.evals.statistics.intervals import (
    LEAST_GROUPS,
    Floats,
    is_pass_fail,
    mean_interval,
    mean_of_repeats,
    over_cases,
    within_unit,
)
from timestep_lab.evals.statistics.paired import holm, least_p, paired_difference
from timestep_lab.evals.verdict import is_settled
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import to_aware_utc, to_naive_utc, utc_now
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.comparison import (
    JUDGE,
    CandidateRow,
    CaseRecord,
    CellRecord,
    ComparisonRecord,
    GridLike,
    Outcome,
    PairRow,
    ScoreValue,
)
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.records import VoteRecord
from timestep_lab.store.base import Change, Database, Statement
from timestep_lab.store.table import Table, clean, to_json

if TYPE_CHECKING:
    from timestep_lab.evals.attempt import CacheEntry
    from timestep_lab.evals.grid import Grid
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter


# --- The environment of a comparison


@dataclass(frozen=True, slots=True)
class EvalContext:
    store: Store
    router: Router
    toolbox: Toolbox
    settings: Settings
    writer: TraceWriter

    @property
    def user_id(self) -> str:
        return self.store.user_id


# --- Comparisons in the store. Everything here blocks and is called through `in_thread`


Row = tuple[Any, ...]
CELL_COLUMNS = ("user_id", *(f.name for f in fields(CellRecord) if f.name != "scores"))
CASE_COLUMNS = ("user_id", *(f.name for f in fields(CaseRecord)))
SCORE_COLUMNS = (
    "user_id", "comparison_id", "case_id", "candidate", "epoch", "scorer", "value", "weight", "label", "note", "source", "cached",
)  # fmt: skip
CACHE_COLUMNS = ("user_id", "key", "cell", "created_at")
_JSON = {"steps", "messages", "expected", "vars", "assertions", "metadata"}
_ASKED_AT_ONCE = 500


class ComparisonRows:
    """One user's comparisons in one database."""

    def __init__(self, db: Database, user_id: str) -> None:
        self.db, self.user_id = db, user_id
        self.comparisons = Table(
            db, user_id, "comparison_runs", ComparisonRecord, noun="comparison", topic="comparisons"
        )
        self.votes = Table(db, user_id, "votes", VoteRecord, noun="vote", topic="comparisons")

    # -- starting and resuming

    def begin(self, comparison: ComparisonRecord, cases: Iterable[CaseRecord]) -> None:
        """Store a comparison with all its cases, in one transaction."""
        rows = [(self.user_id, *_values(case, CASE_COLUMNS[1:])) for case in cases]
        self.db.append(
            self.user_id, {"comparison_cases": (CASE_COLUMNS, rows)}, then=[self.comparisons.insert_statement(comparison)],
            changes=self.comparisons.changes(comparison.id),
        )  # fmt: skip

    def add_case(self, comparison: ComparisonRecord, case: CaseRecord) -> ComparisonRecord:
        """Add a case to a comparison whose cases arrive one by one."""
        grown = replace(comparison, n_cases=comparison.n_cases + 1)
        self.db.append(
            self.user_id, {"comparison_cases": (CASE_COLUMNS, [(self.user_id, *_values(case, CASE_COLUMNS[1:]))])},
            then=[self.comparisons.update_statement(comparison.id, n_cases=grown.n_cases)],
            changes=self.comparisons.changes(comparison.id),
        )  # fmt: skip
        return grown

    def go_on(self, comparison: ComparisonRecord, *, forget_failed: bool = True) -> ComparisonRecord:
        """Claim a comparison that has ended, and delete its failed cells. Raises `ConflictError` if another process has
        claimed it.
        """
        if comparison.status == "running" and self._lives(comparison.process_id):
            raise ConflictError(
                f"Comparison {comparison.id} is running in another process.", "Wait for it, or stop it there first."
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
            comparison.id, expect={"status": comparison.status}, status="running", error=None, ended_at=None, conclusion=None,
            process_id=self.db.process_id,
        )  # fmt: skip
        results = self.db.write(
            self.user_id, [claim, *(forget if forget_failed else [])], changes=self.comparisons.changes(comparison.id)
        )
        return self.comparisons.from_row(results[0].rows[0])

    def forget_scores(self, comparison_id: str, scorers: Sequence[str]) -> None:
        """Delete missing scores, the scores of these scorers, and `overall`, which depends on the others."""
        params = [self.user_id, comparison_id, "overall", *scorers]
        places = ", ".join(f"${n}" for n in range(3, len(params) + 1))
        sql = f"delete from comparison_scores where user_id = $1 and comparison_id = $2 and (value is null or scorer in ({places}))"
        self.db.write(self.user_id, [Statement(sql, params)], changes=self.comparisons.changes(comparison_id))

    def get(self, id: str) -> ComparisonRecord:
        """A stored comparison; its status is `interrupted` if its process is gone. Raises `NotFoundError`."""
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
        leases = self.db.query(
            self.user_id,
            "select 1 from processes where process_id = $1 and lease_until > $2",
            [process_id, to_naive_utc(utc_now())],
        )
        return leases.one() is not None

    # -- while running

    def add_cells(
        self, comparison_id: str, cells: Sequence[CellRecord], late_scores: Sequence[tuple[CellRecord, ScoreValue]] = (),
        cache: Sequence[tuple[str, CellRecord]] = (), replies: Sequence[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        """Append answers, their scores, late scores, and the cache entries of answers and judges' replies, atomically."""
        now = to_naive_utc(utc_now())
        scores = [_score_row(self.user_id, cell, score) for cell in cells for score in cell.scores]
        scores += [_score_row(self.user_id, cell, score) for cell, score in late_scores]
        tables: dict[str, tuple[Sequence[str], Sequence[Row]]] = {}
        if cells:
            tables["comparison_cells"] = (CELL_COLUMNS, [(self.user_id, *_values(c, CELL_COLUMNS[1:])) for c in cells])
        if scores:
            tables["comparison_scores"] = (SCORE_COLUMNS, scores)
        entries = [(key, _cache_json(cell)) for key, cell in cache] + [(key, {"reply": text}) for key, text in replies]
        if entries:
            rows = [(self.user_id, key, json.dumps(value), now) for key, value in entries]
            tables["answer_cache"] = (CACHE_COLUMNS, rows)
        if tables:
            self.db.append(self.user_id, tables, changes=[Change("comparisons", self.user_id, comparison_id)])

    # -- reading

    def cases(self, comparison_id: str) -> tuple[CaseRecord, ...]:
        names = CASE_COLUMNS[1:]
        rows = self._rows("comparison_cases", names, comparison_id, "order by position")
        return tuple(CaseRecord(**_record(names, row)) for row in rows)

    def cells(self, comparison_id: str) -> list[CellRecord]:
        """All finished cells with their scores, in order of arrival."""
        scores: dict[tuple[str, str, int], list[ScoreValue]] = {}
        for row in self._rows("comparison_scores", SCORE_COLUMNS[1:], comparison_id):
            _, case_id, candidate, epoch, *rest = row
            scores.setdefault((case_id, candidate, epoch), []).append(
                ScoreValue(**dict(zip(SCORE_COLUMNS[5:], rest, strict=True)))
            )
        names = CELL_COLUMNS[1:]
        cells = [
            CellRecord(**_record(names, row))
            for row in self._rows("comparison_cells", names, comparison_id, "order by ended_at")
        ]
        return [replace(cell, scores=tuple(scores.get(cell.key, ()))) for cell in cells]

    def cached(self, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Cache entries for these keys: answers as the fields of a cell, judges' replies as `reply`."""
        stored: dict[str, CacheEntry] = {}
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            part = list(keys[start : start + _ASKED_AT_ONCE])
            places = ", ".join(f"${n}" for n in range(2, len(part) + 2))
            rows = self.db.query(
                self.user_id,
                f"select key, cell from answer_cache where user_id = $1 and key in ({places}) order by created_at",
                [self.user_id, *part],
            ).rows
            stored.update((key, json.loads(cell) if isinstance(cell, str | bytes) else cell) for key, cell in rows)
        return stored

    def history(self, model: str) -> list[tuple[float | None, float | None]]:
        """(cost in US dollars, latency in ms) of the newest answers of candidates of this name, for estimates."""
        rows = self.db.query(
            self.user_id,
            "select cost_usd, latency_ms from comparison_cells where user_id = $1 and candidate = $2 and status = 'done' and not cached "
            "order by ended_at desc limit 1000",
            [self.user_id, model],
        ).rows
        return [(row[0], row[1]) for row in rows]

    def judge_history(self, model: str) -> list[tuple[float | None, float | None]]:
        """(cost in US dollars, time in ms without waits) of this judge's newest replies, for estimates."""
        return self.db.select(
            self.user_id,
            "select cost_usd, duration_ms - coalesce(queue_ms, 0) - coalesce(rate_limit_ms, 0) from generations "
            "where agent = $1 and model = $2 and status = 'ok' order by started_at desc limit 1000",
            [JUDGE, model],
        ).rows

    def _rows(self, table: str, names: Sequence[str], comparison_id: str, tail: str = "") -> list[Row]:
        sql = f"select {', '.join(names)} from {table} where user_id = $1 and comparison_id = $2 {tail}"
        return self.db.query(self.user_id, sql, [self.user_id, comparison_id]).rows


def _values(record: object, names: Sequence[str]) -> list[object]:
    values = []
    for name in names:
        value = getattr(record, name)
        if name in _JSON:
            value = None if value is None else to_json(value)
        elif isinstance(value, str):
            value = clean(value)
        elif name == "ended_at":
            value = to_naive_utc(value)
        values.append(value)
    return values


def _record(names: Sequence[str], row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in zip(names, row, strict=True):
        if name in _JSON and isinstance(value, str | bytes):
            value = json.loads(value)
        if name in ("steps", "messages", "assertions"):
            value = tuple(value or ())
        record[name] = to_aware_utc(value) if name == "ended_at" else value
    return record


def _score_row(user_id: str, cell: CellRecord, score: ScoreValue) -> Row:
    return (
        user_id, cell.comparison_id, cell.case_id, cell.candidate, cell.epoch, score.scorer, score.value, score.weight, score.label,
        None if score.note is None else clean(score.note), score.source, score.cached,
    )  # fmt: skip


_CACHED = ("output", "latency_ms", "ttft_ms", "input_tokens", "output_tokens", "cost_usd", "trace_id", "steps")


def _cache_json(cell: CellRecord) -> dict[str, Json]:
    return {name: getattr(cell, name) for name in _CACHED}


ALPHA = 0.05
MARGIN = 0.05
"""Default margin for scores from 0 to 1: five points. On other scales there is no default."""


def candidate_names(record: ComparisonRecord) -> list[str]:
    """Names of the candidates, in the given order."""
    return [str(candidate["name"]) for candidate in objects_of(record.candidates)]


def seed_of(record: ComparisonRecord) -> int:
    """The random seed that it was started with."""
    return int(cast(int, record.settings.get("seed", 0)))


def scorer_names(cells: Iterable[CellRecord], asked: Iterable[str] = ()) -> list[str]:
    """Scorer names: those requested, in order; then others by first appearance; `overall` last."""
    names = dict.fromkeys(score.scorer for cell in cells for score in cell.scores)
    return sorted(dict.fromkeys(asked) | names, key=lambda name: name == "overall")


def asked_scorers(record: ComparisonRecord, cases: Iterable[CaseRecord]) -> list[str]:
    """Names of the scorers that apply to every answer, whether or not there are answers."""
    names = [str(spec.get("name") or spec["type"]) for spec in objects_of(record.scorers)]
    cases = list(cases)
    names += [ASSERTIONS] if any(case.assertions for case in cases) else []
    names += [*assertion_names(cases), *([PASSED] if any("__threshold" in case.vars for case in cases) else [])]
    weighted = any(spec.get("weight", 1.0) != 1.0 for spec in objects_of(record.scorers))
    return [*names, OVERALL] if weighted and len(names) > 1 else names


def deciding(scorers: Sequence[str]) -> str | None:
    """The scorer used for the verdict: `overall` if it exists, else the first."""
    return None if not scorers else scorers[-1] if scorers[-1] == OVERALL else scorers[0]


def deciding_scorer(record: ComparisonRecord, cases: Iterable[CaseRecord]) -> str:
    """The deciding scorer before there are answers. Raises `UsageError` if no answer would be scored."""
    scorer = deciding(scorer_names((), asked_scorers(record, cases)))
    if scorer is None:
        raise UsageError("Early stopping needs a scorer.", "Add scorers, or omit stop.", param="stop")
    return scorer


class ScoreTables:
    """Each candidate's scores as cases × epochs; NaN if missing."""

    def __init__(self, case_ids: Sequence[str], epochs: int, cells: Iterable[CellRecord]) -> None:
        self._place = {case_id: row for row, case_id in enumerate(case_ids)}
        self._epochs = epochs
        self._tables: dict[tuple[str, str], Floats] = {}
        for cell in cells:
            if cell.case_id not in self._place or cell.epoch >= epochs:
                continue
            for score in cell.scores:
                if score.value is not None:
                    self.of(cell.candidate, score.scorer)[self._place[cell.case_id], cell.epoch] = score.value

    def of(self, candidate: str, scorer: str) -> Floats:
        key = (candidate, scorer)
        if key not in self._tables:
            self._tables[key] = np.full((len(self._place), self._epochs), np.nan)
        return self._tables[key]


def candidate_rows(
    names: Sequence[str], scorers: Sequence[str], cells: Sequence[CellRecord], tables: ScoreTables,
    groups: Sequence[object] | None = None, own: Iterable[str] = (),
) -> list[CandidateRow]:  # fmt: skip
    """One row per candidate. `own`: names of the scores from cases' own assertions; a case without such an assertion
    does not count as unscored.
    """
    rows, own = [], set(own)
    for name in names:
        mine = [cell for cell in cells if cell.candidate == name]
        done = [cell for cell in mine if cell.status == "done"]
        rows.append(
            CandidateRow(
                name=name, n=len(done), errors=len(mine) - len(done) - (missed := sum(c.left_tape for c in mine)), not_judged=missed,
                scores={
                    scorer: {**mean_row(tables.of(name, scorer), groups), **_not_scored(done, scorer, own=scorer in own)} for scorer in scorers
                },
                cost_usd=total([cell.cost_usd for cell in done]), latency_ms_p50=median([cell.latency_ms for cell in done]),
                ttft_ms_p50=median([cell.ttft_ms for cell in done]), input_tokens=_whole([cell.input_tokens for cell in done]),
                output_tokens=_whole([cell.output_tokens for cell in done]),
            )
        )  # fmt: skip
    return rows


def own_scores(cases: Iterable[CaseRecord]) -> list[str]:
    """Names of the scores from cases' own assertions."""
    return [ASSERTIONS, PASSED, *assertion_names(cases)]


def _not_scored(answers: Sequence[CellRecord], scorer: str, *, own: bool) -> Mapping[str, float | None]:
    values = [[score.value for score in cell.scores if score.scorer == scorer] for cell in answers]
    missing = sum((not own if not scored else scored[0] is None) for scored in values)
    return {"unscored": missing} if missing else {}


def pair_rows(
    names: Sequence[str], scorers: Sequence[str], tables: ScoreTables, *, seed: int = 0, groups: Sequence[object] | None = None,
    margin: float | None = None,
) -> list[PairRow]:  # fmt: skip
    """All pairs of candidates on every scorer, with Holm's correction within a scorer. b is the later candidate.
    `margin`: the non-inferiority margin.
    """
    pairs = list(combinations(names, 2))
    rows = []
    for scorer in scorers:
        results = [
            paired_difference(
                tables.of(a, scorer), tables.of(b, scorer), alpha=ALPHA / len(pairs), seed=seed, groups=groups
            )
            for a, b in pairs
        ]
        adjusted = holm([result.p_value for result in results])
        points = all(within_unit(tables.of(name, scorer)) for name in names)
        for (a, b), r, p in zip(pairs, results, adjusted, strict=True):
            row = PairRow(
                a=a, b=b, scorer=scorer, n=r.n, diff=r.diff, ci_low=r.ci_low, ci_high=r.ci_high, p_value=_known(r.p_value),
                p_holm=_known(p), test=r.test, decided_by=r.decided_by, cases_to_settle=r.cases_to_settle, points=points,
                margin=margin if margin is not None else MARGIN if points else None,
            )  # fmt: skip
            rows.append(
                replace(
                    row, outcome=_outcome(row, tables.of(a, scorer), tables.of(b, scorer), len(pairs), seed, groups)
                )
            )
    return rows


def _outcome(
    row: PairRow, a: Floats, b: Floats, pairs: int, seed: int, groups: Sequence[object] | None
) -> Outcome:  # fmt: skip
    """Better or worse if the corrected test rejects; no worse if the simultaneous interval is above minus the margin.
    If there is no test result, the interval is not used either."""
    if is_settled(row, alpha=ALPHA):
        return "better" if row.diff > 0 else "worse"
    if (
        least_p(row.n) > ALPHA
        or not row.margin
        or row.test in ("none", "betting")
        or not (row.ci_low > -row.margin or row.ci_high < row.margin)
    ):
        return "not settled"
    low, high = row.ci_low, row.ci_high
    if pairs > 1:
        wider = paired_difference(a, b, level=1 - ALPHA / pairs, seed=seed, groups=groups)
        low, high = wider.ci_low, wider.ci_high
    return "no worse" if low > -row.margin else "no better" if high < row.margin else "not settled"


def group_of(case: CaseRecord | Case, column: str) -> str | None:
    """The value of a case in a column of its data: a variable, or metadata; None if missing. A case without one is a group of its own."""
    value = case.vars.get(column, case.metadata.get(column))
    return None if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def few_groups(groups: Sequence[str] | None) -> list[str]:
    """A note if there are too few groups for inference."""
    n = None if groups is None else len(set(groups))
    if n is None or n >= LEAST_GROUPS:
        return []
    return [f"The cases form {n} {'group' if n == 1 else 'groups'}: with fewer than {LEAST_GROUPS} no interval and no test says anything."]  # fmt: skip


def median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def total(values: Sequence[float | None]) -> float | None:
    """The sum; None if any value is unknown."""
    known = [value for value in values if value is not None]
    return float(sum(known)) if values and len(known) == len(values) else None


def _whole(values: Sequence[int | None]) -> int | None:
    summed = total(values)
    return None if summed is None else int(summed)


def mean_row(scores: Floats, groups: Sequence[object] | None = None) -> Mapping[str, float | None]:
    """The entry of `CandidateRow.scores` for one scorer."""
    means, _ = mean_of_repeats(scores)
    if not len(means):
        return {"mean": None, "ci_low": None, "ci_high": None}
    interval = mean_interval(scores, groups=groups)
    row = {"mean": float(means.mean()), "ci_low": _known(interval.low), "ci_high": _known(interval.high)}
    k = scores.shape[1]
    if k > 1 and is_pass_fail(scores):
        tries = np.isfinite(scores).sum(axis=1)
        at, hat = over_cases([(int(n), int(np.nansum(row_))) for n, row_ in zip(tries, scores, strict=True)], k)
        row |= {"pass_at_k": _known(at), "pass_hat_k": _known(hat)}
    return row


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- A comparison sliced by a column of its data. Corrections for multiplicity cover all slices


NONE = "(none)"
"""The slice of cases without a value in the column."""


def slices_of(cases: Sequence[CaseRecord], by: str) -> dict[str, list[int]]:
    """Slice to the positions of its cases. A case with a list in the column (tags) belongs to several. Raises
    `UsageError` for an unknown column.
    """
    known = sorted({name for case in cases for name in (*case.vars, *case.metadata) if not name.startswith("__")})
    if by not in known:
        raise UsageError(
            f"The cases have no column {by!r} to slice by.{did_you_mean(by, known)}",
            f"Columns: {', '.join(known) or 'none'}.",
            param="by",
        )
    slices: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        value = case.vars.get(by, case.metadata.get(by))
        for one in value if isinstance(value, list) else [value]:
            name = NONE if one is None or one == "" else one if isinstance(one, str) else json.dumps(one)
            slices.setdefault(name, []).append(place)
    return dict(sorted(slices.items(), key=lambda entry: (entry[0] == NONE, entry[0])))


def means(grid: Grid, by: str) -> list[dict[str, Any]]:
    """One row per slice, candidate and scorer. Intervals are simultaneous over slices: each has the level 1 −
    0.05/number of slices (Bonferroni)."""
    cut = slices_of(grid.cases, by)
    level = 1 - ALPHA / len(cut)
    rows: list[dict[str, Any]] = []
    for name, places in cut.items():
        for scorer in grid.scorers:
            for candidate in grid.candidates:
                scores = grid.tables.of(candidate, scorer)[places]
                values, _ = mean_of_repeats(scores)
                interval = mean_interval(scores, level, groups=_groups(grid, places))
                rows.append(
                    {
                        "slice": name, "n": len(values), "candidate": candidate, "scorer": scorer,
                        "mean": float(values.mean()) if len(values) else None, "ci_low": _known(interval.low), "ci_high": _known(interval.high),
                    }
                )  # fmt: skip
    return rows


def differences(grid: Grid, by: str) -> list[dict[str, Any]]:
    """One row per slice, pair of candidates and scorer. `p_holm` is corrected over all pairs and slices of a scorer,
    the intervals likewise (Bonferroni)."""
    cut, pairs = slices_of(grid.cases, by), list(combinations(grid.candidates, 2))
    rows: list[dict[str, Any]] = []
    for scorer in grid.scorers:
        asked = [(name, places, a, b) for name, places in cut.items() for a, b in pairs]
        results = [
            paired_difference(
                _of(grid, a, scorer, places), _of(grid, b, scorer, places), level=1 - ALPHA / len(asked), alpha=ALPHA / len(asked),
                groups=_groups(grid, places),
            )
            for _, places, a, b in asked
        ]  # fmt: skip
        adjusted = holm([result.p_value for result in results])
        rows += [
            {
                "slice": name, "a": a, "b": b, "scorer": scorer, "n": r.n, "diff": _known(r.diff), "ci_low": _known(r.ci_low),
                "ci_high": _known(r.ci_high), "p_value": _known(r.p_value), "p_holm": _known(p), "test": r.test, "decided_by": r.decided_by,
            }
            for (name, _, a, b), r, p in zip(asked, results, adjusted, strict=True)
        ]  # fmt: skip
    return rows


def _of(grid: Grid, candidate: str, scorer: str, places: Sequence[int]) -> Floats:
    return grid.tables.of(candidate, scorer)[list(places)]


def _groups(grid: Grid, places: Sequence[int]) -> list[str] | None:
    return None if grid.groups is None else [grid.groups[place] for place in places]


def cut(grid: GridLike, by: str) -> dict[str, Any]:
    """The slices of the column `by` on the deciding scorer, as JSON for a view: means, and pairs that differ. Raises
    `UsageError`.
    """
    from timestep_lab.evals.grid import Grid

    whole = Grid(grid.record, grid.cases, grid.cells, seed=seed_of(grid.record))
    scorer = whole.deciding_scorer
    apart = [
        {**row, "better": row["b"] if row["diff"] > 0 else row["a"], "worse": row["a"] if row["diff"] > 0 else row["b"]}
        for row in differences(whole, by)
        if row["scorer"] == scorer and row["p_holm"] is not None and row["p_holm"] <= ALPHA
        and row["ci_low"] is not None and not row["ci_low"] <= 0 <= row["ci_high"]
    ]  # fmt: skip
    return {
        "by": by,
        "scorer": scorer,
        "means": [row for row in means(whole, by) if row["scorer"] == scorer],
        "apart": apart,
    }
