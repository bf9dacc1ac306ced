"""Scoring while a comparison goes on: each answer as it comes, pairs of answers when all of a case are there.

A model that judges is asked the same thing once: readable replies are kept, in the lab's cache beside the answers.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

from timestep_lab.evals.cache import reply_key
from timestep_lab.evals.prompts import asked_of
from timestep_lab.evals.scorers.apply import (
    ASSERTIONS,
    OVERALL,
    PASSED,
    assertion_names,
    score_answer,
    score_value,
    why_not,
    with_overall,
)
from timestep_lab.evals.scorers.base import Answer, Scorer, Tools, unknown
from timestep_lab.evals.scorers.pairwise import Pairwise
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.model.comparison import CellRecord, ScoreValue
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.budget import Budget
    from timestep_lab.evals.candidates import Candidate
    from timestep_lab.evals.cell_writer import CellWriter
    from timestep_lab.evals.datasets.case import Case
    from timestep_lab.evals.executor import Executor
    from timestep_lab.evals.rows import ComparisonRows
    from timestep_lab.runtime.router import Router

_PAIRS_AT_ONCE = 16

Round = dict[str, CellRecord]
"""The answers of all candidates to one case in one epoch."""


class Judges:
    """Asks the models that judge, within the budget. `writer`, once there is one, takes their readable replies to the cache."""

    def __init__(
        self, router: Router, executor: Executor, budget: Budget, rows: ComparisonRows, *, writer: CellWriter | None = None
    ) -> None:  # fmt: skip
        self.writer = writer
        self._router, self._executor, self._budget, self._rows = router, executor, budget, rows
        self._replies: dict[str, str] = {}
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sought: dict[str, asyncio.Future[str | None]] = {}
        self._seeking: asyncio.Task[None] | None = None

    async def ask(self, model: str | None, instructions: str, prompt: str) -> str:
        """One question, traced and paid for like any other call. Raises what the provider raised, and `LabError` for want of budget."""
        async with self._budget.judgement():
            trial = await self._executor.judge(model, instructions, prompt)
            self._budget.spend_on_judging(trial.cost_usd, (trial.input_tokens or 0) + (trial.output_tokens or 0))
        if trial.error is not None:
            raise trial.error
        return trial.output or ""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        """See `Replies`. What is asked twice at the same time waits for the first reply."""
        key = reply_key(self._router.resolve(model).full, instructions, prompt)
        lock = self._under_way.setdefault(key, asyncio.Lock())
        async with lock:
            kept = self._replies.get(key) or await self._stored(key)
            if kept is not None:
                return kept, True
            reply = self._replies[key] = await ask()
            if self.writer is not None:
                self.writer.keep_reply(key, reply)
            return reply, False

    async def _stored(self, key: str) -> str | None:
        """From the store. All that is looked for during one query goes into the next."""
        found: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._sought[key] = found
        if self._seeking is None:
            self._seeking = asyncio.create_task(self._seek(), name="timestep-lab judgements")
        return await found

    async def _seek(self) -> None:
        while self._sought:
            sought, self._sought = self._sought, {}
            try:
                stored = await in_thread(self._rows.cached, list(sought))
            except Exception as error:  # noqa: BLE001 - handed on to all who wait for it
                for found in sought.values():
                    if not found.done():
                        found.set_exception(error)
                continue
            for key, found in sought.items():
                if not found.done():
                    found.set_result(stored[key]["reply"] if key in stored else None)
        self._seeking = None


class _Tally:
    """Stands in for judges while a plan is made: notes who would be asked what, and asks nobody."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.keys: dict[str, set[str]] = defaultdict(set)

    async def ask(self, model: str | None, instructions: str, prompt: str) -> str:
        full = self._router.resolve(model).full
        self.keys[full].add(reply_key(full, instructions, prompt))
        return ""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        return await self.ask(model, instructions, prompt), False


async def questions_to_judges(
    scorers: Sequence[Scorer], candidates: Sequence[Candidate], router: Router, cells: Iterable[CellRecord],
    cases: Iterable[Case],
) -> dict[str, set[str]]:  # fmt: skip
    """Model to the cache keys of what it would be asked to score these answers. An answer that is not there yet is stood in for by a
    text unlike any other. Nobody is asked."""
    tally = _Tally(router)
    judging = Judging(
        [scorer for scorer in scorers if scorer.source == "judge"], candidates, Tools(ask=tally.ask, replies=tally)
    )
    judged = {
        case.id: replace(case, assertions=tuple(a for a in case.assertions if make_scorer(a).judges)) for case in cases
    }
    there = [cell for cell in cells if cell.status == "done"]
    for cell in there:
        await judging.score_again(cell, judged[cell.case_id])
        await asyncio.sleep(0)
    for (case_id, _), answers in _rounds(there).items():
        await judging.judge_round(judged[case_id], answers)
    return tally.keys


class Judging:
    """Scores answers; `tools` are what scorers ask with."""

    def __init__(self, scorers: Sequence[Scorer], candidates: Sequence[Candidate], tools: Tools) -> None:
        self._scorers = scorers
        self._pairwise = [cast(Pairwise, scorer) for scorer in scorers if scorer.pairwise]
        self._candidates = {candidate.name: candidate for candidate in candidates}
        self._tools = tools

    async def score(self, cell: CellRecord, case: Case) -> tuple[ScoreValue, ...]:
        """The scores of one answer; without `overall` as long as pairwise scores are still to come."""
        scores = await score_answer(self._scorers, self._answer(cell, case), case, self._tools)
        return tuple(s for s in scores if s.scorer != OVERALL) if self._pairwise else scores

    async def score_again(self, cell: CellRecord, case: Case) -> list[ScoreValue]:
        """What is missing among the scores of a cell: of scorers that have not scored it, of its own assertions, and `overall`."""
        there = {score.scorer for score in cell.scores}
        missing = [scorer for scorer in self._scorers if scorer.name not in there]
        whole_case = {ASSERTIONS, *assertion_names([case]), *({PASSED} if "__threshold" in case.vars else ())}
        own = case if case.assertions and not whole_case <= there else replace(case, assertions=())
        scores = await score_answer(missing, self._answer(cell, case), own, self._tools)
        added = [score for score in scores if score.scorer != OVERALL and score.scorer not in there]
        whole = () if self._pairwise else with_overall([*cell.scores, *added], self._scorers)
        return [*added, *(score for score in whole if score.scorer == OVERALL)]

    async def finish(
        self, cells: dict[tuple[str, str, int], CellRecord], cases: Mapping[str, Case], writer: CellWriter
    ) -> None:
        """Judge all answers to a case against each other, where that was not done before."""
        if not self._pairwise:
            return
        await writer.flush()
        rounds = _rounds(cell for cell in cells.values() if cell.status == "done")
        gate = asyncio.Semaphore(_PAIRS_AT_ONCE)

        async def judge(case_id: str, answers: Round) -> None:
            async with gate:
                for cell, added in (await self.judge_round(cases[case_id], answers)).items():
                    old = cells[cell]
                    for score in added:
                        writer.add_score(old, score)
                    cells[cell] = _with_scores(old, added)

        await asyncio.gather(*(judge(case_id, answers) for (case_id, _), answers in rounds.items()))

    async def judge_round(self, case: Case, answers: Round) -> dict[tuple[str, str, int], list[ScoreValue]]:
        """Cell to the scores that follow from holding it against the others."""
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


def _rounds(cells: Iterable[CellRecord]) -> dict[tuple[str, int], Round]:
    """(case, epoch) to its answers."""
    rounds: dict[tuple[str, int], Round] = defaultdict(dict)
    for cell in cells:
        rounds[cell.case_id, cell.epoch][cell.candidate] = cell
    return rounds


def _with_scores(cell: CellRecord, added: Sequence[ScoreValue]) -> CellRecord:
    return replace(cell, scores=(*cell.scores, *added))
