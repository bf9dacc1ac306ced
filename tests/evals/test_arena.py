"""Blind votes: nobody can tell who answered, the next pair tells most, ratings have the truth in their intervals."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from timestep_lab.evals.arena import (
    ELO_BASE,
    ELO_SCALE,
    Arena,
    Outcome,
    Vote,
    fit,
    information_gains,
    length_difference,
    next_pair,
    rank,
)
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.over_traces import Scrubber
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, ScoreValue
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.store.store import open_store

POOL = list("abcdef")
SEEDS = 100
MOST_VOTES = 250
LOOK_EVERY = 5


def true_strengths(seed: int) -> dict[str, float]:
    """Six models half a logit apart, in an order of the seed's."""
    order = np.random.default_rng(seed).permutation(6)
    return {POOL[place]: 0.5 * rank_ for rank_, place in enumerate(order)}


def vote_on(pair: tuple[str, str], strength: dict[str, float], generator: np.random.Generator) -> Vote:
    left, right = pair
    return Vote(
        left, right, "left" if generator.random() < 1 / (1 + math.exp(strength[right] - strength[left])) else "right"
    )


def votes_until_the_order_is_right(seed: int, *, informed: bool) -> int:
    """After how many votes the order found is the true one, and stays so up to `MOST_VOTES`."""
    strength, generator = true_strengths(seed), np.random.default_rng(1000 + seed)
    truth = sorted(POOL, key=lambda name: -strength[name])
    pairs = list(combinations(POOL, 2))
    votes: list[Vote] = []
    known, last_wrong = fit(POOL, votes), 0
    while len(votes) < MOST_VOTES:
        best = next_pair(known, generator=generator) if informed else None
        for _ in range(LOOK_EVERY):
            pair = best or pairs[int(generator.integers(len(pairs)))]
            votes.append(vote_on(pair, strength, generator))
        known = fit(POOL, votes)
        if [name for _, name in sorted(zip(-known.theta, POOL, strict=True))] != truth:
            last_wrong = len(votes)
    return last_wrong + LOOK_EVERY


def test_the_order_of_six_models_is_found_with_fewer_votes_than_by_random_pairs() -> None:
    informed = [votes_until_the_order_is_right(seed, informed=True) for seed in range(SEEDS)]
    random = [votes_until_the_order_is_right(seed, informed=False) for seed in range(SEEDS)]
    print(f"votes until the order stands: informed {np.mean(informed):.0f}, random {np.mean(random):.0f}")
    assert np.mean(informed) < 0.75 * np.mean(random)
    assert np.median(informed) < np.median(random)


def test_ratings_are_the_posterior_mode_that_scipy_finds() -> None:
    generator, strength = np.random.default_rng(5), true_strengths(5)
    votes = []
    for _ in range(200):
        left, right = generator.permutation(POOL)[:2]
        vote = vote_on((str(left), str(right)), strength, generator)
        votes.append(
            Vote(vote.left, vote.right, vote.outcome if generator.random() < 0.8 else "tie", float(generator.normal()))
        )

    def loss(beta: np.ndarray) -> float:
        total = float((beta**2).sum()) / 8.0
        for vote in votes:
            eta = beta[POOL.index(vote.left)] - beta[POOL.index(vote.right)] + beta[6] * vote.length
            share = {"left": 1.0, "right": 0.0, "tie": 0.5}[vote.outcome]
            total += share * math.log1p(math.exp(-eta)) + (1 - share) * math.log1p(math.exp(eta))
        return total

    expected = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-9}).x
    found = fit(POOL, votes)
    assert [*found.theta, found.length_effect] == pytest.approx(list(expected), abs=1e-4)


def test_intervals_hold_the_true_differences_and_length_is_told_apart_from_quality() -> None:
    """Voters like length: a wordy model of average quality is not rated above its worth."""
    generator = np.random.default_rng(8)
    quality, wordiness = {"plain": 0.0, "wordy": 0.0, "good": 0.8}, {"plain": 0.0, "wordy": 0.5, "good": 0.0}
    votes = []
    for _ in range(1500):
        left, right = (str(name) for name in generator.permutation(list(quality))[:2])
        length = wordiness[left] - wordiness[right] + generator.normal(0, 0.2)
        eta = quality[left] - quality[right] + 2.0 * length
        votes.append(Vote(left, right, "left" if generator.random() < 1 / (1 + math.exp(-eta)) else "right", length))
    ranking = rank(list(quality), votes)
    rating = {r.name: r for r in ranking.ratings}
    assert ranking.length_effect == pytest.approx(2.0, abs=0.4)
    assert abs(rating["wordy"].rating - rating["plain"].rating) < 60
    assert ranking.ratings[0].name == "good"
    assert all(r.ci_low < r.rating < r.ci_high for r in ranking.ratings)
    blind = {r.name: r.rating for r in rank(list(quality), [Vote(v.left, v.right, v.outcome) for v in votes]).ratings}
    assert blind["wordy"] - blind["plain"] > 100


def test_the_next_pair_is_one_whose_order_is_in_doubt() -> None:
    votes = [Vote("a", "c", "left")] * 30 + [Vote("b", "c", "left")] * 30 + [Vote("a", "b", "tie")] * 4
    gains = information_gains(fit(["a", "b", "c"], votes))
    assert max(gains, key=lambda pair: gains[pair]) == ("a", "b")


def test_without_votes_nobody_is_better_and_intervals_are_without_end() -> None:
    ranking = rank(["a", "b"], [])
    assert {r.rating for r in ranking.ratings} == {1000.0}
    assert ranking.ratings[0].ci_low == -math.inf


@pytest.mark.parametrize("outcome", ["left", "right", "tie"])
@pytest.mark.parametrize("n", [6, 30])
def test_votes_that_all_agree_leave_an_interval_with_a_width(outcome: Outcome, n: int) -> None:
    for rating in rank(["a", "b"], [Vote("a", "b", outcome)] * n).ratings:
        assert rating.ci_low < rating.rating - 20
        assert rating.ci_high > rating.rating + 20


@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_of_few_votes_hold_the_truth_as_often_as_they_say(n: int) -> None:
    """Counted exactly over all outcomes of n votes between two models up to 98:2 apart."""
    truths = np.linspace(0, 4, 41)
    chance = 1 / (1 + np.exp(-truths))
    covered = np.zeros(len(truths))
    for wins in range(n + 1):
        votes = [Vote("a", "b", "left")] * wins + [Vote("a", "b", "right")] * (n - wins)
        a = next(r for r in rank(["a", "b"], votes).ratings if r.name == "a")
        true = ELO_BASE + ELO_SCALE * truths / 2
        covered += (
            math.comb(n, wins) * chance**wins * (1 - chance) ** (n - wins) * ((a.ci_low <= true) & (true <= a.ci_high))
        )
    assert covered.mean() >= 0.95
    assert covered.min() >= 0.90


def test_a_single_vote_makes_an_order_but_no_interval() -> None:
    first, second = rank(["a", "b"], [Vote("a", "b", "left")]).ratings
    assert (first.name, first.rating > second.rating) == ("a", True)
    assert (first.ci_low, first.ci_high) == (-math.inf, math.inf)
    assert math.isfinite(rank(["a", "b"], [Vote("a", "b", "left")] * 5).ratings[0].ci_low)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("I am ChatGPT, made by OpenAI.", ("ChatGPT", "OpenAI")),
        ("As Claude Sonnet 4.5 by Anthropic I say yes.", ("Claude", "Sonnet", "Anthropic")),
        ("I'm openai/gpt-4.1-mini!", ("gpt", "4.1", "mini")),
        ("Qwen3:8b via Ollama", ("Qwen", "Ollama", "8b")),
        ("It costs $3 per million tokens.", ("$3",)),
        ("Echo (no language model): hello", ("no language model",)),
        ("My name is house-bot.", ("house-bot",)),
        ("House Bot at your service.", ("House Bot",)),
        ("I am Claude. Grok here. As Gemini, I was trained by Google.", ("Claude", "Grok", "Gemini", "Google")),
        ("The Weather Assistant hands over. I am Scout.", ("Weather Assistant", "Scout")),
    ],
)
def test_names_model_words_and_prices_are_scrubbed(text: str, gone: tuple[str, ...]) -> None:
    clean = Scrubber(["openai/gpt-4.1-mini", "mine/house-bot", "Weather Assistant", "Scout · temperature=0"]).text(text)
    assert not any(word.casefold() in clean.casefold() for word in gone)
    assert "▮▮▮" in clean


@pytest.mark.parametrize(
    "text",
    [
        "A llamas-only farm? No: grokking takes time.",
        "The bag costs $3.",
        "Metaphors, novae and a phial.",
        "The weather in Oakland is fog; your assistant says: take a coat. An echo answers the scout at this temperature.",
        "Claude Monet saw a llama, wrote a haiku and a sonnet under Gemini in the mistral.",
        "Microsoft was founded in 1975, Google in 1998; ideas cohere.",
        "In prompt 1 the default model of a house is small.",
    ],
)
def test_ordinary_words_and_prices_of_things_stay(text: str) -> None:
    names = [
        "openai/gpt-4.1",
        "Weather Assistant · demo/assistant · temperature=0.2 · prompt 1",
        "demo/echo",
        "Scout",
        "default model",
    ]
    assert Scrubber(names).text(text) == text


def test_a_step_that_names_a_candidate_names_nobody() -> None:
    steps = {"type": "handoff", "from": "Scout", "to": "Weather", "arguments": {"text": "the weather"}}
    assert Scrubber(["Scout", "Weather"]).value(steps) == {
        "type": "handoff", "from": "▮▮▮", "to": "▮▮▮", "arguments": {"text": "the weather"},
    }  # fmt: skip


def small_grid() -> Grid:
    cases = tuple(
        CaseRecord(comparison_id="cmp_1", case_id=f"case_{i}", position=i, input=f"question {i}") for i in range(3)
    )
    names = ("demo/one", "demo/two")
    cells = [
        CellRecord(
            comparison_id="cmp_1", case_id=case.case_id, candidate=name, epoch=0, status="done", output=f"I am {name}, saying {i}.",
            latency_ms=1.0, cost_usd=0.5, scores=(ScoreValue(scorer="judge", value=float(name == "demo/one")),),
            steps=({"type": "handoff", "from": "x", "to": name},),
        )
        for case in cases
        for i, name in enumerate(names)
    ]  # fmt: skip
    record = ComparisonRecord(
        id="cmp_1", user_id=LOCAL_USER, name="n", candidates=tuple({"name": n, "model": n} for n in names)
    )
    return Grid(record, cases, cells)


def test_a_duel_says_nothing_of_who_fights_and_a_vote_is_a_row(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lab.duckdb"))
    rows = ComparisonRows(store.db, LOCAL_USER)
    arena = Arena(rows, small_grid(), seed=1)
    duel = arena.next()
    assert duel is not None
    assert "demo" not in repr(duel)
    assert "0.5" not in repr(duel)
    revealed = arena.vote(duel.id, "left")
    assert {revealed.left, revealed.right} == {"demo/one", "demo/two"}
    with pytest.raises(NotFoundError, match="voted on already"):
        arena.vote(duel.id, "left")
    [kept] = rows.votes.find()
    assert (kept.left_candidate, kept.outcome, kept.source) == (revealed.left, "left", "human")
    store.close()


def test_every_pair_is_shown_once_and_the_votes_of_an_earlier_day_count(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lab.duckdb"))
    rows = ComparisonRows(store.db, LOCAL_USER)
    arena = Arena(rows, small_grid(), seed=2)
    for _ in range(2):
        duel = arena.next()
        assert duel is not None
        left = arena._open[duel.id][2]
        arena.vote(duel.id, "left" if left == "demo/one" else "right")
    later = Arena(rows, small_grid(), seed=3)
    duel = later.next()
    assert duel is not None
    later.vote(duel.id, "both_bad")
    assert later.next() is None
    ranking = later.ranking()
    assert [r.name for r in ranking.ratings] == ["demo/one", "demo/two"]
    agreement = later.agreement_with("judge")
    assert (agreement.n, agreement.observed) == (3, pytest.approx(2 / 3))
    with pytest.raises(UsageError, match="is not a valid vote"):
        later.vote(duel.id, "neither")  # type: ignore[arg-type]
    store.close()


def test_length_is_compared_in_words() -> None:
    assert length_difference("one two three", "one") == 0.5
    assert length_difference("", "") == 0.0
