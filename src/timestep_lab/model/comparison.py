"""Records of a comparison: written by the engine, kept by the store, shown by grids, pages and commands.

A comparison runs every candidate on every case `epochs` times. Each answer is a cell, and scores belong to cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, Moment, objects_of
from timestep_lab.model.display import cost_text
from timestep_lab.model.events import Event

ComparisonStatus = Literal["running", "completed", "cancelled", "interrupted", "over_budget", "failed"]
"""`over_budget` and `cancelled` can be resumed like `interrupted`."""

CellStatus = Literal["done", "error"]

Outcome = Literal["better", "worse", "no worse", "no better", "not settled"]
"""Result of the second of two candidates relative to the first. `no worse`, `no better`: by no more than the margin."""

JUDGE = "Judge"
"""Agent name of judge calls in traces."""
_REASONS = 2
"""Maximum number of reasons listed when a scorer could not score; the cells have all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """One column of the grid: an agent or a bare model, with its settings and prompt."""

    name: str
    """Unique in the comparison; used by every table and sentence."""
    model: str | None = None
    """`prefix/name`; None uses the agent's model."""
    agent_id: str | None = None
    agent: str | None = None
    agent_version: int | None = None
    """Version of a stored agent."""
    model_settings: Mapping[str, Json] = field(default_factory=dict)
    prompt: str | None = None
    """A template filled with the case's variables; None sends the case's input unchanged."""
    fingerprint: str = ""
    """Hash of everything that can change an answer: agents, tools, handoffs, model, settings, prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """One row of the grid."""

    comparison_id: str
    case_id: str
    """Derived from the case's content, so the same case has the same id in every comparison."""
    position: int
    input: str
    """The question, or the last message when there are `messages`."""
    messages: tuple[Json, ...] = ()
    """A conversation to continue, as `{"role", "content"}`; empty for a plain question."""
    expected: Json = None
    """A value, or a list of acceptable values."""
    vars: Mapping[str, Json] = field(default_factory=dict)
    assertions: tuple[Json, ...] = ()
    """Scorer specifications that apply to this case only."""
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreValue:
    """A scorer's result for one cell. `value` is None when it could not be scored; `note` then says why."""

    scorer: str
    value: float | None
    weight: float = 1.0
    label: str | None = None
    note: str | None = None
    source: Literal["scorer", "judge", "human"] = "scorer"
    cached: bool = False
    """True when an earlier judgement of the same answer was reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """One answer: a case, a candidate and an epoch. Times in ms, costs in US dollars; None where unknown."""

    comparison_id: str
    case_id: str
    candidate: str
    epoch: int
    """Starts at 0."""
    status: CellStatus
    output: str | None = None
    error_type: str | None = None
    error: str | None = None
    latency_ms: float | None = None
    """From the start of the run to its answer, excluding waits for a slot or a rate limit."""
    queue_ms: float | None = None
    """Time spent waiting for a slot under the concurrency limit, or for a local model to load."""
    rate_limit_ms: float | None = None
    """Time spent waiting because the provider returned 429."""
    ttft_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    """Cost of the answer when it was generated; a cached answer costs nothing again."""
    cached: bool = False
    attempts: int = 1
    trace_id: str | None = None
    run_id: str | None = None
    steps: tuple[Json, ...] = ()
    """The trajectory, in order: `{"type": "tool", "name", "arguments", "agent", "approval", "error"}` and `{"type": "handoff", "from", "to"}`."""
    scores: tuple[ScoreValue, ...] = ()
    ended_at: Moment = field(default_factory=utc_now)

    @property
    def left_tape(self) -> bool:
        """True when it made a tool call that was never recorded; such a cell is not judged."""
        return self.error_type == "TapeMissError"

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies the cell within its comparison."""
        return self.case_id, self.candidate, self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRecord:
    """A comparison as stored: its candidates, its settings and its status.

    Example:
        await lab.compare(["Say 4."], models=["demo/echo"], scorers=["contains:4"], name="Fours")
        [record] = lab.comparisons.list()
        assert isinstance(record, ComparisonRecord) and record.name == "Fours"
    """

    id: str
    user_id: str
    name: str
    status: ComparisonStatus = "running"
    dataset: str = ""
    dataset_version: str = ""
    """Hash of the cases' content."""
    candidates: tuple[Json, ...] = ()
    """`CandidateRecord`s as objects."""
    scorers: tuple[Json, ...] = ()
    """Scorer specifications as objects."""
    epochs: int = 1
    n_cases: int = 0
    settings: Mapping[str, Json] = field(default_factory=dict)
    """Concurrency, timeouts, retries, budget and cache, reused when the comparison is resumed."""
    error: str | None = None
    process_id: str | None = None
    created_at: Moment = field(default_factory=utc_now)
    ended_at: Moment | None = None
    conclusion: str | None = None
    """One line that names the winner, set when the comparison ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One row of `grid.summary()`."""

    name: str
    n: int
    """Number of answers."""
    errors: int
    scores: Mapping[str, Mapping[str, float | None]]
    """Maps a scorer to `{"mean", "ci_low", "ci_high"}`, for repeated pass/fail scores also `pass_at_k` and `pass_hat_k`, and `unscored` (a
    count) when answers could not be scored."""
    cost_usd: float | None
    latency_ms_p50: float | None
    ttft_ms_p50: float | None
    input_tokens: int | None
    output_tokens: int | None
    not_judged: int = 0
    """Answers abandoned because they left the tape; not counted as errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One row of `grid.significance()`: `diff` is b − a in the score's units. The interval is NaN when it cannot be computed."""

    a: str
    b: str
    scorer: str
    n: int
    diff: float
    ci_low: float
    ci_high: float
    p_value: float | None
    p_holm: float | None
    """Adjusted for all comparisons on the same scorer (Holm)."""
    test: str
    decided_by: int
    cases_to_settle: int | None
    points: bool = True
    """Scores range from 0 to 1, so a difference can be shown in points of 1/100."""
    outcome: Outcome | None = None
    margin: float | None = None
    """Margin for `no worse`, in the score's units; None disables that outcome."""
    looked: int | None = None
    """For a comparison with early stopping: the number of cases at this look. The interval is valid at every look, and there is no
    p-value."""
    level: float = 0.95
    """Confidence level of the interval."""


Measure = Literal["quality", "cost", "time", "time p50", "time p95"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """One row of `grid.decision`: a candidate against the first candidate on one measure. Higher quality, lower cost and time are
    better."""

    candidate: str
    reference: str
    measure: Measure
    """`time` is the typical ratio; the median and the 95th percentile have rows of their own."""
    outcome: Outcome
    estimate: float | None
    """Candidate minus reference (quality, cost per case) or candidate over reference (times). None: not enough data."""
    ci_low: float | None
    ci_high: float | None
    unit: Literal["points", "score", "usd", "ratio"]
    n: int
    """Number of cases with a value for both."""
    p_value: float | None
    p_holm: float | None
    test: str

    @property
    def words(self) -> str:
        """The row as text: `better (+12.0 points, 1.1 to 22.9)`."""
        if self.estimate is None:
            return f"{self.outcome} (unknown)" if self.n == 0 else self.outcome
        scale = 100.0 if self.unit == "points" else 1.0
        mark = {"points": " points", "score": "", "usd": " a case", "ratio": " ×"}[self.unit]
        text = _amount_text(self.estimate * scale, self.unit)
        if self.ci_low is None or self.ci_high is None:
            return f"{self.outcome} ({text}{mark})"
        low, high = (_amount_text(end * scale, self.unit) for end in (self.ci_low, self.ci_high))
        return f"{self.outcome} ({text}{mark}, {low} to {high})"


SHOWN_MEASURES: tuple[Measure, ...] = ("quality", "cost", "time")
"""Columns of the table at the top of a verdict."""


def decision_table(rows: Sequence[DecisionRow]) -> list[tuple[str, list[str]]]:
    """Returns each candidate with its results in `SHOWN_MEASURES`; `–` where nothing was measured."""
    names = dict.fromkeys(row.candidate for row in rows)
    words = {(row.candidate, row.measure): row.words for row in rows}
    return [(name, [words.get((name, measure), "–") for measure in SHOWN_MEASURES]) for name in names]


def _amount_text(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"
    text = cost_text(abs(value)) if unit == "usd" else f"{abs(value):.1f}"
    text = "$0" if text == "free" else text
    return (
        text
        if text.startswith(("<", "$0")) and not text.startswith("$0.")
        else ("+" if value > 0 else "−" if value < 0 else "") + text
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRow:
    """Progress of a comparison."""

    total: int
    done: int = 0
    errors: int = 0
    cached: int = 0
    running: int = 0
    waiting: int = 0
    calls: int = 0
    """Runs started since the comparison was (re)started, including retries."""
    spent_usd: float = 0.0
    spent_tokens: int = 0
    expected_usd: float | None = None
    """Estimated cost of the whole comparison, extrapolated from the answers so far."""
    eta_s: float | None = None
    concurrency: Mapping[str, int] = field(default_factory=dict)
    """Maps a provider to its current limit of concurrent calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """Estimated cost and time of one model in a comparison, before it starts. Ranges are the 10th to 90th percentile."""

    candidate: str
    calls: int
    cache_hits: int
    cost_usd_low: float | None
    cost_usd_high: float | None
    time_s_low: float | None
    time_s_high: float | None
    basis: str
    """Source of the numbers: `history` of this model, or `unknown`."""
    provider: str = ""
    """Candidates of one provider share its slots, so their times add up; different providers run in parallel."""
    judge: bool = False
    """True for a judge model instead of a candidate; `candidate` is its name."""
    priced: bool = True
    """False when the model has no known price, so its cost cannot be estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonStarted(Event):
    """The first event: every case, and the cells that are already answered."""

    type: ClassVar[str] = "comparison.started"
    comparison: ComparisonRecord
    cases: tuple[CaseRecord, ...]
    cells: tuple[CellRecord, ...] = ()
    """Cells finished before a resume, or found in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStarted(Event):
    """A candidate started on a case."""

    type: ClassVar[str] = "cell.started"
    case_id: str
    candidate: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDelta(Event):
    """Text appended to a cell in progress."""

    type: ClassVar[str] = "cell.updated"
    case_id: str
    candidate: str
    epoch: int
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDone(Event):
    """A cell is complete and stored."""

    type: ClassVar[str] = "cell.done"
    cell: CellRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonProgress(Event):
    """Progress, cost so far and expected cost of a comparison."""

    type: ClassVar[str] = "comparison.progress"
    progress: ProgressRow
    pairs: tuple[PairRow, ...] = ()
    """For a comparison with early stopping: the current pairs on the deciding scorer."""
    verdict: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonEnded(Event):
    """The last event: the totals, the differences and the verdict."""

    type: ClassVar[str] = "comparison.ended"
    comparison: ComparisonRecord
    candidates: tuple[CandidateRow, ...] = ()
    pairs: tuple[PairRow, ...] = ()
    verdict: str = ""
    decision: tuple[DecisionRow, ...] = ()


@dataclass(frozen=True, slots=True)
class TapeUse:
    """How much of a comparison was answered from its tape. `calls` maps a candidate to its counts of `hit`, `drifted`, `live`, `simulated`
    and `miss`; `not_judged` and `answers` map a candidate to a count."""

    calls: Mapping[str, Mapping[str, int]]
    not_judged: Mapping[str, int]
    answers: Mapping[str, int]

    @classmethod
    def of(cls, candidates: Sequence[str], cells: Iterable[CellRecord]) -> TapeUse:
        """Counts tape use from the steps of the cells."""
        calls: dict[str, Counter[str]] = {name: Counter() for name in candidates}
        lost, asked = Counter[str](), Counter[str]()
        for cell in cells:
            calls[cell.candidate].update(str(step["tape"]) for step in objects_of(cell.steps) if step.get("tape"))
            asked[cell.candidate] += 1
            lost[cell.candidate] += cell.left_tape
        return cls(calls, {name: lost[name] for name in candidates}, {name: asked[name] for name in candidates})

    def miss_rate(self, candidate: str) -> float:
        """Returns the share of its calls that the tape did not have."""
        made = sum(self.calls[candidate].values())
        return sum(self.calls[candidate].get(how, 0) for how in ("miss", "live", "simulated")) / made if made else 0.0

    def __str__(self) -> str:
        all_of: Counter[str] = Counter()
        for counts in self.calls.values():
            all_of.update(counts)
        made = all_of.total()
        parts = [f"{all_of['hit'] + all_of['drifted']:,} of {made:,} call{'' if made == 1 else 's'} from tape"]
        parts += [f"{all_of[how]:,} {how}" for how in ("drifted", "live", "simulated") if all_of[how]]
        cases = sum(self.not_judged.values())
        parts.append(
            f"{all_of['miss']:,} miss{'' if all_of['miss'] == 1 else 'es'} ({cases:,} answer{'' if cases == 1 else 's'} not judged)"
        )
        rates = ", ".join(f"{name} {self.miss_rate(name) * 100:.1f} %" for name in self.calls)
        return " · ".join([*parts, f"by candidate: {rates}"])

    def __repr__(self) -> str:
        return str(self)


def cell_json(cell: CellRecord) -> dict[str, Json]:
    """Returns a cell as one flat JSON object."""
    return CellDone(cell=cell).to_json()["cell"]  # type: ignore[no-any-return]


class GridLike(Protocol):
    """A comparison, finished or running, as the static page and the live grid read it."""

    @property
    def record(self) -> ComparisonRecord: ...
    @property
    def cases(self) -> Sequence[CaseRecord]: ...
    @property
    def cells(self) -> Sequence[CellRecord]: ...
    @property
    def candidates(self) -> list[str]: ...
    @property
    def scorers(self) -> list[str]: ...
    @property
    def candidate_rows(self) -> Sequence[CandidateRow]: ...
    @property
    def pair_rows(self) -> Sequence[PairRow]: ...
    @property
    def decision(self) -> Sequence[DecisionRow]: ...
    @property
    def deciding_scorer(self) -> str | None: ...
    @property
    def verdict(self) -> str: ...
    @property
    def judge_notes(self) -> Sequence[str]: ...


def conclusion(pairs: Sequence[PairRow]) -> str:
    """Returns one line that names the winner: `No winner: A, C and D tie; B is worse.` `pairs` are those of one scorer.

    `worse` is used only for a tested difference; a candidate that nobody beats and that does not beat all others ties. Empty without pairs.
    """
    known = [pair for pair in pairs if pair.n]
    names = list(dict.fromkeys(name for pair in known for name in (pair.a, pair.b)))
    if not known:
        return "No winner: no case has scores of two candidates." if pairs else ""
    beats = {(p.b, p.a) if p.outcome == "better" else (p.a, p.b) for p in known if p.outcome in ("better", "worse")}
    beaten = [name for name in names if any(loser == name for _, loser in beats)]
    worse = f"{names_listed(beaten)} {'is' if len(beaten) == 1 else 'are'} worse" if beaten else ""
    for name in names:
        if all((name, other) in beats for other in names if other != name):
            return f"{name} wins: {worse}."
    if len(known) == 1 and known[0].outcome in ("no worse", "no better"):
        one, other = (known[0].b, known[0].a) if known[0].outcome == "no worse" else (known[0].a, known[0].b)
        return f"No winner: {one} is no worse than {other}."
    top = [name for name in names if name not in beaten] or names
    if len(top) == 1:
        even = [name for name in names if name != top[0] and (top[0], name) not in beats]
        return f"{top[0]} leads, but is not significantly better than {names_listed(even)}."
    return f"No winner: {names_listed(top)} tie{'; ' + worse if beaten else ''}."


def names_listed(names: Sequence[str], most: int = 3) -> str:
    """Returns `A, B and C`; a long list is cut to the first names and the number of the rest."""
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most + 1 else list(names)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def ranked(rows: Sequence[CandidateRow], scorer: str | None) -> list[CandidateRow]:
    """Sorts by mean, best first. Rows without a mean come last; ties keep their order."""
    means = {row.name: None if scorer is None else row.scores.get(scorer, {}).get("mean") for row in rows}
    return sorted(rows, key=lambda row: -math.inf if (mean := means[row.name]) is None else mean, reverse=True)


def cases_in_order(grid: GridLike) -> list[CaseRecord]:
    """Returns the cases, first those that a candidate failed or scored below 0.5 on."""
    scorer = grid.deciding_scorer
    failed = {
        cell.case_id for cell in grid.cells
        if cell.status == "error" or any(s.scorer == scorer and s.value is not None and s.value < 0.5 for s in cell.scores)
    }  # fmt: skip
    return sorted(grid.cases, key=lambda case: case.case_id not in failed)


_MOST_SLICES = 20


def slice_columns(cases: Sequence[CaseRecord]) -> list[str]:
    """Returns the columns to slice by: at least two distinct values, each shared by several cases on average."""
    seen: dict[str, set[str]] = {}
    for case in cases:
        for name, value in (*case.vars.items(), *case.metadata.items()):
            for one in value if isinstance(value, list) else [value]:
                distinct = seen.setdefault(name, set())
                if len(distinct) <= _MOST_SLICES:
                    distinct.add(str(one))
    most = min(_MOST_SLICES, len(cases) // 2)
    return [name for name, values in seen.items() if not name.startswith("__") and 2 <= len(values) <= most]


def headline(grid: GridLike) -> str:
    """Returns the verdict, or why there is none."""
    unfinished = {
        "running": "Still running.", "cancelled": "Stopped early.", "interrupted": "Interrupted before completion.",
        "over_budget": "Stopped because its budget is exhausted.", "failed": f"Failed: {grid.record.error or 'see the log'}",
    }.get(grid.record.status, "")  # fmt: skip
    if not grid.cells:
        return f"{unfinished} No answers yet.".strip()
    words = grid.verdict
    if not words and grid.record.status != "running":
        scored = grid.scorers or grid.record.scorers
        words = "One candidate: nothing to compare with." if scored else "Add scorers to compare answers."
    notes = [
        *failed_calls(grid.cells), *(unscored(grid.cells) if grid.record.status != "running" else []), *from_cache(grid.cells),
        *grid.judge_notes,
    ]  # fmt: skip
    return " ".join(part for part in (unfinished, words, *notes) if part)


def failed_calls(cells: Iterable[CellRecord]) -> list[str]:
    """Returns one sentence per candidate with failed calls: `3 of 20 calls of A failed: the provider said 500.`"""
    asked: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for cell in cells:
        asked[cell.candidate] += 1
        if cell.status == "error" and not cell.left_tape:
            why = (cell.error or cell.error_type or "unknown reason").rstrip(".")
            reasons.setdefault(cell.candidate, Counter())[why] += 1
    return [
        f"{why.total()} of {asked[name]} call{'' if asked[name] == 1 else 's'} of {name} failed: {_reasons_text(why)}."
        for name, why in reasons.items()
    ]


def unscored(cells: Iterable[CellRecord]) -> list[str]:
    """Returns one sentence per scorer with unscored answers: `contains could not score 5 of 20 answers: the case has no expected
    answer.`"""
    asked: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for cell in cells:
        for score in cell.scores:
            asked[score.scorer] += 1
            if score.value is None and score.scorer != "overall":  # `overall` is derived from the others.
                reasons.setdefault(score.scorer, Counter())[(score.note or "no reason given").rstrip(".")] += 1
    return [_could_not(scorer, asked[scorer], why) for scorer, why in reasons.items()]


def from_cache(cells: Iterable[CellRecord]) -> list[str]:
    """Returns `20 of 40 answers and 20 of 40 judgements come from the cache.`, or nothing when none does."""
    answers, judged = Counter[bool](), Counter[bool]()
    for cell in cells:
        answers[cell.cached] += 1
        judged.update(score.cached for score in cell.scores if score.source == "judge" or score.cached)
    parts = [
        f"{counts[True]:,} of {counts.total():,} {what}{'' if counts.total() == 1 else 's'}"
        for counts, what in ((answers, "answer"), (judged, "judgement"))
        if counts[True]
    ]
    return [f"{' and '.join(parts)} from the cache, with their original timings."] if parts else []


def _could_not(scorer: str, asked: int, reasons: Counter[str]) -> str:
    return f"{scorer} could not score {reasons.total()} of {asked} answer{'' if asked == 1 else 's'}: {_reasons_text(reasons)}."


def _reasons_text(reasons: Counter[str]) -> str:
    words = "; ".join(reason if len(reasons) == 1 else f"{reason} ({n})" for reason, n in reasons.most_common(_REASONS))
    return words + ("; and for other reasons" if len(reasons) > _REASONS else "")
