"""Comparisons as rows, alike in DuckDB and in Postgres, each user's apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.postgres.server import shared_server
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, ScoreValue
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.records import VoteRecord
from timestep_lab.store.base import Database
from timestep_lab.store.store import open_database

ANN, BEN = "user-ann", "user-ben"


@pytest.fixture(params=["duckdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "duckdb":
        with closing(open_database(tmp_path / "lab.duckdb")) as opened:
            yield opened
    else:
        with shared_server().lab_url() as url, closing(open_database(url)) as opened:
            yield opened


def comparison(user: str) -> ComparisonRecord:
    return ComparisonRecord(
        id="cmp_1", user_id=user, name="n", candidates=({"name": "A"},), scorers=({"type": "exact"},), n_cases=2
    )


CASES = [
    CaseRecord(
        comparison_id="cmp_1",
        case_id="c1",
        position=0,
        input="Grüße?",
        expected=["a", "b"],
        vars={"x": 1},
        metadata={"k": None},
    ),
    CaseRecord(
        comparison_id="cmp_1", case_id="c2", position=1, input="", messages=({"role": "user", "content": "hi"},)
    ),
]


def cell(case_id: str, status: str = "done", **more: object) -> CellRecord:
    output = "a" if status == "done" else None
    return CellRecord(
        comparison_id="cmp_1", case_id=case_id, candidate="A", epoch=0, status=status, output=output, **more
    )  # type: ignore[arg-type]


FULL = cell(
    "c1", latency_ms=12.5, queue_ms=0.0, ttft_ms=3.25, input_tokens=7, output_tokens=2, cost_usd=0.001, trace_id="t" * 32,
    steps=({"type": "tool", "name": "x", "arguments": {"a": [1]}},),
    scores=(ScoreValue(scorer="exact", value=1.0), ScoreValue(scorer="judge", value=None, note="no", source="judge")),
)  # fmt: skip


def test_what_is_written_is_read_back(database: Database) -> None:
    rows = ComparisonRows(database, ANN)
    rows.begin(comparison(ANN), CASES)
    rows.add_cells("cmp_1", [FULL, cell("c2", "error", error_type="X", error="broke")], cache=[("key", FULL)])
    rows.add_cells("cmp_1", [], [(FULL, ScoreValue(scorer="pairwise", value=0.5))])
    assert list(rows.cases("cmp_1")) == CASES
    first, second = sorted(rows.cells("cmp_1"), key=lambda c: c.case_id)
    assert {s.scorer: s.value for s in first.scores} == {"exact": 1.0, "judge": None, "pairwise": 0.5}
    assert (first.steps, first.ttft_ms, first.ended_at) == (FULL.steps, 3.25, FULL.ended_at)
    assert (second.status, second.error) == ("error", "broke")
    assert rows.cached(["key", "other"])["key"]["output"] == "a"
    view = database.select(
        ANN, "select scorer, value, error from comparisons where comparison_id = $1 order by case_id, scorer", ["cmp_1"]
    )
    assert view.rows == [("exact", 1.0, None), ("judge", None, None), ("pairwise", 0.5, None), (None, None, "broke")]


def test_going_on_forgets_failed_cells_and_claims_the_comparison_once(database: Database) -> None:
    rows = ComparisonRows(database, ANN)
    rows.begin(comparison(ANN), CASES)
    rows.add_cells("cmp_1", [FULL, cell("c2", "error")])
    ended = rows.comparisons.update("cmp_1", status="cancelled")
    assert rows.go_on(ended).status == "running"
    assert [c.case_id for c in rows.cells("cmp_1")] == ["c1"]
    with pytest.raises(ConflictError):
        rows.go_on(ended)


def test_one_users_comparisons_cache_and_votes_are_not_anothers(database: Database) -> None:
    ann, ben = ComparisonRows(database, ANN), ComparisonRows(database, BEN)
    ann.begin(comparison(ANN), CASES)
    ann.add_cells("cmp_1", [FULL], cache=[("key", FULL)])
    ann.votes.insert(
        VoteRecord(
            id="vote_1",
            user_id=ANN,
            comparison_id="cmp_1",
            case_id="c1",
            epoch=0,
            left_candidate="A",
            right_candidate="B",
            outcome="tie",
        )
    )
    assert ben.cells("cmp_1") == []
    assert ben.cached(["key"]) == {}
    assert ben.votes.find() == []
    assert database.select(BEN, "select count(*) from comparisons").one() == (0,)
    with pytest.raises(NotFoundError):
        ben.comparisons.get("cmp_1")
