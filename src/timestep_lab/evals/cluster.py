"""Comparisons on a Dask cluster. This process keeps the queue, the budget and the store; workers only run candidates.

Each task contains everything it needs (candidates, the lab's settings, MCP servers) and returns the results with their
spans, which are stored here. So the cluster needs no access to the store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import agents as sdk

from timestep_lab.evals.attempt import Asker, Attempt, OnDelta, attempt, limited
from timestep_lab.evals.engine import LocalExecutor
from timestep_lab.evals.pipelines import Asked
from timestep_lab.evals.plan import Candidate, Options
from timestep_lab.evals.results import EvalContext
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CandidateRecord
from timestep_lab.model.errors import ProviderUnavailableError, UsageError
from timestep_lab.model.records import AgentRecord, McpServerRecord
from timestep_lab.model.spans import SpanRecord, TraceStart

if TYPE_CHECKING:
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.runtime.tape import Tape
GATHER_S = 0.01
"""Time in seconds to wait for further cases before a batch is sent to a worker."""
MOST_AT_ONCE = 32
"""Maximum number of cases in one task; the worker runs them concurrently."""


@dataclass(frozen=True, slots=True)
class Question:
    candidate: str
    asked: Asked
    labels: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class WorkerPayload:
    """What a worker needs to run a candidate. `agents` are the records reachable from it, the root first; SDK agents
    are sent themselves.
    """

    id: str
    settings: Settings
    options: Options
    user_id: str
    records: Mapping[str, CandidateRecord]
    agents: Mapping[str, tuple[AgentRecord, ...]]
    sdk_agents: Mapping[str, sdk.Agent]
    servers: tuple[McpServerRecord, ...]
    tape: Tape | None = None


@dataclass(slots=True)
class SpanBox:
    """A replacement of the trace writer that collects spans in memory."""

    traces: list[TraceStart] = field(default_factory=list)
    spans: list[SpanRecord] = field(default_factory=list)

    def trace_started(self, trace: TraceStart) -> None:
        self.traces.append(trace)

    def span_started(self, span: SpanRecord) -> None:
        """Does nothing: only finished spans are sent."""

    def span_ended(self, span: SpanRecord) -> None:
        self.spans.append(span)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Does nothing: nothing is written in a worker."""


Answered = tuple[Attempt, list[TraceStart], list[SpanRecord]]


class Done(Protocol):
    """The future of a task, when it is done."""

    def result(self) -> list[Answered]: ...


class DaskExecutor:
    """Runs cases on a Dask cluster. `client`: a `dask.distributed.Client`, synchronous or not. Judges are called from
    this process.
    """

    def __init__(self, context: EvalContext, options: Options, client: object, tape: Tape | None = None) -> None:
        if not hasattr(client, "submit") or not hasattr(client, "scheduler_info"):
            raise UsageError(
                f"client={type(client).__name__} is not a Dask client.", "Pass dask.distributed.Client(…)."
            )
        self._context, self._options, self._client = context, options, client
        self._here, self._tape = LocalExecutor(context, options), tape
        self._waiting: list[tuple[Question, asyncio.Future[Attempt]]] = []
        self._candidates: dict[str, Candidate] = {}
        self._payload: WorkerPayload | None = None
        self._sending: asyncio.Task[None] | None = None

    async def ask(
        self, candidate: Candidate, asked: Asked, labels: Mapping[str, Json], on_delta: OnDelta | None
    ) -> Attempt:
        """Run a case on the cluster. `on_delta` is not called: text is not streamed from a cluster."""
        if candidate.name not in self._candidates:
            self._candidates[candidate.name] = candidate
            self._payload = None
        answer: asyncio.Future[Attempt] = asyncio.get_running_loop().create_future()
        self._waiting.append((Question(candidate.name, asked, dict(labels)), answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def judge(self, model: str | None, instructions: str, prompt: str) -> Attempt:
        return await self._here.judge(model, instructions, prompt)

    async def aclose(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        await self._here.aclose()

    async def _send(self) -> None:
        await asyncio.sleep(GATHER_S)
        waiting, self._waiting, self._sending = self._waiting, [], None
        try:
            payload = await self._packed()
        except Exception as error:  # noqa: BLE001 - the error is passed to the waiting callers
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            return
        workers = max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
        size = max(1, min(MOST_AT_ONCE, -(-len(waiting) // workers)))
        for start in range(0, len(waiting), size):
            self._submit(payload, waiting[start : start + size])

    def _submit(self, payload: WorkerPayload, part: Sequence[tuple[Question, asyncio.Future[Attempt]]]) -> None:
        loop = asyncio.get_running_loop()
        future = self._client.submit(answer_all, payload, [question for question, _ in part], pure=False, retries=0)
        answers = [answer for _, answer in part]
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._arrived, done, answers))

    def _arrived(self, done: Done, answers: Sequence[asyncio.Future[Attempt]]) -> None:
        async def take() -> None:
            try:
                results = await asyncio.to_thread(done.result)
            except Exception as error:  # noqa: BLE001 - losing a worker is a transient fault
                lost = ProviderUnavailableError(f"The cluster lost these cases: {error}", "They are run again.")
                results = [(_lost(lost), [], []) for _ in answers]
            for (made, traces, spans), answer in zip(results, answers, strict=True):
                for trace in traces:
                    self._context.writer.trace_started(trace)
                for span in spans:
                    self._context.writer.span_ended(span)
                if not answer.done():
                    answer.set_result(made)

        self._taking = asyncio.ensure_future(take())

    async def _packed(self) -> WorkerPayload:
        """The payload, sent to the cluster once for all tasks."""
        if self._payload is None:
            from timestep_lab.model.ids import new_id
            from timestep_lab.runtime.agent_graph import reachable
            from timestep_lab.store.base import in_thread

            records: dict[str, tuple[AgentRecord, ...]] = {}
            for name, candidate in self._candidates.items():
                if isinstance(candidate.agent, AgentRecord):
                    agents = await in_thread(reachable, candidate.agent, self._context.store.agents.try_get)
                    records[name] = tuple(agents.values())
            payload = WorkerPayload(
                id=new_id("task"), settings=self._context.settings, options=self._options, user_id=self._context.user_id,
                records={name: c.record for name, c in self._candidates.items()}, agents=records,
                sdk_agents={n: c.agent for n, c in self._candidates.items() if isinstance(c.agent, sdk.Agent)},
                servers=tuple(await in_thread(self._context.store.mcp_servers.find)), tape=self._tape,
            )  # fmt: skip
            self._payload = payload
        return self._payload


def _lost(error: ProviderUnavailableError) -> Attempt:
    return Attempt(
        trace_id="", output=None, error=error, steps=(), latency_ms=0.0, queue_ms=0.0, rate_limit_ms=0.0, ttft_ms=None, input_tokens=None,
        output_tokens=None, cost_usd=None,
    )  # fmt: skip


# -- in the worker process


def answer_all(payload: WorkerPayload, questions: Sequence[Question]) -> list[Answered]:
    """A Dask task: run these cases concurrently on the worker's own event loop, so that connections are reused."""
    return asyncio.run_coroutine_threadsafe(_Worker.of(payload).answer(questions), _loop()).result()


class _Worker:
    """The state that a worker process keeps for one payload."""

    _made: dict[str, _Worker] = {}
    _lock = threading.Lock()

    def __init__(self, payload: WorkerPayload) -> None:
        from timestep_lab.runtime.mcp.toolbox import Toolbox
        from timestep_lab.runtime.router import Router
        from timestep_lab.runtime.tracing import install

        self.payload = payload
        self.router = Router(payload.settings)
        self.toolbox = Toolbox(lambda: list(payload.servers), payload.settings)
        self.processor = install(SpanBox())  # type: ignore[arg-type]
        self._ready: dict[str, asyncio.Future[Candidate]] = {}

    @classmethod
    def of(cls, payload: WorkerPayload) -> _Worker:
        with cls._lock:
            if payload.id not in cls._made:
                cls._made[payload.id] = cls(payload)
            return cls._made[payload.id]

    async def answer(self, questions: Sequence[Question]) -> list[Answered]:
        candidates = {q.candidate: await self._candidate(q.candidate) for q in questions}
        prefixes = [candidate.model.prefix for candidate in candidates.values()]
        with limited(self.router, prefixes, self.payload.options.concurrency):
            return await asyncio.gather(*(self._answer(candidates[q.candidate], q) for q in questions))

    async def _answer(self, candidate: Candidate, question: Question) -> Answered:
        options, box = self.payload.options, SpanBox()
        asker = Asker(
            router=self.router, processor=self.processor, writer=box, user_id=self.payload.user_id,  # type: ignore[arg-type]
            max_turns=options.max_turns, approve=options.approve, timeout_s=options.timeout_s, limits=options.limits,
            tape=self.payload.tape, on_miss=options.on_miss,
        )  # fmt: skip
        made = await attempt(asker, candidate, question.asked, question.labels)
        return made, box.traces, box.spans

    async def _candidate(self, name: str) -> Candidate:
        if name not in self._ready:
            self._ready[name] = asyncio.ensure_future(self._build(name))
        return await self._ready[name]

    async def _build(self, name: str) -> Candidate:
        from timestep_lab.evals.plan import BARE_AGENT, offered_on_tape
        from timestep_lab.runtime.agent_graph import BuiltGraph, build, from_sdk

        payload, record = self.payload, self.payload.records[name]
        agent: AgentRecord | sdk.Agent | None = payload.sdk_agents.get(name) or (
            payload.agents[name][0] if name in payload.agents else None
        )
        if agent is None:
            bare = sdk.Agent(name=BARE_AGENT)
            graph = BuiltGraph(root=bare, agents={BARE_AGENT: bare})
        elif isinstance(agent, sdk.Agent):
            graph = from_sdk(agent)
        else:
            records = {r.id: r for r in payload.agents[name]}
            graph = await build(
                records, agent.id, self.toolbox, default_model=payload.settings.default_model,
                recorded=payload.tape.definitions if payload.tape else None,
            )  # fmt: skip
        chosen = record.model or graph.root.model
        offered = (
            {}
            if payload.tape is None
            else await offered_on_tape(graph, payload.tape, payload.options.on_miss, self.router)
        )
        return Candidate(
            record,
            agent,
            graph,
            self.router.resolve(chosen if isinstance(chosen, str) else None),
            True,
            offered=offered,
        )


_loops: list[asyncio.AbstractEventLoop] = []
_loops_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of the worker process, on its own thread, for the lifetime of the process."""
    with _loops_lock:
        if not _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="timestep-lab worker", daemon=True).start()
            _loops.append(loop)
        return _loops[0]
