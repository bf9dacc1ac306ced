"""Run scorers over an answer: negation, weights, and one that fails leaves the others alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, Tools, unknown
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.types.comparison import ScoreValue
from timestep_lab.types.errors import LabError

OVERALL = "overall"
ASSERTIONS = "assertions"


async def score_answer(scorers: Sequence[Scorer], answer: Answer, case: Case, tools: Tools) -> tuple[ScoreValue, ...]:
    """Each scorer's score, in order; then `assertions` (the case's own, by weight) and `overall`, where there are such."""
    scores = [await _one(scorer, answer, case, tools) for scorer in scorers if not scorer.pairwise]
    if case.assertions:
        own = [await _one(make_scorer(spec), answer, case, tools) for spec in case.assertions]
        failed = [s.scorer for s in own if s.value == 0]
        notes = [f"failed: {', '.join(failed)}"] if failed else []
        notes += [f"{s.scorer} could not score: {s.note or 'it gave no reason'}" for s in own if s.value is None]
        judged = [s.cached for s in own if s.source == "judge"]
        cached = bool(judged) and all(judged)
        scores.append(
            ScoreValue(scorer=ASSERTIONS, value=weighted_mean(own), note="; ".join(notes) or None, cached=cached)
        )
    return with_overall(scores, scorers)


def with_overall(scores: Sequence[ScoreValue], scorers: Sequence[Scorer]) -> tuple[ScoreValue, ...]:
    """Adds `overall`, the weighted mean, once a user has given weights."""
    rest = [score for score in scores if score.scorer != OVERALL]
    if all(scorer.weight == 1.0 for scorer in scorers) or len(rest) < 2:
        return tuple(rest)
    return (*rest, ScoreValue(scorer=OVERALL, value=weighted_mean(rest)))


def weighted_mean(scores: Sequence[ScoreValue]) -> float | None:
    """The mean of what was scored, by weight; None when nothing was."""
    known = [(s.value, s.weight) for s in scores if s.value is not None and s.weight > 0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def score_value(scorer: Scorer, score: Score) -> ScoreValue:
    """Apply negation. A score that does not run from 0 to 1 has no opposite and is then unknown, as is one that is no finite number."""
    if score.value is not None and not math.isfinite(score.value):
        score = unknown(f"it gave {score.value}, which is no score")
    if scorer.negate and score.value is not None:
        if 0.0 <= score.value <= 1.0:
            score = dataclasses.replace(score, value=1.0 - score.value)
        else:
            score = unknown(f"{score.value:g} is not between 0 and 1, so not: has no meaning")
    return ScoreValue(
        scorer=scorer.name, value=score.value, weight=scorer.weight, label=score.label, note=score.note,
        source="judge" if scorer.source == "judge" else "scorer", cached=score.cached,
    )  # fmt: skip


async def _one(scorer: Scorer, answer: Answer, case: Case, tools: Tools) -> ScoreValue:
    try:
        return score_value(scorer, await scorer.score(answer, case, tools))
    except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the answer is paid for and the others score it
        return score_value(scorer, unknown(why_not(error)))


def why_not(error: Exception) -> str:
    """What a scorer that raised could not score for."""
    return str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"


def assertion_problems(case: Case) -> Mapping[int, str]:
    """Which of a case's own assertions cannot be read, before anything is spent."""
    problems = {}
    for position, spec in enumerate(case.assertions):
        try:
            make_scorer(spec)
        except LabError as error:
            problems[position] = str(error)
    return problems
