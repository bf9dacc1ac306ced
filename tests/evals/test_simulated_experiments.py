"""Experiments whose truth is known: the interval covers it 95 ± 2 % of the time, and a true tie is called a difference
in at most 5.5 % of them. Every number is a share of thousands of seeded experiments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from timestep_lab.evals.statistics import paired_difference

Tables = tuple[np.ndarray, np.ndarray]
Maker = Callable[[int, float, float, np.random.Generator], Tables]


def pass_fail(n: int, a: float, b: float, generator: np.random.Generator) -> Tables:
    """Half of the cases are equally hard for both."""
    mine = generator.random(n)
    yours = np.where(generator.random(n) < 0.5, mine, generator.random(n))
    return (mine < a).astype(float)[:, None], (yours < b).astype(float)[:, None]


def repeated(n: int, a: float, b: float, generator: np.random.Generator) -> Tables:
    """Four epochs; each case has a difficulty of its own that both candidates feel."""
    ease = 0.4 * (generator.random((n, 1)) - 0.5)
    return tuple((generator.random((n, 4)) < p + ease).astype(float) for p in (a, b))  # type: ignore[return-value]


def graded(n: int, a: float, b: float, generator: np.random.Generator) -> Tables:
    """Scores between 0 and 1, skewed, from a judge with noise of its own."""
    quality = generator.beta(4, 2, (n, 1)) - 4 / 6
    return tuple(p + 0.2 * quality + generator.uniform(-0.15, 0.15, (n, 1)) for p in (a, b))  # type: ignore[return-value]


def rare_disaster(n: int, a: float, b: float, generator: np.random.Generator) -> Tables:
    """b is a little better in 95 % of the cases and far worse in 5 %."""
    mine = generator.uniform(0.75, 0.8, (n, 1))
    return mine, mine + (b - a) + np.where(generator.random((n, 1)) < 0.05, -0.76, 0.04)


def lognormal(n: int, a: float, b: float, generator: np.random.Generator) -> Tables:
    """Differences with one long tail, on a scale without ends."""
    return np.zeros((n, 1)), generator.lognormal(0.0, 1.0, (n, 1)) - np.exp(0.5) + (b - a)


EXPERIMENTS = {pass_fail: 3000, repeated: 2000, graded: 3000, rare_disaster: 4000, lognormal: 4000}


def shares(make: Maker, n: int, a: float, b: float, *, of: int = 1) -> tuple[float, float]:
    """The shares of experiments whose interval covers the truth, and that call it a difference. `of`: 2 for half of the experiments."""
    generator = np.random.default_rng(20261122)
    covered = rejected = 0
    for seed in range(experiments := EXPERIMENTS[make] // of):
        result = paired_difference(*make(n, a, b, generator), resamples=1000, seed=seed)
        covered += result.ci_low <= b - a <= result.ci_high
        rejected += result.p_value <= 0.05
    return covered / experiments, rejected / experiments


@pytest.mark.parametrize(
    ("make", "n", "a", "b"),
    [
        (pass_fail, 25, 0.5, 0.65), (pass_fail, 40, 0.6, 0.75), (pass_fail, 120, 0.85, 0.9), (pass_fail, 40, 0.7, 0.7),
        (repeated, 12, 0.5, 0.6), (repeated, 40, 0.6, 0.75), (repeated, 100, 0.7, 0.7),
        (graded, 8, 0.5, 0.6), (graded, 30, 0.6, 0.6),
    ],
)  # fmt: skip
def test_the_interval_covers_the_true_difference_95_percent_of_the_time(
    make: Maker, n: int, a: float, b: float
) -> None:
    assert 0.93 <= shares(make, n, a, b, of=2)[0] <= 0.97


@pytest.mark.parametrize(
    ("make", "n", "p"),
    [(pass_fail, 10, 0.5), (pass_fail, 40, 0.8), (pass_fail, 120, 0.9), (repeated, 4, 0.5), (repeated, 12, 0.5), (repeated, 40, 0.7), (graded, 8, 0.6), (graded, 60, 0.5)],
)  # fmt: skip
def test_a_tie_is_called_a_difference_in_at_most_five_and_a_half_percent(make: Maker, n: int, p: float) -> None:
    assert shares(make, n, p, p)[1] <= 0.055


@pytest.mark.parametrize(("make", "n"), [(repeated, 4), (repeated, 5), (graded, 3), (graded, 5)])
def test_an_interval_of_few_cases_is_too_wide_rather_than_too_narrow(make: Maker, n: int) -> None:
    assert shares(make, n, 0.5, 0.6, of=2)[0] >= 0.95


@pytest.mark.parametrize("make", [rare_disaster, lognormal])
@pytest.mark.parametrize("n", [20, 72, 100, 500])
def test_skewed_scores_call_a_tie_a_difference_in_at_most_six_percent(make: Maker, n: int) -> None:
    assert shares(make, n, 0.5, 0.5)[1] <= 0.06


def test_a_model_with_rare_disasters_is_found_out_once_enough_of_them_were_seen() -> None:
    """Silence where too little is known is not silence for ever."""
    assert shares(rare_disaster, 500, 0.6, 0.5, of=4)[1] >= 0.95


@pytest.mark.parametrize("seed", [1, 2])
def test_the_interval_of_skewed_differences_covers_the_truth_93_percent_of_the_time(seed: int) -> None:
    generator = np.random.default_rng(seed)
    results = [paired_difference(*rare_disaster(100, 0.5, 0.5, generator)) for _ in range(2000)]
    assert np.mean([r.ci_low <= 0 <= r.ci_high for r in results]) >= 0.93
