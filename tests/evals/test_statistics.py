"""The statistics against SciPy and statsmodels, to 1e-9 where those have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

from timestep_lab.evals.rules import Ratio, harrell_davis_weights, median_ratio, tail_ratio, typical_ratio
from timestep_lab.evals.statistics import (
    agreement,
    cases_to_settle,
    exact_mcnemar,
    holm,
    mean_interval,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    sign_flips,
    wilson,
)  # fmt: skip
from timestep_lab.evals.statistics.intervals import kappa_by_variance, tango, unseen
from timestep_lab.evals.statistics.paired import (
    batch_size,
    betting_p,
    cases_needed,
    least_p,
    resampled_means,
    skew_rule_p,
)

near = pytest.approx
counts = st.integers(0, 40)


def column(values: list[float]) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


@settings(deadline=None)
@given(counts, counts)
def test_exact_mcnemar_equals_statsmodels(wins: int, losses: int) -> None:
    expected = mcnemar([[3, wins], [losses, 5]], exact=True).pvalue if wins + losses else 1.0
    assert exact_mcnemar(wins, losses) == near(expected, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == near(list(multipletests(p_values, method="holm")[1]), abs=1e-9)


def test_weighted_holm_is_the_closure_of_weighted_bonferroni_tests() -> None:
    """Adjusted, p is the largest of all subsets it is in (Benjamini & Hochberg 1997; Hommel, Bretz & Maurer 2007)."""
    generator = np.random.default_rng(4)
    for _ in range(20):
        p, w = generator.random(5) ** 2, generator.choice([0.25, 1.0, 4.0], 5)
        subsets = [[n for n in range(5) if bits >> n & 1] for bits in range(1, 32)]
        by_hand = [
            min(
                1.0,
                max(min(p[j] * sum(w[k] for k in subset) / w[j] for j in subset) for subset in subsets if n in subset),
            )
            for n in range(5)
        ]
        assert holm(list(p), list(w)) == near(by_hand, abs=1e-9)


def test_holm_ignores_comparisons_that_could_not_be_tested() -> None:
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == near(0.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == near(0.04)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_pass_rate_is_wilsons(case: tuple[int, int]) -> None:
    passes, n = case
    low, high = proportion_confint(passes, n, method="wilson")
    ours = wilson(passes, n)
    assert (ours.low, ours.high) == near((max(0.0, low), min(1.0, high)), abs=1e-9)


def halls(differences: np.ndarray, mean: float) -> float:
    """Hall's transformed t of `differences − mean`, from SciPy's skewness."""
    n, g = len(differences), float(scipy.stats.skew(differences))
    w = (differences.mean() - mean) / differences.std(ddof=1)
    return math.sqrt(n) * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n))


@settings(max_examples=40, deadline=None)
@given(st.integers(72, 200), st.floats(0.1, 1.2), st.integers(0, 2**32 - 1))
def test_graded_scores_have_the_larger_p_of_scipys_t_and_halls_and_the_hull_of_their_intervals(
    n: int, sigma: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.random(n), generator.random(n) + generator.lognormal(0, sigma, n)
    student = scipy.stats.ttest_rel(b, a)
    reach = scipy.stats.t.ppf(0.975, n - 1)
    halls_p = 2 * scipy.stats.t.sf(abs(halls(b - a, 0.0)), n - 1)
    ours = paired_difference(column(a), column(b))
    if n < 10 * scipy.stats.skew(b - a) ** 2:
        assert math.isnan(ours.p_value)
    else:
        assert ours.test == "skew-corrected t"
        exact = sign_flips(b - a) if max(student.pvalue, halls_p) <= 0.2 else least_p(n)
        assert ours.p_value == near(max(student.pvalue, halls_p, exact), abs=1e-9)
    wide = 20 * (b - a).std(ddof=1)
    middle = (b - a).mean()
    limits = [
        brentq(lambda m, t=t: halls(b - a, m) - t, middle - wide, middle + wide, xtol=1e-13) for t in (reach, -reach)
    ]
    interval = student.confidence_interval(0.95)
    assert (ours.ci_low, ours.ci_high) == near((min(limits[0], interval.low), max(limits[1], interval.high)), abs=1e-7)


@pytest.mark.parametrize("differ", [8, 16, 21, 30])
def test_few_grades_that_differ_by_the_same_are_told_apart_as_seldom_as_pass_fail_cases_are(differ: int) -> None:
    """Counted over all outcomes: Student's t alone calls a tie a difference in 7.8 % where 21 of 100 cases differ by one grade."""
    called = 0.0
    for wins in range(differ + 1):
        differences = np.array([0.25] * wins + [-0.25] * (differ - wins) + [0.0] * (100 - differ))
        result = paired_difference(column(list(0.5 - differences / 2)), column(list(0.5 + differences / 2)))
        called += float(scipy.stats.binom.pmf(wins, differ, 0.5)) * (result.p_value <= 0.05)
    assert called <= 0.05


def test_betting_on_pass_fail_differences_has_the_closed_form_of_a_uniform_mixture() -> None:
    """Half of ∫(1+λ)^w (1−λ)^l dλ from −1 to 1 is 2^(w+l) times the beta function of w+1 and l+1."""
    for wins, losses in ((3, 0), (9, 2), (20, 11), (4, 4)):
        wealth = 2.0 ** (wins + losses) * scipy.special.beta(wins + 1, losses + 1)
        differences = np.array([1.0] * wins + [-1.0] * losses)
        assert betting_p(differences) == near(min(1.0, 1 / wealth), rel=1e-9)


def test_below_72_graded_cases_only_what_holds_for_every_shape_of_scores_is_believed() -> None:
    generator = np.random.default_rng(4)
    a = generator.uniform(0.2, 0.6, (60, 1))
    clear = paired_difference(a, a + generator.uniform(0.2, 0.4, (60, 1)))
    assert clear.test == "betting"
    assert clear.p_value < 0.05
    small = paired_difference(a, a + generator.uniform(-0.02, 0.08, (60, 1)))
    assert small.ci_low > 0, "Student would be sure"
    assert small.p_value > 0.05
    assert small.cases_to_settle == 12
    endless = paired_difference(10 * a, 10 * a + generator.uniform(2, 4, (60, 1)))
    assert math.isnan(endless.p_value), "on a scale without ends nothing holds for every shape"


def test_intervals_of_scores_from_0_to_1_do_not_go_beyond_them() -> None:
    mean = mean_interval(column([1, 1, 1, 0.75, 1]))
    assert mean.high == 1.0
    assert mean.low < 0.85
    difference = paired_difference(column([0.1] * 9 + [0.0]), column([1.0] * 9 + [1.0]))
    assert difference.ci_high <= 1.0
    assert math.isnan(mean_interval(column([0.3])).low)


def test_the_bootstrap_draws_what_scipys_draws_from_the_same_seed() -> None:
    values = np.random.default_rng(3).normal(0.04, 0.3, 120)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, batch=batch_size(120), vectorized=True, method="percentile",
        rng=np.random.default_rng(7),
    )  # fmt: skip
    assert resampled_means(values, resamples=4000, seed=7) == near(theirs.bootstrap_distribution, abs=1e-9)


@pytest.mark.parametrize(("weights", "theirs"), [("none", None), ("linear", "linear"), ("quadratic", "quadratic")])
def test_kappa_and_its_interval_equal_statsmodels(weights: str, theirs: str | None) -> None:
    generator = np.random.default_rng(11)
    human = generator.integers(0, 4, 200)
    judge = np.where(generator.random(200) < 0.7, human, generator.integers(0, 4, 200))
    ours = agreement([int(v) for v in human], [int(v) for v in judge], weights=weights)  # type: ignore[arg-type]
    expected = cohens_kappa(np.array(ours.table), wt=theirs)
    table, k = np.array(ours.table) / ours.n, len(ours.labels)
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / (k - 1)
    credit = {"none": np.eye(k), "linear": 1 - distance, "quadratic": 1 - distance**2}[weights]
    kappa, interval = kappa_by_variance(table, ours.n, credit, 0.95)
    assert kappa == ours.kappa == near(expected.kappa, abs=1e-9)
    assert (interval.low, interval.high) == near((expected.kappa_low, expected.kappa_upp), abs=1e-9)
    # What is told is no narrower, and with 200 things hardly wider.
    assert interval.low - 0.03 < ours.ci_low <= interval.low < interval.high <= ours.ci_high < interval.high + 0.03
    assert ours.observed == near(float((human == judge).mean()))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_interval_of_kappa_covers_the_truth_also_of_twenty_things_that_are_nearly_all_labelled_alike(
    seed: int,
) -> None:
    """The large-sample interval by itself does in 27 of 100. Every truth and size: tests/benchmarks/bench_intervals.py."""
    generator, kappa, covered, known, shares = np.random.default_rng(seed), 0.95, 0, 0, np.array([0.8, 0.2])
    table = kappa * np.diag(shares) + (1 - kappa) * np.outer(shares, shares)
    for _ in range(200):
        drawn = generator.choice(4, 20, p=table.ravel())
        result = agreement([int(v) for v in drawn // 2], [int(v) for v in drawn % 2])
        known += not math.isnan(result.kappa)
        covered += result.ci_low <= kappa <= result.ci_high
    assert covered >= 0.93 * known
    alike = agreement([0, 1] * 10, [0, 1] * 10)
    assert (alike.kappa, alike.ci_high) == (1.0, 1.0)
    assert alike.ci_low < 0.9


def test_agreement_about_one_label_only_has_no_kappa() -> None:
    result = agreement(["good"] * 5, ["good"] * 5)
    assert result.observed == 1.0
    assert math.isnan(result.kappa)


@given(st.floats(0.01, 0.5), st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_the_forecast_equals_statsmodels_sample_size(diff: float, sd_null: float, sd: float) -> None:
    expected = normal_sample_size_one_tail(diff, 0.8, 0.025, std_null=sd_null, std_alternative=sd)
    assert cases_needed(diff, sd_null, sd) == near(expected, rel=1e-9)


def test_the_forecast_is_silent_when_no_number_of_cases_is_in_sight() -> None:
    assert cases_to_settle(100, 0.0, 0.5, 0.5) is None
    assert cases_to_settle(1, 0.1, 0.5, 0.5) is None
    assert cases_to_settle(1000, 0.5, 0.5, 0.5) == 0


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_and_pass_hat_k_are_the_shares_over_all_choices_of_k_tries(case: tuple[int, int, int]) -> None:
    tries, passes, k = case
    choices = list(combinations([True] * passes + [False] * (tries - passes), k))
    assert pass_at_k(tries, passes, k) == near(sum(map(any, choices)) / len(choices), abs=1e-12)
    assert pass_hat_k(tries, passes, k) == near(sum(map(all, choices)) / len(choices), abs=1e-12)


@pytest.mark.parametrize(("tries", "passes", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1)])
def test_pass_at_k_refuses_what_makes_no_sense(tries: int, passes: int, k: int) -> None:
    with pytest.raises(ValueError, match="k"):
        pass_at_k(tries, passes, k)


def test_tangos_interval_is_the_published_one() -> None:
    """Airway hyperresponsiveness of 21 children, 7 and 1 discordant (Fagerland, Lydersen & Laake 2014)."""
    published = tango(1, 7, 21)
    assert (published.low, published.high) == near((-0.517, -0.026), abs=5e-4)
    mirrored = tango(7, 1, 21)
    assert (mirrored.low, mirrored.high) == near((-published.high, -published.low), abs=1e-12)
    nothing_differs = tango(0, 0, 50)
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert (nothing_differs.low, nothing_differs.high) == near((-z2 / (50 + z2), z2 / (50 + z2)), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 20))
def test_tangos_limits_are_where_the_constrained_score_statistic_is_196(wins: int, losses: int, same: int) -> None:
    """The same limits by another road: the nuisance maximised numerically, the root found by SciPy."""
    n = wins + losses + same
    if n == 0:
        return

    def statistic(d: float) -> float:
        def slope(q: float) -> float:
            """Derivative of the log-likelihood in q = p(loss), with p(win) = q + d."""
            total = 0.0
            total += wins / (q + d) if wins else 0.0
            total += losses / q if losses else 0.0
            return total - (2 * same / (1 - 2 * q - d) if same else 0.0)

        low, high = max(0.0, -d) + 1e-13, (1 - d) / 2 - 1e-13
        if slope(low) <= 0:
            q = low
        elif slope(high) >= 0:
            q = high
        else:
            q = brentq(slope, low, high, xtol=1e-15)
        return (wins - losses - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))

    ours = tango(wins, losses, n)
    for limit, z in ((ours.low, 1.959963984540054), (ours.high, -1.959963984540054)):
        if -0.999 < limit < 0.999:
            assert statistic(limit) == near(z, abs=1e-4)


def test_cases_that_one_candidate_did_not_answer_are_left_out() -> None:
    a, b = column([1, 0, math.nan, 1]), column([1, 1, 1, math.nan])
    result = paired_difference(a, b)
    assert (result.n, result.diff, result.decided_by) == (2, 0.5, 1)


def test_repeats_are_averaged_within_their_case_and_not_taken_for_cases() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.random((30, 1)) < 0.6).astype(float), (generator.random((30, 1)) < 0.6).astype(float)
    once, tenfold = paired_difference(a, b), paired_difference(np.repeat(a, 10, axis=1), np.repeat(b, 10, axis=1))
    assert tenfold == once
    a_little_chance = np.repeat(b, 10, axis=1)
    a_little_chance[0, 0] = 1 - a_little_chance[0, 0]
    nearly = paired_difference(np.repeat(a, 10, axis=1), a_little_chance)
    assert (once.test, nearly.test, nearly.n) == ("exact McNemar", "exact sign flips", 30)
    assert nearly.p_value == near(once.p_value, abs=0.1)
    assert nearly.ci_high - nearly.ci_low == near(once.ci_high - once.ci_low, rel=0.25)


@pytest.mark.parametrize("n", [2, 4, 5, 6, 9])
def test_repeating_a_model_without_chance_proves_nothing_more(n: int) -> None:
    once, thrice = (paired_difference(np.zeros((n, e)), np.ones((n, e))) for e in (1, 3))
    assert thrice == once
    assert thrice.p_value == near(2.0 / 2**n)
    assert thrice.ci_low < 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=10))
def test_sign_flips_equal_scipys_exact_permutation_test(thirds: list[int]) -> None:
    """SciPy adds whole numbers here: sums of thirds that are equal would not be equal as it adds them."""
    differences = np.array(thirds) / 3
    expected = scipy.stats.permutation_test(
        (np.array(thirds, dtype=float),),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="two-sided",
    )
    assert sign_flips(differences) == near(expected.pvalue, abs=1e-9)


def test_sign_flips_of_scores_on_no_grid_are_scipys_to_three_digits() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, 14)
    expected = scipy.stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flips(differences) == near(expected.pvalue, abs=1e-3)


@given(counts, counts)
def test_sign_flips_of_pass_fail_scores_are_mcnemars_exact_test(wins: int, losses: int) -> None:
    differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 3)
    assert sign_flips(differences) == near(exact_mcnemar(wins, losses), abs=1e-12)


def test_sign_flips_of_very_many_cases_are_still_quick_and_close_to_the_normal_test() -> None:
    differences = np.random.default_rng(2).normal(0.02, 1.0, 9000)
    z = differences.sum() / math.sqrt((differences**2).sum())
    assert sign_flips(differences) == near(2 * scipy.stats.norm.sf(abs(z)), rel=0.02)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_no_p_value_is_below_what_so_many_cases_allow(n: int, epochs: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for make in (lambda: generator.random((n, epochs)), lambda: generator.integers(0, 2, (n, epochs)).astype(float)):
        result = paired_difference(make() * 0.1, make() * 0.1 + 0.5)
        assert result.p_value >= 2.0 / 2**n - 1e-12


@pytest.mark.parametrize("noise", [0.0, 1e-16, 1e-9, 1e-4])
def test_two_cases_are_never_enough(noise: float) -> None:
    result = paired_difference(column([0.1, 0.2]), column([0.2, 0.3 + noise]))
    assert result.p_value >= 0.5
    assert result.ci_low < 0 < result.ci_high


def test_differences_that_are_all_alike_have_the_interval_of_what_was_not_seen() -> None:
    """At the ends of the scale it is Tango's and Wilson's; between, it still leaves room for what `n` cases may miss."""
    for n in (2, 10, 200):
        z2 = scipy.stats.norm.ppf(0.975) ** 2
        share = proportion_confint(0, n, method="wilson")[1]
        assert share == near(z2 / (n + z2))
        result = paired_difference(np.full((n, 1), 0.5), np.full((n, 1), 0.6))
        assert (result.ci_low, result.ci_high) == near((0.1 - share * 1.1, 0.1 + share * 0.9))
        assert result.test == ("exact sign flips" if n >= 72 else "betting")
        for wins in (0, n):
            ours, tangos = unseen(wins / n, n, -1.0, 1.0), tango(wins, 0, n)
            assert (ours.low, ours.high) == near((tangos.low, tangos.high), abs=1e-6)
            ours, wilsons = unseen(wins / n, n, 0.0, 1.0), wilson(wins, n)
            assert (ours.low, ours.high) == near((wilsons.low, wilsons.high), abs=1e-9)


def test_scores_that_are_all_alike_are_no_certainty() -> None:
    result = mean_interval(column([0.5, 0.5]))
    assert result.low < 0.2
    assert result.high > 0.8
    assert math.isnan(mean_interval(column([7.0, 7.0])).low), "a scale without ends has no such interval"


def test_alike_differences_on_a_scale_without_ends_have_a_p_value_but_no_interval() -> None:
    result = paired_difference(column(list(range(72))), column(list(range(3, 75))))
    assert (result.p_value, result.diff) == (near(2 / 2**72), 3.0)
    assert math.isnan(result.ci_low)


def test_nothing_differing_is_not_significant() -> None:
    same = np.random.default_rng(0).random((8, 2))
    result = paired_difference(same, same)
    assert (result.p_value, result.decided_by, result.cases_to_settle) == (1.0, 0, None)
    assert result.ci_low < 0 < result.ci_high


@pytest.mark.parametrize(("n", "more"), [(2, 4), (4, 2), (5, 1), (6, 0), (20, 0)])
def test_a_clean_sweep_is_settled_by_the_sixth_case(n: int, more: int) -> None:
    assert paired_difference(np.zeros((n, 1)), np.ones((n, 1))).cases_to_settle == more


def test_one_case_that_differs_is_said_to_differ() -> None:
    result = paired_difference(column([0.2]), column([0.4]))
    assert (result.n, result.decided_by, result.test) == (1, 1, "none")


def test_the_interval_of_repeated_pass_fail_scores_lies_between_all_alike_and_all_independent() -> None:
    alike = np.repeat(column([1, 0] * 20), 5, axis=1)
    independent = (np.random.default_rng(1).random((40, 5)) < 0.5).astype(float)
    width = {
        name: mean_interval(x).high - mean_interval(x).low for name, x in {"alike": alike, "free": independent}.items()
    }
    by_cases, by_trials = wilson(20, 40), wilson(100, 200)
    assert width["alike"] == near(by_cases.high - by_cases.low, rel=0.02)
    assert width["free"] == near(by_trials.high - by_trials.low, rel=0.2)


def test_an_unbroken_row_of_passes_is_not_certainty() -> None:
    result = mean_interval(np.ones((20, 3)))
    assert result.high == 1.0
    assert 0.8 < result.low < 0.9


def test_comparing_tables_of_different_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="cases × epochs"):
        paired_difference(np.ones((3, 1)), np.ones((4, 1)))


def grouped(seed: int, sizes: list[int], icc: float, kind: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Two models that are equally good, and the document that each case is about."""
    generator = np.random.default_rng(seed)
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    effect = generator.normal(0, math.sqrt(icc), len(sizes))[groups]
    noise = generator.normal(0, math.sqrt(1 - icc), len(groups)) + effect
    if kind == "normal":
        return column([0.0] * len(groups)), column(list(noise)), groups
    wins, losses = noise > 0.7, noise < -0.7
    return column(list(losses.astype(float))), column(list(wins.astype(float))), groups


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [([10] * 10, "normal"), ([10] * 10, "pass/fail"), ([2, 4, 6, 8] * 5, "normal"), ([2, 4, 6, 8] * 5, "pass/fail")],
)
def test_cases_of_one_document_are_not_taken_for_independent_ones(sizes: list[int], kind: str) -> None:
    runs, beats, covers, ignored = 600, 0, 0, 0
    for seed in range(runs):
        a, b, groups = grouped(seed, sizes, 0.3, kind)
        result = paired_difference(a, b, groups=groups)
        covers += result.ci_low <= 0 <= result.ci_high
        beats += result.p_value <= 0.05 and not result.ci_low <= 0 <= result.ci_high
        plain = paired_difference(a, b)
        ignored += plain.p_value <= 0.05 and not plain.ci_low <= 0 <= plain.ci_high
    # Two standard errors above 5.5 %, and below 93 %.
    assert beats / runs <= 0.055 + 2 * math.sqrt(0.055 * 0.945 / runs)
    assert covers / runs >= 0.93 - 2 * math.sqrt(0.07 * 0.93 / runs)
    assert ignored / runs > 0.1


@pytest.mark.parametrize("sizes", [[3, 5, 2, 7, 4, 6], [4] * 12, [1] * 9])
def test_the_interval_of_grouped_values_is_cr2_with_satterthwaites_degrees_of_freedom(sizes: list[int]) -> None:
    _, values, groups = grouped(1, sizes, 0.3, "normal")
    x, n = values[:, 0], len(groups)
    member = (np.array(groups)[:, None] == np.unique(groups)[None, :]).astype(float)
    residuals = np.eye(n) - 1.0 / n
    corrected = []
    for g in range(len(sizes)):
        rows = member[:, g] == 1
        eigenvalues, vectors = np.linalg.eigh(residuals[np.ix_(rows, rows)])
        root = vectors @ np.diag(1 / np.sqrt(eigenvalues)) @ vectors.T
        corrected.append((np.ones(rows.sum()) / n) @ root @ residuals[rows])
    parts = np.array(corrected)
    variance = float(((parts @ x) ** 2).sum())
    inner = parts @ parts.T
    freedom = np.trace(inner) ** 2 / (inner**2).sum()
    half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    result = paired_difference(np.zeros_like(values), values, groups=groups)
    assert (result.ci_low, result.ci_high) == (near(x.mean() - half, abs=1e-9), near(x.mean() + half, abs=1e-9))
    interval = mean_interval(values, groups=groups)
    assert (interval.low, interval.high) == (near(result.ci_low, abs=1e-9), near(result.ci_high, abs=1e-9))


def test_the_test_of_grouped_cases_flips_the_signs_of_whole_groups() -> None:
    _, values, groups = grouped(3, [3, 5, 2, 7, 4, 6, 8, 9] * 3, 0.1, "normal")
    sums = [float(values[np.array(groups) == g].sum()) for g in sorted(set(groups))]
    result = paired_difference(np.zeros_like(values), values, groups=groups)
    assert (result.p_value, result.test) == (near(sign_flips(np.array(sums)), abs=1e-9), "exact flips of group sums")


def test_rare_disasters_in_groups_are_told_apart_no_more_often_than_they_may() -> None:
    """A little better in 95 % of the cases and far worse in 5 %, forty groups of five: flips alone call a tie a difference in 11 of 100."""
    generator, groups, called = np.random.default_rng(2), [n // 5 for n in range(200)], 0
    for _ in range(300):
        differences = np.where(generator.random(200) < 0.05, -0.76, 0.04)
        result = paired_difference(
            column(list(0.5 - differences / 2)), column(list(0.5 + differences / 2)), groups=groups
        )
        called += result.p_value <= 0.05 and not result.ci_low <= 0 <= result.ci_high
    assert called <= 0.055 * 300


def test_of_fewer_than_six_groups_nothing_is_said() -> None:
    groups = [n % 5 for n in range(100)]
    result = paired_difference(column([0.0] * 100), column([1.0] * 100), groups=groups)
    assert (result.diff, result.test, math.isnan(result.p_value), math.isnan(result.ci_low)) == (
        1.0,
        "none",
        True,
        True,
    )
    assert math.isnan(mean_interval(column([0.0, 1.0] * 50), groups=groups).low)


def test_groups_that_all_say_the_same_are_no_certainty() -> None:
    groups = [n // 10 for n in range(100)]
    result = paired_difference(column([0.0] * 100), column([1.0] * 100), groups=groups)
    assert result.p_value == near(2**-9)
    assert result.ci_low == near(unseen(1.0, 10, -1.0, 1.0).low)


def test_the_typical_ratio_is_scipys_t_on_logarithms() -> None:
    generator = np.random.default_rng(1)
    a = generator.lognormal(6, 0.5, 40)
    b = a * generator.lognormal(0.1, 0.3, 40)
    found = typical_ratio(a, b)
    known = scipy.stats.ttest_1samp(np.log(b / a), 0.0)
    low, high = np.exp(known.confidence_interval(0.95))
    assert found.p_value == pytest.approx(known.pvalue, abs=1e-9)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=1e-9)
    assert found.ratio == pytest.approx(scipy.stats.gmean(b / a), abs=1e-9)


@pytest.mark.parametrize("n", [6, 21, 200])
def test_the_median_of_times_is_harrells_and_daviss(n: int) -> None:
    values = np.random.default_rng(n).lognormal(6, 1, n)
    known = float(scipy.stats.mstats.hdquantiles(values, prob=[0.5])[0])
    assert float(np.sort(values) @ harrell_davis_weights(n, 0.5)) == pytest.approx(known, rel=1e-9)


def test_the_slowest_twentieth_is_not_compared_below_72_cases() -> None:
    values = np.random.default_rng(0).lognormal(6, 1, 72)
    assert math.isnan(tail_ratio(values[:71], values[:71] * 2).ratio)
    assert tail_ratio(values, values * 2).interval.low == pytest.approx(2.0)


@pytest.mark.parametrize("ratio", [typical_ratio, median_ratio, tail_ratio])
def test_the_interval_of_a_ratio_of_times_covers_the_truth(ratio: Callable[..., Ratio]) -> None:
    generator, covered = np.random.default_rng(5), 0
    for _ in range(120):
        a = generator.lognormal(6, 0.5, 100)
        found = ratio(a * generator.lognormal(0, 0.2, 100), a * 1.2 * generator.lognormal(0, 0.2, 100))
        covered += found.interval.low <= 1.2 <= found.interval.high
    assert covered >= 120 * 0.93 - 3 * math.sqrt(120 * 0.93 * 0.07)


def test_cost_is_tested_by_the_larger_of_students_and_halls_p_and_not_at_all_where_it_is_too_skewed() -> None:
    generator = np.random.default_rng(3)
    differences = generator.lognormal(0, 0.3, 60) - 1.0
    student = scipy.stats.ttest_1samp(differences, 0.0).pvalue
    assert skew_rule_p(differences) >= student - 1e-12
    spiky = np.zeros(60)
    spiky[0] = 1.0
    assert math.isnan(skew_rule_p(spiky))
