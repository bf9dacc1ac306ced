"""Replays of a search for a cause: the criterion of success, and how they are run, stored and counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeGuard, cast

from timestep_lab.evals.cause.findings import Share
from timestep_lab.evals.datasets.case import Case, digest
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.evals.scorers.base import Answer, Scorer, Tools
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.errors import (
    LabError,
    MissingKeyError,
    ModelNotFoundError,
    ProviderAuthError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RunError,
    StoreError,
    StreamCutError,
    TapeMissError,
    UsageError,
)
from timestep_lab.model.records import Usage
from timestep_lab.runtime.span_records import parsed
from timestep_lab.runtime.warm_start import Replayed, WarmStart
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.attempt import CacheEntry

NO_USAGE = Usage()
NOT_THE_AGENTS = (
    MissingKeyError, ProviderAuthError, ModelNotFoundError, RateLimitError, ProviderUnavailableError, ProviderTimeoutError,
    StreamCutError,
)  # fmt: skip
"""Errors of a provider that say nothing about the agent: a replay that they end is not judged."""
MOST_HANGING = 3
"""Replays that exceed the time limit before the search stops."""
STALLED_S = 1.0
"""If a time limit is noticed later than this, the whole process has stood still."""
ROUNDS = 4
"""Rounds of continuations in which the next ones depend on the previous; then all missing ones are run."""

Judge = Callable[[Replayed], Awaitable[bool | None]]


class Search(Protocol):
    """A search for a cause while it runs."""

    @property
    def done(self) -> int: ...

    @property
    def planned(self) -> int:
        """At most."""

    @property
    def spent_usd(self) -> float | None:
        """None if the price of something is unknown."""

    def stop(self) -> None:
        """End the search early, with what is known."""


Progress = Callable[[Search], None]
"""Called when a search begins, and after everything that it has done."""


# -- the criterion of success


def judge_of(wrong: object, right: object, asked: str, *, failed: bool) -> Judge:
    """The criterion of success. `wrong`: a text such as `contains:°F` that matches wrong answers, a function that is
    true for them, or a scorer that gives them less than ½. `right`: the corrected answer, which a right answer
    contains, a function, or a scorer. Raises `UsageError`."""
    if wrong is not None and right is not None:
        raise UsageError("wrong= and right= were both given.", "Pass only one of them.", param="wrong")
    criterion, is_wrong = (wrong, True) if right is None else (right, False)
    if isinstance(criterion, str) and not criterion.strip():
        param = "wrong" if is_wrong else "right"
        raise UsageError(f"{param}={criterion!r} is empty.", "Pass a text, a function or a scorer.", param=param)
    if criterion is None:
        if not failed:
            raise UsageError(
                "The run did not fail, so a criterion for wrong answers is needed.",
                "For example wrong='contains:°F', right='the corrected answer', a function of the answer, or an annotation named 'correction' on the trace.",
                param="wrong",
            )
        return _came_to_an_end
    case, low_is_wrong = Case(input=asked), True
    scorer: Scorer | None = None
    if isinstance(criterion, str):
        scorer = make_scorer(criterion) if is_wrong else make_scorer({"type": "contains", "value": criterion})
        low_is_wrong = not is_wrong
    elif isinstance(criterion, Scorer | Mapping):
        scorer = make_scorer(criterion)
    elif not callable(criterion):
        raise UsageError(
            f"{criterion!r} is not a criterion for answers.", "Pass a text, a function or a scorer.", param="wrong"
        )

    async def judge(replayed: Replayed) -> bool | None:
        if isinstance(replayed.error, TapeMissError):
            return None
        if replayed.output is None:
            return False
        if scorer is None:
            try:
                holds = cast("Callable[[str], object]", criterion)(replayed.output)
                holds = await holds if isinstance(holds, Awaitable) else holds
            except Exception as error:
                param = "wrong" if is_wrong else "right"
                raise UsageError(
                    f"The function {param}= raised {type(error).__name__} of the answer {replayed.output[:80]!r} ({error}).",
                    "It must say true or false of any answer.",
                    param=param,
                ) from error
            return bool(holds) != is_wrong
        score = await scorer.score(Answer(output=replayed.output, steps=_steps(replayed.items)), case, Tools())
        if score.value is None:
            return None
        value = 1.0 - score.value if scorer.negate else score.value
        return (value >= 0.5) == low_is_wrong

    return judge


async def _came_to_an_end(replayed: Replayed) -> bool | None:
    return None if isinstance(replayed.error, TapeMissError) else replayed.error is None


def _steps(items: Sequence[Json]) -> tuple[Mapping[str, Json], ...]:
    return tuple(
        {
            "type": "tool",
            "name": item["name"],
            "arguments": parsed(item["arguments"]),
            "agent": None,
            "approval": "not_needed",
            "error": None,
        }
        for item in objects_of(items)
        if item.get("type") == "function_call"
    )


# -- running replays


@dataclass(frozen=True, slots=True)
class Outcome:
    """One replay, judged."""

    passed: bool | None
    """None if it cannot be judged."""
    followed: int
    """See `Replayed.followed`."""


@dataclass(slots=True)
class Replays:
    """Runs replays concurrently, counts their outcomes, and stores each so that none is paid for twice."""

    rows: ComparisonRows
    judge: Judge
    key: Sequence[Json]
    end: LabError | None
    """The error that ended the recorded run. Replays that end like it are judged."""
    concurrency: int
    budget_usd: float | None
    approve_all: bool
    most_s: float
    """Time limit of one replay, in seconds."""
    planned: int
    on_progress: Progress | None
    run: int = 0
    """Replays that were run now."""
    done: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    """Replays that left the tape, of those in `done`, by the tool that they called there."""
    spent_usd: float | None = 0.0
    stopped: str = ""
    notes: dict[str, None] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    """Errors of replays of a run that had none."""
    watched: set[str] = field(default_factory=set)
    """Arms whose first confirming replay is stored as a trace."""
    branches: dict[str, str] = field(default_factory=dict)
    _hanging: int = 0
    _gate: asyncio.Semaphore | None = None
    _running: set[asyncio.Timeout] = field(default_factory=set)

    def stop(self) -> None:
        """End the search early, with what is known: no further replay is begun, and those that are running are cancelled."""
        self.stopped = self.stopped or "Stopped early. Finished replays are kept; run it again to continue."
        for limit in self._running:
            limit.reschedule(0.0)

    async def shares(self, phase: str, arms: Mapping[str, WarmStart | None], numbers: range) -> dict[str, Share]:
        """Replay each arm once per number and return the fraction of successes. An arm of None is the recorded end
        itself, which is wrong.
        """
        begun = {name: (start, numbers) for name, start in arms.items() if start}
        outcomes = await self.outcomes(phase, begun)
        shares = {name: share_of([outcome.passed for outcome in several]) for name, several in outcomes.items()}
        return shares | {name: Share(0, len(numbers)) for name, start in arms.items() if start is None}

    async def outcomes(self, phase: str, arms: Mapping[str, tuple[WarmStart, range]]) -> dict[str, list[Outcome]]:
        """Replay each arm once per number. Replays that were not run because the search stopped are missing."""
        self._gate = self._gate or asyncio.Semaphore(self.concurrency)
        slots = [
            (name, start, n, digest([*self.key, phase, name, n]))
            for name, (start, numbers) in arms.items()
            for n in numbers
        ]
        cached = await in_thread(self.rows.cached, [key for *_, key in slots])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    (name, group.create_task(self._one(phase, name, start, n, key, cached.get(key))))
                    for name, start, n, key in slots
                ]
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        outcomes: dict[str, list[Outcome]] = {name: [] for name in arms}
        for name, task in tasks:
            if (outcome := task.result()) is not None:
                outcomes[name].append(outcome)
        return outcomes

    async def _one(
        self, phase: str, name: str, start: WarmStart, n: int, key: str, stored: CacheEntry | None
    ) -> Outcome | None:
        assert self._gate is not None
        async with self._gate:
            if stored is not None:
                replayed = _read(json.loads(stored["reply"]))
            elif self._is_used_up():
                return None
            else:
                is_branch = n == 0 and name in self.watched
                again = await self._run(start, keep_trace=is_branch, follow=phase == OUTLOOK)
                if again is None:
                    return None
                replayed = again
                if _is_outside(replayed.error, self.end):
                    if phase == OUTLOOK:
                        raise replayed.error  # No replay of this run can do better.
                    self.notes[f"A repair could not be tried: {replayed.error}"] = None
                else:
                    text = json.dumps(_plain(replayed), default=str)
                    await asyncio.shield(in_thread(self.rows.add_cells, "", (), (), (), [(key, text)]))
            if replayed.trace_id:
                self.branches.setdefault(name, replayed.trace_id)
            passed = None if _is_outside(replayed.error, self.end) else await self._judged(replayed, start)
            self.done += 1
            if passed is False and replayed.error and not self.end:
                self.errors[str(replayed.error)] += 1
            if isinstance(replayed.error, TapeMissError):
                self.missed[replayed.error.tool] += 1
            elif passed is None and not _is_outside(replayed.error, self.end):
                self.notes["The scorer gave no score to some of the replays; these are not judged."] = None
            self.tell()
            return Outcome(passed, replayed.followed)

    def tell(self) -> None:
        if self.on_progress:
            self.on_progress(self)

    async def _run(self, start: WarmStart, *, keep_trace: bool, follow: bool) -> Replayed | None:
        """One replay, repeated once if its provider failed for the moment. None, and the search stops, if it fails again."""
        for attempt in (1, 2):
            try:
                async with asyncio.timeout(self.most_s) as limit:
                    self._running.add(limit)
                    try:
                        replayed = await start.replay(
                            approve_all=self.approve_all, keep_trace=keep_trace, follow=follow
                        )
                    finally:
                        self._running.discard(limit)
            except TimeoutError:
                if self.stopped:
                    return None
                if attempt == 1 and asyncio.get_running_loop().time() - (limit.when() or 0.0) > STALLED_S:
                    continue  # Nothing ran in the meantime, as when a laptop sleeps: the replay is not to blame.
                self._hanging += 1
                if self._hanging >= MOST_HANGING:
                    self.stopped = f"Stopped: {MOST_HANGING} replays did not end within {self.most_s:.0f} s each."
                else:
                    self.notes[
                        f"A replay that did not end within {self.most_s:.0f} s was cancelled and is not judged."
                    ] = None
                return None
            self.run += 1
            costs = self.spent_usd, replayed.cost_usd
            self.spent_usd = None if costs[0] is None or costs[1] is None else costs[0] + costs[1]
            if isinstance(replayed.error, StoreError):
                raise replayed.error
            if not _is_outside(replayed.error, self.end) or not replayed.error.retryable:
                return replayed
            if attempt == 2 or self.stopped:
                self.stopped = self.stopped or (
                    f"Stopped, because a provider failed: {replayed.error.message} Finished replays are kept; run it again to continue."
                )
        return None

    async def _judged(self, replayed: Replayed, start: WarmStart) -> bool | None:
        return await self.judge(replace(replayed, items=(*calls_before(start, start.turn), *replayed.items)))

    @property
    def lost(self) -> int:
        """Replays that left the tape, of those in `done`."""
        return self.missed.total()

    @property
    def lost_at(self) -> str | None:
        """The tool at which most of them left it."""
        return self.missed.most_common(1)[0][0] if self.missed else None

    def all_notes(self) -> list[str]:
        """What could not be tried or judged, and the most frequent error."""
        notes = [*self.notes]
        if self.errors:
            [(error, count)] = self.errors.most_common(1)
            notes.append(
                f"Some replays ended with an error, which counts as wrong, {count} of them with this one: {error}"
            )
        return notes

    def _is_used_up(self) -> bool:
        if self.budget_usd is not None and self.spent_usd is None:
            self.stopped = self.stopped or "Stopped: the cost of a replay is unknown, so the budget cannot be kept."
        elif self.budget_usd is not None and self.spent_usd is not None and self.spent_usd >= self.budget_usd:
            self.stopped = self.stopped or f"Stopped at its budget of ${self.budget_usd:g}."
        return bool(self.stopped)


def calls_before(start: WarmStart, turn: int | None) -> list[Json]:
    """The recorded calls before a turn; all of them for None. Scorers look at the steps of the whole run."""
    answered = (item for answer in start.recorded.answers[:turn] for item in answer["output"] or ())
    return [dict(item) for item in answered if isinstance(item, Mapping) and item.get("type") == "function_call"]


def _is_outside(error: LabError | None, end: LabError | None) -> TypeGuard[ProviderError]:
    return isinstance(error, NOT_THE_AGENTS) and type(error) is not type(end)


class StoredReplay(TypedDict):
    """What is stored of a replay."""

    output: str | None
    error: str | None
    missed: str | None
    trace_id: str | None
    followed: int
    items: Sequence[Json]


def _plain(replayed: Replayed) -> StoredReplay:
    return {
        "output": replayed.output, "error": str(replayed.error) if replayed.error else None,
        "missed": replayed.error.tool if isinstance(replayed.error, TapeMissError) else None, "trace_id": replayed.trace_id, "followed": replayed.followed,
        "items": [item for item in objects_of(replayed.items) if item.get("type") == "function_call"],
    }  # fmt: skip


def _read(plain: StoredReplay) -> Replayed:
    """The inverse of `_plain`, as far as it is judged."""
    error: RunError | None = RunError(plain["error"]) if plain["error"] else None
    if plain["missed"] is not None:
        error = TapeMissError(plain["error"] or "")
        error.tool = plain["missed"]
    return Replayed(
        output=plain["output"], error=error, items=tuple(plain["items"]), agent="", usage=NO_USAGE,
        cost_usd=0.0, trace_id=plain["trace_id"], followed=plain["followed"],
    )  # fmt: skip


def share_of(judged: Sequence[bool | None]) -> Share:
    return Share(sum(j is True for j in judged), sum(j is not None for j in judged), sum(j is None for j in judged))


# -- continuations after each decision

OUTLOOK = "outlook"


class Continuations:
    """Continuations after each decision of a run, judged.

    Whenever a continuation repeats the next decision and reads what was recorded, it is a continuation after that
    decision, too, and counts there as well. So of an agent that mostly repeats itself, a few from the start are enough
    for all of its decisions.
    """

    def __init__(self, replays: Replays, starts: Sequence[WarmStart]) -> None:
        self._replays, self._starts = replays, starts
        self.judged: list[list[bool | None]] = [[] for _ in starts]
        self._begun = [0] * len(starts)
        self._went_on = [0] * len(starts)

    async def up_to(self, wanted: Sequence[int]) -> None:
        """Run what is missing of the wanted number after each decision."""
        for rounds_left in range(ROUNDS, -1, -1):
            missing = [max(0, want - len(judged)) for want, judged in zip(wanted, self.judged, strict=True)]
            if not any(missing) or self._replays.stopped:
                return
            numbers = self._to_begin(missing) if rounds_left else missing
            arms = {
                f"anew {turn}": (self._starts[turn], range(self._begun[turn], self._begun[turn] + number))
                for turn, number in enumerate(numbers)
                if number
            }
            outcomes = await self._replays.outcomes(OUTLOOK, arms)
            for turn, number in enumerate(numbers):
                self._begun[turn] += number
                for outcome in outcomes.get(f"anew {turn}", ()):
                    for later in range(turn, turn + outcome.followed + 1):
                        self.judged[later].append(outcome.passed)
                        self._went_on[later] += later < turn + outcome.followed

    def _to_begin(self, missing: Sequence[int]) -> list[int]:
        """How many to begin at each decision, given how many are expected to come from the decisions before it."""
        seen = sum(len(judged) for judged in self.judged)
        usual = sum(self._went_on) / seen if seen else 1.0
        numbers, coming = [], 0.0
        for missed, judged, went_on in zip(missing, self.judged, self._went_on, strict=True):
            number = max(0, round(missed - coming))
            numbers.append(number)
            coming = (coming + number) * (went_on + usual) / (len(judged) + 1)
        return numbers
