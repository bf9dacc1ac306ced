"""The explorer from Python: filter, SQL and rows are one object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab import Lab
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import FilterError, NotFoundError, UsageError
from timestep_lab.ui.explorer import TraceExplorer

EVERYTHING: dict[str, Any] = {"filter": "", "search": "", "since": None, "until": None, "since_s": None}


class Browser:
    """What a browser hears from a view."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def post(self, message: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        self.messages.append(dict(message))

    def said(self, op: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["op"] == op]

    @property
    def lists(self) -> list[dict[str, Any]]:
        return [op for batch in self.said("batch") for op in batch["ops"] if op["kind"] == "list"]

    async def hears(self, it: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not it():
                await asyncio.sleep(0.002)

    async def asks(self, view: TraceExplorer, name: str, **args: Any) -> None:
        id = f"a.{len(self.messages)}"
        view.receive(self, {"op": "call", "id": id, "name": name, "args": args})
        await self.hears(lambda: any(reply["id"] == id for reply in self.said("reply")))


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource.with_history(30)


def test_filter_sql_and_rows_say_the_same(source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    explorer.filter = 'status == "failed"'
    assert 'status == "failed"' in explorer.sql
    assert set(explorer.df()["status"]) == {"failed"}
    assert len(explorer) == len(explorer.df())


def test_where_is_a_list_of_its_own_of_what_a_filter_finds_too(source: SampleSource) -> None:
    explorer = TraceExplorer(source, filter='status == "failed" or status == "completed"')
    failed = explorer.where('status == "failed"')
    assert 0 < len(failed) < len(explorer)
    assert set(failed.df()["status"]) == {"failed"}
    assert explorer.filter == 'status == "failed" or status == "completed"'
    with pytest.raises(FilterError):
        explorer.where("statsu == 3")


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


async def test_the_traces_of_a_lab_are_a_sequence_newest_first_and_a_frame_by_trace_id() -> None:
    lab = Lab(":memory:")
    runs = [await lab.run(f"Hello {n}", model="demo/echo") for n in range(3)]
    newest_first = [run.trace_id for run in reversed(runs)]
    assert [trace.trace_id for trace in lab.traces] == newest_first
    assert [trace.trace_id for trace in lab.traces[:2]] == newest_first[:2]
    assert [trace.trace_id for trace in lab.traces[::-1]] == newest_first[::-1]
    assert lab.traces[0].trace_id == lab.traces[-3].trace_id == newest_first[0]
    assert lab.traces[runs[1]].trace["input"] == "Hello 1"
    assert len(lab.traces) == 3
    assert list(lab.traces.df().index) == newest_first
    with pytest.raises(NotFoundError, match="There is no trace 3: 3 match"):
        lab.traces[3]
    await lab.aclose()


async def test_traces_are_chosen_by_rows_of_a_frame_and_by_a_filter_within_the_filter() -> None:
    lab = Lab(":memory:")
    for n in range(3):
        await lab.run(f"hello {n}", model="demo/echo")
    frame = lab.traces.df()
    newest = frame[frame.input == "hello 2"]
    for chosen in (newest, newest.trace_id, newest.trace_id.to_numpy(), newest.index, list(newest.trace_id)):
        assert [trace.trace_id for trace in lab.traces[chosen]] == [lab.traces[0].trace_id]
    lab.traces.filter = 'status == "completed"'
    within = lab.traces.where('"1" in input')
    assert (within.filter, len(within)) == ('(status == "completed") and ("1" in input)', 1)
    assert lab.traces.filter == 'status == "completed"'
    with pytest.raises(FilterError):
        lab.traces.where("statsu == 3")
    with pytest.raises(UsageError, match=r"lab\.traces\.where takes no 'status'"):
        lab.traces.where(status="failed")  # type: ignore[call-arg]
    await lab.aclose()


async def test_a_filter_set_on_the_traces_of_a_lab_holds_and_another_explorer_has_its_own() -> None:
    lab = Lab(":memory:")
    await lab.run("Hello", model="demo/echo")
    lab.traces.filter = 'status == "failed"'
    assert (len(lab.traces), len(lab.traces.df()), lab.traces.snapshot()["page"]["total"]) == (0, 0, 0)
    assert len(lab.explorer()) == 1
    lab.traces.filter = ""
    assert lab.traces.snapshot()["page"]["total"] == 1
    await lab.run("Hello again", model="demo/echo")
    assert lab.traces.snapshot()["page"]["total"] == 2  # Nobody watched it, and it is read anew.
    await lab.aclose()


async def test_a_list_of_more_traces_than_a_page_holds_is_walked_to_its_end() -> None:
    source = SampleSource.with_history(130)
    assert len({trace.trace_id for trace in TraceExplorer(source)}) == 130
    assert TraceExplorer(source)[129].trace_id == list(TraceExplorer(source))[-1].trace_id


@pytest.mark.parametrize("ending", ["json", "html"])
async def test_traces_to_export_are_given_as_ids_runs_views_or_a_column(tmp_path: Path, ending: str) -> None:
    lab = Lab(":memory:")
    runs = [await lab.run(f"Hello {n}", model="demo/echo") for n in range(3)]
    frame, target = lab.traces.df(), tmp_path / f"some.{ending}"
    assert lab.export(target, trace_ids=frame.trace_id) == 3
    assert lab.export(target, trace_ids=frame) == 3
    assert lab.export(target, trace_ids=frame.index[:2]) == 2
    assert lab.export(target, trace_ids=[runs[0], lab.traces[0], runs[1].trace_id]) == 3
    assert lab.export(target, trace_ids=runs[0].trace_id) == lab.export(target, trace_ids=runs[0]) == 1
    with pytest.raises(UsageError, match="3 is not a list of traces"):
        lab.export(target, trace_ids=3)  # type: ignore[arg-type]
    await lab.aclose()


async def test_an_answer_that_was_overtaken_by_a_later_query_is_not_shown(source: SampleSource) -> None:
    """Neither what the list was read for when traces changed, nor an earlier query that took longer."""
    explorer = TraceExplorer(source)
    explorer.snapshot()
    overtaken = asyncio.Event()

    async def slowly(read: Callable[[], Any]) -> Any:
        answer = read()
        await overtaken.wait()
        return answer

    explorer.turns = slowly
    source.add(*weather_run(99, utc_now()))
    late = [
        asyncio.create_task(explorer._refresh()),
        asyncio.create_task(explorer._from_browser(**EVERYTHING, order="cost_usd desc")),
    ]
    await asyncio.sleep(0)
    explorer.turns = None
    await explorer._from_browser(**EVERYTHING, order="duration_ms desc")
    overtaken.set()
    await asyncio.gather(*late)
    assert explorer.order == "duration_ms desc"
    assert explorer.snapshot()["query"]["order"] == "duration_ms desc"


async def test_another_order_of_the_same_traces_counts_none_again_until_one_changes() -> None:
    source, host = SampleSource.with_history(30), Browser()
    counted: list[str] = []
    facets = source.facets
    source.facets = lambda **words: counted.append(words["filter"]) or facets(**words)  # type: ignore[assignment, func-returns-value]
    explorer = TraceExplorer(source)
    explorer.attach(host)
    explorer.receive(host, {"op": "sync", "mount": "a"})
    await host.hears(lambda: len(counted) == 2)  # For the snapshot, and again once changes are followed.
    await host.asks(explorer, "query", **EVERYTHING, order="cost_usd desc")
    counted.clear()
    await host.asks(explorer, "query", **EVERYTHING, order="duration_ms desc")
    assert host.lists[-1]["query"]["order"] == "duration_ms desc"
    assert sum(bucket["count"] for bucket in host.lists[-1]["histogram"]) == 30
    await host.asks(explorer, "query", **{**EVERYTHING, "filter": 'status == "failed"'})
    await host.asks(explorer, "query", **EVERYTHING)
    assert counted == ['status == "failed"']
    source.add(*weather_run(99, utc_now()))
    await host.asks(explorer, "query", **EVERYTHING, order="cost_usd desc")
    assert host.lists[-1]["page"]["total"] == 31
    explorer.receive(host, {"op": "bye", "mount": "a"})


async def test_what_a_call_changes_comes_with_its_answer_and_not_thirty_milliseconds_later() -> None:
    explorer, host = TraceExplorer(SampleSource.with_history(3)), Browser()
    explorer.attach(host)
    explorer.receive(host, {"op": "sync", "mount": "a"})
    await host.hears(lambda: host.said("snap"))
    await host.asks(explorer, "query", **EVERYTHING, order="cost_usd desc")
    assert [message["op"] for message in host.messages] == ["snap", "batch", "reply"]
    explorer.receive(host, {"op": "bye", "mount": "a"})
