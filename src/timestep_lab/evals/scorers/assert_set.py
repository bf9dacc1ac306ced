"""Assertions that count as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, Tools, scorer
from timestep_lab.model.errors import UsageError


@scorer("assert_set")
@dataclass(frozen=True, kw_only=True)
class AssertSet(Scorer):
    """The weighted mean of several scorers. It passes when each of them does, or with `pass_at` when the mean is that high."""

    assertions: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not self._made():
            raise UsageError("The scorer assert_set needs assertions.", 'Give [{"type": "contains", …}, …].')

    def _made(self) -> list[Scorer]:
        from timestep_lab.evals.scorers.registry import make_scorer

        return [make_scorer(spec) for spec in self.assertions]

    @property
    def judges(self) -> Sequence[Scorer]:
        return [judge for inner in self._made() for judge in inner.judges]

    def check(self, answer: Answer, case: Case) -> Score:
        return asyncio.run(self.score(answer, case, Tools()))

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        from timestep_lab.evals.scorers.registry import score_one, together

        results = [await score_one(inner, answer, case, tools) for inner in self._made()]
        mean, passes, note = together(results, self.pass_at)
        judged = [score.cached for score, _ in results if score.source == "judge"]
        return Score(mean, note, cached=bool(judged) and all(judged), passes=passes)
