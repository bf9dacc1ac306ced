"""The first rows of a trace's tree, as the waterfall and its static twin show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestep_lab.service.traces import SpanColumns
from timestep_lab.ui.columns import numbers, parent_rows


def tree_rows(spans: SpanColumns, most: int, parents: Any = None) -> list[tuple[int, int]]:
    """(row, depth) of the first `most` rows: depth first, siblings in order of start. What only a ring of parents leads to comes last.

    `parents`: the spans' `parent_rows`, if they are at hand.
    """
    import numpy as np

    starts = numbers(spans["started_us"])
    parents = parent_rows(spans) if parents is None else parents

    def below(parent: int, depth: int) -> list[tuple[int, int]]:
        rows = np.flatnonzero(parents == parent)
        return [(row, depth) for row in rows[np.argsort(starts[rows], kind="stable")].tolist()]

    order: list[tuple[int, int]] = []
    stack = below(-1, 0)[::-1]
    while stack and len(order) < most:
        row, depth = stack.pop()
        order.append((row, depth))
        stack += below(row, depth + 1)[::-1]
    if len(order) < min(most, len(starts)):
        told = {row for row, _ in order}
        order += [(row, 0) for row in range(len(starts)) if row not in told][: most - len(order)]
    return order


def part_of(spans: SpanColumns, rows: list[int]) -> Mapping[str, list[Any]]:
    """The same columns, of these rows only."""
    return {name: [values[row] for row in rows] if len(values) else [] for name, values in spans.items()}
