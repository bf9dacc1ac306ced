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
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypeVar

from timestep_lab.evals.datasets.case import Case
from timestep_lab.model.comparison import CellRecord
from timestep_lab.model.display import cost_text, duration_text
from timestep_lab.model.errors import UsageError
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


async def in_scorer_thread(function: Callable[..., T], *args: object) -> T:
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


def acceptable(value: object, case: Case) -> list[str] | Score:
    """The texts of which one is wanted: the scorer's own option before the case's `expected`."""
    wanted = case.expected if value is None else value
    if wanted is None or wanted == []:
        return unknown("the case has no expected answer")
    if isinstance(wanted, bool):
        return ["true", "True"] if wanted else ["false", "False"]
    return [_text(one) for one in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class ValueScorer(Scorer):
    """Base of those that hold the answer against a value: the option `value`, else the case's `expected`."""

    main: ClassVar[str | None] = "value"
    value: Json = field(default=None)


# --- Scorers that hold an answer to a limit of time or money. A measure that is unknown passes and fails nobody


@scorer("latency")
@dataclass(frozen=True, kw_only=True)
class Latency(Scorer):
    """The answer was whole within `at_most_ms`; with `first_token`, had begun by then."""

    main: ClassVar[str | None] = "at_most_ms"
    at_most_ms: float | None = None
    first_token: bool = False

    def __post_init__(self) -> None:
        if self.at_most_ms is None:
            raise UsageError("The scorer latency needs a limit in milliseconds.", "Write latency:2000, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        took = answer.ttft_ms if self.first_token else answer.latency_ms
        if took is None or self.at_most_ms is None:
            return unknown("the time is not known")
        return passed(took <= self.at_most_ms, duration_text(took))


@scorer("cost")
@dataclass(frozen=True, kw_only=True)
class Cost(Scorer):
    """The answer cost at most `at_most_usd`."""

    main: ClassVar[str | None] = "at_most_usd"
    at_most_usd: float | None = None

    def __post_init__(self) -> None:
        if self.at_most_usd is None:
            raise UsageError("The scorer cost needs a limit in US dollars.", "Write cost:0.01, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.cost_usd is None or self.at_most_usd is None:
            return unknown("the price of this model is not known")
        return passed(answer.cost_usd <= self.at_most_usd, cost_text(answer.cost_usd))


@scorer("tokens")
@dataclass(frozen=True, kw_only=True)
class Tokens(Scorer):
    """The answer took at most so many output tokens."""

    main: ClassVar[str | None] = "at_most"
    at_most: int | None = None

    def __post_init__(self) -> None:
        if self.at_most is None:
            raise UsageError("The scorer tokens needs a limit.", "Write tokens:300, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.output_tokens is None or self.at_most is None:
            return unknown("the number of tokens is not known")
        return passed(answer.output_tokens <= self.at_most, f"{answer.output_tokens} tokens")


# --- Regular expressions that end: a pattern that goes over its text again and again is given up after a second
#
# Patterns come from users, texts from models, and `re` neither stops nor lets other threads work while it looks. The package `regex`
# does both. What counts as a pattern, and what it means, stays what `re` says.


LIMIT_S = 1.0
"""For all patterns of one scorer on one answer."""

MOST_WRITTEN_OUT = 100_000
"""How long a pattern may be with its counted repeats written out: that is how it is compiled, and a{999} in {999} in {999} fills the memory."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_BRACES = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!(?:\d+|\d*,\d*)\})", re.DOTALL)


class TooSlowError(Exception):
    """A pattern was not done in time. `str` of it is the note of the score."""


class Deadline:
    """When the patterns of one answer have had their time."""

    def __init__(self, seconds: float = LIMIT_S) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def find(self, pattern: str, text: str, *, full: bool = False) -> bool:
        """The pattern is found in the text, or with `full` matches all of it. Raises `TooSlowError`."""
        compiled = compile_pattern(pattern)
        look = compiled.fullmatch if full else compiled.search
        try:
            # 0 or less would be no limit at all.
            return look(text, timeout=max(1e-3, self._end - time.monotonic()), concurrent=True) is not None
        except TimeoutError:
            raise TooSlowError(
                f"the pattern {pattern} was given up after {self._seconds:g} s on {len(text):,} characters; write it without repeats in repeats"
            ) from None


@lru_cache(256)
def compile_pattern(pattern: str) -> Any:
    """Raises `UsageError` for what is not a pattern of `re`."""
    import regex  # type: ignore[import-untyped]

    try:
        if _written_out(pattern) > MOST_WRITTEN_OUT:
            raise UsageError(f"The repeats of {pattern!r} multiply to more than can be matched.", "Count to less.")
        re.compile(pattern)
        return regex.compile(_literal_braces(pattern), regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}.", "Correct it.") from error


def _literal_braces(pattern: str) -> str:
    """To `re` a brace that counts nothing is a brace; to `regex` `x{e}` means "about x"."""
    return _BRACES.sub(lambda found: r"\{" if found[0] == "{" else found[0], pattern)


def _written_out(pattern: str) -> int:
    sizes, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        counts = [int(count) for count in token.groups() if count]
        if token[0] == "(":
            sizes.append(0)
        elif token[0] == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif counts:
            sizes[-1] += last * (max(counts) - 1)
            last *= max(counts)
        else:
            last = 1
            sizes[-1] += 1
    return max(sizes)
