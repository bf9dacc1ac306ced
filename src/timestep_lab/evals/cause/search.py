"""Root-cause analysis of a run: replays it with and without each suspect, instead of having a model read the trace.

    outlook(run, scorer)   the fraction of continuations that succeed after each decision; a drop marks the decision to look at
    why(run, wrong=…)      the responsible step: *proven*, *chance*, or undetermined

Two questions are separated. *Decided here*: with the step as it was the run fails, with the step repaired it succeeds.
*Would happen again*: resampled at that step, the agent fails, too. Proven means both, and better than replays from the
start, which rules out a repair that would help any run. Decided here but not likely to happen again is chance. Tool
results are held fixed; decisions are resampled.

Replays run on tape, or with read-only tools. Screened suspects are confirmed with fresh replays at two looks, by
Fisher's exact test with Holm's correction over the shortlist. Every replay is stored in the lab, so an interrupted
search continues without paying twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from timestep_lab.evals.cause.findings import Decision, Outlook, Share, Suspect, Why, WhyPlan
from timestep_lab.evals.cause.repairs import (
    POOL_READ,
    Call,
    Repair,
    asked_again,
    check_named,
    comparable_runs,
    other_instructions,
    other_models,
    repairs,
)
from timestep_lab.evals.cause.replays import (
    NO_USAGE,
    Continuations,
    Judge,
    Progress,
    Replays,
    calls_before,
    judge_of,
    share_of,
)
from timestep_lab.evals.datasets.case import digest
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.evals.scorers.registry import make_scorer
from timestep_lab.evals.statistics.paired import fisher, holm
from timestep_lab.model.arguments import check_whole
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.runtime.agent_graph import definition_of, handoff_targets, identity
from timestep_lab.runtime.run import RunLimits
from timestep_lab.runtime.tape import Tape, pool_of, record
from timestep_lab.runtime.warm_start import Replayed, WarmStart, warm_start
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    import agents as sdk

    from timestep_lab.runtime.runner import Runner
    from timestep_lab.store.store import Store

VERSION = 5
ALPHA = 0.05
SCREENED = 4
"""Replays of each repair before the shortlist is made."""
SHORTLIST = 5
LEAST_LIMIT_S = 60.0
LONGEST_REPLAY = 20
"""A replay may take this many times as long as the recorded run, and more where a model answers one at a time."""
CORRECTION = "correction"
"""Name of the annotation whose note is the right answer."""
LEAST_FALL = 0.25
"""Minimum drop of the outlook at a decision for it to be considered as chance."""
LEAST_GAIN = 0.35
"""Minimum gain of a screened repair for it to be confirmed: every further suspect makes the others harder to prove."""


# -- the recorded run


def decisions_of(base: WarmStart) -> tuple[Decision, ...]:
    """The decisions of the recorded run, in order."""
    recorded, decisions = base.recorded, []
    for turn, answer in enumerate(recorded.answers):
        agent = str(answer["agent"])
        ways = handoff_targets(base.plan.graph.agents[agent]) if agent in base.plan.graph.agents else {}
        names = [
            item["name"]
            for item in answer["output"] or ()
            if isinstance(item, Mapping) and item.get("type") == "function_call"
        ]
        what = ", ".join(f"→ {ways[name]}" if name in ways else name for name in names) or "answer"
        decisions.append(Decision(step=turn + 1, span_id=answer["span_id"], agent=agent, what=what))
    return tuple(decisions)


@dataclass(frozen=True, slots=True)
class Question:
    """A recorded run and its criterion of success: the common input of `outlook` and `why`."""

    base: WarmStart
    known_runs: Tape
    """Runs from which repairs are taken: those of the tape, or with live tools the newest runs of the agent."""
    judge: Judge
    live: bool
    key: tuple[Json, ...]
    right: bool
    """Whether the recorded run succeeded."""

    def anew(self, turn: int) -> WarmStart | None:
        """A start that resamples this decision and everything after it; None after the last decision."""
        return self.base.at(turn) if turn < len(self.base.recorded.answers) else None


async def ask(
    runner: Runner,
    trace_id: str,
    *,
    wrong: object,
    right: object,
    tools: object,
    on_miss: str,
    scorer: object = None,
    agent: sdk.Agent | None = None,
    context: object = None,
) -> Question:
    """Read the run and validate the arguments. `scorer`, as a text or an object, gives right answers at least ½; it
    replaces `wrong` and `right`.

    Raises what `warm_start` raises, and `UsageError`.
    """
    if scorer is not None:
        if wrong is not None or right is not None:
            raise UsageError("A scorer and wrong= or right= were both given.", "Pass only one of them.", param="scorer")
        right = make_scorer(scorer) if isinstance(scorer, str) else scorer
    if not isinstance(tools, str | Tape) or (
        isinstance(tools, str) and tools.partition(":")[0] not in ("live", "tape")
    ):
        raise UsageError(
            f"tools={tools!r} is not known.",
            "Use 'tape', 'tape:<filter of traces>', lab.tape(…) or 'live'.",
            param="tools",
        )
    live = tools == "live"
    on_tools = Tape((), (trace_id,)) if live else tools
    on_miss = "live-if-readonly" if live else on_miss
    base = await warm_start(runner, trace_id, on_tools=on_tools, on_miss=on_miss, agent=agent, context=context)
    assert base.plan.tape is not None
    _check_tools(base)
    run = base.plan.run
    if run.status in ("running", "needs_approval"):
        raise UsageError(
            f"This run has not ended: its status is {run.status}.", "Wait for its end, decide its calls, or cancel it."
        )
    if wrong is None and right is None and run.status == "completed":
        right = await in_thread(correction_of, runner.store, trace_id)
    judge = judge_of(wrong, right, run.input, failed=run.status != "completed")
    recorded = Replayed(
        output=run.output if run.status == "completed" else None, error=base.recorded.end, items=tuple(calls_before(base, None)),
        agent=run.agent, usage=NO_USAGE, cost_usd=0.0, trace_id=None,
    )  # fmt: skip
    agents = [definition_of(one, code=live) for one in base.plan.graph.agents.values()]
    asked = [base.plan.options.model, dict(base.plan.options.model_settings), agents, identity(base.plan.context)]
    key = ("why", VERSION, trace_id, base.plan.tape.version, on_miss, digest(asked))
    known_runs = base.plan.tape
    if live:
        known_runs = await in_thread(
            lambda: record(runner.store, pool_of(runner.store, run.agent, trace_id, POOL_READ + 1))
        )
    return Question(base, known_runs, judge, live, key, bool(await judge(recorded)))


def _check_tools(base: WarmStart) -> None:
    """Raises `UsageError` if an agent lacks a tool that it called in the run: every replay would go another way."""
    for answer in base.recorded.answers:
        agent = str(answer["agent"])
        for item in answer["output"] or ():
            if (
                not isinstance(item, Mapping)
                or item.get("type") != "function_call"
                or item["call_id"] not in base.recorded.tools
            ):
                continue
            if item["name"] not in {tool.name for tool in base.plan.offered.get(agent, ())}:
                raise UsageError(
                    f"The agent {agent!r} does not have the tool {item['name']!r}, which it called in this run.",
                    "Pass the agent with all of its tools: agent=….",
                    param="agent",
                )


def correction_of(store: Store, trace_id: str) -> str | None:
    """The right answer, if a person annotated the trace with one. Blocks."""
    scores = store.traces.scores(trace_id)
    return next((s.note for s in reversed(scores) if s.target == "trace" and s.name == CORRECTION and s.note), None)


def _replays(
    question: Question, runner: Runner, planned: int, *, concurrency: int, budget_usd: float | None, approve_all: bool,
    on_progress: Progress | None,
) -> Replays:  # fmt: skip
    base, rows = question.base, ComparisonRows(runner.store.db, runner.store.user_id)
    spans = base.recorded.answers
    took_s = (spans[-1]["ended_at"] - spans[0]["started_at"]).total_seconds() if spans[-1]["ended_at"] else 0.0
    work = Replays(
        rows, question.judge, [*question.key, approve_all], base.recorded.end, planned=planned,
        most_s=max(LEAST_LIMIT_S, took_s * (LONGEST_REPLAY + concurrency)), concurrency=concurrency, budget_usd=budget_usd,
        approve_all=approve_all, on_progress=on_progress,
    )  # fmt: skip
    work.tell()
    return work


async def _check_budget(runner: Runner, question: Question, budget_usd: float | None) -> None:
    """Raises `UsageError` for a budget that is no amount, or that cannot be kept because a price is unknown."""
    plan = question.base.plan
    await runner.check_prices(replace(plan.options, limits=RunLimits.read(budget_usd=budget_usd)), plan.who)


async def outlook(
    runner: Runner, question: Question, *, k: int = 8, concurrency: int = 16, budget_usd: float | None = None, approve_all: bool = False,
    on_progress: Progress | None = None,
) -> Outlook:  # fmt: skip
    """See `lab.outlook`. Raises `UsageError`."""
    check_whole(1, k=k, concurrency=concurrency)
    await _check_budget(runner, question, budget_usd)
    decisions = decisions_of(question.base)
    replays = _replays(
        question, runner, k * len(decisions), concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=on_progress
    )  # fmt: skip
    return await _outlook(question, replays, decisions, k)


async def _outlook(
    question: Question, replays: Replays, decisions: Sequence[Decision], k: int, *, sparing: bool = False
) -> Outlook:
    """Runs half of the continuations first, and the rest at the start and wherever that half is not clear: next to changes of the
    success rate, and at decisions where it is neither 0 nor 1. `sparing`: not at the latter, which are no suspects.
    """
    turns = range(len(decisions))
    continued = Continuations(replays, [question.base.at(turn) for turn in turns])

    def seen() -> Outlook:
        shares = tuple(share_of(judged) for judged in continued.judged)
        return Outlook(question.base.plan.run.trace_id, tuple(decisions), shares, question.right, replays.stopped)

    await continued.up_to([(k + 1) // 2] * len(decisions))
    half = seen()
    changed = {turn for turn in turns if abs(half.fall(turn) or 0.0) >= LEAST_FALL}
    open_turns = {0, *changed, *(turn + 1 for turn in changed)}
    if not sparing:
        open_turns |= {turn for turn in turns if half.shares[turn].rate not in (0.0, 1.0)}
    await continued.up_to([k if turn in open_turns else 0 for turn in turns])
    replays.planned -= k * len(decisions) - replays.done
    return seen()


async def why(
    runner: Runner, question: Question, *, replays: int = 10, k: int = 8, corrections: Mapping[str, Json] | None = None,
    instructions: Mapping[str, Sequence[str]] | None = None, models: Mapping[str, Sequence[str]] | None = None, concurrency: int = 16, budget_usd: float | None = None,
    approve_all: bool = False, plan: bool = False, on_progress: Progress | None = None,
) -> Why | WhyPlan:  # fmt: skip
    """See `lab.why`."""
    check_whole(1, k=k, concurrency=concurrency)
    check_whole(2, replays=replays)
    await _check_budget(runner, question, budget_usd)
    check_named(question.base, corrections or {}, instructions or {}, models or {})
    if question.right:
        raise UsageError(
            "By this criterion the recorded run succeeded.", "Pass a criterion that its answer fails.", param="wrong"
        )
    base, decisions = question.base, decisions_of(question.base)
    known_runs, usual = (
        (question.known_runs, set[Call]())
        if plan
        else await comparable_runs(runner.store, base, question.known_runs, question.judge)
    )
    pool = [trace for trace in known_runs.traces if trace != base.plan.run.trace_id]

    unknown: dict[str, None] = {}

    def is_known(model: str) -> bool:
        try:
            runner.router.get_model(model)
        except LabError as error:
            unknown[f"{model}, which answered in recorded runs, cannot be tried: {error}"] = None
            return False
        return True

    if instructions is None:
        instructions = await in_thread(other_instructions, runner.store, pool, base.recorded)
    if models is None:
        models = await in_thread(other_models, runner.store, pool, base.recorded, is_known)
    again, notes = await asked_again(base, concurrency, unasked=plan) if question.live else ({}, [])
    tried, left_out = repairs(
        base, known_runs, usual=usual, again=again, corrections=corrections or {}, instructions=instructions, models=models, is_known=is_known
    )  # fmt: skip
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
    seen = await _outlook(question, work, decisions, k, sparing=True)
    screened = await _screened(work, tried, seen)
    short = _shortlist(tried, screened, seen)
    shares, p_values, settled = await _confirmed(question, work, short, replays)
    suspects = [
        _suspect(one, p, one.key in settled, shares, decisions, work.branches)
        for one, p in zip(short, p_values, strict=True)
    ]
    picked = {one.key for one in short}
    rest = [
        Suspect(
            decision=decisions[r.turn], kind=r.kind, repair=r.text, repaired=screened[_arm(r)], held=_after(seen, r.turn),
            resampled=None if r.kind == "result" else seen.shares[r.turn], start=seen.shares[0],
        )
        for r in tried if r.key not in picked
    ]  # fmt: skip
    order = {"proven": 0, "chance": 1, "suspected": 2}
    ranked = sorted(
        [*suspects, *rest],
        key=lambda s: (order.get(s.verdict, 3), s.decision.step if s.verdict in order else 0, s.p or 0.0),
    )
    return Why(
        trace_id=base.plan.run.trace_id, found=tuple(ranked), outlook=seen, replays=work.run, spent_usd=work.spent_usd, stopped=work.stopped,
        made=work.done, lost=work.lost, lost_at=work.lost_at, live=question.live, notes=(*notes, *unknown, *left_out, *work.all_notes()),
    )  # fmt: skip


def _after(seen: Outlook, turn: int) -> Share:
    """The successes with this decision as it was."""
    return seen.shares[turn + 1] if turn + 1 < len(seen.shares) else Share(0, seen.shares[turn].n)


@dataclass(frozen=True, slots=True)
class Chance:
    """A decision as a suspect without a repair: it is resampled."""

    turn: int
    kind: str = "decision"
    text: str = "resampled"

    @property
    def key(self) -> str:
        return f"chance {self.turn}"


def _arm(one: Repair | Chance) -> str:
    """The arm in which the suspect step is changed."""
    return f"anew {one.turn}" if isinstance(one, Chance) else f"repaired {one.key}"


async def _screened(work: Replays, tried: Sequence[Repair], seen: Outlook) -> dict[str, Share]:
    """Replays each repair that can still help a few times. The second half of the replays is run for repairs that passed at least once; for
    every repair if none passed each time."""
    hopeful = [r for r in tried if r.rank == 0 or _unrepaired(r, seen) <= 1.0 - LEAST_GAIN]
    arms = {_arm(r): r.start for r in hopeful}
    half = SCREENED // 2
    shares = await work.shares("screen", arms, range(half))
    is_clear = any(share.passed == half for share in shares.values())
    left = {arm: start for arm, start in arms.items() if shares[arm].passed or not is_clear}
    for arm, share in (await work.shares("screen", left, range(half, SCREENED))).items():
        shares[arm] += share
    return {_arm(r): Share() for r in tried} | shares


def _unrepaired(repair: Repair, seen: Outlook) -> float:
    """The pass rate without the repair: from that step or from the start, whichever is higher."""
    before = _after(seen, repair.turn) if repair.kind == "result" else seen.shares[repair.turn]
    return max(before.rate or 0.0, seen.shares[0].rate or 0.0)


def _shortlist(tried: Sequence[Repair], screened: Mapping[str, Share], seen: Outlook) -> list[Repair | Chance]:
    """The shortlist: the best repair per step and kind, and the decisions with the largest drops of the outlook; at
    most `SHORTLIST`.
    """
    falls = [(seen.fall(turn) or 0.0, turn) for turn in range(len(seen.shares))]
    chances: list[Repair | Chance] = [
        Chance(turn) for fall, turn in sorted(falls, key=lambda f: (-f[0], f[1]))[:2] if fall >= LEAST_FALL
    ]
    gains: list[tuple[float, Repair]] = []
    for repair in tried:
        share = screened[_arm(repair)]
        if share.n and share.passed:
            gains.append(((share.rate or 0.0) - _unrepaired(repair, seen), repair))
    best: dict[tuple[int, str], Repair | Chance] = {}
    for gain, repair in sorted(gains, key=lambda g: (-g[0], g[1].turn, g[1].rank)):
        if gain >= LEAST_GAIN:
            best.setdefault((repair.turn, repair.kind), repair)
    return [*chances, *list(best.values())[: SHORTLIST - len(chances)]]


async def _confirmed(
    question: Question, work: Replays, short: Sequence[Repair | Chance], replays: int
) -> tuple[dict[str, Share], list[float], set[str]]:
    """Fresh replays of the shortlist at two looks: their shares, each suspect's Holm-corrected p-value, and the keys of
    those that are settled. What the first look settles is not replayed again. Each look spends its share of α
    (Bonferroni), so the level holds regardless of the dependence between looks."""
    looks = _looks(replays)
    work.watched = {_arm(one) for one in short}
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
    """The replays of each look and its share of α, by an O'Brien–Fleming type spending function: `replays`, then as
    many again for suspects that are not settled."""
    early = 2.0 * (1.0 - NormalDist().cdf(NormalDist().inv_cdf(1 - ALPHA / 2) / 0.5**0.5))
    return [(range(replays), early), (range(replays, 2 * replays), ALPHA - early)]


def _p(one: Repair | Chance, shares: Mapping[str, Share]) -> float:
    """The largest of the p-values that all must be small (intersection-union test)."""
    anew, held = shares[f"anew {one.turn}"], shares[f"anew {one.turn + 1}"]
    if isinstance(one, Chance):
        return _better(anew, held)
    repaired = shares[f"repaired {one.key}"]
    others = [held, shares["anew 0"], *([] if one.kind == "result" else [anew])]
    return max(_better(repaired, other) for other in others)


def _better(a: Share, b: Share) -> float:
    """Two-sided p-value that `a` succeeds more often than `b`; 1 if it does not."""
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
    verdict = "" if p >= 1.0 else "suspected" if not is_settled else "chance" if isinstance(one, Chance) else "proven"
    return Suspect(
        decision=decisions[one.turn], kind=one.kind, repair=one.text, repaired=repaired, held=held,
        resampled=None if one.kind == "result" else anew, start=shares.get("anew 0", nothing), p=p, verdict=verdict,
        branch=branches.get(_arm(one)),
    )  # fmt: skip
