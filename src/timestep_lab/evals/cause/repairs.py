"""What could have been different in a run, by rules: a bounded number of repairs, the likeliest first."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets.case import digest
from timestep_lab.model.records import Json
from timestep_lab.runtime.agent_graph import handoff_targets
from timestep_lab.runtime.recorded import Recorded
from timestep_lab.runtime.span_records import parsed
from timestep_lab.runtime.tape import Tape, named
from timestep_lab.runtime.warm_start import WarmStart

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


MOST_REPAIRS = 40
MOST_LOOPS = 2
POOL_READ = 24
"""Traces of the pool in which other instructions are looked for."""


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
    models: Mapping[str, Sequence[str]],
) -> list[Repair]:
    """What could be different, by rules: a bounded number, the likeliest first. Nothing is guessed from what words mean."""
    recorded, plan = base.recorded, base.plan
    candidates: list[Repair] = []
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
                candidates += [
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
                candidates += _results(base, tape, turn, agent, name, call_id, arguments, live, corrections)
            if isinstance(arguments, dict) and (tool := tools.get(name)) is not None:
                for rank, text, other in _arguments(arguments, getattr(tool, "params_json_schema", {}), known):
                    changed = _at(items, place, arguments=json.dumps(other, ensure_ascii=False))
                    candidates.append(
                        Repair(turn, "argument", f"{name}: {text}", base.with_answer(turn, changed), rank)
                    )
        if turn and (lost := _forgotten(recorded, turn)):
            candidates.append(
                Repair(turn, "history", f"{len(lost)} items it had read before", base.with_input(turn, lost), 1)
            )
    candidates += _loops(base)
    for agent, names in models.items():
        first = _first_turn(recorded, agent)
        if first is not None:
            candidates += [
                Repair(first, "model", f"{agent}: {name}", base.with_model(first, agent, name), 2) for name in names
            ]
    for agent, texts in instructions.items():
        first = _first_turn(recorded, agent)
        if first is not None:
            candidates += [
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
    ranked = sorted(candidates, key=lambda repair: (repair.rank, repair.turn))[:MOST_REPAIRS]
    return sorted(ranked, key=lambda repair: repair.turn)


def _first_turn(recorded: Recorded, agent: str) -> int | None:
    return next((turn for turn, answer in enumerate(recorded.answers) if answer["agent"] == agent), None)


def _loops(base: WarmStart) -> list[Repair]:
    """Where a call was made again that had been answered with the same before: it is told so, or it is forgotten that it was made again."""
    recorded = base.recorded
    known: dict[tuple[Any, ...], int] = {}
    loops: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
    for turn, answer in enumerate(recorded.answers):
        for item in answer["output"] or ():
            if (
                not isinstance(item, Mapping)
                or item.get("type") != "function_call"
                or item["call_id"] not in recorded.calls
            ):
                continue
            heard = recorded.calls[item["call_id"]].heard
            made = (
                answer["agent"],
                item["name"],
                json.dumps(parsed(item["arguments"] or "{}"), sort_keys=True),
                str(heard),
            )
            if made in known:
                loops.setdefault(made, []).append((turn, item["call_id"]))
            known.setdefault(made, turn)
    candidates = []
    for (_, name, _, heard), again in sorted(loops.items(), key=lambda loop: (-len(loop[1]), loop[1][0]))[:MOST_LOOPS]:
        turn, call_id = again[0]
        result = f"This is the same call as before, and its answer is the same: {heard} Do not make it again."
        times = f"{name}, made again {len(again)} {'time' if len(again) == 1 else 'times'}"
        candidates.append(Repair(turn, "loop", f"{times}: told so", base.with_result(call_id, result), 1, result))
        ids = {id for _, id in again}
        after = min(again[-1][0] + 1, len(recorded.answers) - 1)
        remaining = [item for item in recorded.input_of(after) if item.get("call_id") not in ids]
        candidates.append(Repair(turn, "loop", f"{times}: cut", base.with_input(after, remaining), 2))
    return candidates


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
    variants: list[tuple[int, str, dict[str, Any]]] = []
    properties = schema.get("properties") or {}
    for name, value in arguments.items():
        choices = (properties.get(name) or {}).get("enum") if isinstance(properties.get(name), Mapping) else None
        if choices and value not in choices:
            near = get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.0)
            ordered = sorted(choices, key=lambda choice: str(choice) not in near)[:3]
            variants += [
                (0, f"{name} is none of its choices, {choice!r}", {**arguments, name: choice}) for choice in ordered
            ]
        elif isinstance(value, str) and _is_id(value):
            rank = 2 if value in known else 0
            alike = [word for word in known if word != value and _shape(word) == _shape(value)]
            words = "from what it had read" if rank == 0 else "another it had read"
            variants += [(rank, f"{name} {word!r}, {words}", {**arguments, name: word}) for word in alike[-3:]]
        elif choices:
            variants += [
                (3, f"{name} {choice!r}", {**arguments, name: choice}) for choice in choices if choice != value
            ][:2]
    for a, b in combinations(arguments, 2):
        if type(arguments[a]) is type(arguments[b]) and arguments[a] != arguments[b]:
            variants.append((1, f"{a} and {b} swapped", {**arguments, a: arguments[b], b: arguments[a]}))
    return variants[:8]


def _words(items: Iterable[Mapping[str, object]]) -> Counter[str]:
    """Ids in what a model had read, in order of appearance."""
    words: Counter[str] = Counter()
    for item in items:
        if item.get("type") == "function_call":
            continue  # What it asked itself is not a source.
        content = item.get("output") if item.get("type") == "function_call_output" else item.get("content")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        words.update(word.strip("-_") for word in re.findall(r"[\w-]+", text) if _is_id(word.strip("-_")))
    return words


def _is_id(word: str) -> bool:
    return any(letter.isdigit() for letter in word) and " " not in word


def _shape(word: str) -> str:
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]", "a", word))


def _at(items: Sequence[Mapping[str, object]], place: int, **changes: object) -> list[dict[str, Any]]:
    return [{**item, **(changes if at == place else {})} for at, item in enumerate(items)]


def _forgotten(recorded: Recorded, turn: int) -> list[dict[str, Any]]:
    """The whole history, where the model had not read all that it had read the turn before; else nothing."""
    before, now = recorded.input_of(turn - 1), recorded.input_of(turn)
    keys = {_plain(item) for item in now}
    missing = [item for item in before if _plain(item) not in keys]
    return (
        [*missing, *now] if missing and recorded.answers[turn]["agent"] == recorded.answers[turn - 1]["agent"] else []
    )


def _plain(item: Mapping[str, object]) -> str:
    return json.dumps(
        {n: v for n, v in item.items() if n not in ("id", "status") and v is not None}, sort_keys=True, default=str
    )


def _short(text: object) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= 60 else f"{words[:59]}…"


def other_instructions(store: Store, pool: Sequence[str], recorded: Recorded) -> Mapping[str, Sequence[str]]:
    """Agent to what it was told in other runs of the pool, where that was something else. Blocks."""
    own: dict[str, set[str]] = defaultdict(set)
    for answer in recorded.answers:
        own[str(answer["agent"])].add(_system(answer))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for trace_id in pool[:POOL_READ]:
        first: dict[str, str] = {}
        for span in store.traces.spans(trace_id):
            if span.kind == "generation" and span.agent in own:
                first.setdefault(str(span.agent), span.span_id)
        for answer in store.traces.payloads(trace_id, list(first.values())):
            told_then = _system(answer)
            if told_then and told_then not in own[str(answer["agent"])]:
                counts[str(answer["agent"])][told_then] += 1
    return {agent: [text for text, _ in texts.most_common(2)] for agent, texts in counts.items()}


def other_models(
    store: Store, pool: Sequence[str], recorded: Recorded, is_known: Callable[[str], bool]
) -> Mapping[str, Sequence[str]]:
    """Agent to the models that answered for it in other runs of the pool, where they are others and can be asked. Blocks."""
    own = {(str(answer["agent"]), answer["model"]) for answer in recorded.answers}
    agents = {agent for agent, _ in own}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for trace_id in pool[:POOL_READ]:
        for agent, model in {
            (span.agent, span.model) for span in store.traces.spans(trace_id) if span.kind == "generation"
        }:
            if agent in agents and model and (agent, model) not in own and is_known(model):
                counts[str(agent)][model] += 1
    return {agent: [name for name, _ in names.most_common(2)] for agent, names in counts.items()}


def _system(answer: Mapping[str, Any]) -> str:
    first = next(iter(answer["input"] or ()), None)
    return str(first.get("content") or "") if isinstance(first, Mapping) and first.get("role") == "system" else ""
