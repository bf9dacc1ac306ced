"""From cells to one row a candidate and one row a pair."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.apply import ASSERTIONS, OVERALL, PASSED, assertion_names
from timestep_lab.evals.statistics.groups import LEAST_GROUPS
from timestep_lab.evals.statistics.holm import holm
from timestep_lab.evals.statistics.intervals import Floats, is_pass_fail, mean_interval, mean_of_repeats, within_unit
from timestep_lab.evals.statistics.paired import paired_difference
from timestep_lab.evals.statistics.passk import over_cases
from timestep_lab.evals.statistics.sign_flips import least_p
from timestep_lab.evals.verdict import is_settled
from timestep_lab.model.comparison import CandidateRow, CaseRecord, CellRecord, ComparisonRecord, Outcome, PairRow
from timestep_lab.model.errors import UsageError

ALPHA = 0.05
MARGIN = 0.05
"""Of scores from 0 to 1, where none is given: five points. On another scale nothing is no worse without a margin of its own."""


def scorer_names(cells: Iterable[CellRecord], asked: Iterable[str] = ()) -> list[str]:
    """Those of `asked` in their order, then others as they first appear; `overall` last."""
    names = dict.fromkeys(score.scorer for cell in cells for score in cell.scores)
    return sorted(dict.fromkeys(asked) | names, key=lambda name: name == "overall")


def asked_scorers(record: ComparisonRecord, cases: Iterable[CaseRecord]) -> list[str]:
    """Names of those that score every answer that comes, whether one came or not."""
    names = [str(spec.get("name") or spec["type"]) for spec in record.scorers]
    cases = list(cases)
    names += [ASSERTIONS] if any(case.assertions for case in cases) else []
    names += [*assertion_names(cases), *([PASSED] if any("__threshold" in case.vars for case in cases) else [])]
    weighted = any(spec.get("weight", 1.0) != 1.0 for spec in record.scorers)
    return [*names, OVERALL] if weighted and len(names) > 1 else names


def deciding(scorers: Sequence[str]) -> str | None:
    """The scorer that the verdict speaks of: `overall` where there is one, else the first."""
    return None if not scorers else scorers[-1] if scorers[-1] == OVERALL else scorers[0]


def deciding_scorer(record: ComparisonRecord, cases: Iterable[CaseRecord]) -> str:
    """The same before there is an answer. Raises `UsageError` where no answer would be scored."""
    found = deciding(scorer_names((), asked_scorers(record, cases)))
    if found is None:
        raise UsageError("Without a scorer nothing can be settled.", "Add scorers, or leave stop away.", param="stop")
    return found


class ScoreTables:
    """Cases × epochs of each candidate's scores; NaN where there is none."""

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
    """`own`: what the cases' own assertions give; a case without such an assertion is not one that could not be scored."""
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
    """Names of the scores that come of cases' own assertions."""
    return [ASSERTIONS, PASSED, *assertion_names(cases)]


def _not_scored(answers: Sequence[CellRecord], scorer: str, *, own: bool) -> Mapping[str, float | None]:
    values = [[score.value for score in cell.scores if score.scorer == scorer] for cell in answers]
    missing = sum((not own if not found else found[0] is None) for found in values)
    return {"unscored": missing} if missing else {}


def pair_rows(
    names: Sequence[str], scorers: Sequence[str], tables: ScoreTables, *, seed: int = 0, groups: Sequence[object] | None = None,
    margin: float | None = None,
) -> list[PairRow]:  # fmt: skip
    """Every two candidates on every scorer; Holm's correction within a scorer. b is the later of the two. `margin`: what is still no worse."""
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
    """Better or worse where the corrected test says so; no worse where the interval that holds for all pairs lies above minus the margin.
    Where a test is silent, its interval shows nothing either."""
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
    """What a case has in a column of its data: a variable, or metadata. None: nothing."""
    value = case.vars.get(column, case.metadata.get(column))
    return None if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def few_groups(groups: Sequence[str] | None) -> list[str]:
    """A note where there are too few to say anything."""
    n = None if groups is None else len(set(groups))
    if n is None or n >= LEAST_GROUPS:
        return []
    return [f"The cases form {n} {'group' if n == 1 else 'groups'}: with fewer than {LEAST_GROUPS} no interval and no test says anything."]  # fmt: skip


def median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def total(values: Sequence[float | None]) -> float | None:
    """None as soon as one is unknown: a sum of some is no sum."""
    known = [value for value in values if value is not None]
    return float(sum(known)) if values and len(known) == len(values) else None


def _whole(values: Sequence[int | None]) -> int | None:
    summed = total(values)
    return None if summed is None else int(summed)


def mean_row(scores: Floats, groups: Sequence[object] | None = None) -> Mapping[str, float | None]:
    """What `CandidateRow.scores` tells of one scorer."""
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
