"""The explorer from Python: filter, SQL and rows are one object."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.ui.sample_traces import SampleSource
from timestep_lab.types.clock import utc_now
from timestep_lab.types.errors import FilterError, NotFoundError
from timestep_lab.ui.explorer import TraceExplorer


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource.with_history(30)


def test_filter_sql_and_rows_say_the_same(source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    explorer.filter = 'status == "failed"'
    assert 'status == "failed"' in explorer.sql
    assert set(explorer.df()["status"]) == {"failed"}
    assert len(explorer) == len(explorer.df())


def test_a_filter_that_cannot_be_read_changes_nothing(source: SampleSource) -> None:
    explorer = TraceExplorer(source, filter='status == "failed"')
    with pytest.raises(FilterError):
        explorer.filter = "statsu == 3"
    assert explorer.filter == 'status == "failed"'


def test_a_view_opened_with_a_filter_that_cannot_be_read_shows_all_and_says_why(source: SampleSource) -> None:
    explorer = TraceExplorer(source, filter="statsu == 3")
    with pytest.raises(FilterError):
        _ = explorer.sql
    state = explorer.snapshot()
    assert state["refused"]["filter"] == "statsu == 3"
    assert "Did you mean 'status'?" in state["refused"]["message"]
    assert state["query"]["filter"] == ""
    assert state["page"]["total"] == 30
    explorer.filter = 'status == "done"'
    assert explorer.snapshot()["refused"] is None


def test_time_bounds_the_rows(source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    explorer.since = utc_now() - timedelta(hours=1)
    assert 0 < len(explorer) < 30
    assert (explorer.df()["started_at"] >= explorer.since).all()


def test_one_trace_is_an_item_of_the_explorer(source: SampleSource) -> None:
    trace_id = next(iter(source.rows))
    view = TraceExplorer(source)[trace_id]
    assert view.trace["trace_id"] == trace_id
    assert len(view.df()) == len(source.by_trace[trace_id])
    with pytest.raises(NotFoundError):
        TraceExplorer(source)["nothing"]


def test_choosing_a_trace_that_is_not_there_is_refused(source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    with pytest.raises(NotFoundError):
        explorer.selection = "nothing"
    assert explorer.selection is None


def test_making_an_explorer_asks_the_store_nothing() -> None:
    TraceExplorer(None)  # type: ignore[arg-type]
