"""The base class of scorers.

A scorer is a frozen dataclass whose fields are its options, registered under a name:

    @scorer("contains")
    @dataclass(frozen=True, kw_only=True)
    class Contains(Scorer):
        main: ClassVar[str | None] = "value"     # the option after the colon in "contains:Paris"
        value: str | None = None

        def check(self, answer, case): return passed(self.value in answer.output)

Modules in this package and those of entry points in the group `timestep_lab.scorers` are found automatically.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from timestep_lab.evals.datasets.case import Case
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CellRecord, ScoreValue
from timestep_lab.model.display import cost_text, duration_text
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

S = TypeVar("S", bound="type[Scorer]")
T = TypeVar("T")

USUAL_LENGTH = 10_000
"""Maximum number of characters of an answer that quick scorers score without a thread."""
_threads = ThreadPoolExecutor(8, thread_name_prefix="timestep-lab scorer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A candidate's answer with its metrics. Times in ms, costs in US dollars; None if unknown."""

    output: str = ""
    value: Json = None
    """What a transform made of the output, where that is not a text."""
    steps: tuple[Mapping[str, Json], ...] = ()
    """See `CellRecord.steps`."""
    latency_ms: float | None = None
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    candidate: str = ""
    asked: str | Sequence[Json] | None = None
    """The input sent to the candidate: a text or a conversation. None: unknown; the case's input is used instead."""
    instructions: str | None = None
    """The candidate's system text."""

    @classmethod
    def of(cls, cell: CellRecord, asked: str | Sequence[Json] | None = None, instructions: str | None = None) -> Answer:
        """The answer in a cell."""
        return cls(
            asked=asked, instructions=instructions,
            output=cell.output or "", steps=cast("tuple[Mapping[str, Json], ...]", cell.steps), latency_ms=cell.latency_ms, ttft_ms=cell.ttft_ms,
            input_tokens=cell.input_tokens, output_tokens=cell.output_tokens, cost_usd=cell.cost_usd, candidate=cell.candidate,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """A score. `value` is from 0 (bad) to 1 (good) for built-in scorers; a Python function may use another scale.

    `value` None means unknown, for the reason in `note`. Unknown scores are left out of all statistics.
    """

    value: float | None
    note: str | None = None
    label: str | None = None
    cached: bool = False
    """The judge's reply came from the cache."""
    passes: bool | None = None
    """Whether it passes, if that is not determined by `value`; None otherwise."""
    broken: bool = False
    """The check itself failed on this answer: it does not pass, negated or not."""
    parts: tuple[ScoreValue, ...] = ()
    """The scores it was computed from, if they have names of their own."""


def passed(yes: bool, note: str | None = None) -> Score:
    """A score of 1 or 0."""
    return Score(1.0 if yes else 0.0, note)


def unknown(note: str) -> Score:
    """A missing score, with the reason."""
    return Score(None, note)


class Ask(Protocol):
    """Asks a judge model one question. Raises `ProviderError`."""

    def __call__(self, model: str | None, instructions: str, prompt: str) -> Awaitable[str]: ...


class Replies(Protocol):
    """A cache of judges' replies."""

    async def get(
        self, model: str | None, instructions: str, prompt: str, ask: Callable[[], Awaitable[str]]
    ) -> tuple[str, bool]:
        """The reply, and whether it was cached; if not, the result of `ask`, which is then stored. Raises what `ask`
        raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """External services that a scorer may use."""

    ask: Ask | None = None
    replies: Replies | None = None
    """The cache of replies. None: every question is asked."""
    embed: Callable[[Sequence[str]], NDArray[np.floating]] | None = None
    """Maps texts to an array with one unit vector per row. None: the small embedding model of the extra `files`."""


@dataclass(frozen=True, kw_only=True)
class Scorer(ABC):
    """The base class of scorers. `name` is its column; `weight` is its weight in `overall`; `negate` swaps pass and
    fail. As an assertion of a case it passes at `pass_at` (default 1). `transform`: scripts (`evals.javascript`)
    applied to the answer first."""

    type: ClassVar[str] = ""
    main: ClassVar[str | None] = None
    """The option that follows the colon in a spec such as `contains:Paris`."""
    source: ClassVar[str] = "scorer"
    pairwise: ClassVar[bool] = False
    """Whether it needs all candidates' answers to a case at once."""
    is_quick: ClassVar[bool] = False
    """Whether `check` takes microseconds for an answer of usual length, less than handing it to a thread."""

    name: str = ""
    weight: float = 1.0
    negate: bool = False
    pass_at: float | None = None
    transform: Sequence[str] = ()

    @property
    def judges(self) -> Sequence[Scorer]:
        """The parts that call a judge model."""
        return (self,) if self.source == "judge" else ()

    @abstractmethod
    def check(self, answer: Answer, case: Case) -> Score:
        """The score of one answer. Called in a thread, so slow scorers do not affect the timing of model calls."""

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        """Like `check`, but async; overridden by scorers that call a model."""
        if self.is_quick and len(answer.output) <= USUAL_LENGTH:
            return self.check(answer, case)
        return await in_scorer_thread(self.check, answer, case)


async def in_scorer_thread(function: Callable[..., T], *args: object) -> T:
    """Run a function on a thread pool reserved for scorers, so that slow ones do not block anything else."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *args)


AnyScorer = str | Mapping[str, object] | Scorer | Callable[..., object]
"""One scorer, as users write it: a text such as `"contains"`, `"regex:^yes"` or `"judge:is polite"`, an object with a
`type`, a Python function of the answer, or a `Scorer`."""
Scorers = AnyScorer | Iterable[AnyScorer]
"""One or several of them."""

SCORERS: dict[str, type[Scorer]] = {}


def scorer(name: str) -> Callable[[S], S]:
    """Class decorator that registers a scorer under a name."""

    def register(cls: S) -> S:
        cls.type = name
        SCORERS[name] = cls
        return cls

    return register


def acceptable(value: object, case: Case) -> list[str] | Score:
    """The accepted texts: the scorer's own option, else the case's `expected`. A `Score` if there is none."""
    wanted = case.expected if value is None else value
    if isinstance(wanted, bool):
        return ["true", "True"] if wanted else ["false", "False"]
    # Tables fill up lists of different lengths with None.
    given = [one for one in (wanted if isinstance(wanted, list | tuple) else [wanted]) if one is not None]
    return [_text(one) for one in given] or unknown("the case has no expected answer")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)


def same_json(found: object, wanted: object) -> bool:
    """Whether two JSON values are equal: 1 equals 1.0, but not true."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(same_json(found[name], wanted[name]) for name in found)
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same_json, found, wanted))
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


@dataclass(frozen=True, kw_only=True)
class ValueScorer(Scorer):
    """Base of scorers that compare the answer with the option `value`, or else with the case's `expected`."""

    main: ClassVar[str | None] = "value"
    value: Json = field(default=None)


# --- Scorers for limits of time, cost and tokens. If the measure is unknown, so is the score


def _check_limit(name: str, what: str, limit: float | None, example: str) -> None:
    if limit is None:
        raise UsageError(f"The scorer {name} needs {what}.", f"For example: {example}")
    if not (limit >= 0 and math.isfinite(limit)):
        raise UsageError(f"The scorer {name} needs {what} of 0 or more, not {limit}.", f"For example: {example}")


@scorer("latency")
@dataclass(frozen=True, kw_only=True)
class Latency(Scorer):
    """The answer was complete within `at_most_ms`; with `first_token`, it had started by then."""

    main: ClassVar[str | None] = "at_most_ms"
    is_quick: ClassVar[bool] = True
    at_most_ms: float | None = None
    first_token: bool = False

    def __post_init__(self) -> None:
        _check_limit("latency", "a limit in milliseconds", self.at_most_ms, "latency:2000")

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
    is_quick: ClassVar[bool] = True
    at_most_usd: float | None = None

    def __post_init__(self) -> None:
        _check_limit("cost", "a limit in US dollars", self.at_most_usd, "cost:0.01")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.cost_usd is None or self.at_most_usd is None:
            return unknown("the price of this model is not known")
        return passed(answer.cost_usd <= self.at_most_usd, cost_text(answer.cost_usd))


@scorer("tokens")
@dataclass(frozen=True, kw_only=True)
class Tokens(Scorer):
    """The answer has at most this number of output tokens."""

    main: ClassVar[str | None] = "at_most"
    is_quick: ClassVar[bool] = True
    at_most: int | None = None

    def __post_init__(self) -> None:
        _check_limit("tokens", "a limit", self.at_most, "tokens:300")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.output_tokens is None or self.at_most is None:
            return unknown("the number of tokens is not known")
        return passed(answer.output_tokens <= self.at_most, f"{answer.output_tokens} tokens")


# --- Regular expressions with a time limit: a pattern with catastrophic backtracking is stopped after a second
#
# Patterns come from users and texts from models, and `re` can neither be interrupted nor does it release the GIL. The package `regex`
# does both. Which patterns are valid and what they mean is still determined by `re`.


LIMIT_S = 1.0
"""Time limit in seconds for all patterns of one scorer on one answer."""

MOST_WRITTEN_OUT = 100_000
"""Maximum length of a pattern with counted repeats expanded, as it is compiled: nested repeats such as a{999} in {999}
in {999} would exhaust the memory.
"""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_BRACES = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!(?:\d+|\d*,\d*)\})", re.DOTALL)


class TooSlowError(Exception):
    """A pattern exceeded the time limit. `str(error)` is the note of the score."""


class Deadline:
    """The deadline for the patterns of one answer."""

    def __init__(self, seconds: float = LIMIT_S) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def find(self, pattern: str, text: str, *, full: bool = False) -> bool:
        """Whether the pattern occurs in the text, or with `full` matches all of it. Raises `TooSlowError`."""
        compiled = compile_pattern(pattern)
        look = compiled.fullmatch if full else compiled.search
        try:
            # 0 or less would mean no limit.
            return look(text, timeout=max(1e-3, self._end - time.monotonic()), concurrent=True) is not None
        except TimeoutError:
            raise TooSlowError(
                f"the pattern {pattern} was given up after {self._seconds:g} s on {len(text):,} characters; write it without repeats in repeats"
            ) from None


@lru_cache(256)
def compile_pattern(pattern: str) -> Any:
    """Compile a pattern. Raises `UsageError` if it is not valid for `re`."""
    import regex  # type: ignore[import-untyped]

    try:
        if _written_out(pattern) > MOST_WRITTEN_OUT:
            raise UsageError(f"The repeats of {pattern!r} expand to too many states.", "Use smaller repeat counts.")
        re.compile(pattern)
        return regex.compile(_literal_braces(pattern), regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}.", "Fix the pattern.") from error


def _literal_braces(pattern: str) -> str:
    """Escape braces that are literal in `re` but special in `regex` (`x{e}` is a fuzzy match)."""
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
