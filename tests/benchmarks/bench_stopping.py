"""Comparisons looked at after every case: how often they are wrong, how often they find a difference, and how many cases that takes.

pytest tests/benchmarks/bench_stopping.py -m benchmark -s
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import gammaln

from timestep_lab.evals.grid import Grid
from timestep_lab.evals.statistics.sequential import (
    SpendingMcNemar,
    Watched,
    WatchedGroups,
    obrien_fleming,
    pocock,
)
from timestep_lab.evals.stopping import aa
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, ScoreValue

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]


Spend = Callable[[float, float], float]


def outcomes(generator: np.random.Generator, n: int, diff: float, discordance: float, runs: int) -> np.ndarray:
    """Runs × cases."""
    chances = [(discordance + diff) / 2, (discordance - diff) / 2, 1 - discordance]
    return generator.choice(np.array([1, -1, 0], dtype=np.int8), p=chances, size=(runs, n))


def spent(
    n: int, diff: float, discordance: float, *, runs: int, alpha: float = 0.05, spend: Spend = pocock, batch: int = 4000
) -> tuple[float, float]:
    """(share that found a difference, mean cases) of `SpendingMcNemar`, many runs side by side."""
    generator, found, cases = np.random.default_rng(n), 0, 0
    for start in range(0, runs, batch):
        told, taken = side_by_side(outcomes(generator, n, diff, discordance, min(batch, runs - start)), alpha, spend)
        found, cases = found + int(told.sum()), cases + int(taken.sum())
    return found / runs, cases / runs


def side_by_side(differences: np.ndarray, alpha: float, spend: Spend) -> tuple[np.ndarray, np.ndarray]:
    """(whether it rejects, after how many cases) of each row: 1 a win, −1 a loss, 0 no difference."""
    rows, n = differences.shape
    chances = np.zeros(
        (rows, 2 * n + 3)
    )  # Of wins minus losses from −n − 1 to n + 1, over the paths that have not crossed.
    middle = n + 1
    chances[:, middle] = 1.0
    reach, crossed = np.zeros(rows, dtype=int), np.zeros(rows)
    lead, rejects, taken = np.zeros(rows, dtype=int), np.zeros(rows, dtype=bool), np.full(rows, n)
    for case in range(n):
        open_rows = np.flatnonzero(~rejects)
        told = open_rows[differences[open_rows, case] != 0]
        width = int(reach[told].max(initial=0)) + 2
        part = slice(middle - width, middle + width + 1)
        before = chances[told, part]
        after = np.zeros_like(before)
        after[:, 1:-1] = 0.5 * (before[:, :-2] + before[:, 2:])
        chances[told, part] = after
        reach[told] += 1
        lead[told] += differences[told, case].astype(int)
        room = spend((case + 1) / n, alpha)
        going = open_rows
        while len(going):
            ends = chances[going, middle - reach[going]] + chances[going, middle + reach[going]]
            cut = (reach[going] > 0) & (ends <= room - crossed[going])
            going = going[cut]
            crossed[going] += ends[cut]
            chances[going, middle - reach[going]] = chances[going, middle + reach[going]] = 0.0
            # Paths end on every second value only.
            reach[going] = np.maximum(0, reach[going] - 2)
        now = open_rows[np.abs(lead[open_rows]) > reach[open_rows]]
        rejects[now], taken[now] = True, case + 1
    return rejects, taken


def test_runs_side_by_side_are_those_one_after_the_other() -> None:
    for spend in (pocock, obrien_fleming):
        differences = outcomes(np.random.default_rng(8), 90, 0.1, 0.4, 60)
        rejects, taken = side_by_side(differences, 0.05, spend)
        for row, told, cases in zip(differences, rejects, taken, strict=True):
            test = SpendingMcNemar(90, 0.05, spend)
            for difference in row:
                test.add(float(difference))
                if test.crossed:
                    break
            assert (test.crossed, test.cases) == (told, cases)


def mixture_rejects(differences: np.ndarray, alpha: float = 0.05) -> float:
    wins, losses = np.cumsum(differences > 0, axis=1), np.cumsum(differences < 0, axis=1)
    k = wins + losses
    log = k * np.log(2.0) + gammaln(1 + wins) + gammaln(1 + losses) - gammaln(2 + k)
    return float((log.max(axis=1) >= -np.log(alpha)).mean())


def test_false_findings_under_a_look_after_every_case() -> None:
    print(f"\n{'N':>5} {'D':>5} {'Pocock %':>9} {'OBF %':>7} {'mixture %':>10}")
    for n, discordance, runs in ((100, 0.1, 60_000), (200, 0.25, 60_000), (400, 0.5, 60_000)):
        rates = [spent(n, 0.0, discordance, runs=runs, spend=spend)[0] for spend in (pocock, obrien_fleming)]
        rates.append(mixture_rejects(outcomes(np.random.default_rng(n + 1), n, 0.0, discordance, runs)))
        print(
            f"{n:>5} {discordance:>5} {100 * rates[0]:>9.1f} {100 * rates[1]:>7.1f} {100 * rates[2]:>10.1f}", flush=True
        )
        assert max(rates) <= 0.055
    strict = spent(200, 0.0, 0.25, runs=60_000, alpha=0.02)[0]
    print(f"  200  0.25 {100 * strict:>9.1f}  at α = 2 %")
    assert strict <= 0.025


def asked_twice(scores: np.ndarray) -> Grid:
    """One candidate's answers to each case: cases × 2."""
    record = ComparisonRecord(
        id="cmp_1", user_id="u", name="aa", status="completed", candidates=({"name": "A"},), epochs=2, n_cases=len(scores),
        scorers=({"type": "exact", "name": "exact"},),
    )  # fmt: skip
    cases = [CaseRecord(comparison_id="cmp_1", case_id=f"c{n}", position=n, input="?") for n in range(len(scores))]
    cells = [
        CellRecord(
            comparison_id="cmp_1", case_id=f"c{n}", candidate="A", epoch=epoch, status="done", output="o",
            scores=(ScoreValue(scorer="exact", value=float(value)),),
        )
        for n, row in enumerate(scores) for epoch, value in enumerate(row)
    ]  # fmt: skip
    return Grid(record, cases, cells)


def test_one_model_beside_itself() -> None:
    """`lab.aa`, of answers whose scores differ in few cases, in many, by one grade or by any amount."""
    generator, n = np.random.default_rng(5), 120
    few_grades = np.full((n, 2), 0.5)
    few_grades[:21, 1] += 0.25
    answers = {
        "pass/fail, seldom": (generator.random((n, 2)) < 0.05).astype(float),
        "pass/fail, often": (generator.random((n, 2)) < 0.5).astype(float),
        "21 differ by a grade": few_grades,
        "grades": generator.integers(0, 5, (n, 2)) / 4,
        "any amount": generator.beta(4, 2, (n, 2)),
    }
    print(f"\n{'scores':<22} {'α %':>5} {'false alarms %':>15}")
    for name, scores in answers.items():
        for alpha in (0.05, 0.02):
            told = aa(asked_twice(scores), alpha=alpha, runs=1500)
            print(f"{name:<22} {100 * alpha:>5.0f} {100 * told.share:>15.2f}", flush=True)
            assert told.share <= alpha + 0.005 + 2 * (alpha / told.runs) ** 0.5


def test_what_stopping_saves() -> None:
    """15 points at D = 0.25 takes 92 cases for 80 % power and 119 for 90 %; 10 points planned for takes 200."""
    power, mean = spent(131, 0.15, 0.25, runs=10_000)
    print(
        f"\nplanned 1.1 × n90 = 131: power {100 * power:.1f} %, mean {mean:.1f} cases, {100 * (1 - mean / 119):.0f} % below n90"
    )
    assert power >= 0.87
    assert mean <= 0.63 * 119
    power, mean = spent(206, 0.15, 0.25, runs=10_000)
    print(
        f"planned for 10 points: power {100 * power:.1f} %, mean {mean:.1f} cases, {100 * (1 - mean / 196):.0f} % below its n80"
    )
    assert mean <= 0.45 * 196


def test_graded_scores_with_rare_disasters() -> None:
    generator, runs, wrong, slow = np.random.default_rng(0), 4000, 0, 0
    for _ in range(runs):
        rare = Watched(400, 0.05)
        for worse in generator.random(400) < 0.05:
            look = rare.add((0.8, 0.04 if worse else 0.84))
            if look.low_above(0.0) or look.high_below(0.0):
                wrong += 1
                break
        normal = Watched(400, 0.05)
        for difference in generator.normal(0, 0.1, 400).clip(-0.5, 0.5):
            look = normal.add((0.5, 0.5 + float(difference)))
            if look.low_above(0.0) or look.high_below(0.0):
                slow += 1
                break
    print(f"\nfalse findings: rare disasters {100 * wrong / runs:.1f} %, normal {100 * slow / runs:.1f} %")
    assert wrong / runs <= 0.06
    assert slow / runs <= 0.055 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_no_worse_is_said_falsely_in_at_most_five_percent() -> None:
    generator, runs, wrong = np.random.default_rng(1), 4000, 0
    for _ in range(runs):
        watched = Watched(400, 0.05)
        for difference in outcomes(generator, 400, -0.05, 0.25, 1)[0]:
            if watched.add((float(difference < 0), float(difference > 0))).low_above(-0.05):
                wrong += 1
                break
    print(f"\nno worse by more than 5 points, at exactly 5 points worse: {100 * wrong / runs:.1f} %")
    assert wrong / runs <= 0.05


def grades(generator: np.random.Generator, effect: float, shape: tuple[int, int]) -> np.ndarray:
    """Of two candidates between which each group prefers one, by chance: whole grades from 0 to 4."""
    prefers = generator.normal(0, effect, (shape[0], 1))
    a, b = (np.clip(np.rint(2.5 + generator.normal(0, 1, shape) + sign * prefers), 0, 4) / 4.0 for sign in (-1.0, 1.0))
    return b - a


def test_graded_scores_in_groups() -> None:
    """Forty groups of five, and ten of ten, looked at after every group."""
    print(f"\n{'groups':>8} {'differences':<28} {'false %':>8}")
    for shape in ((40, 5), (10, 10)):
        groups = [group for group in range(shape[0]) for _ in range(shape[1])]
        for name, effect, runs in (
            ("grades", 0.0, 10_000),
            ("grades, groups differ", 0.6, 10_000),
            ("rare disasters", None, 4000),
        ):
            generator, wrong = np.random.default_rng(shape[0]), 0
            for _ in range(runs):
                if effect is None:
                    differences = np.where(generator.random(shape) < 0.05, -0.76, 0.04)
                else:
                    differences = grades(generator, effect, shape)
                watched = WatchedGroups(len(groups), 0.05, groups)
                for difference in differences.ravel():
                    look = watched.add((0.5 - difference / 2, 0.5 + difference / 2))
                    if look.low_above(0.0) or look.high_below(0.0):
                        wrong += 1
                        break
            print(f"{shape[0]:>5}×{shape[1]:<2} {name:<28} {100 * wrong / runs:>8.2f}", flush=True)
            assert wrong / runs <= 0.055
