"""A world in which it is known why a run went wrong: a chain of lookups, and one fault planted in it.

Each lookup names the next id and one that is not it. A good agent follows the first; a noisy one is at times misled, at any of its
decisions. Triage looks up the first few, then hands off to a desk that goes on. The fault is *persistent* (what did it does it again
when it is asked anew, in 92 of 100) or a *one-off* (it is in the recording alone).
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agents import Agent, HandoffInputData, ModelResponse, Usage, function_tool, handoff

from tests.runtime.bench import Bench, calls, last, says
from timestep_lab.model.records import RunRecord
from timestep_lab.runtime.provider_errors import NO_RETRY, ErrorContext
from timestep_lab.runtime.routed_model import RoutedModel
from timestep_lab.runtime.span_records import read_only

KINDS = "result", "swap", "handoff", "instruction", "history", "model"
"""A wrong tool result, a swapped argument, a wrong handoff, an instruction that was lost, a history cut short, a bad model at one step."""
ARGUMENTS = "made up", "enum"
"""Two more ways in which an argument is wrong: an id that nobody had told, a value that is none of the tool's choices."""
AGAIN = 0.92
FOLLOW = "Follow the id after next."
ASKED = "Find the value of S-1000."
LEVELS = [f"level{n}" for n in range(32)]


class Switch(RoutedModel):
    """At one step another model answers, as when a router falls back to one. Where nothing is traced it answers without the detour."""

    def __init__(self, good: RoutedModel, bad: RoutedModel, is_bad: Callable[[list[Any]], bool]) -> None:
        context = ErrorContext(provider="demo", model="switch")
        super().__init__(good.inner, full="demo/switch", context=context, retry=NO_RETRY)
        self._good, self._bad, self._is_bad = good, bad, is_bad
        self.takes_s = 0.0
        """Each untraced answer."""

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, output_schema: Any, handoffs: Any, tracing: Any,
        **more: Any,
    ) -> Any:  # fmt: skip
        model = self._chosen(input)
        if tracing.is_disabled():
            inner: Any = model.inner
            await asyncio.sleep(self.takes_s)
            return ModelResponse(inner.decide(system_instructions or "", input, tools), Usage(), None)
        return await model.get_response(
            system_instructions, input, model_settings, tools, output_schema, handoffs, tracing, **more
        )

    def stream_response(self, system_instructions: Any, input: Any, *rest: Any, **more: Any) -> Any:
        return self._chosen(input).stream_response(system_instructions, input, *rest, **more)

    def _chosen(self, given: Any) -> RoutedModel:
        return self._bad if not isinstance(given, str) and self._is_bad(given) else self._good


@dataclass
class World:
    """`steps` lookups; a fault-free run fails in `noise` of the cases."""

    bench: Bench
    steps: int
    seed: int
    noise: float = 0.2
    fault: str | None = None
    at: int = 0
    """The lookup at which the fault strikes, from 0."""
    hand_at: int = 0
    """The lookup before which Triage hands off. A history is cut short, and an instruction lost, there or later."""
    persistent: bool = True
    recording: bool = False
    live: list[str] = field(default_factory=list)
    """Lookups that were made for real."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.slip = 1 - (1 - self.noise) ** (1 / (self.steps + 2))
        good, bad = self.bench.policy(self._decide), self.bench.policy(self._decide_badly)
        scripts = self.bench.router.scripts
        self.switch = Switch(
            scripts[good], scripts[bad], lambda items: _place(items) == self.at and self._errs("model", self.at)
        )
        scripts["demo/switch"] = self.switch
        self.agent = self._agent(FOLLOW)

    def plant(self, fault: str | None, at: int = 0, *, persistent: bool = True) -> None:
        """Another fault in the same world. A history is cut short where it is handed over."""
        self.fault, self.at, self.persistent = fault, self.hand_at if fault == "history" else at, persistent

    def _agent(self, instructions: Any) -> Agent[Any]:
        @read_only
        @function_tool
        def look(level: str, id: str) -> str:
            self.live.append(f"{level} {id}")
            if level not in LEVELS:
                return "Unknown level: next Z-1, not Z-2"
            place = LEVELS.index(level)
            right, wrong = self._ids(place, id)
            if id == self.path[place] and self._errs("result", place):
                right, wrong = wrong, right
            return f"next {right}, not {wrong}" if self._hash(id) % 2 else f"not {wrong}, next {right}"

        look.params_json_schema["properties"]["level"]["enum"] = LEVELS
        desks = [
            Agent(name=name, model="demo/switch", instructions=instructions, tools=[look])
            for name in ("Refunds", "Shipping")
        ]
        return Agent(
            name="Triage",
            model="demo/switch",
            instructions="Hand off.",
            tools=[look],
            handoffs=[handoff(desk, input_filter=self._passed_on) for desk in desks],
        )

    def _passed_on(self, data: HandoffInputData) -> HandoffInputData:
        """What the desk is told. A history cut short lacks what the user said."""
        if not self._errs("history", self.at):
            return data
        told = () if isinstance(data.input_history, str) else data.input_history
        return replace(data, input_history=tuple(item for item in told if item.get("role") != "user"))

    # -- what is true

    def _hash(self, *parts: Any) -> int:
        return zlib.crc32("/".join(map(str, (self.steps, *parts))).encode())

    def _ids(self, place: int, id: str) -> tuple[str, str]:
        return tuple(f"{'ABCDEFGH'[place % 8]}-{1000 + self._hash(place, id, which) % 9000}" for which in ("r", "w"))  # type: ignore[return-value]

    @property
    def path(self) -> list[str]:
        ids = ["S-1000"]
        for place in range(self.steps):
            ids.append(self._ids(place, ids[-1])[0])
        return ids

    @property
    def answer(self) -> str:
        return f"Value {self.path[-1]}"

    # -- what the agent does

    def _errs(self, kind: str, place: int) -> bool:
        if self.fault != kind or place != self.at:
            return False
        return self.recording or (self.persistent and self.dice.random() < AGAIN)

    def _decide(self, instructions: str, items: list[Any], _: list[Any], errs: bool = False) -> list[Any]:
        handed = [item for item in items if item.get("type") == "function_call" and item["name"].startswith("transfer")]
        place = _place(items)
        slips = self.dice.random() < self.slip
        if not handed and place >= self.hand_at:
            astray = slips != self._errs("handoff", self.at)
            return calls(("transfer_to_shipping" if astray else "transfer_to_refunds", {}))
        words = _heard(items)[-1].replace(",", "").split() if place else ["next", "S-1000", "not", "S-2000"]
        right, wrong = words[words.index("next") + 1], words[words.index("not") + 1]
        lost = bool(handed) and (instructions != FOLLOW or all(item.get("role") != "user" for item in items))
        if lost and place == self.at:  # What it was not told matters at one step.
            errs = errs or self.recording or self.dice.random() < AGAIN
        chosen = wrong if slips or errs else right
        if place == self.steps:
            return says(f"Value {chosen}{' (wrong desk)' * handed[0]['name'].endswith('shipping')}.")
        level = LEVELS[place]
        if self._errs("swap", place):
            chosen = wrong
        if self._errs("made up", place):
            chosen = f"{right[0]}-{1 + self._hash(right) % 999}"
        if self._errs("enum", place):
            level = f"level {place}"
        return calls(("look", {"level": level, "id": chosen}))

    def _decide_badly(self, instructions: str, items: list[Any], tools: list[Any]) -> list[Any]:
        return self._decide(instructions, items, tools, errs=True)

    def is_wrong(self, output: str) -> bool:
        return output.rstrip(".") != self.answer

    # -- recording

    async def record(self, agent: Agent[Any] | None = None) -> RunRecord:
        return last(await self.bench.run(ASKED, agent or self.agent, max_turns=self.steps + 5)).run

    async def healthy(self, n: int) -> list[RunRecord]:
        """Runs without the fault, as they come."""
        fault, self.fault = self.fault, None
        runs = [await self.record() for _ in range(n)]
        self.fault = fault
        return runs

    async def faulty(self) -> RunRecord:
        """A run that failed at the fault alone."""
        slip, self.slip, self.recording = self.slip, 0.0, True
        turns = 0

        def dynamic(_: Any, __: Any) -> str:
            nonlocal turns
            turns += 1
            return "Look it up." if self.recording and turns - 1 == self.at - self.hand_at else FOLLOW

        agent = self.agent
        if self.fault == "instruction":
            agent = self._agent("Look it up." if self.persistent else dynamic)
        run = await self.record(agent)
        self.slip, self.recording = slip, False
        assert self.is_wrong(run.output or ""), (self.fault, run.output)
        return run

    async def unlucky(self) -> RunRecord:
        """A run without a fault that failed by chance."""
        while True:
            run = await self.record()
            if self.is_wrong(run.output or ""):
                return run

    @property
    def true_steps(self) -> Sequence[int]:
        """The decisions, from 1, at which the fault is: lookups, with the handoff among them.

        A history is cut short by the handoff, and first read so at the next step: either is right.
        """
        handed = self.hand_at + 1
        if self.fault == "handoff":
            return (handed,)
        if self.fault == "history":
            return (handed, handed + 1)
        if self.fault == "instruction" and self.persistent:
            return (handed + 1,)  # From the desk's first turn on.
        return (self.at + (1 if self.at < self.hand_at else 2),)


def _heard(items: Sequence[Any]) -> list[str]:
    return [i["output"] for i in items if i.get("type") == "function_call_output" and "next" in i["output"]]


def _place(items: Sequence[Any]) -> int:
    return len(_heard(items))
