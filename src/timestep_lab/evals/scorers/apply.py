"""Run scorers over an answer: negation, weights, and one that fails leaves the others alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.javascript_values import ScriptError, Undefined, as_text
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, Tools, in_scorer_thread, passed, unknown
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.model.comparison import ScoreValue
from timestep_lab.model.errors import LabError

OVERALL = "overall"
ASSERTIONS = "assertions"
PASSED = "passed"


async def score_answer(scorers: Sequence[Scorer], answer: Answer, case: Case, tools: Tools) -> tuple[ScoreValue, ...]:
    """Each scorer's score, in order; then `assertions` (the case's own, by weight) with what it says by name, and `overall`, where there
    are such."""
    scores = [(await score_one(scorer, answer, case, tools))[0] for scorer in scorers if not scorer.pairwise]
    if case.assertions:
        scores += await _own_assertions(answer, case, tools)
    return with_overall(scores, scorers)


async def _own_assertions(answer: Answer, case: Case, tools: Tools) -> list[ScoreValue]:
    """`assertions`: the weighted mean, labelled pass or fail; then a score for each name that assertions were given, the mean of those of
    that name; and where the case has a threshold, `passed`. Only the first counts in `overall`."""
    own = [await score_one(make_scorer(spec), answer, case, tools) for spec in case.assertions]
    mean, passes, note = together(own, case.vars.get("__threshold"))
    found = [
        ScoreValue(
            scorer=ASSERTIONS, value=mean, label=None if passes is None else "pass" if passes else "fail", note=note,
            cached=_all_cached(score for score, _ in own),
        )
    ]  # fmt: skip
    for name in assertion_names([case]):
        alike = [s for spec, (s, _) in zip(case.assertions, own, strict=True) if spec.get("name") == name]
        source = alike[0].source if all(s.source == alike[0].source for s in alike) else "scorer"
        notes = "; ".join(dict.fromkeys(s.note for s in alike if s.note)) or None
        value = weighted_mean([replace(s, weight=1.0) for s in alike] if all(s.weight == 0 for s in alike) else alike)
        found.append(
            ScoreValue(scorer=name, value=value, weight=0.0, note=notes, source=source, cached=_all_cached(alike))
        )
    if "__threshold" in case.vars:
        found.append(ScoreValue(scorer=PASSED, value=None if passes is None else float(passes), weight=0.0, note=note))
    return found


def together(results: Sequence[tuple[ScoreValue, bool | None]], threshold: Any) -> tuple[float | None, bool | None, str | None]:  # fmt: skip
    """The weighted mean of assertions, whether they pass together (each of them, or with a threshold the mean), and why not."""
    mean = weighted_mean([score for score, _ in results])
    failed = [score.scorer for score, passes in results if passes is False]
    unscored = [s for s, _ in results if s.value is None]
    notes = [f"failed: {', '.join(failed)}"] if failed else []
    notes += [f"{s.scorer} could not score: {s.note or 'it gave no reason'}" for s in unscored]
    if unscored or mean is None:
        return mean, None, "; ".join(notes) or None
    passes = mean >= float(threshold) if threshold is not None else not failed
    return mean, passes, "; ".join(notes) or None


def assertion_names(cases: Iterable[Any]) -> list[str]:
    """The names that cases gave to assertions of their own."""
    return list(dict.fromkeys(str(spec["name"]) for case in cases for spec in case.assertions if spec.get("name")))


def _all_cached(scores: Iterable[ScoreValue]) -> bool:
    judged = [score.cached for score in scores if score.source == "judge"]
    return bool(judged) and all(judged)


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
            score = replace(score, value=1.0 - score.value)
        else:
            score = unknown(f"{score.value:g} is not between 0 and 1, so not: has no meaning")
    return ScoreValue(
        scorer=scorer.name, value=score.value, weight=scorer.weight, label=score.label, note=score.note,
        source="judge" if scorer.source == "judge" else "scorer", cached=score.cached,
    )  # fmt: skip


async def score_one(scorer: Scorer, answer: Answer, case: Case, tools: Tools) -> tuple[ScoreValue, bool | None]:
    """The score, and whether it passes as an assertion."""
    try:
        if scorer.transform:
            answer = await in_scorer_thread(transformed, scorer.transform, answer, case)
        score = await scorer.score(answer, case, tools)
    except ScriptError as error:
        score = passed(False, f"the answer cannot be transformed: {error}")
    except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the answer is paid for and the others score it
        score = unknown(why_not(error))
    return score_value(scorer, score), _passes(scorer, score)


def transformed(scripts: Sequence[str], answer: Answer, case: Case) -> Answer:
    """The answer, gone through scripts. Raises `ScriptError`."""
    value: Any = answer.output
    for script in scripts:
        value = read_script(script).run(value, case.template_vars())
        if isinstance(value, Undefined) or value is None:
            raise ScriptError(f"{script} gives {as_text(value)}")
    return replace(answer, output=as_text(value))


def _passes(scorer: Scorer, score: Score) -> bool | None:
    if scorer.weight == 0:
        return True
    if score.value is None:
        return None
    least = 1.0 if scorer.pass_at is None else scorer.pass_at
    passes = score.value >= least if score.passes is None else score.passes
    return passes != scorer.negate


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
