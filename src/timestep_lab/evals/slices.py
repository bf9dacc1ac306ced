"""A comparison cut by a column of its data: how each candidate did on each topic, told so that looking at many topics deceives nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.results import ALPHA
from timestep_lab.evals.statistics.holm import holm
from timestep_lab.evals.statistics.intervals import Floats, mean_interval, mean_of_repeats
from timestep_lab.evals.statistics.paired import paired_difference
from timestep_lab.model.comparison import CaseRecord
from timestep_lab.model.errors import UsageError
from timestep_lab.model.suggest import did_you_mean

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

NONE = "(none)"
"""The slice of the cases that have nothing in the column."""


def slices_of(cases: Sequence[CaseRecord], by: str) -> dict[str, list[int]]:
    """Slice to the places of its cases. A case with a list in the column (tags) is in each. Raises `UsageError` for an unknown column."""
    known = sorted({name for case in cases for name in (*case.vars, *case.metadata) if not name.startswith("__")})
    if by not in known:
        raise UsageError(
            f"The cases have no column {by!r} to be cut by.{did_you_mean(by, known)}",
            f"Columns: {', '.join(known) or 'none'}.",
            param="by",
        )
    found: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        value = case.vars.get(by, case.metadata.get(by))
        for one in value if isinstance(value, list) else [value]:
            name = NONE if one is None or one == "" else one if isinstance(one, str) else json.dumps(one)
            found.setdefault(name, []).append(place)
    return dict(sorted(found.items(), key=lambda entry: (entry[0] == NONE, entry[0])))


def means(grid: Grid, by: str) -> list[dict[str, Any]]:
    """One row a slice, candidate and scorer. The intervals hold together over the slices: each has the level 1 − 0.05/number of slices
    (Bonferroni)."""
    cut = slices_of(grid.cases, by)
    level = 1 - ALPHA / len(cut)
    rows = []
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
    """One row a slice, pair of candidates and scorer. `p_holm` is corrected for all pairs of all slices of a scorer, the intervals likewise
    (Bonferroni)."""
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


def _known(value: float) -> float | None:
    return None if value != value else value
