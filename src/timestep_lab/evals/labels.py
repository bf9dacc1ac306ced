"""Precision, recall and F1 of labels, over all cases of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from timestep_lab.evals.scorers.text import fold
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.grid import Grid

RESAMPLES = 2_000
ALL = "(all)"


def label_frame(grid: Grid, scorer: str | None) -> pandas.DataFrame:
    """See `Grid.labels`."""
    import pandas

    specs = [spec for spec in grid.record.scorers if spec["type"] == "label" and scorer in (None, spec["name"])]
    if not specs:
        raise UsageError(
            f"No scorer{f' {scorer!r}' if scorer else ''} gave labels here.", "Compare with scorers=['label:a,b']."
        )
    name, labels = str(specs[0]["name"]), [str(label) for label in specs[0]["labels"]]
    expected = {case.case_id: _expected(case.expected, labels) for case in grid.cases}
    rows: list[dict[str, Any]] = []
    for candidate in grid.candidates:
        pairs = [
            (expected[cell.case_id], score.label)
            for cell in grid.cells if cell.candidate == candidate
            for score in cell.scores if score.scorer == name and score.value is not None
        ]  # fmt: skip
        right = np.array([labels.index(one) for one, _ in pairs if one is not None], dtype=int)
        said = np.array([labels.index(two) if two in labels else -1 for one, two in pairs if one is not None], dtype=int)  # fmt: skip
        if not len(right):
            continue
        table = _measures(right, said, len(labels))
        for place, label in enumerate(labels):
            rows.append(_row(candidate, label, int((right == place).sum()), table[:, place]))
        generator = np.random.default_rng(0)
        drawn = [generator.integers(0, len(right), len(right)) for _ in range(RESAMPLES)]
        means = [float(_measures(right[d], said[d], len(labels))[2].mean()) for d in drawn]
        low, high = np.quantile(means, [0.025, 0.975])
        rows.append(
            _row(candidate, ALL, len(right), table.mean(axis=1)) | {"f1_ci_low": float(low), "f1_ci_high": float(high)}
        )
    columns = ["candidate", "label", "n", "precision", "recall", "f1", "f1_ci_low", "f1_ci_high"]
    return pandas.DataFrame(rows, columns=columns)


def _expected(value: Any, labels: list[str]) -> str | None:
    one = value[0] if isinstance(value, list | tuple) and value else value
    return next((label for label in labels if isinstance(one, str) and fold(one.strip(), False) == fold(label, False)), None)  # fmt: skip


def _measures(right: np.ndarray[Any, Any], said: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """Precision, recall and F1 by label. Where nothing could be found, or nothing was said, they are 0."""
    places = np.arange(n)[:, None]
    hits = ((right == places) & (said == places)).sum(axis=1).astype(float)
    claimed, there = (said == places).sum(axis=1), (right == places).sum(axis=1)
    precision, recall = hits / np.maximum(claimed, 1), hits / np.maximum(there, 1)
    return np.array([precision, recall, 2 * hits / np.maximum(claimed + there, 1)])


def _row(candidate: str, label: str, n: int, measures: Any) -> dict[str, Any]:
    precision, recall, f1 = (float(one) for one in measures)
    return {"candidate": candidate, "label": label, "n": n, "precision": precision, "recall": recall, "f1": f1}
