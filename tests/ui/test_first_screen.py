"""What of a trace is seen first: the beginning of its tree, sent along with the component."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.ui.sample_traces import SampleSource, big_trace, weather_run
from tests.ui.test_columns import decode
from timestep_lab.model.clock import utc_now
from timestep_lab.ui.trace_reader import tree_rows
from timestep_lab.ui.trace_view import MOST_ROWS, TraceView

SPANS = st.lists(st.tuples(st.integers(-1, 30), st.integers(0, 5)), max_size=30)
"""Of each span the row of its parent (-1 for none, beyond the last for one that is not there), and when it starts."""


def columns(spans: list[tuple[int, int]]) -> dict[str, list[Any]]:
    return {
        "span_id": [f"s{row}" for row in range(len(spans))],
        "parent_id": [None if parent < 0 else f"s{parent}" for parent, _ in spans],
        "started_us": [start for _, start in spans],
    }


def walked(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The whole tree, by the plainest recursion; rings are left out."""

    def below(parent: int, depth: int) -> list[tuple[int, int]]:
        rows = sorted((start, row) for row, (above, start) in enumerate(spans) if above == parent)
        return [entry for _, row in rows for entry in ((row, depth), *below(row, depth + 1))]

    roots = sorted((start, row) for row, (above, start) in enumerate(spans) if not 0 <= above < len(spans))
    return [entry for _, row in roots for entry in ((row, 0), *below(row, 1))]


@given(SPANS, st.integers(1, 40))
def test_the_first_rows_are_those_of_the_whole_tree_and_rings_come_last(
    spans: list[tuple[int, int]], most: int
) -> None:
    whole = walked(spans)
    found = tree_rows(columns(spans), most)
    assert found[: len(whole)] == whole[:most]
    assert len(found) == min(most, len(spans))
    assert len({row for row, _ in found}) == len(found)


def view_of(n: int | None) -> TraceView:
    row, spans = weather_run(1, utc_now())
    source = SampleSource([(row, spans)])
    if n is not None:
        source.spans_of[row["trace_id"]] = big_trace(n)
    return TraceView(source, row["trace_id"])


def test_of_a_large_trace_the_first_screen_is_small_and_says_that_more_comes() -> None:
    view = view_of(20_000)
    first = view.first()
    assert first is not None
    assert first.value["partial"] is True
    assert sum(map(len, first.buffers)) < 20_000 < sum(map(len, view.snapshot().buffers))
    header, packed = decode(first.buffers[0])
    assert header["n"] == MOST_ROWS
    assert packed["parent"][0] == -1
    assert (packed["parent"][1:] < range(1, MOST_ROWS)).all()


def test_a_small_trace_comes_whole_at_first() -> None:
    view = view_of(None)
    first = view.first()
    assert first is not None
    assert first.value == {**view.snapshot().value, "partial": False}
    assert decode(first.buffers[0])[0]["n"] == decode(view.snapshot().buffers[0])[0]["n"]


def test_a_view_that_has_been_drawn_gives_no_first_screen_of_the_past() -> None:
    view = view_of(None)
    view.static_html()
    assert view.first() is None
    assert json.dumps(view.config)
