"""Scoring while a comparison goes on: each answer as it comes, pairs of answers when all of a case are there."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from timestep_lab.evals.prompts import asked_of
from timestep_lab.evals.scorers.apply import ASSERTIONS, OVERALL, score_answer, score_value, why_not, with_overall
from timestep_lab.evals.scorers.base import Answer, Scorer, Tools, unknown
from timestep_lab.evals.scorers.pairwise import Pairwise
from timestep_lab.types.comparison import CellRecord, ScoreValue

if TYPE_CHECKING:
    from timestep_lab.evals.budget import Budget
    from timestep_lab.evals.candidates import Candidate
    from timestep_lab.evals.cell_writer import CellWriter
    from timestep_lab.evals.datasets.case import Case
    from timestep_lab.evals.executor import Executor

_PAIRS_AT_ONCE = 16


class Judging:
    def __init__(
        self, scorers: Sequence[Scorer], candidates: Sequence[Candidate], executor: Executor, budget: Budget
    ) -> None:
        self._scorers = scorers
        self._pairwise = [cast(Pairwise, scorer) for scorer in scorers if scorer.pairwise]
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._budget = budget
        self._executor = executor
        self._tools = Tools(ask=self._ask)

    async def score(self, cell: CellRecord, case: Case) -> tuple[ScoreValue, ...]:
        """The scores of one answer; without `overall` as long as pairwise scores are still to come."""
        scores = await score_answer(self._scorers, self._answer(cell, case), case, self._tools)
        return tuple(s for s in scores if s.scorer != OVERALL) if self._pairwise else scores

    async def score_again(self, cell: CellRecord, case: Case) -> list[ScoreValue]:
        """What is missing among the scores of a cell: of scorers that have not scored it, of its own assertions, and `overall`."""
        there = {score.scorer for score in cell.scores}
        missing = [scorer for scorer in self._scorers if scorer.name not in there]
        own = case if ASSERTIONS not in there else replace(case, assertions=())
        scores = await score_answer(missing, self._answer(cell, case), own, self._tools)
        added = [score for score in scores if score.scorer != OVERALL]
        whole = () if self._pairwise else with_overall([*cell.scores, *added], self._scorers)
        return [*added, *(score for score in whole if score.scorer == OVERALL)]

    async def finish(
        self, cells: dict[tuple[str, str, int], CellRecord], cases: Mapping[str, Case], writer: CellWriter
    ) -> None:
        """Judge all answers to a case against each other, where that was not done before."""
        if not self._pairwise:
            return
        await writer.flush()
        rounds: dict[tuple[str, int], dict[str, CellRecord]] = defaultdict(dict)
        for cell in cells.values():
            if cell.status == "done":
                rounds[cell.case_id, cell.epoch][cell.candidate] = cell
        gate = asyncio.Semaphore(_PAIRS_AT_ONCE)

        async def judge(case_id: str, answers: Mapping[str, CellRecord]) -> None:
            async with gate:
                for cell, added in (await self._judge(cases[case_id], answers)).items():
                    old = cells[cell]
                    for score in added:
                        writer.add_score(old, score)
                    cells[cell] = _with_scores(old, added)

        await asyncio.gather(*(judge(case_id, answers) for (case_id, _), answers in rounds.items()))

    async def _judge(
        self, case: Case, answers: Mapping[str, CellRecord]
    ) -> dict[tuple[str, str, int], list[ScoreValue]]:
        added: dict[tuple[str, str, int], list[ScoreValue]] = {cell.key: [] for cell in answers.values()}
        for scorer in self._pairwise:
            if all(any(s.scorer == scorer.name for s in cell.scores) for cell in answers.values()):
                continue
            try:
                scores = await scorer.score_all(
                    {name: self._answer(cell, case) for name, cell in answers.items()}, case, self._tools
                )
            except Exception as error:  # noqa: BLE001 - whatever a scorer raises, the answers are paid for
                scores = {name: unknown(why_not(error)) for name in answers}
            for name, score in scores.items():
                if any(s.scorer == scorer.name for s in answers[name].scores):
                    continue
                added[answers[name].key].append(score_value(scorer, score))
        for cell in answers.values():
            all_scores = with_overall([*cell.scores, *added[cell.key]], self._scorers)
            if not any(s.scorer == OVERALL for s in cell.scores) and all_scores and all_scores[-1].scorer == OVERALL:
                added[cell.key].append(all_scores[-1])
        return added

    def _answer(self, cell: CellRecord, case: Case) -> Answer:
        """With what the candidate was shown, for judges to see."""
        candidate = self._candidates[cell.candidate]
        told = candidate.graph.root.instructions
        return Answer.of(cell, asked_of(candidate.record, case), told if isinstance(told, str) else None)

    async def _ask(self, model: str | None, instructions: str, prompt: str) -> str:
        """One question to a judge, traced and paid for like any other call. Raises what the provider raised, and `BudgetError`."""
        async with self._budget.judgement():
            trial = await self._executor.judge(model, instructions, prompt)
            self._budget.spend_on_judging(trial.cost_usd, (trial.input_tokens or 0) + (trial.output_tokens or 0))
        if trial.error is not None:
            raise trial.error
        return trial.output or ""


def _with_scores(cell: CellRecord, added: Sequence[ScoreValue]) -> CellRecord:
    return replace(cell, scores=(*cell.scores, *added))
