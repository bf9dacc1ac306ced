"""A live duel in a lab of this process. Its messages, answers and votes are the cases, cells and votes of a comparison, so the arena,
the matrix and SQL read them like those of any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast, get_args

from timestep_lab.evals.bradley_terry import length_difference
from timestep_lab.evals.rows import ComparisonRows
from timestep_lab.evals.scrub import Scrubber
from timestep_lab.lab.chat_source import LocalChatSource
from timestep_lab.model.arena import VoteOutcome, VoteRecord
from timestep_lab.model.clock import utc_now
from timestep_lab.model.comparison import CandidateRecord, CaseRecord, CellRecord, ComparisonRecord
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event, RunStarted
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord, Json, RunRecord, ThreadItem
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab


class LocalDuelSource:
    """Two models of one agent. Raises `UsageError` unless there are two different ones, and what the router raises for them."""

    def __init__(self, lab: Lab, agent: AgentRecord, models: Sequence[str]) -> None:
        if len(models) != 2 or models[0] == models[1]:
            raise UsageError(
                "A duel takes two different models.", 'For example: models=["demo/assistant", "demo/echo"]'
            )
        self._agent = agent
        self._models = {lab.router.resolve(model).full: model for model in models}
        self._chat = LocalChatSource(lab)
        self._rows = ComparisonRows(lab.store.db, lab.store.user_id)
        self._scrubber = Scrubber([*models, *self._models])
        self._threads: dict[str, str] = {}
        self._outputs: dict[tuple[str, str], str] = {}
        self._record: ComparisonRecord | None = None

    @property
    def candidates(self) -> tuple[str, str]:
        return cast("tuple[str, str]", tuple(self._models))

    @property
    def comparison_id(self) -> str | None:
        return None if self._record is None else self._record.id

    async def begin(self, text: str) -> str:
        if self._record is None:
            self._record = await in_thread(self._begin)
        number = self._record.n_cases
        case = CaseRecord(comparison_id=self._record.id, case_id=new_id("case"), position=number, input=text)
        self._record = await in_thread(self._rows.add_case, self._record, case)
        return case.case_id

    def _begin(self) -> ComparisonRecord:
        candidates = tuple(
            asdict(CandidateRecord(name=name, model=name, agent_id=self._agent.id, agent=self._agent.name))
            for name in self._models
        )
        record = ComparisonRecord(
            id=new_id("comparison"), user_id=self._rows.user_id, name="Live duel", status="completed", dataset="live duel",
            candidates=candidates, settings={"live_duel": True}, ended_at=utc_now(),
        )  # fmt: skip
        self._rows.begin(record, ())
        return record

    async def ask(self, candidate: str, text: str, attachments: Sequence[Mapping[str, Json]]) -> AsyncIterator[Event]:
        events = self._chat.send(
            text, agent=self._agent.id, model=self._models[candidate], thread_id=self._threads.get(candidate),
            attachments=attachments,
        )  # fmt: skip
        async for event in events:
            if isinstance(event, RunStarted) and event.run.thread_id is not None:
                self._threads[candidate] = event.run.thread_id
            yield event

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]:
        return self._chat.decide(run_id, decisions)

    async def cancel(self, run_id: str) -> None:
        await self._chat.cancel(run_id)

    async def finish(self, case_id: str, candidate: str, items: Sequence[ThreadItem], run: RunRecord) -> None:
        assert self._record is not None
        output = run.output
        failed = run.status not in ("completed", "cancelled") or output is None
        latency = None if run.ended_at is None else (run.ended_at - run.started_at).total_seconds() * 1000
        cell = CellRecord(
            comparison_id=self._record.id, case_id=case_id, candidate=candidate, epoch=0, status="error" if failed else "done",
            output=output, error=f"The run is {run.status}." if failed else None, error_type=run.status if failed else None,
            latency_ms=latency, ttft_ms=run.ttft_ms, input_tokens=run.usage.input_tokens, output_tokens=run.usage.output_tokens,
            cost_usd=run.cost_usd, trace_id=run.trace_id, run_id=run.id, steps=tuple(_steps(items)),
        )  # fmt: skip
        await in_thread(self._rows.add_cells, self._record.id, [cell])
        self._outputs[case_id, candidate] = output or ""

    async def vote(self, case_id: str, left: str, right: str, outcome: VoteOutcome) -> None:
        if outcome not in get_args(VoteOutcome):
            raise UsageError(f"{outcome!r} is no vote.", f"Vote {', '.join(get_args(VoteOutcome))}.")
        assert self._record is not None
        record = VoteRecord(
            id=new_id("vote"), user_id=self._rows.user_id, comparison_id=self._record.id, case_id=case_id, epoch=0,
            left_candidate=left, right_candidate=right, outcome=outcome,
            length=length_difference(self._outputs.get((case_id, left), ""), self._outputs.get((case_id, right), "")),
        )  # fmt: skip
        await in_thread(self._rows.votes.insert, record)

    def votes(self) -> list[VoteRecord]:
        return [] if self._record is None else self._rows.votes.find(comparison_id=self._record.id)

    def scrub(self, value: Json) -> Json:
        return self._scrubber.value(value)

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        return await self._chat.attach(name, mime_type, content)

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        return self._chat.widget(output)


def _steps(items: Sequence[ThreadItem]) -> list[dict[str, Json]]:
    """The trajectory, as a comparison tells it."""
    steps: list[dict[str, Json]] = []
    for item in items:
        data = item.data
        if item.type == "tool_call":
            steps.append(
                {
                    "type": "tool", "name": data.get("name"), "arguments": data.get("arguments"), "agent": item.agent,
                    "approval": "rejected" if data.get("status") == "rejected" else "not_needed", "error": data.get("error"),
                }
            )  # fmt: skip
        elif item.type == "handoff":
            steps.append({"type": "handoff", "from": data.get("from_agent"), "to": data.get("to_agent")})
    return steps
