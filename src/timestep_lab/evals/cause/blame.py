"""Which change made an agent worse: a fractional factorial design over the differences between two versions (Box &
Hunter 1961).

    design(k)      rows of good and bad levels in which main effects are not aliased with pairs (resolution IV)
    effects(…)     all main effects and two-factor interactions with intervals; aliased pairs form one class
    further(…)     additional rows that separate the pairs of a class that matters or may matter (D-optimal)

Each case is run in every row, so an effect is a contrast within a case, and differences in difficulty cancel. Intervals
are over cases; p-values are exact sign-flip tests with Holm's correction over all effects. Additional rows are run
where the first ones leave doubt; each of the two looks spends its share of α.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import agents as sdk
import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.cause.replays import NOT_THE_AGENTS
from timestep_lab.evals.statistics.intervals import Floats, Interval, clipped, skewed_interval, unseen, within_unit
from timestep_lab.evals.statistics.paired import holm, least_p, sign_flips
from timestep_lab.evals.statistics.sequential import obrien_fleming
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import AgentRecord, differences, mixed
from timestep_lab.runtime.agent_graph import (
    agents_behind,
    definition_of,
    handoff_definition,
    handoff_targets,
    identity,
    tool_definition,
)

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.grid import Grid

ALPHA = 0.05
DOUBTFUL = 0.05
"""Uncorrected p-value up to which an effect may still be settled by additional rows."""
PAIR_OF_TWO, OTHER_PAIR = 4.0, 0.25
"""Weights in Holm's correction of a pair whose two changes both seem to matter, and of other pairs. A single change has
weight 1. Main-effect contrasts are independent of interaction contrasts, so weights based on them keep the level."""
ANSWERED = "answered"
"""Name under which the share of answered calls is judged, if some failed: a failed call has no other score."""
MOST_CHANGES = 32
MOST_KNOWN_ROWS = 2048
"""Number of rows from which additional ones are chosen."""

Levels = NDArray[np.int8]
"""Rows × changes: 0 for the good level, 1 for the bad one."""
Term = tuple[int, ...]
"""The change, or the pair of changes, of an effect."""


# -- the design


def design(k: int) -> Levels:
    """The full factorial for up to 3 changes; else the smallest resolution IV design: 8 rows for 4, 16 for 5 to 8, 32
    for 9 to 16, 64 for 17 to 32.

    The first row is the good version, the last row the bad one.
    """
    bits = k if k <= 3 else max(3, int(np.ceil(np.log2(k))) + 1)
    odd = [v for v in range(1, 1 << bits) if v.bit_count() % 2]
    words = [1 << n for n in range(k)] if k <= 3 else sorted(odd, key=lambda v: (v.bit_count(), v))[:k]
    rows = [[(row & word).bit_count() % 2 for word in words] for row in range(1 << bits)]
    return np.array(rows, dtype=np.int8)


def classes(levels: Levels) -> list[list[Term]]:
    """Pairs of changes, grouped into classes that these rows do not separate (aliases)."""
    signs = 1.0 - 2.0 * levels
    by_column: dict[bytes, list[Term]] = {}
    for pair in combinations(range(levels.shape[1]), 2):
        column = signs[:, pair[0]] * signs[:, pair[1]]
        by_column.setdefault((column * column[0]).astype(np.int8).tobytes(), []).append(pair)
    return list(by_column.values())


def further(levels: Levels, terms: Sequence[Term], n: int) -> Levels:
    """`n` additional rows, chosen greedily to be most informative about these terms in addition to all single changes."""
    k = levels.shape[1]
    rows = (
        np.array([[row >> place & 1 for place in range(k)] for row in range(1 << k)], dtype=np.int8)
        if 1 << k <= MOST_KNOWN_ROWS
        else np.random.default_rng(0).integers(0, 2, (MOST_KNOWN_ROWS, k), dtype=np.int8)
    )
    known = {row.tobytes() for row in levels.astype(np.int8)}
    rows = rows[[row.tobytes() not in known for row in rows]]
    wanted = [*((place,) for place in range(k)), *terms]
    matrix, new = _columns(levels, wanted), _columns(rows, wanted)
    chosen: list[int] = []
    for _ in range(min(n, len(rows))):
        inverse = np.linalg.inv(matrix.T @ matrix + 1e-6 * np.eye(matrix.shape[1]))
        gain = np.einsum("ij,jk,ik->i", new, inverse, new)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        matrix = np.vstack([matrix, new[best]])
    return rows[chosen]


def _columns(levels: Levels, terms: Sequence[Term]) -> Floats:
    signs = 2.0 * levels - 1.0
    return np.column_stack([np.ones(len(levels)), *(np.prod(signs[:, list(term)], axis=1) for term in terms)])


# -- the effects


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The change in score due to a change, averaged over the others; for a pair, the interaction beyond the two single
    effects.
    """

    changes: tuple[str, ...]
    """One change, or the two of a pair."""
    diff: float
    ci_low: float
    ci_high: float
    p: float
    """Uncorrected p-value."""
    p_holm: float
    others: tuple[tuple[str, ...], ...] = ()
    """Pairs that these rows cannot separate from this one."""

    @property
    def is_settled(self) -> bool:
        return self.p_holm <= ALPHA

    @property
    def name(self) -> str:
        return " × ".join(self.changes)


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects on one scorer. `per_case`: term to its contrast in each case."""

    single: tuple[Effect, ...]
    pairs: tuple[Effect, ...]
    per_case: Mapping[Term, Floats]
    is_unit: bool = True
    """Whether all scores are between 0 and 1."""

    def sum_of(self, parts: Mapping[Term, float]) -> tuple[float, float, float]:
        """The mean over cases of a sum of contrasts, with a 95 % interval."""
        values = cast(Floats, sum(weight * self.per_case[term] for term, weight in parts.items()))
        interval = _interval(values, self.is_unit)
        return float(values.mean()), interval.low, interval.high


def _interval(values: Floats, is_unit: bool) -> Interval:
    """Of the mean of contrasts. That no case differs from the others does not mean that none would."""
    if len(values) >= 2 and np.ptp(values) > 1e-9:
        return clipped(skewed_interval(values), -1.0, 1.0) if is_unit else skewed_interval(values)
    is_known = is_unit and len(values) >= 2
    return unseen(float(values.mean()), len(values), -1.0, 1.0) if is_known else Interval(math.nan, math.nan)


def effects(
    levels: Levels, scores: Floats, names: Sequence[str], split: Sequence[Sequence[Term]] | None = None, alpha: float = ALPHA
) -> Effects:  # fmt: skip
    """Estimate all effects. `scores`: cases × rows; cases with a missing score are left out. `split`: classes of pairs
    as separated so far. `alpha`: what this look may spend; p-values are scaled so that `ALPHA` is always the threshold."""
    scores = scores[~np.isnan(scores).any(axis=1)]
    groups = [list(group) for group in (classes(levels) if split is None else split)]
    terms: list[Term] = [*((place,) for place in range(len(names))), *(group[0] for group in groups)]
    solved = 2.0 * np.linalg.pinv(_columns(levels, terms))[1:] @ scores.T
    per_case = {term: np.round(values, 9) + 0.0 for term, values in zip(terms, solved, strict=True)}  # Avoid −0.0
    enough = len(scores) >= 2
    p_values = [min(1.0, sign_flips(values) * ALPHA / alpha) if enough else 1.0 for values in per_case.values()]
    is_unit = within_unit(scores)
    near = {place for place, p in enumerate(p_values[: len(names)]) if p <= DOUBTFUL}
    weights = [1.0] * len(names) + [
        PAIR_OF_TWO if any(near >= {*pair} for pair in group) else OTHER_PAIR for group in groups
    ]
    estimates = []
    for term, p, adjusted in zip(terms, p_values, holm(p_values, weights), strict=True):
        values = per_case[term]
        interval = _interval(values, is_unit)
        same = next((group[1:] for group in groups if group[0] == term), [])
        estimates.append(
            Effect(
                changes=tuple(names[i] for i in term), diff=float(values.mean()) if len(values) else float("nan"),
                ci_low=interval.low, ci_high=interval.high, p=p, p_holm=adjusted, others=tuple(tuple(names[i] for i in pair) for pair in same),
            )
        )  # fmt: skip
    return Effects(tuple(estimates[: len(names)]), tuple(estimates[len(names) :]), per_case, is_unit)


def likely(seen: Effects, levels: Levels) -> tuple[list[list[Term]], list[Term]]:
    """The classes of pairs that may be responsible, most likely first, and the pairs that additional rows must
    separate: those of a class that matters or may matter, and of one that contains a pair of important changes.

    In a class that matters, the responsible pair is the one whose two changes both matter by themselves, if there is
    only one (effect heredity).
    """
    alone = {place for place, effect in enumerate(seen.single) if effect.is_settled}
    near = alone | {place for place, effect in enumerate(seen.single) if effect.p <= DOUBTFUL}
    ordered, unclear = [], []
    for group, effect in zip(classes(levels), seen.pairs, strict=True):
        strength = [sum(place in alone for place in pair) for pair in group]
        likeliest = [pair for pair, n in zip(group, strength, strict=True) if n == max(strength)]
        rest = [pair for pair in group if pair not in likeliest]
        is_near = effect.p <= DOUBTFUL or any(near >= {*pair} for pair in group)
        if effect.is_settled and len(likeliest) == 1 and max(strength) == 2:
            ordered.append(likeliest)
        elif len(group) > 1 and is_near:
            ordered.append([*likeliest, *rest])
            unclear += group
        else:
            ordered.append(group)
    return ordered, unclear


def is_doubtful(seen: Effects, levels: Levels) -> bool:
    """Whether additional rows may settle what is open: a nearly settled effect, which pair of a class is responsible,
    or whether two important changes only matter together. False if there are too few cases for any p-value to be small
    enough."""
    every = (*seen.single, *seen.pairs)
    if least_p(len(next(iter(seen.per_case.values())))) * len(every) > ALPHA:
        return False
    together = sum(effect.is_settled for effect in seen.single) > 1
    return any(effect.p <= DOUBTFUL and not effect.is_settled for effect in every) or (
        bool(likely(seen, levels)[1]) and (together or any(effect.is_settled for effect in seen.pairs))
    )


# -- the result


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """The result of `lab.blame`. `.verdict` is a sentence, `.effects` a table, `.grids` the comparisons behind it."""

    changes: Mapping[str, tuple[Json, Json]]
    """The differences: name to the good and the bad value."""
    by_scorer: Mapping[str, Effects]
    n_cases: int
    n_rows: int
    grids: tuple[Grid, ...] = ()
    stopped: str = ""

    def to_json(self) -> dict[str, Json]:
        """The result as JSON; comparisons are represented by their ids."""
        return {
            "changes": {name: list(sides) for name, sides in self.changes.items()},
            "by_scorer": {
                scorer: {
                    "single": [asdict(effect) for effect in estimates.single], "pairs": [asdict(effect) for effect in estimates.pairs],
                    "per_case": [[list(term), values.tolist()] for term, values in estimates.per_case.items()], "is_unit": estimates.is_unit,
                }
                for scorer, estimates in self.by_scorer.items()
            },
            "n_cases": self.n_cases, "n_rows": self.n_rows, "stopped": self.stopped, "comparisons": [grid.id for grid in self.grids],
            "verdict": self.verdict, "culprits": [list(changes) for changes in self.culprits],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any], grids: Sequence[Grid]) -> Blame:
        """The inverse of `to_json`."""
        return cls(
            changes={name: (was, now) for name, (was, now) in data["changes"].items()},
            by_scorer={scorer: _read_effects(stored) for scorer, stored in data["by_scorer"].items()},
            n_cases=data["n_cases"], n_rows=data["n_rows"], grids=tuple(grids), stopped=data["stopped"],
        )  # fmt: skip

    @property
    def calls(self) -> int:
        """Number of answers requested."""
        return self.n_rows * self.n_cases

    @property
    def full_calls(self) -> int:
        """Number of answers that the full factorial would need."""
        return self.n_cases << len(self.changes)

    @property
    def effects(self) -> pandas.DataFrame:
        """One row per change, pair and scorer: the difference with its interval, the corrected p-value and the verdict."""
        import pandas

        return pandas.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Json]]:
        """The rows of `effects`."""
        return [
            {
                "scorer": scorer, "change": effect.name, "kind": "pair" if len(effect.changes) == 2 else "change", "diff": effect.diff,
                "ci_low": effect.ci_low, "ci_high": effect.ci_high, "p_holm": effect.p_holm,
                "verdict": _word(effect), "not_separable_from": [" × ".join(other) for other in effect.others],
            }
            for scorer, estimates in self.by_scorer.items() for effect in (*estimates.single, *estimates.pairs)
        ]  # fmt: skip

    @property
    def culprits(self) -> tuple[tuple[str, ...], ...]:
        """What made the first scorer worse or calls fail, worst first: single changes, and pairs that do it together."""
        first = next((self.by_scorer[name] for name in self.by_scorer if name != ANSWERED), None)
        judged = [estimates for estimates in (first, self.by_scorer.get(ANSWERED)) if estimates is not None]
        return tuple(dict.fromkeys(effect.changes for estimates in judged for effect in _culprits(estimates)))

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence."""
        scorer, estimates = next(((name, e) for name, e in self.by_scorer.items() if name != ANSWERED), ("", None))
        if estimates is None:
            return f"Not judged: nothing was scored. {self.stopped}".strip()
        names, used = [*self.changes], len(next(iter(estimates.per_case.values())))
        cases = (
            f"{self.n_cases} cases" if used == self.n_cases else f"the {used} of {self.n_cases} cases with all scores"
        )
        tail = [f"By {scorer}, over {cases}; {self.calls} of {self.full_calls} calls.", self.stopped]
        if failures := self.by_scorer.get(ANSWERED):
            failed = sum(cell.status == "error" and not cell.left_tape for grid in self.grids for cell in grid.cells)
            tail.insert(0, f"{failed} of {self.calls} calls failed; answered calls: {_sentence(failures, names)}.")
        sentence = _sentence(estimates, names)
        return " ".join([f"{sentence[:1].upper()}{sentence[1:]}.", *filter(None, tail)])

    def __repr__(self) -> str:
        return self.verdict


def _read_effects(data: Mapping[str, Any]) -> Effects:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    def read(one: Mapping[str, Any]) -> Effect:
        return Effect(
            changes=tuple(one["changes"]), others=tuple(map(tuple, one["others"])), diff=number(one["diff"]), ci_low=number(one["ci_low"]),
            ci_high=number(one["ci_high"]), p=one["p"], p_holm=one["p_holm"],
        )  # fmt: skip

    per_case = {tuple(term): np.asarray(values, dtype=float) for term, values in data["per_case"]}
    return Effects(tuple(map(read, data["single"])), tuple(map(read, data["pairs"])), per_case, data["is_unit"])


def _word(effect: Effect) -> str:
    return "not settled" if not effect.is_settled else "worse" if effect.diff < 0 else "better"


def _culprits(found: Effects) -> list[Effect]:
    """The effects that made it worse. A pair that matters replaces its two changes."""
    pairs = [effect for effect in found.pairs if effect.is_settled]
    inside = {name for pair in pairs for name in pair.changes if not pair.others}
    single = [e for e in found.single if e.is_settled and e.diff < 0 and e.changes[0] not in inside]
    return sorted([*single, *pairs], key=lambda effect: -abs(effect.diff))


def _sentence(found: Effects, names: Sequence[str]) -> str:
    parts = [_described(effect, found, names) for effect in _culprits(found)]
    parts += [
        f"{effect.name}: {_points(effect.diff, effect.ci_low, effect.ci_high)}, which is better"
        for effect in found.single if effect.is_settled and effect.diff > 0
    ]  # fmt: skip
    named = {name for effect in (*found.single, *found.pairs) if effect.is_settled for name in effect.changes}
    if rest := [name for name in names if name not in named]:
        parts.append(f"{', '.join(rest)}: not settled")
    return "; ".join(parts)


def _described(effect: Effect, found: Effects, names: Sequence[str]) -> str:
    if len(effect.changes) == 1:
        return f"{effect.name}: {_points(effect.diff, effect.ci_low, effect.ci_high)}"
    if effect.others:
        every = " or ".join(" with ".join(pair) for pair in (effect.changes, *effect.others))
        return f"two changes together ({every}: not separable): {_points(effect.diff, effect.ci_low, effect.ci_high)}"
    a, b = (names.index(name) for name in effect.changes)
    pair = (a, b)
    both = found.sum_of({(a,): 1.0, (b,): 1.0})
    alone = [found.sum_of({(one,): 1.0, pair: -1.0}) for one in pair]
    return (
        f"{' and '.join(effect.changes)} together: {_points(*both)} "
        f"(alone: {', '.join(f'{names[one]} {_points(*estimate)}' for one, estimate in zip(pair, alone, strict=True))})"
    )


def _points(diff: float, low: float, high: float) -> str:
    def signed(value: float) -> str:
        return f"{value * 100:+.0f}".replace("-", "−")

    return f"{signed(diff)} points" + ("" if math.isnan(low) else f" (95 % CI {signed(low)}…{signed(high)})")


# -- the differences, and applying them


AnyAgent = AgentRecord | sdk.Agent
WHOLE = (
    "output_type", "tool_use_behavior", "input_guardrails", "output_guardrails", "mcp_servers", "mcp_config", "prompt", "reset_tool_choice",
    "hooks",
)  # fmt: skip
"""Fields of an SDK agent that count as one change each."""


def changes_of(good: AnyAgent, bad: AnyAgent) -> dict[str, tuple[Json, Json]]:
    """The parts that differ, each with its good and bad value. The agent's name and description are ignored. Functions are equal if their
    code is, and handoffs if the agents are that they lead to. Raises `UsageError` if nothing differs, or too much."""
    if isinstance(good, sdk.Agent) != isinstance(bad, sdk.Agent):
        raise UsageError(
            "One is a stored agent, the other an Agents SDK Agent.", "Pass two of the same kind.", param="bad"
        )
    if isinstance(good, AgentRecord) and isinstance(bad, AgentRecord):
        changes = {part: sides for part, sides in differences(good, bad).items() if part not in ("name", "description")}
    else:
        assert isinstance(good, sdk.Agent)
        assert isinstance(bad, sdk.Agent)
        left, right = _sdk_parts(good), _sdk_parts(bad)
        absent = (None, None)
        changes = {
            part: (left.get(part, absent)[1], right.get(part, absent)[1])
            for part in {**left, **right} if left.get(part, absent)[0] != right.get(part, absent)[0]
        }  # fmt: skip
    if not changes:
        raise UsageError("Nothing differs between the two.", "Pass two different versions.", param="bad")
    if len(changes) > MOST_CHANGES:
        advice = f"At most {MOST_CHANGES} can be separated: choose versions that are closer together."
        raise UsageError(f"{len(changes)} parts differ.", advice, param="bad")
    return changes


def with_changes(good: AnyAgent, bad: AnyAgent, parts: Collection[str]) -> AnyAgent:
    """The good version with these parts of the bad one."""
    if isinstance(good, AgentRecord):
        assert isinstance(bad, AgentRecord)
        return mixed(good, bad, parts)
    assert isinstance(bad, sdk.Agent)
    ways, others = _ways(good), _ways(bad)
    made: dict[str, Any] = {name: getattr(bad, name) for name in ("instructions", "model", *WHOLE) if name in parts}
    theirs = [part.removeprefix("setting ") for part in parts if part.startswith("setting ")]
    changed = {name: getattr(bad.model_settings, name) for name in theirs}
    made["model_settings"] = replace(good.model_settings, **changed)
    for field, word, own, given in (
        ("tools", "tool ", {t.name: t for t in good.tools}, {t.name: t for t in bad.tools}), ("handoffs", "handoff ", ways, others),
    ):  # fmt: skip
        merged = {name: (given.get(name) if f"{word}{name}" in parts else own.get(name)) for name in {**own, **given}}
        made[field] = [one for one in merged.values() if one is not None]
    return good.clone(**made)


def _ways(agent: sdk.Agent) -> dict[str, sdk.Agent | sdk.Handoff]:
    return dict(zip(handoff_targets(agent).values(), agent.handoffs, strict=True))


def _sdk_parts(agent: sdk.Agent) -> dict[str, tuple[Json, Json]]:
    """The parts of an SDK agent: each with the value to compare and the value to show."""
    settings = {name: value for name, value in vars(agent.model_settings).items() if value is not None}
    values = {
        "instructions": agent.instructions,
        "model": agent.model,
        **{name: getattr(agent, name) for name in WHOLE},
    }
    values |= {f"setting {name}": value for name, value in settings.items()}
    parts: dict[str, tuple[Json, Json]] = {name: (identity(value), str(value)) for name, value in values.items()}
    for tool in agent.tools:
        parts[f"tool {tool.name}"] = tool_definition(tool), str(getattr(tool, "description", None) or tool.name)
    for name, way in _ways(agent).items():
        there = agents_behind(way, agent.name)
        parts[f"handoff {name}"] = [handoff_definition(way), [definition_of(one) for one in there]], name
    return parts


# -- running the comparisons


Ask = Callable[[Sequence[AnyAgent], Sequence[str], float | None], Awaitable["Grid"]]
"""Runs a comparison of these agents, under these names, with a budget in US dollars."""


async def blame(
    good: AnyAgent, bad: AnyAgent, ask: Ask, shown: Mapping[str, str], *, budget_usd: float | None = None
) -> Blame:
    """See `lab.blame`. `shown`: display names of parts, where they have one."""
    changes = {shown.get(part, part): (part, sides) for part, sides in changes_of(good, bad).items()}
    parts, names = {name: part for name, (part, _) in changes.items()}, [*changes]
    levels = design(len(names))
    early, late = _alphas(levels)
    grids = [await ask(*_as_agents(good, bad, parts, levels), budget_usd)]
    table = _scores(grids[0])
    seen = {scorer: effects(levels, scores, names, alpha=early) for scorer, scores in table.items()}
    left = None if budget_usd is None else budget_usd - sum(cell.cost_usd or 0.0 for cell in grids[0].cells)
    doubted = next((estimates for estimates in seen.values() if is_doubtful(estimates, levels)), None)
    goes_on = grids[0].status == "completed" and (left is None or left > 0)
    more = _more(levels, doubted) if goes_on else levels[:0]
    if len(more):
        grids.append(await ask(*_as_agents(good, bad, parts, more), left))
        extra = _scores(grids[1])
        table = {scorer: np.hstack([scores, extra[scorer]]) for scorer, scores in table.items() if scorer in extra}
    if not (table[ANSWERED] < 1.0).any():
        del table[ANSWERED]
    ended = next((grid.status for grid in grids if grid.status != "completed"), None)
    return Blame(
        changes={name: sides for name, (_, sides) in changes.items()},
        by_scorer={scorer: _separated(levels, more, scores, names, seen[scorer], late) for scorer, scores in table.items()},
        n_cases=len(grids[0].cases), n_rows=len(levels) + len(more), grids=tuple(grids),
        stopped=f"Not finished: the comparison is {ended}." if ended else "",
    )  # fmt: skip


def factorial(ask: Callable[[Levels], Floats], names: Sequence[str]) -> tuple[Effects, int]:
    """The effects when `ask` returns the scores (cases × rows) of rows, and the number of rows used. For simulations."""
    levels = design(len(names))
    early, late = _alphas(levels)
    scores = ask(levels)
    seen = effects(levels, scores, names, alpha=early)
    more = _more(levels, seen if is_doubtful(seen, levels) else None)
    if len(more):
        scores = np.hstack([scores, ask(more)])
    return _separated(levels, more, scores, names, seen, late), len(levels) + len(more)


def _most_further(levels: Levels) -> int:
    """Maximum number of additional rows; 0 if every pair is separated already."""
    return max(4, len(levels) // 2) if any(len(group) > 1 for group in classes(levels)) else 0


def _alphas(levels: Levels) -> tuple[float, float]:
    """The α that the first look and the final look may spend, by an O'Brien–Fleming type spending function."""
    early = obrien_fleming(len(levels) / (len(levels) + _most_further(levels)), ALPHA)
    return early, ALPHA - early


def _more(levels: Levels, doubted: Effects | None) -> Levels:
    return levels[:0] if doubted is None else further(levels, likely(doubted, levels)[1], _most_further(levels))


def _separated(levels: Levels, more: Levels, scores: Floats, names: Sequence[str], before: Effects, late: float) -> Effects:  # fmt: skip
    """The effects with the additional rows, if any. A class that was significant but has no significant pair now stays
    one class: not separable.
    """
    groups, unclear = likely(before, levels)
    if not len(more):
        return effects(levels, scores, names, groups, alpha=_alphas(levels)[0])
    split = [
        part for group in groups for part in ([[pair] for pair in group] if set(group) & set(unclear) else [group])
    ]
    now = effects(np.vstack([levels, more]), scores, names, split, alpha=late)
    settled = {effect.changes for effect in now.pairs if effect.is_settled}
    named = [[tuple(names[i] for i in pair) for pair in group] for group in groups]
    lost = [
        replace(effect, changes=pairs[0], others=tuple(pairs[1:]))
        for pairs, effect in zip(named, before.pairs, strict=True)
        if effect.is_settled and len(pairs) > 1 and not set(pairs) & settled
    ]
    hidden = {pair for effect in lost for pair in (effect.changes, *effect.others)}
    return replace(now, pairs=(*lost, *(effect for effect in now.pairs if effect.changes not in hidden)))


def _as_agents(
    good: AnyAgent, bad: AnyAgent, parts: Mapping[str, str], levels: Levels
) -> tuple[list[AnyAgent], list[str]]:
    """One agent per row, with names. `parts`: display name to part."""
    agents, names = [], []
    for row in levels:
        chosen = [name for name, level in zip(parts, row, strict=True) if level]
        agents.append(with_changes(good, bad, {parts[name] for name in chosen}))
        names.append(f"{good.name} with {', '.join(chosen)}" if chosen else f"{good.name} unchanged")
    return agents, names


def rows_as_agents(good: AnyAgent, bad: AnyAgent, shown: Mapping[str, str]) -> tuple[list[AnyAgent], list[str]]:
    """The agents of the first rows of `blame`."""
    parts = {shown.get(part, part): part for part in changes_of(good, bad)}
    return _as_agents(good, bad, parts, design(len(parts)))


def _scores(grid: Grid) -> dict[str, Floats]:
    """Scores by scorer as cases × rows, and which calls were answered; repeats are averaged."""
    by_scorer = {scorer: [grid.tables.of(name, scorer) for name in grid.candidates] for scorer in grid.scorers}
    place = {case.case_id: n for n, case in enumerate(grid.cases)}
    ended = by_scorer[ANSWERED] = [np.full((len(place), grid.record.epochs), np.nan) for _ in grid.candidates]
    outside = {kind.__name__ for kind in NOT_THE_AGENTS}
    for cell in grid.cells:
        if not cell.left_tape and cell.error_type not in outside:
            ended[grid.candidates.index(cell.candidate)][place[cell.case_id], cell.epoch] = cell.status == "done"
    return {scorer: np.column_stack([_mean(column) for column in columns]) for scorer, columns in by_scorer.items()}


def _mean(column: Floats) -> Floats:
    n = np.isfinite(column).sum(axis=1)
    return np.where(n > 0, np.nansum(column, axis=1) / np.maximum(n, 1), np.nan)


def rows_of(k: int) -> tuple[int, int]:
    """The minimum and maximum number of rows that `blame` runs for k changes."""
    levels = design(k)
    return len(levels), len(levels) + _most_further(levels)
