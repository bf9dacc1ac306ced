"""Why a run went wrong, found by replaying it with and without each suspect, and not by reading it.

    outlook(run, scorer)   the share of continuations that come out right, from each decision on: where it falls, something happened
    why(run, wrong=…)      the step that did it: *proven*, or *chance*, or what could not be told

Two questions are told apart. *Decided here*: with the step as it was the run fails, with the step repaired it comes out right. *Would
happen again*: the agent, asked anew at that step, fails too. Proven is both, and better than replays from the start, which exposes a
repair that would help any run. Decided here and not again is chance. Results of tools are held as they were heard; decisions are taken anew.

Replays run on tape, or with tools that only read. What was screened is confirmed with fresh replays, at two looks, by Fisher's exact
test with Holm's correction over the shortlist. Each replay is kept in the lab, so that one that is stopped goes on without paying twice.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets.case import Case, digest
from timestep_lab.evals.rows import ComparisonRows
from timestep_lab.evals.scorers.base import Answer, Scorer, Tools
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.evals.statistics.fisher import fisher
from timestep_lab.evals.statistics.holm import holm
from timestep_lab.evals.statistics.intervals import wilson
from timestep_lab.runtime.agent_graph import handoff_targets
from timestep_lab.runtime.recorded import Recorded
from timestep_lab.runtime.span_records import parsed
from timestep_lab.runtime.tape import Tape, named
from timestep_lab.runtime.warm_start import Replayed, WarmStart, warm_start
from timestep_lab.store.base import in_thread
from timestep_lab.types.errors import TapeMissError, UsageError
from timestep_lab.types.records import Json, Usage

if TYPE_CHECKING:
    import pandas

    from timestep_lab.runtime.runner import Runner
    from timestep_lab.store.store import Store

VERSION = 1
NO_USAGE = Usage()
ALPHA = 0.05
SCREENED = 4
"""Replays of each repair before the shortlist is made."""
SHORTLIST = 5
MOST_REPAIRS = 40
LEAST_FALL = 0.25
"""Of the outlook, for a decision to be looked at as chance."""
LEAST_GAIN = 0.35
"""Of a screened repair, for it to be confirmed: each further suspect makes the others harder to prove."""
POOL_READ = 24
"""Traces of the pool in which other instructions are looked for."""

Judge = Callable[[Replayed], Awaitable[bool | None]]
Progress = Callable[[int, int], None]


# -- what comes out


@dataclass(frozen=True, slots=True)
class Share:
    """How many replays came out right. `lost`: those that left the tape, which are not judged."""

    passed: int = 0
    n: int = 0
    lost: int = 0

    @property
    def rate(self) -> float | None:
        return self.passed / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson)."""
        found = wilson(self.passed, self.n)
        return found.low, found.high

    def __str__(self) -> str:
        return f"{self.passed} of {self.n}"

    def __add__(self, other: Share) -> Share:
        return Share(self.passed + other.passed, self.n + other.n, self.lost + other.lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answer of a model in the recorded run."""

    step: int
    """From 1."""
    span_id: str
    agent: str
    what: str
    """The tools it called, where it handed off to, or `answer`."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """From each decision on, taken anew with all before it as it was: the share that comes out right."""

    trace_id: str
    decisions: tuple[Decision, ...]
    shares: tuple[Share, ...]
    right: bool
    """How the recorded run came out."""

    def fall(self, turn: int) -> float | None:
        """By how much the recorded decision made it worse, from 0 to 1; below 0: better."""
        after = (1.0 if self.right else 0.0) if turn + 1 == len(self.shares) else self.shares[turn + 1].rate
        before = self.shares[turn].rate
        return None if before is None or after is None else before - after

    def df(self) -> pandas.DataFrame:
        """One row a decision: the share before it, with its interval, and how far it falls with it."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """What `df` shows."""
        rows: list[dict[str, Json]] = []
        for turn, (decision, share) in enumerate(zip(self.decisions, self.shares, strict=True)):
            low, high = share.interval
            rows.append(
                {
                    "step": decision.step, "agent": decision.agent, "what": decision.what, "passed": share.passed, "n": share.n,
                    "lost": share.lost, "share": share.rate, "ci_low": low, "ci_high": high, "fall": self.fall(turn),
                    "span_id": decision.span_id,
                }
            )  # fmt: skip
        return rows

    def __repr__(self) -> str:
        lines = []
        for decision, share in zip(self.decisions, self.shares, strict=True):
            bar = "" if share.rate is None else "█" * round(20 * share.rate)
            lines.append(f"{decision.step:>3} {decision.what[:28]:<28} {bar:<20} {share}")
        return "\n".join(
            [*lines, f"    {'as it was':<28} {'█' * 20 if self.right else '':<20} {'right' if self.right else 'wrong'}"]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One step and one repair of it, with what replays said. Shares are of the confirmation, or of the screening if it did not get so far."""

    decision: Decision
    kind: str
    """`result`, `argument`, `handoff`, `instruction`, `history` or `decision` (nothing repaired: chance)."""
    repair: str
    repaired: Share
    held: Share
    """With the step as it was."""
    anew: Share | None
    """With the decision taken anew; None for a tool's result, which is held."""
    start: Share
    """From the start, untouched."""
    p: float | None = None
    """Corrected for the shortlist (Holm); None: it was not on it."""
    verdict: str = ""
    branch: str | None = None
    """A trace in which it was repaired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What was found: `.verdict` is the sentence, `.suspects` the table."""

    trace_id: str
    found: tuple[Suspect, ...]
    """Ranked: what was found first."""
    outlook: Outlook
    replays: int
    """Run now; those kept from before are not counted."""
    spent_usd: float | None
    stopped: str = ""
    """Why it ended early, if it did."""

    @property
    def suspects(self) -> pandas.DataFrame:
        """One row a suspect: the step, the repair, how often it came out right in each way, and the verdict."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """What `suspects` shows."""
        return [
            {
                "step": s.decision.step, "agent": s.decision.agent, "what": s.decision.what, "kind": s.kind, "repair": s.repair,
                "repaired": str(s.repaired), "held": str(s.held), "anew": None if s.anew is None else str(s.anew),
                "start": str(s.start), "p": s.p, "verdict": s.verdict, "branch": s.branch, "span_id": s.decision.span_id,
            }
            for s in self.found
        ]  # fmt: skip

    @property
    def verdict(self) -> str:
        """One sentence that may be quoted."""
        lost = sum((share.lost for share in self.outlook.shares), 0) + sum(s.repaired.lost for s in self.found)
        made = lost + sum(share.n for share in self.outlook.shares) + sum(s.repaired.n for s in self.found)
        tail = f" {self.stopped}" if self.stopped else ""
        if self.found and self.found[0].verdict in ("proven", "chance"):
            return told(self.found[0]) + tail
        if made and lost * 2 > made:
            return (
                f"Not judged: {lost} of {made} replays left the tape. Take more traces into it, or tools='live'." + tail
            )
        start = self.outlook.shares[0]
        if start.n and start.passed * 2 >= start.n:
            return (
                f"Not reproduced: {start} replays from the start come out right, and no step was found to decide it."
                + tail
            )
        if self.found and self.found[0].verdict == "suspected":
            return told(self.found[0]) + tail
        return "No step was found that decides it." + tail

    def __repr__(self) -> str:
        return self.verdict


def told(suspect: Suspect) -> str:
    """The sentence of one suspect."""
    where = f"step {suspect.decision.step} · {suspect.decision.what}"
    if suspect.verdict == "chance":
        assert suspect.anew is not None
        again = suspect.anew.n - suspect.anew.passed
        low, high = wilson(again, suspect.anew.n).low, wilson(again, suspect.anew.n).high
        return (
            f"{where} · CHANCE: decided here, and taken anew it goes wrong in {again} of {suspect.anew.n} (95 % CI {_percent(low)}–"
            f"{_percent(high)}); as it was, {suspect.held} replays come out right."
        )
    low, high = suspect.repaired.interval
    word = "PROVEN" if suspect.verdict == "proven" else "suspected, not proven"
    return (
        f"{where} · {word}: repaired ({suspect.repair}), {suspect.repaired} replays come out right (95 % CI {_percent(low)}–"
        f"{_percent(high)}); as it was, {suspect.held}."
    )


def _percent(share: float) -> str:
    return f"{share * 100:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyPlan:
    """What `why` would take at most, before anything is spent."""

    decisions: int
    repairs: int
    replays: int
    cost_usd: float | None
    """From what the recorded run cost; None where that is unknown."""

    def __repr__(self) -> str:
        money = "at an unknown price" if self.cost_usd is None else f"for about ${self.cost_usd:.2f}"
        return f"{self.decisions} decisions, {self.repairs} repairs to try: at most {self.replays} replays {money}."


# -- what counts as right


def judge_of(wrong: Any, right: Any, asked: str, *, failed: bool) -> Judge:
    """`wrong`: a text such as `contains:°F` that holds of wrong answers, a function of the answer that is true of them, or a scorer that
    gives them less than ½. `right`: the corrected answer, which a right one contains, a function, or a scorer. Raises `UsageError`."""
    if wrong is not None and right is not None:
        raise UsageError("wrong= and right= were both given.", "Say one of them.", param="wrong")
    said, is_wrong = (wrong, True) if right is None else (right, False)
    if said is None:
        if not failed:
            raise UsageError(
                "The run did not fail, so what is wrong with its answer must be said.",
                "For example wrong='contains:°F', right='the corrected answer', or a function of the answer.",
                param="wrong",
            )
        return _came_to_an_end
    case, low_is_wrong = Case(input=asked), True
    scorer: Scorer | None = None
    if isinstance(said, str):
        scorer = make_scorer(said) if is_wrong else make_scorer({"type": "contains", "value": said})
        low_is_wrong = not is_wrong
    elif isinstance(said, Scorer | Mapping):
        scorer = make_scorer(said)
    elif not callable(said):
        raise UsageError(
            f"{said!r} says nothing about an answer.", "Give a text, a function or a scorer.", param="wrong"
        )

    async def judge(replayed: Replayed) -> bool | None:
        if isinstance(replayed.error, TapeMissError):
            return None
        if replayed.output is None:
            return False
        if scorer is None:
            holds = said(replayed.output)
            holds = await holds if isinstance(holds, Awaitable) else holds
            return bool(holds) != is_wrong
        score = await scorer.score(Answer(output=replayed.output, steps=_steps(replayed.items)), case, Tools())
        if score.value is None:
            return None
        value = 1.0 - score.value if scorer.negate else score.value
        return (value >= 0.5) == low_is_wrong

    return judge


async def _came_to_an_end(replayed: Replayed) -> bool | None:
    return None if isinstance(replayed.error, TapeMissError) else replayed.error is None


def _steps(items: Iterable[Json]) -> tuple[Mapping[str, Json], ...]:
    return tuple(
        {
            "type": "tool",
            "name": item["name"],
            "arguments": parsed(item["arguments"]),
            "agent": None,
            "approval": "not_needed",
            "error": None,
        }
        for item in items
        if item.get("type") == "function_call"
    )


# -- repairs


@dataclass(frozen=True, slots=True)
class Repair:
    """A suspect before anything was replayed. `start`: replays with it repaired."""

    turn: int
    kind: str
    text: str
    start: WarmStart
    rank: int
    """What is tried first."""
    detail: str = ""
    """The whole of what `text` shows the beginning of."""

    @property
    def key(self) -> str:
        return f"{self.kind} {self.turn} {digest([self.text, self.detail])[:16]}"


def repairs(
    base: WarmStart,
    tape: Tape,
    *,
    live: bool,
    corrections: Mapping[str, Json],
    instructions: Mapping[str, Sequence[str]],
) -> list[Repair]:
    """What could be different, by rules: a bounded number, the likeliest first. Nothing is guessed from what words mean."""
    recorded, plan = base.recorded, base.plan
    found: list[Repair] = []
    for turn, answer in enumerate(recorded.answers):
        items = [dict(item) for item in answer["output"] or () if isinstance(item, Mapping)]
        agent = str(answer["agent"])
        tools = {tool.name: tool for tool in plan.offered.get(agent, ())}
        ways = handoff_targets(plan.graph.agents[agent]) if agent in plan.graph.agents else {}
        known = _words(recorded.input_of(turn))
        for place, item in enumerate(items):
            if item.get("type") != "function_call":
                continue
            name, call_id = item["name"], item["call_id"]
            if name in ways:
                others = [other for other in ways if other != name][:3]
                found += [
                    Repair(
                        turn,
                        "handoff",
                        f"to {ways[other]} instead",
                        base.with_answer(turn, _at(items, place, name=other, arguments="{}")),
                        1,
                    )
                    for other in others
                ]
                continue
            arguments = parsed(item["arguments"] or "{}")
            if call_id in recorded.calls:
                found += _results(base, tape, turn, agent, name, call_id, arguments, live, corrections)
            if isinstance(arguments, dict) and (tool := tools.get(name)) is not None:
                for rank, text, other in _arguments(arguments, getattr(tool, "params_json_schema", {}), known):
                    changed = _at(items, place, arguments=json.dumps(other, ensure_ascii=False))
                    found.append(Repair(turn, "argument", f"{name}: {text}", base.with_answer(turn, changed), rank))
        if turn and (lost := _forgotten(recorded, turn)):
            found.append(
                Repair(turn, "history", f"{len(lost)} items it had read before", base.with_input(turn, lost), 1)
            )
    for agent, texts in instructions.items():
        first = next((turn for turn, answer in enumerate(recorded.answers) if answer["agent"] == agent), None)
        if first is not None:
            found += [
                Repair(
                    first,
                    "instruction",
                    f"{agent}: {_short(text)}",
                    base.with_instructions(first, agent, text),
                    1,
                    text,
                )
                for text in texts
            ]
    ranked = sorted(found, key=lambda repair: (repair.rank, repair.turn))[:MOST_REPAIRS]
    return sorted(ranked, key=lambda repair: repair.turn)


def _results(
    base: WarmStart,
    tape: Tape,
    turn: int,
    agent: str,
    name: str,
    call_id: str,
    arguments: Json,
    live: bool,
    corrections: Mapping[str, Json],
) -> list[Repair]:
    if call_id in corrections:
        return [Repair(turn, "result", f"{name}: as corrected", base.with_result(call_id, corrections[call_id]), 0)]
    if live:
        return [Repair(turn, "result", f"{name}: asked again", base.with_call_again(call_id), 1)]
    heard = base.recorded.calls[call_id].heard
    path = named(agent, base.plan.graph.root.name)
    wanted = json.dumps(arguments, sort_keys=True)
    others = Counter(
        call.heard
        for call in tape.calls_of(path, name)
        if isinstance(call.heard, str) and call.heard != heard and json.dumps(call.arguments, sort_keys=True) == wanted
    )
    return [
        Repair(turn, "result", f"{name}: {_short(other)}", base.with_result(call_id, other), 1, other)
        for other, _ in others.most_common(2)
    ]


def _arguments(
    arguments: dict[str, Any], schema: Mapping[str, Any], known: Counter[str]
) -> list[tuple[int, str, dict[str, Any]]]:
    """(rank, what is done, the arguments then)."""
    found: list[tuple[int, str, dict[str, Any]]] = []
    properties = schema.get("properties") or {}
    for name, value in arguments.items():
        choices = (properties.get(name) or {}).get("enum") if isinstance(properties.get(name), Mapping) else None
        if choices and value not in choices:
            near = get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.0)
            ordered = sorted(choices, key=lambda choice: str(choice) not in near)[:3]
            found += [
                (0, f"{name} is none of its choices, {choice!r}", {**arguments, name: choice}) for choice in ordered
            ]
        elif isinstance(value, str) and _is_id(value):
            rank = 2 if value in known else 0
            alike = [word for word in known if word != value and _shape(word) == _shape(value)]
            words = "from what it had read" if rank == 0 else "another it had read"
            found += [(rank, f"{name} {word!r}, {words}", {**arguments, name: word}) for word in alike[-3:]]
        elif choices:
            found += [(3, f"{name} {choice!r}", {**arguments, name: choice}) for choice in choices if choice != value][
                :2
            ]
    for a, b in combinations(arguments, 2):
        if type(arguments[a]) is type(arguments[b]) and arguments[a] != arguments[b]:
            found.append((1, f"{a} and {b} swapped", {**arguments, a: arguments[b], b: arguments[a]}))
    return found[:8]


def _words(items: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Ids in what a model had read, in order of appearance."""
    words: Counter[str] = Counter()
    for item in items:
        if item.get("type") == "function_call":
            continue  # What it asked itself is no source.
        content = item.get("output") if item.get("type") == "function_call_output" else item.get("content")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        words.update(word.strip("-_") for word in re.findall(r"[\w-]+", text) if _is_id(word.strip("-_")))
    return words


def _is_id(word: str) -> bool:
    return any(letter.isdigit() for letter in word) and " " not in word


def _shape(word: str) -> str:
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]", "a", word))


def _at(items: Sequence[Mapping[str, Any]], place: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**item, **(changes if at == place else {})} for at, item in enumerate(items)]


def _forgotten(recorded: Recorded, turn: int) -> list[dict[str, Any]]:
    """The whole history, where the model had not read all that it had read the turn before; else nothing."""
    before, now = recorded.input_of(turn - 1), recorded.input_of(turn)
    keys = {_plain(item) for item in now}
    missing = [item for item in before if _plain(item) not in keys]
    return (
        [*missing, *now] if missing and recorded.answers[turn]["agent"] == recorded.answers[turn - 1]["agent"] else []
    )


def _plain(item: Mapping[str, Any]) -> str:
    return json.dumps(
        {n: v for n, v in item.items() if n not in ("id", "status") and v is not None}, sort_keys=True, default=str
    )


def _short(text: Any) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= 60 else f"{words[:59]}…"


def other_instructions(store: Store, pool: Sequence[str], recorded: Recorded) -> Mapping[str, Sequence[str]]:
    """Agent to what it was told in other runs of the pool, where that was something else. Blocks."""
    own: dict[str, set[str]] = defaultdict(set)
    for answer in recorded.answers:
        own[str(answer["agent"])].add(_system(answer))
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for trace_id in pool[:POOL_READ]:
        first: dict[str, str] = {}
        for span in store.traces.spans(trace_id):
            if span.kind == "generation" and span.agent in own:
                first.setdefault(str(span.agent), span.span_id)
        for answer in store.traces.payloads(trace_id, list(first.values())):
            told_then = _system(answer)
            if told_then and told_then not in own[str(answer["agent"])]:
                found[str(answer["agent"])][told_then] += 1
    return {agent: [text for text, _ in texts.most_common(2)] for agent, texts in found.items()}


def _system(answer: Mapping[str, Any]) -> str:
    first = next(iter(answer["input"] or ()), None)
    return str(first.get("content") or "") if isinstance(first, Mapping) and first.get("role") == "system" else ""


# -- replaying


@dataclass(slots=True)
class Replays:
    """Runs replays side by side, counts what comes of them, and keeps each, so that none is paid twice."""

    rows: ComparisonRows
    judge: Judge
    key: Sequence[Any]
    concurrency: int
    budget_usd: float | None
    approve_all: bool
    planned: int
    on_progress: Progress | None
    run: int = 0
    done: int = 0
    spent_usd: float | None = 0.0
    stopped: str = ""
    branches: dict[str, str] = field(default_factory=dict)
    _gate: asyncio.Semaphore | None = None

    async def shares(self, phase: str, arms: Mapping[str, WarmStart | None], numbers: range) -> dict[str, Share]:
        """Each arm replayed once for each number. None: the recorded end itself, which is wrong."""
        self._gate = self._gate or asyncio.Semaphore(self.concurrency)
        slots = [
            (name, start, digest([*self.key, phase, name, n])) for name, start in arms.items() if start for n in numbers
        ]
        kept = await in_thread(self.rows.cached, [key for _, _, key in slots])
        outcomes: dict[str, list[bool | None]] = {name: [] for name in arms}
        async with asyncio.TaskGroup() as group:
            for position, (name, start, key) in enumerate(slots):
                first = phase == "confirm" and position % max(1, len(numbers)) == 0 and numbers.start == 0
                group.create_task(self._one(outcomes[name], name, start, key, kept.get(key), keep_trace=first))
        found = {name: _share(judged) for name, judged in outcomes.items()}
        return found | {name: Share(0, len(numbers)) for name, start in arms.items() if start is None}

    async def _one(
        self,
        into: list[bool | None],
        name: str,
        start: WarmStart,
        key: str,
        kept: Mapping[str, Any] | None,
        *,
        keep_trace: bool,
    ) -> None:
        assert self._gate is not None
        async with self._gate:
            if kept is not None:
                plain = json.loads(kept["reply"])
                error = (
                    TapeMissError(plain["error"])
                    if plain["lost"]
                    else UsageError(plain["error"])
                    if plain["error"]
                    else None
                )
                replayed = Replayed(
                    output=plain["output"], error=error, items=tuple(plain["items"]), agent="", usage=NO_USAGE, cost_usd=0.0,
                    trace_id=plain["trace_id"],
                )  # fmt: skip
            elif self._is_used_up():
                return
            else:
                replayed = await start.replay(
                    approve_all=self.approve_all, keep_trace=keep_trace and name.startswith("repaired")
                )
                self.run += 1
                self.spent_usd = (
                    None if self.spent_usd is None or replayed.cost_usd is None else self.spent_usd + replayed.cost_usd
                )
                text = json.dumps({
                    "output": replayed.output, "error": str(replayed.error) if replayed.error else None,
                    "lost": isinstance(replayed.error, TapeMissError), "trace_id": replayed.trace_id,
                    "items": [i for i in replayed.items if i.get("type") == "function_call"],
                }, default=str)  # fmt: skip
                await asyncio.shield(in_thread(self.rows.add_cells, "", (), (), (), [(key, text)]))
            if replayed.trace_id:
                self.branches.setdefault(name, replayed.trace_id)
            into.append(await self.judge(replayed))
            self.done += 1
            if self.on_progress:
                self.on_progress(self.done, self.planned)

    def _is_used_up(self) -> bool:
        if self.budget_usd is not None and self.spent_usd is not None and self.spent_usd >= self.budget_usd:
            self.stopped = f"Stopped at its budget of ${self.budget_usd:g}."
        return bool(self.stopped)


def _share(judged: Sequence[bool | None]) -> Share:
    return Share(sum(j is True for j in judged), sum(j is not None for j in judged), sum(j is None for j in judged))


def decisions_of(base: WarmStart) -> tuple[Decision, ...]:
    """The recorded run's, in order."""
    recorded, found = base.recorded, []
    for turn, answer in enumerate(recorded.answers):
        agent = str(answer["agent"])
        ways = handoff_targets(base.plan.graph.agents[agent]) if agent in base.plan.graph.agents else {}
        names = [
            item["name"]
            for item in answer["output"] or ()
            if isinstance(item, Mapping) and item.get("type") == "function_call"
        ]
        what = ", ".join(f"→ {ways[name]}" if name in ways else name for name in names) or "answer"
        found.append(Decision(step=turn + 1, span_id=answer["span_id"], agent=agent, what=what))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Question:
    """A recorded run, and what counts as right: what `outlook` and `why` begin with."""

    base: WarmStart
    tape: Tape
    judge: Judge
    live: bool
    key: tuple[Any, ...]
    right: bool
    """How the recorded run came out."""

    def anew(self, turn: int) -> WarmStart | None:
        """From that decision on, taken anew; None past the last, where the recorded end is all there is."""
        return self.base.at(turn) if turn < len(self.base.recorded.answers) else None


async def ask(
    runner: Runner,
    trace_id: str,
    *,
    wrong: Any,
    right: Any,
    tools: Any,
    on_miss: str,
    agent: Any = None,
    context: Any = None,
) -> Question:
    """Read the run and check everything. Raises what `warm_start` raises, and `UsageError`."""
    live = tools == "live"
    on_tools: Any = Tape((), (trace_id,)) if live else tools
    on_miss = "live-if-readonly" if live else on_miss
    base = await warm_start(runner, trace_id, on_tools=on_tools, on_miss=on_miss, agent=agent, context=context)
    assert base.plan.tape is not None
    run = base.plan.run
    judge = judge_of(wrong, right, run.input, failed=run.status != "completed")
    recorded = Replayed(
        output=run.output if run.status == "completed" else None, error=base.recorded.end, items=(), agent=run.agent, usage=NO_USAGE,
        cost_usd=0.0, trace_id=None,
    )  # fmt: skip
    key = ("why", VERSION, trace_id, base.plan.tape.version, on_miss)
    return Question(base, base.plan.tape, judge, live, key, bool(await judge(recorded)))


def _replays(question: Question, runner: Runner, planned: int, **options: Any) -> Replays:
    rows = ComparisonRows(runner.store.db, runner.store.user_id)
    return Replays(rows, question.judge, question.key, planned=planned, **options)


async def outlook(
    runner: Runner, question: Question, *, k: int = 8, concurrency: int = 16, budget_usd: float | None = None, approve_all: bool = False,
    on_progress: Progress | None = None,
) -> Outlook:  # fmt: skip
    """`k` continuations from each decision."""
    decisions = decisions_of(question.base)
    replays = _replays(
        question, runner, k * len(decisions), concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=on_progress
    )  # fmt: skip
    return await _outlook(question, replays, decisions, k)


async def _outlook(question: Question, replays: Replays, decisions: Sequence[Decision], k: int) -> Outlook:
    arms = {f"anew {turn}": question.anew(turn) for turn in range(len(decisions))}
    found = await replays.shares("outlook", arms, range(k))
    return Outlook(question.base.plan.run.trace_id, tuple(decisions), tuple(found.values()), question.right)


async def why(
    runner: Runner, question: Question, *, replays: int = 10, k: int = 8, corrections: Mapping[str, Json] | None = None,
    instructions: Mapping[str, Sequence[str]] | None = None, concurrency: int = 16, budget_usd: float | None = None,
    approve_all: bool = False, plan: bool = False, on_progress: Progress | None = None,
) -> Why | WhyPlan:  # fmt: skip
    """See `lab.why`."""
    if question.right:
        raise UsageError(
            "By this measure the recorded run came out right.", "Say what is wrong with it.", param="wrong"
        )
    base, decisions = question.base, decisions_of(question.base)
    told_elsewhere = (
        instructions
        if instructions is not None
        else await in_thread(
            other_instructions,
            runner.store,
            [t for t in question.tape.traces if t != base.plan.run.trace_id],
            base.recorded,
        )
    )
    tried = repairs(base, question.tape, live=question.live, corrections=corrections or {}, instructions=told_elsewhere)
    most = k * len(decisions) + SCREENED * len(tried) + 2 * replays * (3 * SHORTLIST + 1)
    if plan:
        cost = base.plan.run.cost_usd
        return WhyPlan(
            decisions=len(decisions),
            repairs=len(tried),
            replays=most,
            cost_usd=None if cost is None else cost * most / 2,
        )
    work = _replays(
        question, runner, most, concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=on_progress
    )  # fmt: skip
    seen = await _outlook(question, work, decisions, k)
    screened = await work.shares("screen", {f"repaired {r.key}": r.start for r in tried}, range(SCREENED))
    short = _shortlist(tried, screened, seen)
    shares, p_values, settled = await _confirmed(question, work, short, replays)
    found = [
        _suspect(one, p, one.key in settled, shares, decisions, work.branches)
        for one, p in zip(short, p_values, strict=True)
    ]
    picked = {one.key for one in short}
    rest = [
        Suspect(
            decision=decisions[r.turn], kind=r.kind, repair=r.text, repaired=screened[f"repaired {r.key}"], held=_after(seen, r.turn),
            anew=None if r.kind == "result" else seen.shares[r.turn], start=seen.shares[0],
        )
        for r in tried if r.key not in picked
    ]  # fmt: skip
    order = {"proven": 0, "chance": 1, "suspected": 2}
    ranked = sorted(
        [*found, *rest],
        key=lambda s: (order.get(s.verdict, 3), s.decision.step if s.verdict in order else 0, s.p or 0.0),
    )
    return Why(
        trace_id=base.plan.run.trace_id, found=tuple(ranked), outlook=seen, replays=work.run, spent_usd=work.spent_usd, stopped=work.stopped
    )  # fmt: skip


def _after(seen: Outlook, turn: int) -> Share:
    """With the decision as it was."""
    return seen.shares[turn + 1] if turn + 1 < len(seen.shares) else Share(0, seen.shares[turn].n)


@dataclass(frozen=True, slots=True)
class Chance:
    """A decision of which nothing is repaired: it is taken anew."""

    turn: int
    kind: str = "decision"
    text: str = "taken anew"

    @property
    def key(self) -> str:
        return f"chance {self.turn}"


def _shortlist(tried: Sequence[Repair], screened: Mapping[str, Share], seen: Outlook) -> list[Repair | Chance]:
    """The repairs that helped most, one a step and kind, the steps at which the outlook falls most, and no more than `SHORTLIST`."""
    falls = [(seen.fall(turn) or 0.0, turn) for turn in range(len(seen.shares))]
    chances: list[Repair | Chance] = [
        Chance(turn) for fall, turn in sorted(falls, key=lambda f: (-f[0], f[1]))[:2] if fall >= LEAST_FALL
    ]
    gains: list[tuple[float, Repair]] = []
    for repair in tried:
        share = screened[f"repaired {repair.key}"]
        before = _after(seen, repair.turn) if repair.kind == "result" else seen.shares[repair.turn]
        if share.n and share.passed:
            gain = (share.rate or 0.0) - max(before.rate or 0.0, seen.shares[0].rate or 0.0)
            gains.append((gain, repair))
    best: dict[tuple[int, str], Repair | Chance] = {}
    for gain, repair in sorted(gains, key=lambda g: (-g[0], g[1].turn, g[1].rank)):
        if gain >= LEAST_GAIN:
            best.setdefault((repair.turn, repair.kind), repair)
    return [*chances, *list(best.values())[: SHORTLIST - len(chances)]]


async def _confirmed(
    question: Question, work: Replays, short: Sequence[Repair | Chance], replays: int
) -> tuple[dict[str, Share], list[float], set[str]]:
    """The shares, Holm's p of each suspect, and the keys of those that are settled. Fresh replays at two looks: what the first settles is not replayed further. Each look spends its share of α for itself
    (Bonferroni), so the level holds whatever the looks have in common."""
    looks = _looks(replays)
    shares: dict[str, Share] = {}
    settled: set[str] = set()
    adjusted = [1.0] * len(short)
    for numbers, alpha in looks:
        arms: dict[str, WarmStart | None] = {}
        for one in short:
            if one.key not in settled:
                arms |= {
                    f"anew {one.turn}": question.anew(one.turn),
                    f"anew {one.turn + 1}": question.anew(one.turn + 1),
                }
                if isinstance(one, Repair):
                    arms |= {f"repaired {one.key}": one.start, "anew 0": question.anew(0)}
        if not arms:
            break
        for name, share in (await work.shares("confirm", arms, numbers)).items():
            shares[name] = shares.get(name, Share()) + share
        adjusted = holm([_p(one, shares) for one in short])
        settled |= {one.key for one, p in zip(short, adjusted, strict=True) if p <= alpha}
    return shares, adjusted, settled


def _looks(replays: int) -> list[tuple[range, float]]:
    """The replays of each look, and its share of α, by a spending function of the O'Brien-Fleming type: `replays`, and as many again of
    what they did not settle."""
    early = 2.0 * (1.0 - NormalDist().cdf(NormalDist().inv_cdf(1 - ALPHA / 2) / 0.5**0.5))
    return [(range(replays), early), (range(replays, 2 * replays), ALPHA - early)]


def _p(one: Repair | Chance, shares: Mapping[str, Share]) -> float:
    """The largest of the p-values that must all be small."""
    anew, held = shares[f"anew {one.turn}"], shares[f"anew {one.turn + 1}"]
    if isinstance(one, Chance):
        return _better(anew, held)
    repaired = shares[f"repaired {one.key}"]
    others = [held, shares["anew 0"], *([] if one.kind == "result" else [anew])]
    return max(_better(repaired, other) for other in others)


def _better(a: Share, b: Share) -> float:
    """Two-sided p that `a` comes out right more often; 1 where it does not."""
    if not a.n or not b.n or a.passed * b.n <= b.passed * a.n:
        return 1.0
    return fisher(a.passed, a.n, b.passed, b.n)


def _suspect(
    one: Repair | Chance,
    p: float,
    is_settled: bool,
    shares: Mapping[str, Share],
    decisions: Sequence[Decision],
    branches: Mapping[str, str],
) -> Suspect:
    nothing = Share()
    anew, held = shares.get(f"anew {one.turn}", nothing), shares.get(f"anew {one.turn + 1}", nothing)
    repaired = anew if isinstance(one, Chance) else shares.get(f"repaired {one.key}", nothing)
    verdict = "suspected" if not is_settled else "chance" if isinstance(one, Chance) else "proven"
    if verdict == "suspected" and not repaired.passed:
        verdict = ""
    return Suspect(
        decision=decisions[one.turn], kind=one.kind, repair=one.text, repaired=repaired, held=held,
        anew=None if one.kind == "result" else anew, start=shares.get("anew 0", nothing), p=p, verdict=verdict,
        branch=branches.get(f"repaired {one.key}"),
    )  # fmt: skip
