"""A world in which it is known why a run went wrong: a chain of lookups, and one fault planted in it.

Each lookup names the next id and one that is not it. A good agent follows the first; a noisy one is at times misled. The fault is
*persistent* (the agent makes it again when it is asked anew, in 92 of 100) or a *one-off* (it is in the recording alone).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, function_tool, handoff

from tests.runtime.bench import Bench, calls, last, says
from timestep_lab.model.records import RunRecord
from timestep_lab.runtime.span_records import read_only

KINDS = "swap", "made up", "enum", "handoff", "instruction", "result"
AGAIN = 0.92
FOLLOW = "Follow the id after next."
LEVELS = [f"level{n}" for n in range(32)]


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
    persistent: bool = True
    recording: bool = False
    live: list[str] = field(default_factory=list)
    """Lookups that were made for real."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.slip = 1 - (1 - self.noise) ** (1 / self.steps)
        self.agent = self._agent(FOLLOW)

    def _agent(self, instructions: str) -> Agent[Any]:
        @read_only
        @function_tool
        def look(level: str, id: str) -> str:
            self.live.append(f"{level} {id}")
            if level not in LEVELS:
                return "Unknown level: next Z-1, not Z-2"
            place = LEVELS.index(level)
            right, wrong = self._ids(place, id)
            if self.recording and self.fault == "result" and place == self.at and id == self.path[place]:
                right, wrong = wrong, right
            return f"next {right}, not {wrong}" if self._hash(id) % 2 else f"not {wrong}, next {right}"

        look.params_json_schema["properties"]["level"]["enum"] = LEVELS
        model = self.bench.policy(self._decide)
        desks = {
            name: Agent(name=name, model=model, instructions=instructions, tools=[look])
            for name in ("Refunds", "Shipping")
        }
        return Agent(
            name="Triage", model=model, instructions="Hand off.", handoffs=[handoff(desk) for desk in desks.values()]
        )

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

    def _decide(self, instructions: str, items: list[Any], _: list[Any]) -> list[Any]:
        handed = [item for item in items if item.get("type") == "function_call" and item["name"].startswith("transfer")]
        if not handed:
            return calls(("transfer_to_shipping" if self._errs("handoff", self.at) else "transfer_to_refunds", {}))
        heard = [
            item["output"] for item in items if item.get("type") == "function_call_output" and "next" in item["output"]
        ]
        place = len(heard)
        words = heard[-1].replace(",", "").split() if heard else ["next", "S-1000", "not", "S-2000"]
        right, wrong = words[words.index("next") + 1], words[words.index("not") + 1]
        chosen = wrong if self.dice.random() < self.slip else right
        if instructions != FOLLOW and place == self.steps:
            chosen = wrong
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

    def is_wrong(self, output: str) -> bool:
        return output.rstrip(".") != self.answer

    # -- recording

    async def record(self, agent: Agent[Any] | None = None) -> RunRecord:
        return last(
            await self.bench.run("Find the value of S-1000.", agent or self.agent, max_turns=self.steps + 5)
        ).run

    async def healthy(self, n: int) -> list[RunRecord]:
        """Runs without the fault, as they come."""
        fault, self.fault = self.fault, None
        runs = [await self.record() for _ in range(n)]
        self.fault = fault
        return runs

    async def faulty(self) -> RunRecord:
        """A run that failed at the fault alone."""
        slip, self.slip, self.recording = self.slip, 0.0, True
        agent = self._agent("Look it up.") if self.fault == "instruction" else self.agent
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
        """The decisions, from 1, at which the fault is: the handoff is the first, the lookups follow."""
        if self.fault == "handoff":
            return (1,)
        if self.fault == "instruction":
            return (2,)
        return (self.at + 2,)
