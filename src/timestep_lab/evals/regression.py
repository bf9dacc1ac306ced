"""Regression tests: each candidate compared with itself in a saved baseline, paired by case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.results import ScoreTables
from timestep_lab.evals.statistics.intervals import within_unit
from timestep_lab.evals.statistics.paired import holm, paired_difference
from timestep_lab.evals.verdict import is_settled, pair_sentence
from timestep_lab.model.comparison import CellRecord, PairRow, ScoreValue
from timestep_lab.model.errors import DataError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

FORM = "timestep-lab baseline 1"


@dataclass(frozen=True, slots=True)
class Regression:
    """The comparison of one candidate and scorer with the baseline. `pair.a` is the baseline, `pair.b` the new result;
    a positive `pair.diff` is an improvement. `worse`: significantly worse, after correction.
    """

    candidate: str
    pair: PairRow
    worse: bool
    new_cases: int
    """Number of new cases that the baseline does not have; they are not compared."""
    other_data: bool = False
    """Whether the data set has a different version than in the baseline."""

    def __str__(self) -> str:
        changed = (
            " The data set is another version than the baseline's: cases of one id may differ."
            if self.other_data
            else ""
        )
        return pair_sentence(self.pair) + changed


def baseline_json(grid: Grid) -> dict[str, Any]:
    """Scores by case, without answers: enough for later comparisons."""
    scores: dict[str, Any] = {}
    for cell in grid.cells:
        for score in cell.scores:
            scores.setdefault(cell.candidate, {}).setdefault(score.scorer, {}).setdefault(cell.case_id, []).append(
                score.value
            )
    return {
        "form": FORM, "id": grid.id, "name": grid.record.name, "dataset_version": grid.record.dataset_version, "scores": scores,
    }  # fmt: skip


def compare_with(grid: Grid, baseline: Grid | str | Path) -> list[Regression]:
    """Compare candidates and scorers that are in both. Raises `DataError` for a file that is not a baseline, or has
    nothing in common.
    """
    before = _read(Path(baseline)) if isinstance(baseline, str | Path) else baseline_json(baseline)
    compared = []
    for candidate, by_scorer in before["scores"].items():
        for scorer, by_case in by_scorer.items():
            if candidate in grid.candidates and scorer in grid.scorers:
                compared.append(
                    (
                        candidate,
                        _pair(grid, candidate, scorer, by_case),
                        len(grid.cases) - len(by_case.keys() & _ids(grid)),
                    )
                )
    if not compared:
        raise DataError(
            "The baseline has no candidate and scorer in common with this comparison.",
            "Compare the same ones, or save a new baseline.",
        )
    adjusted = holm([pair.p_value if pair.p_value is not None else float("nan") for _, pair, _ in compared])
    corrected = [
        (candidate, _with_holm(pair, p), new) for (candidate, pair, new), p in zip(compared, adjusted, strict=True)
    ]
    other = before.get("dataset_version") != grid.record.dataset_version
    return [
        Regression(candidate, pair, pair.diff < 0 and is_settled(pair), new, other)
        for candidate, pair, new in corrected
    ]


def _ids(grid: Grid) -> set[str]:
    return {case.case_id for case in grid.cases}


def _pair(grid: Grid, candidate: str, scorer: str, before: Mapping[str, list[float | None]]) -> PairRow:
    now, old = f"{candidate} now", f"{candidate} before"
    cells = [
        CellRecord(
            comparison_id="", case_id=case_id, candidate=old, epoch=epoch, status="done", scores=(ScoreValue(scorer=scorer, value=value),)
        )
        for case_id, values in before.items()
        for epoch, value in enumerate(values)
    ]  # fmt: skip
    epochs = max([len(values) for values in before.values()] + [cell.epoch + 1 for cell in grid.cells])
    tables = ScoreTables([case.case_id for case in grid.cases], epochs, [*grid.cells, *cells])
    r = paired_difference(tables.of(old, scorer), tables.of(candidate, scorer), groups=grid.groups)
    points = within_unit(tables.of(old, scorer)) and within_unit(tables.of(candidate, scorer))
    return PairRow(
        a=old, b=now, scorer=scorer, n=r.n, diff=r.diff, ci_low=r.ci_low, ci_high=r.ci_high, p_value=r.p_value, p_holm=None, test=r.test,
        decided_by=r.decided_by, cases_to_settle=r.cases_to_settle, points=points,
    )  # fmt: skip


def _with_holm(pair: PairRow, p: float) -> PairRow:
    from dataclasses import replace

    return replace(pair, p_holm=None if p != p else p)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"The baseline {path} cannot be read: {error}.", 'Write one with grid.save("baseline.json").'
        ) from error
    if not isinstance(value, dict) or value.get("form") != FORM:
        raise DataError(f"{path} is not a baseline.", 'Write one with grid.save("baseline.json").')
    return value
