"""Comparisons that are looked at after every case and stop themselves: their formulas, how often they are wrong, and what they do."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tests.evals.benches import MODEL, opened
from tests.evals.loopback import model_server
from timestep_lab.evals.compare import load_grid, new_comparison, resume_comparison
from timestep_lab.evals.statistics.intervals import tango
from timestep_lab.evals.statistics.paired import paired_difference
from timestep_lab.evals.statistics.sequential import (
    Moments,
    SpendingFlips,
    SpendingMcNemar,
    Watched,
    WatchedGroups,
    betting_e_value,
    betting_interval,
    cases_for_margin,
    mixture_e_value,
    normal_boundary,
    obrien_fleming,
    pocock,
)
from timestep_lab.evals.stopping import Family, drawn
from timestep_lab.evals.verdict import pair_sentence
from timestep_lab.lab import Lab
from timestep_lab.model.comparison import ComparisonEnded, ComparisonProgress
from timestep_lab.model.errors import UsageError
from timestep_lab.runtime.settings import Settings

A, B = "openai_compatible/loop/a", "openai_compatible/loop/b"


# -- formulas


def by_the_book(differences: list[int], planned: int, spend: Callable[[float], float]) -> list[tuple[int, float]]:
    """(bound, chance of having crossed) after each case: every path kept by itself, in exact fractions."""
    paths = {0: Fraction(1)}
    crossed, told = Fraction(0), []
    for case, difference in enumerate(differences, 1):
        if difference:
            grown: dict[int, Fraction] = {}
            for at, chance in paths.items():
                for step in (-1, 1):
                    grown[at + step] = grown.get(at + step, Fraction(0)) + chance / 2
            paths = grown
        while True:
            outermost = max(abs(at) for at in paths)
            ends = sum(chance for at, chance in paths.items() if abs(at) == outermost)
            if outermost == 0 or float(crossed + ends) > spend(case / planned):
                break
            crossed += ends
            paths = {at: chance for at, chance in paths.items() if abs(at) < outermost}
        told.append((max(abs(at) for at in paths), float(crossed)))
    return told


@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (1, 0.25), (2, 0.5), (3, 1.0)])
def test_spent_alpha_is_what_paths_kept_one_by_one_spend(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    differences = (generator.choice([-1, 1], 60) * (generator.random(60) < share)).astype(int).tolist()
    for spend in (pocock, obrien_fleming):
        test = SpendingMcNemar(60, 0.05, spend)
        for difference, (bound, crossed) in zip(
            differences, by_the_book(differences, 60, lambda u, spend=spend: spend(u, 0.05)), strict=True
        ):
            test.add(difference)
            assert test.bound == bound
            assert test.crossed_chance == pytest.approx(crossed, abs=1e-12)
            assert test.crossed_chance <= 0.05


def test_alpha_is_spent_as_lan_and_demets_say() -> None:
    for share in (0.1, 0.5, 1.0):
        assert pocock(share, 0.05) == pytest.approx(0.05 * math.log(1 + (math.e - 1) * share), abs=1e-12)
        z = scipy.stats.norm.ppf(0.975)
        assert obrien_fleming(share, 0.05) == pytest.approx(
            2 - 2 * scipy.stats.norm.cdf(z / math.sqrt(share)), abs=1e-9
        )


def test_the_repeated_interval_leaves_zero_out_exactly_when_its_test_rejects() -> None:
    generator = np.random.default_rng(5)
    seen = set()
    for _ in range(40):
        test = SpendingMcNemar(80, 0.05)
        for n in range(1, 81):
            test.add(int(generator.choice([-1, 0, 1], p=[0.1, 0.5, 0.4])))
            differ = test.wins + test.losses
            if differ:
                # Tango's at the z of the bound: |wins − losses| / √differ is its statistic at 0.
                interval = tango(test.wins, test.losses, n, level=2 * scipy.stats.norm.cdf(test.z) - 1)
                rejects = abs(test.wins - test.losses) > test.bound
                assert rejects == (
                    not interval.low <= 1e-12 <= interval.high + 2e-12 and not interval.low <= -1e-12 <= interval.high
                )
                seen.add(rejects)
    assert seen == {True, False}


def test_the_normal_boundary_is_the_published_one() -> None:
    """Five equal looks, α = 0.05 (the R package ldbounds, which spends α/2 on each side)."""
    found = normal_boundary(5, 1, 0.05, lambda share, alpha: 2 * obrien_fleming(share, alpha / 2))
    assert list(found.values()) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    assert list(normal_boundary(5, 1, 0.05, pocock).values()) == pytest.approx(
        [2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=2e-4
    )


def test_the_first_two_looks_of_the_normal_boundary_spend_what_a_double_integral_says() -> None:
    one, two = list(normal_boundary(2, 1, 0.05).values())
    assert 2 * scipy.stats.norm.sf(one) == pytest.approx(obrien_fleming(0.5, 0.05), abs=1e-9)
    edge = two * math.sqrt(2)

    def crossing(x: float) -> float:
        return float(scipy.stats.norm.pdf(x) * (scipy.stats.norm.sf(edge - x) + scipy.stats.norm.cdf(-edge - x)))

    late, _ = scipy.integrate.quad(crossing, -one, one, epsabs=1e-13)
    assert 2 * scipy.stats.norm.sf(one) + late == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (10, 3), (40, 25)])
def test_the_mixture_is_the_beta_function_and_betting_on_pass_fail_is_the_mixture(wins: int, losses: int) -> None:
    k = wins + losses
    beta = 2.0**k * math.exp(scipy.special.betaln(1 + wins, 1 + losses) - scipy.special.betaln(1, 1))
    assert mixture_e_value(wins, losses) == pytest.approx(beta, rel=1e-9)
    differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 7)
    assert betting_e_value(differences) == pytest.approx(beta, rel=1e-9)


def test_betting_on_graded_scores_is_the_integral_over_all_stakes() -> None:
    differences = np.random.default_rng(3).normal(0.1, 0.2, 40).clip(-1, 1)
    for null in (0.0, -0.05, 0.3):
        up, down = 1 / (1 + null), 1 / (1 - null)

        def wealth(stake: float, null: float = null) -> float:
            return float(np.prod(1 + stake * (differences - null)))

        above, _ = scipy.integrate.quad(wealth, 0, up, epsrel=1e-12)
        below, _ = scipy.integrate.quad(wealth, -down, 0, epsrel=1e-12)
        assert betting_e_value(differences, null) == pytest.approx(above / up / 2 + below / down / 2, rel=1e-9)
    interval = betting_interval(differences, 0.05)
    for end in (interval.low, interval.high):
        assert betting_e_value(differences, end) == pytest.approx(20.0, rel=1e-6)


def test_moments_one_by_one_are_those_of_all_at_once() -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 300)
    moments = Moments()
    for value in values:
        moments.add(float(value))
    assert (moments.mean, moments.sd) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-9)
    assert moments.skewness == pytest.approx(scipy.stats.skew(values), rel=1e-9)


@pytest.mark.parametrize("points", [1.0, 0.1])
def test_candidates_whose_wins_and_losses_cancel_are_level(points: float) -> None:
    dice = np.random.default_rng(2)
    family = Family(["a", "b"], 40)
    pairs = [(0.2 * n, 0.2 * n + points) for n in range(5)] if points < 1 else [(0.0, 1.0)] * 10
    pairs = [pairs[n] for n in dice.permutation(len(pairs))]
    pairs = [one for pair in pairs for one in (pair, pair[::-1], (0.5, 0.5) if points < 1 else (1.0, 1.0))]
    for n in dice.permutation(len(pairs)):
        a, b = pairs[n]
        family.look({"a": a, "b": b})
    [row] = family.rows("s")
    assert row.diff == 0.0
    assert "a and b are level on s, which is not settled" in pair_sentence(row)
    scores = np.array(pairs)
    assert paired_difference(scores[:, :1], scores[:, 1:]).diff == 0.0


def test_what_a_margin_needs_is_785_times_the_share_that_differs_over_its_square() -> None:
    assert [cases_for_margin(d, m) for d, m in ((0.1, 0.05), (0.25, 0.05), (0.05, 0.02), (0.25, 0.02))] == [
        314,
        785,
        982,
        4906,
    ]


@pytest.mark.parametrize("null", [0.0, -0.25])
def test_flips_of_group_sums_spend_what_all_their_signs_listed_one_by_one_spend(null: float) -> None:
    """Twelve groups: each of the 4,096 choices of signs is followed by itself."""
    generator, groups = np.random.default_rng(11), 12
    signs = np.array([[1 if at >> n & 1 else -1 for n in range(groups)] for at in range(2**groups)])
    verdicts = set()
    for _ in range(60):
        sizes = generator.integers(1, 6, groups)
        totals = generator.integers(-3, 8, groups) / 4.0
        steps = totals - sizes * null
        test, alive = SpendingFlips(0.05, null, unit=0.25), np.ones(len(signs), dtype=bool)
        seen, crossed = 0.0, 0
        for n in range(groups):
            share = float(sizes[: n + 1].sum() / sizes.sum())
            test.add(float(totals[n]), int(sizes[n]), share)
            seen += float(steps[n])
            if n < 5:
                continue
            paths = np.abs(signs[:, : n + 1] @ np.abs(steps[: n + 1]))
            room = obrien_fleming(share, 0.05)
            for end in np.unique(paths[alive].round(9))[::-1]:
                beyond = ~alive | (paths >= end - 1e-9)
                if beyond.mean() > room:
                    break
                alive = ~beyond
            assert test.crossed_chance == pytest.approx(1 - alive.mean(), abs=1e-9)
            if not crossed and abs(seen) > paths[alive].max() + 1e-9:
                crossed = 1 if seen > 0 else -1
            assert test.crossed == crossed
            assert test.crossed_chance <= 0.05
        verdicts.add(crossed)
    assert {0, 1} <= verdicts


# -- how often it is wrong


Draw = Callable[[np.random.Generator], tuple[float, float]]


def pass_fail(better: float, worse: float) -> Draw:
    """Chances that only b passes, and that only a does."""

    def draw(generator: np.random.Generator) -> tuple[float, float]:
        u = generator.random()
        return (0.0, 1.0) if u < better else (1.0, 0.0) if u < better + worse else (1.0, 1.0)

    return draw


def rare_disasters(generator: np.random.Generator) -> tuple[float, float]:
    """Mean 0: a little better in 95 %, far worse in 5 %."""
    return (0.8, 0.04) if generator.random() < 0.05 else (0.8, 0.84)


def watch(draw: Draw, planned: int, seed: int, **how: object) -> tuple[str, int]:
    generator, family = np.random.default_rng(seed), Family(["a", "b"], planned, **how)  # type: ignore[arg-type]
    while not family.is_settled and family.cases < planned:
        a, b = draw(generator)
        family.look({"a": a, "b": b})
    return str(family.rows("s")[0].outcome), family.cases


@pytest.mark.parametrize(
    ("draw", "planned", "how", "most"),
    [
        (pass_fail(0.125, 0.125), 100, {"margin": 0}, 0.055),
        (pass_fail(0.25, 0.25), 100, {"margin": 0.05}, 0.055),
        (pass_fail(0.125, 0.125), 100, {"margin": 0, "alpha": 0.02}, 0.025),
        (pass_fail(0.125, 0.125), 100, {"margin": 0, "open_ended": True}, 0.055),
        (rare_disasters, 200, {"margin": 0}, 0.06),
    ],
)
def test_looked_at_after_every_case_a_tie_is_called_a_difference_no_more_often_than_it_may(
    draw: Draw, planned: int, how: dict[str, object], most: float
) -> None:
    runs = 400
    wrong = sum(watch(draw, planned, seed, **how)[0] in ("better", "worse") for seed in range(runs))
    # Three standard errors of luck; 60,000 runs: tests/benchmarks/bench_stopping.py.
    assert wrong / runs <= most + 3 * math.sqrt(most * (1 - most) / runs)


def test_a_clear_difference_is_found_early_and_equals_are_found_to_be_no_worse() -> None:
    found = [watch(pass_fail(0.2, 0.05), 131, seed) for seed in range(100)]
    assert sum(outcome == "better" for outcome, _ in found) >= 78
    assert np.mean([n for _, n in found]) < 90
    equal = [watch(pass_fail(0.05, 0.05), 400, seed) for seed in range(60)]
    assert sum(outcome in ("no worse", "no better") for outcome, _ in equal) >= 35
    assert np.mean([n for _, n in equal]) < 395


def test_one_that_is_worse_by_the_margin_is_called_no_worse_in_at_most_five_percent() -> None:
    found = [watch(pass_fail(0.05, 0.10), 200, seed)[0] for seed in range(300)]
    assert sum(outcome in ("no worse", "better") for outcome in found) / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_among_many_candidates_one_told_apart_leaves_its_share_of_alpha_to_the_others() -> None:
    """c loses every case, so that a and b are soon compared at the level of one pair rather than of three."""
    generator = np.random.default_rng(0)
    three, alone = Family(["a", "b", "c"], 200, margin=0), Family(["a", "b"], 200, margin=0)
    for _ in range(200):
        a, b = pass_fail(0.28, 0.12)(generator)
        three.look({"a": a, "b": b, "c": 0.0})
        alone.look({"a": a, "b": b})
    outcomes = {(row.a, row.b): row.outcome for row in three.rows("s")}
    assert outcomes["a", "c"] == outcomes["b", "c"] == "worse"
    assert outcomes["a", "b"] == alone.rows("s")[0].outcome == "better"
    assert three.rows("s")[0].looked == alone.rows("s")[0].looked


def test_a_look_at_fifteen_pairs_takes_less_than_half_a_millisecond() -> None:
    names, generator = list("abcdef"), np.random.default_rng(0)
    for scale in (1, 4):
        family = Family(names, 400)
        rows = [{n: float(generator.integers(0, scale + 1)) / scale for n in names} for _ in range(300)]
        family.look(rows[0])
        for row in rows[1:100]:  # What is worked out once is worked out by then.
            family.look(row)
        best = math.inf
        for start in range(100, 300, 20):
            began = time.thread_time()  # Not the time in which other processes have the processor.
            for row in rows[start : start + 20]:
                family.look(row)
            best = min(best, (time.thread_time() - began) / 20)
        assert best < 0.0005


# -- what it does


async def test_it_stops_when_one_is_better_and_tells_what_that_saved(tmp_path: Path) -> None:
    def behaves(said: str, before: int) -> str:
        return "right"

    with model_server(behaves) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            cases = [{"input": f"case {n}", "expected": "right"} for n in range(60)]

            def only_b(answer: object, output: str) -> float:
                return float(getattr(answer, "candidate", "") == B)

            comparison = await new_comparison(
                bench, cases, models=[A, B], scorers=[only_b], stop="settled", margin=0.05, concurrency=4
            )
            assert "there are 60" in comparison.forecast
            events = [event async for event in comparison.events()]
            grid = comparison.grid()
            [pair] = grid.pair_rows
            assert (pair.outcome, pair.looked, grid.status) == ("better", pair.n, "completed")
            assert pair.looked is not None
            assert pair.looked < 15
            assert pair.ci_low > 0
            assert len(server.asked) == len(grid.cells) <= 2 * pair.looked + 8
            saved = 120 - len(grid.cells)
            assert grid.verdict.startswith(
                f"In these {pair.looked} cases, {B} beats {A} by 100.0 points on only_b (95 % CI at every look"
            )
            assert f"Settled after {pair.looked} of 60 cases: {saved} of 120 calls were not needed." in grid.verdict
            assert f"{saved} of 120 calls" in grid._repr_html_()
            # While it runs, the interval is told as it stands; at the end as it was when it was settled.
            shown = [event for event in events if isinstance(event, ComparisonProgress)]
            assert shown[-1].pairs == (pair,)
            assert shown[-1].verdict == grid.verdict
            assert isinstance(events[-1], ComparisonEnded)
            assert events[-1].pairs == (pair,)
            # Every number is the same number, also read back, also when it is run again, which asks nothing.
            again = load_grid(bench, grid.id)
            assert (again.verdict, again.pair_rows) == (grid.verdict, grid.pair_rows)
            assert json.loads(json.dumps(again.to_json()))["pairs"][0]["outcome"] == "better"
            assert list(again.significance()["looked"]) == [pair.looked]
            asked = len(server.asked)
            rerun = await (
                await new_comparison(
                    bench, cases, models=[A, B], scorers=[only_b], stop="settled", margin=0.05, concurrency=4
                )
            ).run()
            assert (rerun.pair_rows, len(server.asked)) == (grid.pair_rows, asked)
            resumed = await (await resume_comparison(bench, grid.id, scorers=[only_b])).run()
            assert (resumed.verdict, len(server.asked)) == (grid.verdict, asked)


async def test_cases_are_asked_in_an_order_drawn_by_the_seed_and_looked_at_in_that_order(tmp_path: Path) -> None:
    with model_server(lambda said, _: "ok") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(
                bench, [f"case {n}" for n in range(12)], models=[A, B], scorers=["contains:ok"], stop="settled", seed=7,
                concurrency=1, margin=0.2,
            )  # fmt: skip
            grid = await comparison.run()
            said = list(dict.fromkeys(text for _, _, text in server.asked))
            inputs = {case.case_id: case.input for case in grid.cases}
            assert said == [inputs[id] for id in drawn([case.case_id for case in grid.cases], 7)]
            assert said != [f"case {n}" for n in range(12)]
            assert "not settled" in grid.verdict or "do not differ" in grid.verdict or "level" in grid.verdict
            assert "Looked at after every case; all 12 are used." in grid.verdict


async def test_grouped_cases_are_asked_group_by_group_and_looked_at_after_each(tmp_path: Path) -> None:
    cases = [{"input": f"case {n}", "document": f"d{n % 20}"} for n in range(80)]
    with model_server(lambda said, _: "ok") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:

            def good(answer: object) -> bool:
                return getattr(answer, "candidate", "") == B

            comparison = await new_comparison(
                bench, cases, models=[A, B], scorers=[good], stop="settled", group="document", concurrency=1
            )
            grid = await comparison.run()
            document = {case.case_id: case.vars["document"] for case in grid.cases}
            asked = [document[cell.case_id] for cell in sorted(grid.cells, key=lambda cell: cell.ended_at)]
            [pair] = grid.pair_rows
            assert pair.outcome == "better"
            assert pair.test == "flips of group sums, α spent by group"
            assert pair.looked is not None
            assert pair.looked % 4 == 0  # Whole documents.
            assert 6 * 4 <= pair.looked < 80
            assert len({tuple(asked[at : at + 8]) for at in range(0, pair.looked * 2, 8)}) == pair.looked // 4
            assert "Settled after" in grid.verdict


async def test_with_fewer_than_six_groups_nothing_is_settled(tmp_path: Path) -> None:
    cases = [{"input": f"case {n}", "document": f"d{n % 5}"} for n in range(50)]
    with model_server(lambda said, _: "ok") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:

            def good(answer: object) -> bool:
                return getattr(answer, "candidate", "") == B

            comparison = await new_comparison(
                bench, cases, models=[A, B], scorers=[good], stop="settled", group="document"
            )
            grid = await comparison.run()
            assert [pair.outcome for pair in grid.pair_rows] == ["not settled"]
            assert "Looked at after every group; all 50 are used." in grid.verdict


def test_groups_that_differ_by_chance_are_told_apart_no_more_often_than_they_may() -> None:
    """Ten documents of ten questions, each document easier for one of the two by chance: cases counted singly would be wrong in 30 of 100."""
    generator, wrong, groups = np.random.default_rng(5), 0, [document for document in range(10) for _ in range(10)]
    for _ in range(200):
        watched, shares = WatchedGroups(100, 0.05, groups), generator.beta(0.5, 0.5, size=10)
        looks = [
            watched.add((0.0, 1.0) if generator.random() < shares[document] else (1.0, 0.0)) for document in groups
        ]
        wrong += any(look.low_above(0.0) or look.high_below(0.0) for look in looks)
    assert wrong <= 0.05 * 200 + 2.6 * (200 * 0.05 * 0.95) ** 0.5


def test_graded_groups_with_rare_disasters_are_told_apart_no_more_often_than_they_may() -> None:
    """A little better in 95 % of the cases and far worse in 5 %, forty groups of five: flips alone call a tie a difference in 11 of 100."""
    generator, wrong, groups = np.random.default_rng(6), 0, [document for document in range(40) for _ in range(5)]
    for _ in range(300):
        watched = WatchedGroups(200, 0.05, groups)
        looks = [watched.add((0.8, 0.04 if worse else 0.84)) for worse in generator.random(200) < 0.05]
        wrong += any(look.low_above(0.0) or look.high_below(0.0) for look in looks)
    assert wrong <= 0.055 * 300


async def test_one_model_beside_itself_is_one_model(tmp_path: Path) -> None:
    async with Lab(tmp_path / "lab.duckdb") as lab:
        with pytest.raises(UsageError, match=r"takes no agents=\. Give model=… or agent=…"):
            await lab.aa(["x"], agents=["a", "b"])


@pytest.mark.parametrize("differ", [16, 21])
def test_few_grades_that_differ_by_the_same_are_told_apart_no_more_often_than_they_may_be(differ: int) -> None:
    """One model asked twice, where these of 100 cases differ by one grade: without the exact test it would be wrong in 8 of 100."""
    generator, wrong, runs = np.random.default_rng(differ), 0, 400
    for _ in range(runs):
        watched, steps = Watched(100, 0.05), np.zeros(100)
        steps[:differ] = generator.choice([-0.25, 0.25], differ)
        looks = [watched.add((0.5, 0.5 + float(step))) for step in generator.permutation(steps)]
        wrong += any(look.low_above(0.0) or look.high_below(0.0) for look in looks)
    assert wrong / runs <= 0.055 + 2 * math.sqrt(0.05 * 0.95 / runs)


async def test_graded_scores_are_not_looked_at_before_case_72(tmp_path: Path) -> None:
    with model_server(lambda said, _: said) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:

            def grade(answer: object, output: str) -> float:
                return (0.9 if getattr(answer, "candidate", "") == B else 0.4) + int(output.split()[-1]) % 7 / 100

            comparison = await new_comparison(
                bench, [f"case {n}" for n in range(90)], models=[A, B], scorers=[grade], stop="settled", concurrency=2
            )
            grid = await comparison.run()
            [pair] = grid.pair_rows
            assert (pair.outcome, pair.looked) == ("better", 72)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"models": [A]}, "Early stopping needs at least two candidates"),
        ({"scorers": []}, "Early stopping needs a scorer"),
        ({"scorers": [{"type": "pairwise", "model": MODEL}]}, "compares all answers at the end"),
        ({"group": "document", "open_ended": True}, "the number of groups must be known in advance"),
        ({"stop": "soon"}, "stop='soon' is not a valid value"),
        ({"margin": -1}, "margin=-1 is not possible"),
        ({"stop": None, "open_ended": True}, "applies only to early stopping"),
    ],
)
async def test_what_could_never_be_settled_is_refused_before_anything_is_asked(
    tmp_path: Path, options: dict[str, object], says: str
) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        given = {"models": [A, B], "scorers": ["contains:ok"], "stop": "settled"} | options
        with pytest.raises(UsageError, match=says):
            await new_comparison(bench, ["case"], **given)  # type: ignore[arg-type]


async def test_leaving_one_that_watches_stops_it_and_it_can_go_on(tmp_path: Path) -> None:
    with model_server(lambda said, _: "ok", delay_s=0.02) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(
                bench, [f"case {n}" for n in range(20)], models=[A, B], scorers=["contains:ok"], stop="settled", margin=0, concurrency=2
            )  # fmt: skip
            running = asyncio.create_task(comparison.run())
            while len(server.asked) < 10:
                await asyncio.sleep(0.01)
            comparison.cancel()
            first = await running
            assert first.status == "cancelled"
            assert first.watch is not None
            assert first.watch.looked < 20
            grid = await (await resume_comparison(bench, first.id)).run()
            assert grid.watch is not None
            assert (grid.status, grid.watch.looked) == ("completed", 20)
            assert len(server.asked) <= 40 + 2


async def test_one_model_beside_itself_is_called_better_no_more_often_than_allowed(tmp_path: Path) -> None:
    """Every third answer is a coin's."""
    heads = np.random.default_rng(4)

    def behaves(said: str, before: int) -> str:
        return "right" if int(said.split()[-1]) % 3 or heads.random() < 0.5 else "wrong"

    with model_server(behaves) as server:
        settings = Settings(openai_compatible={"loop": server.url})
        async with Lab(tmp_path / "lab.duckdb", settings=settings) as lab:
            found = await lab.aa([f"case {n}" for n in range(60)], model=A, scorers=["contains:right"], runs=300)
            assert (found.n, found.runs, len(server.asked)) == (60, 300, 120)
            assert 3 <= found.differ <= 18
            assert found.share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
            assert f"differs from itself in {found.differ} of 60 cases" in str(found)
            with pytest.raises(UsageError, match="No case has two scored answers"):
                await lab.aa(["case 1"], model=A)


async def test_a_script_is_told_before_it_runs_what_the_margin_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Lab(tmp_path / "lab.duckdb") as lab:
        await lab.compare(
            ["hello", "other"], models=["demo/echo", "demo/slow?ttft=0&tps=1000"], scorers=["contains:hello"], stop="settled",
            margin=0.02,
        )  # fmt: skip
    told = capsys.readouterr().out
    assert "no worse by more than 2 points takes about 1,963 cases" in told
    assert "there are 2. It is out of reach here" in told
