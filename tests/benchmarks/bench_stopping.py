"""Comparisons looked at after every case: how often they are wrong, how often they find a difference, and how many cases that takes.

pytest tests/benchmarks/bench_stopping.py -m benchmark -s
"""

from __future__ import annotations

import numpy as np
import pytest

from timestep_lab.evals.statistics.sequential import (
    SpendingMcNemar,
    Watched,
    WatchedGroups,
    mixture_e_value,
    obrien_fleming,
    pocock,
)

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]


def outcomes(generator: np.random.Generator, n: int, diff: float, discordance: float) -> np.ndarray:
    return generator.choice([1, -1, 0], p=[(discordance + diff) / 2, (discordance - diff) / 2, 1 - discordance], size=n)


def spent(
    n: int, diff: float, discordance: float, *, runs: int, alpha: float = 0.05, spend: object = pocock
) -> tuple[float, float]:
    """(share that found a difference, mean cases)."""
    generator, found, cases = np.random.default_rng(n), 0, 0
    for _ in range(runs):
        test = SpendingMcNemar(n, alpha, spend)  # type: ignore[arg-type]
        for difference in outcomes(generator, n, diff, discordance):
            test.add(float(difference))
            if test.crossed:
                break
        found, cases = found + test.crossed, cases + test.cases
    return found / runs, cases / runs


def test_false_findings_under_a_look_after_every_case() -> None:
    print(f"\n{'N':>5} {'D':>5} {'Pocock %':>9} {'OBF %':>7} {'mixture %':>10}")
    for n, discordance, runs in ((100, 0.1, 60_000), (200, 0.25, 60_000), (400, 0.5, 20_000)):
        rates = [spent(n, 0.0, discordance, runs=runs, spend=spend)[0] for spend in (pocock, obrien_fleming)]
        generator, mixed = np.random.default_rng(n), 0
        for _ in range(runs // 4):
            wins = losses = 0
            for difference in outcomes(generator, n, 0.0, discordance):
                wins, losses = wins + (difference > 0), losses + (difference < 0)
                if difference and mixture_e_value(wins, losses) >= 20:
                    mixed += 1
                    break
        rates.append(mixed / (runs // 4))
        print(
            f"{n:>5} {discordance:>5} {100 * rates[0]:>9.1f} {100 * rates[1]:>7.1f} {100 * rates[2]:>10.1f}", flush=True
        )
        assert max(rates) <= 0.055
    assert spent(200, 0.0, 0.25, runs=20_000, alpha=0.02)[0] <= 0.025


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
        for difference in outcomes(generator, 400, -0.05, 0.25):
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
