"""How often graded scores of every shape call a tie a difference, and how often the interval covers the truth: 20,000 experiments each.

pytest tests/benchmarks/bench_skewed_scores.py -m benchmark -s
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from timestep_lab.evals.statistics import mean_interval, paired_difference

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

RUNS, SIZES = 20_000, (20, 72, 100, 200, 500)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def rare(share: float) -> Draw:
    """Mean 0: a little above it, and with chance `share` far below."""
    return lambda generator, n: np.where(generator.random(n) < share, -0.8 * (1 - share), 0.8 * share)


SHAPES: dict[str, Draw] = {
    "normal": lambda generator, n: generator.normal(0, 0.1, n).clip(-1, 1),
    "grades": lambda generator, n: generator.integers(-4, 5, n) / 4 * (generator.random(n) < 0.4),
    "rare 5 %": rare(0.05),
    "rare 10 %": rare(0.10),
    "exponential": lambda generator, n: generator.exponential(1.0, n) - 1.0,
    "log-normal": lambda generator, n: generator.lognormal(0, 1, n) - np.exp(0.5),
    "t, 3 df": lambda generator, n: generator.standard_t(3, n),
}
UNIT = ("normal", "grades", "rare 5 %", "rare 10 %")


def test_false_findings_and_coverage() -> None:
    print(f"\n{'differences':<12} {'n':>4} {'false better %':>15} {'covered %':>10} {'mean covered %':>15}")
    for name, draw in SHAPES.items():
        for n in SIZES:
            generator = np.random.default_rng(n)
            rejected = covered = mean_covered = 0
            for _ in range(RUNS):
                differences = draw(generator, n)
                a, b = (
                    (0.5 - differences / 2, 0.5 + differences / 2) if name in UNIT else (0 * differences, differences)
                )
                result = paired_difference(a[:, None], b[:, None])
                rejected += result.p_value <= 0.05 and not result.ci_low <= 0 <= result.ci_high
                covered += result.ci_low <= 0 <= result.ci_high
                truth, of = (0.5, b) if name in UNIT else (0.0, differences)
                mean = mean_interval(of[:, None])
                mean_covered += mean.low <= truth <= mean.high
            print(
                f"{name:<12} {n:>4} {100 * rejected / RUNS:>15.1f} {100 * covered / RUNS:>10.1f} {100 * mean_covered / RUNS:>15.1f}",
                flush=True,
            )
            assert rejected / RUNS <= 0.06
            assert n < 72 or min(covered, mean_covered) / RUNS >= 0.93
