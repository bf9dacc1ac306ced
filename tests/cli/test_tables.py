"""Rows on a terminal: a line a row, or a block a row where the window is too narrow for the columns."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from timestep_lab.cli.render import print_rows, print_trace
from timestep_lab.model.spans import SpanRecord

MOMENT = datetime(2026, 11, 27, 19, 7, 18, 513_000, tzinfo=UTC)


def printed(columns: list[str], rows: list[list[Any]], width: int) -> list[str]:
    file = io.StringIO()
    print_rows(Console(file=file, width=width, force_terminal=True, color_system=None), columns, rows)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_row_is_one_line_however_long_its_values_are() -> None:
    lines = printed(["id", "started", "text"], [["a" * 32, MOMENT, "one\ntwo " * 90], ["b", MOMENT, "short"]], 80)
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert "2026-11-27 19:07:18" in lines[1]
    assert "…" in lines[1]
    assert "short" in lines[2]


def test_more_columns_than_the_window_holds_make_a_block_of_each_row() -> None:
    columns = [f"column_{n}" for n in range(20)]
    lines = printed(columns, [[f"value {n} " * 30 for n in range(20)] for _ in range(2)], 60)
    assert len(lines) == 41
    assert lines[20] == ""
    assert lines[21].startswith("column_0   value 0 ")
    assert all(len(line) <= 60 for line in lines)


def test_a_finished_span_without_a_known_end_is_neither_running_nor_given_a_duration() -> None:
    span = SpanRecord(
        trace_id="a" * 32, span_id="b" * 16, parent_id=None, user_id="u", kind="tool", name="get_weather", status="ok", started_at=MOMENT,
    )  # fmt: skip
    out = io.StringIO()
    print_trace(Console(file=out, width=80), {"status": "completed", "duration_ms": None}, [span])
    assert "get_weather" in out.getvalue()
    assert "running" not in out.getvalue()
    assert "ms" not in out.getvalue()
