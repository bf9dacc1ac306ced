"""How often `lab.blame` names the change that was planted: one among six, or a pair that only breaks together.

Cases differ in how hard they are, answers vary by chance. `PLANTED` is the number of seeds of each row, `SEED` where they begin.
Run: `PLANTED=200 pytest tests/benchmarks/bench_blame.py -m benchmark -s`.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

from timestep_lab.evals.cause import blame as search

pytestmark = pytest.mark.benchmark
PLANTED = int(os.environ.get("PLANTED", "200"))
SEED = int(os.environ.get("SEED", "1000"))
CHANGES = ["instructions", "model", "setting temperature", "tool search", "description of search", "handoff to Refunds"]
CASES = 60


def found(seed: int, culprits: tuple[int, ...], loss: float, cases: int = CASES) -> tuple[set[str], int]:
    """What is accused, and how many of the 64 combinations were asked."""
    dice = np.random.default_rng(seed)
    hard = dice.beta(6.0, 1.5, cases)[:, None]

    def ask(levels: Any) -> Any:
        hit = levels[:, list(culprits)].all(axis=1) if culprits else np.zeros(len(levels), dtype=bool)
        chance = np.clip(hard - loss * hit[None, :], 0.0, 1.0)
        return (dice.random(chance.shape) < chance).astype(float)

    told, rows = search.factorial(ask, CHANGES)
    return {
        "+".join(changes)
        for changes in search.Blame(
            changes=dict.fromkeys(CHANGES, (0, 1)), by_scorer={"s": told}, n_cases=cases, n_rows=rows
        ).culprits
    }, rows


def table(title: str, size: int, losses: Any) -> None:
    print(f"\n{title} ({PLANTED} seeds, {CASES} cases, of 64 combinations)")
    for loss in losses:
        outcomes: Counter[str] = Counter()
        rows = 0
        for n in range(PLANTED):
            dice = np.random.default_rng(SEED + n)
            culprits = tuple(sorted(int(i) for i in dice.permutation(len(CHANGES))[:size]))
            accused, asked = found(SEED + n, culprits, loss)
            truth = "+".join(CHANGES[i] for i in culprits)
            rows += asked
            outcomes["found" if truth in accused else "not found"] += 1
            outcomes["and another"] += bool(truth in accused and len(accused) > 1)
        told = ", ".join(f"{word} {100 * count / PLANTED:.1f} %" for word, count in sorted(outcomes.items()))
        print(
            f"  −{loss * 100:.0f} points: {told}; {rows / PLANTED:.1f} combinations ({100 * rows / PLANTED / 64:.0f} %)"
        )


def test_one_culprit_among_six() -> None:
    table("one culprit among six, wanted 95 %", 1, (0.15, 0.2, 0.3))


def test_a_pair_that_only_breaks_together() -> None:
    table("a pair among six, wanted 85 %", 2, (0.2, 0.3, 0.4))


def test_nothing_planted() -> None:
    accused = sum(bool(found(SEED + n, (), 0.0)[0]) for n in range(PLANTED))
    print(f"\nnothing planted: something accused in {100 * accused / PLANTED:.1f} % (wanted at most 5)")
