"""The comparison engine: runs every candidate on every case, `epochs` times; each answer is traced, scored and stored.

    comparison = await prepare(bench, data, models=[…], scorers=[…])
    async for event in comparison.events(): …
    grid = comparison.grid()

A stored cell is final: after an interruption, `prepare(bench, resume=id)` runs only the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import agents as sdk

from timestep_lab.evals.attempt import (
    OWN_TRACE,
    Asker,
    Attempt,
    CellWriter,
    OnDelta,
    attempt,
    cache_key,
    cell_from_cache,
    collecting_seldom,
    limited,
)
from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.judging import Judges, Judging, asked_of, questions_to_judges
from timestep_lab.evals.pipelines import AT_ONCE, Asked, Endpoint
from timestep_lab.evals.plan import DEFAULT_CONCURRENCY, MOST_CONCURRENCY, Budget, Candidate, Options, Plan, make_plan
from timestep_lab.evals.results import ComparisonRows, EvalContext, deciding_scorer, group_of
from timestep_lab.evals.scorers.base import Scorer, Tools
from timestep_lab.evals.scorers.registry import OVERALL
from timestep_lab.evals.stopping import Watch, drawn, what_it_takes
from timestep_lab.evals.verdict import verdict
from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import (
    JUDGE,
    CandidateRecord,
    CellDelta,
    CellDone,
    CellRecord,
    CellStarted,
    ComparisonEnded,
    ComparisonProgress,
    ComparisonRecord,
    ComparisonStarted,
    ComparisonStatus,
    ProgressRow,
    ScoreValue,
)
from timestep_lab.model.errors import LabError, ProviderError
from timestep_lab.model.events import Event
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.router import ModelRef
from timestep_lab.runtime.run import RunLimits
from timestep_lab.runtime.tracing import install, uninstall
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.tape import Tape


# --- Executors: run candidates in this process, or on the workers of a cluster


class Executor(Protocol):
    async def ask(
        self, candidate: Candidate, asked: Asked, labels: Mapping[str, Json], on_delta: OnDelta | None
    ) -> Attempt:
        """Run one attempt. Errors of models, tools and guardrails are returned, not raised."""
        ...

    async def judge(self, model: str | None, instructions: str, prompt: str) -> Attempt: ...

    async def aclose(self) -> None: ...


class LocalExecutor:
    """Runs candidates on this process's event loop."""

    def __init__(self, context: EvalContext, options: Options, tape: Tape | None = None) -> None:
        self._context, self._options, self._tape = context, options, tape
        self._made: Asker | None = None

    @property
    def _asker(self) -> Asker:
        """The shared state of all attempts. From the first use until `aclose`, spans go to this lab's writer."""
        if self._made is None:
            context, options = self._context, self._options
            self._made = Asker(
                router=context.router, processor=install(context.writer), writer=context.writer, user_id=context.user_id,
                max_turns=options.max_turns, approve=options.approve, timeout_s=options.timeout_s, limits=options.limits,
                tape=self._tape, on_miss=options.on_miss,
            )  # fmt: skip
        return self._made

    async def ask(
        self, candidate: Candidate, asked: Asked, labels: Mapping[str, Json], on_delta: OnDelta | None
    ) -> Attempt:
        return await attempt(self._asker, candidate, asked, labels, on_delta)

    async def judge(self, model: str | None, instructions: str, prompt: str) -> Attempt:
        agent = sdk.Agent(name=JUDGE, instructions=instructions)
        ref = self._context.router.resolve(model)
        record = CandidateRecord(name=JUDGE, model=ref.full, agent=JUDGE)
        judge = Candidate(record, agent, BuiltGraph(root=agent, agents={JUDGE: agent}), ref, has_tools=False)
        return await attempt(replace(self._asker, tape=None, limits=RunLimits()), judge, prompt, {"judge": True})

    async def aclose(self) -> None:
        if self._made is not None:
            self._made = None
            uninstall(self._context.writer)


log = logging.getLogger("timestep_lab")

Slot = tuple[Candidate, Case, int]
PROGRESS_EVERY_S = 0.2
FIRST_RETRY_S = 1.0


class Comparison:
    """A comparison. Created by `prepare`; run it once, with `run` or by iterating over `events`.

    Example:
        comparison = await lab.prepare_comparison(["Say 4.", "Say 5."], models=["demo/echo"], scorers=["contains:4"])
        assert isinstance(comparison, Comparison)
        grid = await comparison.run()
    """

    def __init__(
        self, context: EvalContext, record: ComparisonRecord, dataset: Dataset, candidates: Sequence[Candidate], scorers: Sequence[Scorer],
        options: Options, done: Sequence[CellRecord] = (), *, executor: Executor | None = None, resumed: bool = False,
        again: Sequence[str] = (), judges: Sequence[ModelRef] = (), only_score: bool = False,
    ) -> None:  # fmt: skip
        self.record, self.dataset, self.candidates, self.scorers, self.options = (
            record,
            dataset,
            candidates,
            scorers,
            options,
        )
        self._context, self._resumed, self._again, self._judge_models = context, resumed, again, judges
        self._only_score, self._status_before = only_score, record.status
        self._rows = ComparisonRows(context.store.db, context.user_id)
        self._executor = executor or LocalExecutor(context, options)
        self._cells: dict[tuple[str, str, int], CellRecord] = {
            cell.key: cell for cell in done if cell.status == "done" or only_score
        }
        self._budget = Budget(options.budget_usd, options.budget_tokens)
        for cell in () if only_score else self._cells.values():
            if not cell.cached:
                self._budget.spend(cell.cost_usd, (cell.input_tokens or 0) + (cell.output_tokens or 0))
        self._judges = Judges(context.router, self._executor, self._budget, self._rows)
        replies = None if options.cache == "off" else self._judges
        self._judging = Judging(scorers, candidates, Tools(ask=self._judges.ask, replies=replies))
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._deltas = False
        self._working: asyncio.Task[None] | None = None
        self._stop: ComparisonStatus | None = None
        self._calls = self._running = 0
        self._began = time.monotonic()
        self._reported_at = 0.0
        self._room = asyncio.Condition()
        self._watch: Watch | None = None
        self._kept: dict[tuple[str, str, int], CellRecord] = {}
        """Cached answers that have not been looked at yet, in a comparison with early stopping."""

    # -- public interface

    async def run(self, on_event: Callable[[Event], None] | None = None) -> Grid:
        """Run to the end. A failing case becomes a cell with an error; only errors that end the comparison are raised,
        such as `StoreError`.
        """
        async with contextlib.aclosing(self.events()) as events:
            async for event in events:
                if on_event:
                    on_event(event)
        return self.grid()

    async def events(self, *, deltas: bool = False) -> AsyncGenerator[Event, None]:
        """Events as they happen, ending with `comparison.ended`. `deltas`: include the growing text of each cell.

        Leaving early stops the comparison; finished cells are kept, and it can be resumed.
        """
        self._deltas = deltas
        self._working = asyncio.create_task(self._work(), name=f"timestep-lab {self.record.id}")
        self._working.add_done_callback(lambda _: self._queue.put_nowait(None))
        try:
            while (event := await self._queue.get()) is not None:
                yield event
        finally:
            if not self._working.done():
                self.cancel()
                await asyncio.wait([self._working])
        self._working.result()

    def cancel(self) -> None:
        """Stop the comparison. Answers in progress are abandoned; finished ones are kept."""
        if self._working is not None and not self._working.done() and self._stop is None:
            self._stop = "cancelled"
            self._working.cancel()

    async def plan(self) -> Plan:
        """Estimated calls, cache hits, cost and time. Spends and writes nothing."""
        slots = self._open_slots()
        keys = self._cache_keys(slots)
        known = await in_thread(self._rows.cached, sorted(set(keys.values()))) if keys else {}
        to_ask: list[Slot] = []
        answers = [replace(cell, scores=self._scores_kept(cell)) for cell in self._cells.values()]
        for candidate, case, epoch in slots:
            stored = known.get(keys.get((candidate.name, case.id, epoch), ""))
            if stored is None:
                to_ask.append((candidate, case, epoch))
                unlike_others = f"{candidate.name} {case.id} {epoch}"
                stored = {"output": unlike_others}
            answers.append(cell_from_cache(stored, self.record.id, case, candidate.name, epoch))
        questions = await questions_to_judges(
            self.scorers, self.candidates, self._context.router, answers, self.dataset
        )
        return await in_thread(
            make_plan, self._rows, self.candidates, slots, to_ask, self.options, judges=self._judge_models, questions=questions
        )  # fmt: skip

    @property
    def forecast(self) -> str:
        """For a comparison with early stopping: how many cases its margin needs, stated before it starts. Empty for
        others.
        """
        chosen = self.options
        if not chosen.stop:
            return ""
        words = what_it_takes(len(self.dataset), len(self.candidates), alpha=chosen.alpha, margin=chosen.margin)
        return f"{words} Cases of one group count for less than as many single ones." if chosen.group else words

    def grid(self) -> Grid:
        """The results so far."""
        cases = self.dataset.records(self.record.id)
        return Grid(self.record, cases, list(self._cells.values()), seed=self.options.seed)

    # -- execution

    async def _work(self) -> None:
        error: str | None = None
        writer = self._judges.writer = CellWriter(self._rows, self.record.id, self._stored)
        asked = (candidate.model for candidate in self.candidates if candidate.pipeline is None)
        prefixes = {model.prefix for model in (*asked, *self._judge_models)}
        try:
            if self._resumed:
                wanted: dict[str, Any] = {"scorers": self.record.scorers, "settings": self.options.to_json()}
                if self._only_score:
                    wanted = {"scorers": self.record.scorers}
                going = await in_thread(self._rows.go_on, self.record, forget_failed=not self._only_score)
                self.record = replace(going, **wanted)
                await in_thread(lambda: self._rows.comparisons.update(self.record.id, **wanted))
            else:
                if quota := self._context.store.quota:
                    await in_thread(quota.take_comparison)
                await in_thread(self._rows.begin, self.record, self.dataset.records(self.record.id))
            # Calls in progress when the result is settled are wasted, so with early stopping the concurrency does not grow.
            at_once = self.options.concurrency or (DEFAULT_CONCURRENCY if self.options.stop else None)
            with collecting_seldom(), limited(self._context.router, prefixes, at_once):
                slots = [] if self._only_score else await self._from_cache(writer)
                self._emit(
                    ComparisonStarted(
                        comparison=self.record,
                        cases=self.dataset.records(self.record.id),
                        cells=tuple(self._cells.values()),
                    )
                )
                if self._resumed:
                    await self._score_again(writer)
                await self._begin_to_watch(writer)
                await self._ask_all(slots, writer)
                await self._judging.finish(self._cells, self._case_of(), writer)
            await writer.flush()
            if self._budget.used_up:
                self._stop = self._stop or "over_budget"
        except asyncio.CancelledError:
            self._stop = self._stop or "cancelled"
            with contextlib.suppress(Exception):
                await asyncio.shield(writer.flush())
        except Exception as failure:
            self._stop = "failed"
            error = str(failure) if isinstance(failure, LabError) else f"{type(failure).__name__}: {failure}"
            raise
        finally:
            await asyncio.shield(self._end(error))

    async def _ask_all(self, slots: Sequence[Slot], writer: CellWriter) -> None:
        """Run one pool of workers per provider, so that a slow provider does not delay others."""
        lanes: dict[str, deque[Slot]] = defaultdict(deque)
        for slot in slots:
            lanes[slot[0].model.prefix if slot[0].pipeline is None else slot[0].name].append(slot)
        width = self.options.concurrency or (DEFAULT_CONCURRENCY if self.options.stop else MOST_CONCURRENCY)
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes.values():
                    most = width if lane[0][0].pipeline is None else self.options.concurrency or AT_ONCE
                    for _ in range(min(most, len(lane))):
                        group.create_task(self._worker(lane, writer))
        except ExceptionGroup as several:
            raise several.exceptions[0] from several

    async def _worker(self, lane: deque[Slot], writer: CellWriter) -> None:
        while lane and self._stop is None and not (self._watch and self._watch.is_settled):
            if not await self._may_start():
                return
            if not lane:
                self._budget.running -= 1
                return
            candidate, case, epoch = lane.popleft()
            writer.check()
            if stored := self._kept.pop((case.id, candidate.name, epoch), None):
                self._budget.running -= 1
                self._scored(replace(stored, scores=await self._judging.score(stored, case)), writer)
                continue
            try:
                cell = await self._answer(candidate, case, epoch)
            finally:
                self._budget.running -= 1
                async with self._room:
                    self._room.notify_all()
            key = cache_key(candidate, asked_of(candidate.record, case), epoch, self.options, self._own(case))
            if cell.status == "done":
                if (
                    self._judge_models and key is not None
                ):  # Judging takes time: cache the answer first, so that it is not lost if the process dies now.
                    writer.keep_answer(key, cell)
                    key = None
                cell = replace(cell, scores=await self._judging.score(cell, case))
            self._scored(cell, writer, key)

    def _scored(self, cell: CellRecord, writer: CellWriter, key: str | None = None) -> None:
        """Look at the cell before it is written, so that nothing more is run once the result is settled."""
        if self._watch is not None:
            self._watch.take([cell])
        writer.add(cell, key)

    async def _may_start(self) -> bool:
        """Reserve budget for an answer; False if it is used up."""
        while True:
            room = self._budget.room_for_one()
            if room:
                self._budget.running += 1
                return True
            if room is False:
                self._stop = self._stop or "over_budget"
                return False
            async with self._room:
                await self._room.wait()

    async def _answer(self, candidate: Candidate, case: Case, epoch: int) -> CellRecord:
        """Try until there is an answer, the error is permanent, or the retries are used up."""
        asked = asked_of(candidate.record, case)
        self._emit(CellStarted(case_id=case.id, candidate=candidate.name, epoch=epoch))
        labels: dict[str, Json] = {
            "comparison_id": self.record.id,
            "case_id": case.id,
            "candidate": candidate.name,
            "epoch": epoch,
        }
        if own := self._own(case):
            labels[OWN_TRACE] = own
        emit_delta = self._teller(case.id, candidate.name, epoch) if self._deltas else None
        attempts, queue_ms, limited_ms = 0, 0.0, 0.0
        while True:
            attempts += 1
            self._calls += 1
            self._running += 1
            try:
                attempted = await self._executor.ask(candidate, asked, labels, emit_delta)
            finally:
                self._running -= 1
            queue_ms, limited_ms = queue_ms + attempted.queue_ms, limited_ms + attempted.rate_limit_ms
            self._budget.spend(attempted.cost_usd, (attempted.input_tokens or 0) + (attempted.output_tokens or 0))
            passing = isinstance(attempted.error, ProviderError) and attempted.error.retryable
            if attempted.error is None or not passing or attempts > self.options.retries:
                break
            await asyncio.sleep(getattr(attempted.error, "retry_after", None) or FIRST_RETRY_S * 2 ** (attempts - 1))
        return _cell(self.record.id, candidate, case, epoch, attempted, attempts, queue_ms, limited_ms)

    async def _from_cache(self, writer: CellWriter) -> list[Slot]:
        """Take cached answers; return the slots that remain to be run."""
        slots = self._open_slots()
        keys = self._cache_keys(slots)
        known = await in_thread(self._rows.cached, sorted(set(keys.values()))) if keys else {}
        left, cached = [], []
        for candidate, case, epoch in slots:
            stored = known.get(keys.get((candidate.name, case.id, epoch), ""))
            if stored is None:
                left.append((candidate, case, epoch))
            else:
                cached.append((cell_from_cache(stored, self.record.id, case, candidate.name, epoch), case))
        if self.options.stop:  # Scored one at a time, until the result is settled.
            self._kept = {cell.key: cell for cell, _ in cached}
            return slots
        gate = asyncio.Semaphore(self.options.concurrency or MOST_CONCURRENCY)

        async def score(cell: CellRecord, case: Case) -> CellRecord:
            async with gate:
                return replace(cell, scores=await self._judging.score(cell, case))

        for cell in await asyncio.gather(*(score(cell, case) for cell, case in cached)):
            self._cells[cell.key] = cell
            writer.add(cell)
        return left

    async def _score_again(self, writer: CellWriter) -> None:
        """Score stored answers that could not be scored before, or that new scorers apply to."""
        await writer.flush()
        await in_thread(self._rows.forget_scores, self.record.id, list(self._again))
        cases, gate = self._case_of(), asyncio.Semaphore(self.options.concurrency or MOST_CONCURRENCY)

        async def score(cell: CellRecord) -> None:
            existing = self._scores_kept(cell)
            left = replace(cell, scores=existing)
            async with gate:
                added = await self._judging.score_again(left, cases[cell.case_id])
            for one in added:
                writer.add_score(cell, one)
            self._cells[cell.key] = replace(left, scores=(*existing, *added))

        await asyncio.gather(*(score(cell) for cell in list(self._cells.values()) if cell.status == "done"))

    def _scores_kept(self, cell: CellRecord) -> tuple[ScoreValue, ...]:
        """The scores that remain valid when a comparison is resumed."""
        return tuple(s for s in cell.scores if s.value is not None and s.scorer not in (*self._again, OVERALL))

    def _open_slots(self) -> list[Slot]:
        """Unfinished slots: epoch by epoch, case by case, all candidates of a case together. With early stopping, whole
        cases in random order."""
        whole = [
            (candidate, case, epoch)
            for epoch in range(self.options.epochs)
            for case in self.dataset
            for candidate in self.candidates
            if (case.id, candidate.name, epoch) not in self._cells
            and case.is_for(candidate.record.model, candidate.record.prompt)
        ]
        if not self.options.stop:
            return whole
        place = {
            id: n for n, id in enumerate(drawn([case.id for case in self.dataset], self.options.seed, self._groups()))
        }
        return sorted(whole, key=lambda slot: place[slot[1].id])

    def _groups(self) -> list[str] | None:
        column = self.options.group
        return None if column is None else [group_of(case, column) or case.id for case in self.dataset]

    async def _begin_to_watch(self, writer: CellWriter) -> None:
        if not self.options.stop:
            return
        await writer.flush()
        deciding = deciding_scorer(self.record, self.dataset.records(self.record.id))
        self._watch = Watch(self.record, [case.id for case in self.dataset], [], deciding, self._groups())
        await in_thread(self._watch.take, list(self._cells.values()))

    def _cache_keys(self, slots: Sequence[Slot]) -> dict[tuple[str, str, int], str]:
        return {
            (c.name, case.id, epoch): key
            for c, case, epoch in slots
            if (key := cache_key(c, asked_of(c.record, case), epoch, self.options, self._own(case))) is not None
        }

    def _own(self, case: Case) -> str | None:
        """On tape, the trace whose recorded results a case prefers."""
        return None if self.options.tools is None else case.trace_id

    # -- events

    def _stored(self, cell: CellRecord) -> None:
        self._cells[cell.key] = cell
        self._emit(CellDone(cell=cell))
        self._progress()

    def _progress(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._reported_at >= PROGRESS_EVERY_S:
            self._reported_at = now
            pairs = tuple(self._watch.rows(self._watch.deciding)) if self._watch is not None else ()
            words = "" if self._watch is None else verdict(pairs, tail=self._watch.words)
            self._emit(ComparisonProgress(progress=self.progress(), pairs=pairs, verdict=words))

    def progress(self) -> ProgressRow:
        cells = list(self._cells.values())
        cached = sum(cell.cached for cell in cells)
        wanted = len(self._cells) + len(self._open_slots())
        fresh = self._budget.answers
        left = wanted - len(cells)
        mean_usd = self._budget.spent_usd / fresh if fresh else None
        rate = self._calls / (now - self._began) if (now := time.monotonic()) > self._began and self._calls else None
        return ProgressRow(
            total=wanted, done=len(cells), errors=sum(cell.status == "error" for cell in cells), cached=cached,
            running=self._running, waiting=max(0, left - self._running), calls=self._calls,
            spent_usd=self._budget.spent_usd, spent_tokens=self._budget.spent_tokens,
            expected_usd=None if mean_usd is None else self._budget.spent_usd + mean_usd * left,
            eta_s=left / rate if rate else None,
            concurrency={prefix: limiter.limit for prefix, limiter in self._context.router.limiters.items()},
        )  # fmt: skip

    def _teller(self, case_id: str, candidate: str, epoch: int) -> Callable[[str], None]:
        return lambda delta: self._emit(CellDelta(case_id=case_id, candidate=candidate, epoch=epoch, delta=delta))

    def _emit(self, event: Event) -> None:
        self._queue.put_nowait(event)

    def _case_of(self) -> dict[str, Case]:
        return {case.id: case for case in self.dataset}

    async def _end(self, error: str | None) -> None:
        await self._executor.aclose()
        for candidate in self.candidates:
            if isinstance(candidate.pipeline, Endpoint):
                await candidate.pipeline.aclose()
        spans = self._context.writer.barrier()
        status: ComparisonStatus = self._stop or (self._status_before if self._only_score else "completed")
        grid = self.grid()
        concluded = None if error else await in_thread(lambda: grid.conclusion)
        changes: dict[str, Any] = {"status": status, "error": error, "ended_at": utc_now(), "conclusion": concluded}
        self.record = grid.record = replace(self.record, **changes)
        with contextlib.suppress(LabError) if error else contextlib.nullcontext():
            await in_thread(lambda: self._rows.comparisons.update(self.record.id, **changes))
            await spans.reached()
        self._progress(always=True)
        self._emit(await in_thread(_ended, self.record, grid))


def _ended(record: ComparisonRecord, grid: Grid) -> ComparisonEnded:
    return ComparisonEnded(
        comparison=record, candidates=tuple(grid.candidate_rows), pairs=tuple(grid.pair_rows), verdict=grid.verdict,
        decision=tuple(grid.decision),
    )  # fmt: skip


def _cell(
    comparison_id: str,
    candidate: Candidate,
    case: Case,
    epoch: int,
    attempted: Attempt,
    attempts: int,
    queue_ms: float,
    limited_ms: float,
) -> CellRecord:
    failed = attempted.error
    return CellRecord(
        comparison_id=comparison_id, case_id=case.id, candidate=candidate.name, epoch=epoch,
        status="error" if failed else "done", output=attempted.output, error_type=type(failed).__name__ if failed else None,
        error=str(failed) if failed else None, latency_ms=attempted.latency_ms, queue_ms=queue_ms, rate_limit_ms=limited_ms,
        ttft_ms=attempted.ttft_ms, input_tokens=attempted.input_tokens, output_tokens=attempted.output_tokens, cost_usd=attempted.cost_usd,
        attempts=attempts, trace_id=attempted.trace_id, steps=attempted.steps,
    )  # fmt: skip
