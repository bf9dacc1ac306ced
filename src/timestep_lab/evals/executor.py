"""Who puts the questions: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import agents as sdk

from timestep_lab.evals.bench import Bench
from timestep_lab.evals.candidates import Candidate
from timestep_lab.evals.options import Options
from timestep_lab.evals.rows import JUDGE
from timestep_lab.evals.trial import Desk, OnDelta, Trial, attempt
from timestep_lab.model.comparison import CandidateRecord
from timestep_lab.model.records import Json
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.tracing import install, uninstall

if TYPE_CHECKING:
    from timestep_lab.runtime.tape import Tape


class Executor(Protocol):
    async def ask(
        self, candidate: Candidate, asked: str | list[Any], labels: Mapping[str, Json], on_delta: OnDelta | None
    ) -> Trial:
        """One attempt. Never raises for what a model, a tool or a guardrail does."""
        ...

    async def judge(self, model: str | None, instructions: str, prompt: str) -> Trial: ...

    async def aclose(self) -> None: ...


class LocalExecutor:
    """Asks from this process's event loop."""

    def __init__(self, bench: Bench, options: Options, tape: Tape | None = None) -> None:
        self._bench, self._options, self._tape = bench, options, tape
        self._made: Desk | None = None

    @property
    def _desk(self) -> Desk:
        """From the first question on, spans go to this lab's writer; until `aclose`."""
        if self._made is None:
            bench, options = self._bench, self._options
            self._made = Desk(
                router=bench.router, processor=install(bench.writer), writer=bench.writer, user_id=bench.user_id,
                max_turns=options.max_turns, approve=options.approve, timeout_s=options.timeout_s,
                tape=self._tape, on_miss=options.on_miss,
            )  # fmt: skip
        return self._made

    async def ask(
        self, candidate: Candidate, asked: str | list[Any], labels: Mapping[str, Json], on_delta: OnDelta | None
    ) -> Trial:
        return await attempt(self._desk, candidate, asked, labels, on_delta)

    async def judge(self, model: str | None, instructions: str, prompt: str) -> Trial:
        agent = sdk.Agent(name=JUDGE, instructions=instructions)
        ref = self._bench.router.resolve(model)
        record = CandidateRecord(name=JUDGE, model=ref.full, agent=JUDGE)
        judge = Candidate(record, agent, BuiltGraph(root=agent, agents={JUDGE: agent}), ref, has_tools=False)
        return await attempt(replace(self._desk, tape=None), judge, prompt, {"judge": True})

    async def aclose(self) -> None:
        if self._made is not None:
            self._made = None
            uninstall(self._bench.writer)
