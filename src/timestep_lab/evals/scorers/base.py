"""What a scorer is.

A scorer is a frozen dataclass whose fields are its options, registered under a name:

    @scorer("contains")
    @dataclass(frozen=True, kw_only=True)
    class Contains(Scorer):
        main: ClassVar[str | None] = "value"     # what stands after the colon in "contains:Paris"
        value: str | None = None

        def check(self, answer, case): return passed(self.value in answer.output)

A module in this package, or one named by an entry point in the group `timestep_lab.scorers`, is found by itself.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from timestep_lab.evals.datasets.case import Case
from timestep_lab.model.comparison import CellRecord
from timestep_lab.model.records import Json

S = TypeVar("S", bound="type[Scorer]")
T = TypeVar("T")

_threads = ThreadPoolExecutor(8, thread_name_prefix="timestep-lab scorer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a candidate gave back, and how. Times in ms, money in US dollars; None where unknown."""

    output: str = ""
    steps: tuple[Mapping[str, Json], ...] = ()
    """As in `CellRecord.steps`."""
    latency_ms: float | None = None
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    candidate: str = ""
    asked: str | Sequence[Json] | None = None
    """What the candidate was sent: text, or a conversation. None: not known, the case's own words stand for it."""
    instructions: str | None = None
    """The system text that the candidate worked under."""

    @classmethod
    def of(cls, cell: CellRecord, asked: str | Sequence[Json] | None = None, instructions: str | None = None) -> Answer:
        """The answer of a cell."""
        return cls(
            asked=asked, instructions=instructions,
            output=cell.output or "", steps=cell.steps, latency_ms=cell.latency_ms, ttft_ms=cell.ttft_ms,
            input_tokens=cell.input_tokens, output_tokens=cell.output_tokens, cost_usd=cell.cost_usd, candidate=cell.candidate,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """`value` runs from 0 (bad) to 1 (good) for every scorer here; a Python function may use a scale of its own.

    None: it cannot be said, for the reason in `note`. Such a score counts for nobody.
    """

    value: float | None
    note: str | None = None
    label: str | None = None
    cached: bool = False
    """A judge said so before, and was not asked again."""
    passes: bool | None = None
    """Where passing is more than the value says. None: it is not."""


def passed(yes: bool, note: str | None = None) -> Score:
    """A score of 1 or 0."""
    return Score(1.0 if yes else 0.0, note)


def unknown(note: str) -> Score:
    """No score, and why."""
    return Score(None, note)


class Ask(Protocol):
    """One question to a model, as a judge asks it. Raises `ProviderError`."""

    def __call__(self, model: str | None, instructions: str, prompt: str) -> Awaitable[str]: ...


class Replies(Protocol):
    """Replies of judges, kept for whoever asks the same model the same thing again."""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        """The reply, and whether it was kept from before; otherwise what `ask` returns, which is kept. Raises what `ask` raises."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What a scorer may need from outside."""

    ask: Ask | None = None
    replies: Replies | None = None
    """None: every judge is asked anew."""
    embed: Callable[[Sequence[str]], Any] | None = None
    """Texts to an array with one unit-length row each. None: the small embedding model of the extra `files`."""


@dataclass(frozen=True, kw_only=True)
class Scorer(ABC):
    """`name` heads its column. `weight` counts in the `overall` score. `negate` turns pass into fail. As an assertion of a case it passes
    from `pass_at` on (1 where it is not said). `transform`: scripts (`evals.javascript`) that the answer goes through first."""

    type: ClassVar[str] = ""
    main: ClassVar[str | None] = None
    """The option that stands after the colon in a spec such as `contains:Paris`."""
    source: ClassVar[str] = "scorer"
    pairwise: ClassVar[bool] = False
    """Needs all candidates' answers to a case at once."""

    name: str = ""
    weight: float = 1.0
    negate: bool = False
    pass_at: float | None = None
    transform: Sequence[str] = ()

    @property
    def judges(self) -> Sequence[Scorer]:
        """What of it asks a model."""
        return (self,) if self.source == "judge" else ()

    @abstractmethod
    def check(self, answer: Answer, case: Case) -> Score:
        """The score of one answer. Called in a thread: however long it takes, no call under way to a model is timed longer."""

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        """As `check`; overridden by scorers that must ask somebody."""
        return await in_scorer_thread(self.check, answer, case)


async def in_scorer_thread(function: Callable[..., T], *args: Any) -> T:
    """Beside the event loop, on threads that only scorers use: slow ones keep nobody else waiting."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *args)


SCORERS: dict[str, type[Scorer]] = {}


def scorer(name: str) -> Callable[[S], S]:
    """Register a class under a name."""

    def register(cls: S) -> S:
        cls.type = name
        SCORERS[name] = cls
        return cls

    return register


def acceptable(value: Any, case: Case) -> list[str] | Score:
    """The texts of which one is wanted: the scorer's own option before the case's `expected`."""
    wanted = case.expected if value is None else value
    if wanted is None or wanted == []:
        return unknown("the case has no expected answer")
    if isinstance(wanted, bool):
        return ["true", "True"] if wanted else ["false", "False"]
    return [_text(one) for one in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class ValueScorer(Scorer):
    """Base of those that hold the answer against a value: the option `value`, else the case's `expected`."""

    main: ClassVar[str | None] = "value"
    value: Json = field(default=None)
