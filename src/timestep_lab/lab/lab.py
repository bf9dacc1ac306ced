"""`Lab`: the entry object."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.lab.run import Approvals, Run, RunStream
from timestep_lab.lab.views import LabViews
from timestep_lab.model.arguments import checks_keywords, thread_id_of, trace_id_of, trace_ids_of
from timestep_lab.model.awaiting import says_await
from timestep_lab.model.codec import JsonObject
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import AgentRecord, Json, ModelAnswer
from timestep_lab.runtime.settings import Settings
from timestep_lab.service.agents import Agents
from timestep_lab.service.datasets import Datasets
from timestep_lab.service.models import Models, whole_answer
from timestep_lab.service.my_data import MyData
from timestep_lab.service.runs import Runs
from timestep_lab.service.threads import Thread, Threads
from timestep_lab.store.base import Change, Rows, in_event_loop, in_thread
from timestep_lab.store.quota import Quota
from timestep_lab.store.store import open_store

if TYPE_CHECKING:
    import agents as sdk
    import pandas

    from timestep_lab.evals.cause import Outlook, Why, WhyPlan
    from timestep_lab.runtime.forks import OnTools
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.recorded import ToolStub
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.runtime.tape import Tape
    from timestep_lab.runtime.warm_start import Replayed
    from timestep_lab.service.causes import Causes
    from timestep_lab.service.comparisons import Comparisons
    from timestep_lab.service.files import Files, VectorStores
    from timestep_lab.service.mcp import Mcp
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter

Approve = Literal["ask", "all", "none"]


@says_await("lab")
class Lab(LabViews):
    """Build, watch and compare agents; everything that happens is rows in one store.

    `store`: a path (default `./lab.duckdb`, or `TIMESTEP_LAB_STORE`), `":memory:"`, `"postgresql://…"`, or `"https://…"` for a
    served lab (then with `token`, or `TIMESTEP_LAB_TOKEN`). Raises `StoreError` when it cannot be opened, and for a served lab
    `AuthError`; the message says what to do.

    Use it as a context manager, or call `close()`; a notebook may simply leave it open.

    Example:
        lab = Lab(":memory:")
        run = await lab.run("Do I need an umbrella in Oslo?", model="demo/assistant")
        lab.traces.df()[["input", "status"]]
        await lab.aclose()
    """

    def __new__(
        cls, store: str | Path | None = None, *, token: str | None = None, settings: Settings | None = None
    ) -> Lab:
        where = str(store or (settings or Settings.load()).store or "")
        if cls is Lab and where.startswith(("http://", "https://")):
            from timestep_lab.lab.remote.lab import RemoteLab

            return object.__new__(RemoteLab)
        return object.__new__(cls)

    def __init__(
        self, store: str | Path | None = None, *, token: str | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings.load()
        url = str(store or self.settings.store or "lab.duckdb")
        if token is not None:
            raise UsageError("A token is for a served lab only.", "Leave token away for a file or a database.")
        self._name = url
        self._wire(open_store(url, LOCAL_USER), None)

    def _wire(self, store: Store, parent: Lab | None) -> None:
        self.store = store
        self._parent = parent
        self.default_model = self.settings.default_model
        self.agents = Agents(self)
        self.threads = Threads(self)
        self.runs = Runs(self)
        self.models: Models = Models(self)
        self.datasets = Datasets(self)
        self.my_data = MyData(self)
        self.approvals = Approvals(self)

    def for_user(self, user_id: str) -> Lab:
        """The same lab as another user sees it. Shares the database, the router and the tracer; closing it closes its tools only."""
        lab = object.__new__(Lab)
        lab.settings = self.settings
        store = self.store.for_user(user_id)
        if user_id != self._root.store.user_id:
            store.quota = Quota(store.db, user_id, self.settings.guests)
        lab._wire(store, self._root)
        return lab

    def _shared_name(self) -> str:
        """By which another process opens the same lab. Raises `UsageError` for a lab in memory, and for another user's view of one."""
        if self._parent is not None:
            raise UsageError(
                "This is one user's view of a lab.", "Serve the lab itself: it is served to all its users."
            )
        if self.store.db.url == ":memory:":
            raise UsageError(
                "A lab in memory cannot be seen by another process.", "Keep it in a file: Lab('lab.duckdb')"
            )
        # A path holds wherever the other process stands; what holds a password is not in `url`.
        return self.store.db.url if self.store.db.dialect == "duckdb" else self._name

    @property
    def _root(self) -> Lab:
        return self._parent._root if self._parent else self

    # -- parts that cost an import, made when first used

    @cached_property
    def router(self) -> Router:
        """From a model's name to a model; shared by all users of the lab."""
        if self._parent:
            return self._root.router
        from timestep_lab.runtime.router import Router

        return Router(self.settings)

    @cached_property
    def writer(self) -> TraceWriter:
        """Puts spans into the store; `flush()` waits until they are there."""
        if self._parent:
            return self._root.writer
        from timestep_lab.store.trace_writer import TraceWriter

        return TraceWriter(self.store.db)

    @cached_property
    def runner(self) -> Runner:
        """Runs agents; `stream`, `run` and `resume` go through it."""
        from timestep_lab.runtime.runner import Runner

        return Runner(self.store, self.router, self.toolbox, self.settings, writer=self.writer)

    @cached_property
    def mcp(self) -> Mcp:
        """MCP servers: `.add(name, command=[…])`, `.add(name, url=…)`, `.add_function(f)`, `.list()`, `.remove(name)`, `await .tools()`."""
        from timestep_lab.service.mcp import Mcp

        return Mcp(self.store, lambda: self.toolbox)

    @cached_property
    def toolbox(self) -> Toolbox:
        """The MCP servers' connections and tools."""
        from timestep_lab.runtime.mcp.toolbox import Toolbox

        return Toolbox(self.store.mcp_servers.find, self.settings, vector_stores=lambda: self.vector_stores)

    # -- running

    @checks_keywords
    def stream(
        self,
        prompt: str | Sequence[Mapping[str, Json]],
        *,
        agent: str | AgentRecord | sdk.Agent[Any] | None = None,
        model: str | sdk.Model | None = None,
        model_settings: Mapping[str, Json] | None = None,
        thread: Thread | str | None = None,
        approve: Approve = "ask",
        max_turns: int = 10,
        budget_usd: float | None = None,
        max_tokens_total: int | None = None,
        timeout_s: float | None = None,
        max_tool_calls: int | None = None,
        attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None,
        tools: str | Tape | None = None,
        on_miss: str = "fail",
    ) -> RunStream:
        """Run one turn and read it event by event (`model.events`). Takes what `run` takes."""
        from timestep_lab.runtime.run import RunLimits

        limits = RunLimits.read(
            budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s, max_tool_calls=max_tool_calls
        )

        model_name = model if model is None or isinstance(model, str) else self.router.add_model(model)

        async def events() -> AsyncGenerator[Event, None]:
            # In a thread: the store may be another process's, or far away.
            resolved = await in_thread(self._agent, agent)
            turn = self.runner.stream(
                prompt,
                agent=resolved,
                thread_id=thread_id_of(thread),
                model=model_name,
                model_settings=model_settings,
                approve=approve,
                max_turns=max_turns,
                limits=limits,
                attachments=attachments,
                metadata=metadata,
                tape=await in_thread(self._tape, tools, resolved.name),
                on_miss=on_miss,
            )
            async with aclosing(turn):
                async for event in turn:
                    yield event

        return RunStream(self, events)

    @checks_keywords
    async def run(
        self,
        prompt: str | Sequence[Mapping[str, Json]],
        *,
        agent: str | AgentRecord | sdk.Agent[Any] | None = None,
        model: str | sdk.Model | None = None,
        model_settings: Mapping[str, Json] | None = None,
        thread: Thread | str | None = None,
        approve: Approve = "ask",
        max_turns: int = 10,
        budget_usd: float | None = None,
        max_tokens_total: int | None = None,
        timeout_s: float | None = None,
        max_tool_calls: int | None = None,
        attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None,
        tools: str | Tape | None = None,
        on_miss: str = "fail",
    ) -> Run:
        """Run one turn to its end, or to where it waits for approval.

        `agent`: a name, an id, a version of one (`Front desk@3`), or an Agents SDK `Agent` (default: Personal Assistant). `model`: `prefix/name`, or a `Model` of the Agents
        SDK's (`agents.testing.ScriptedModel`), over the agent's own. `thread`: a thread, or its id, to go on in. `approve`: `ask` pauses before a tool that needs approval, `all` approves,
        `none` rejects.

        A run that reaches one of its limits ends with `status == "stopped"`, and what was said is kept. They are for all of it: agents that
        it hands off to, and what comes after a pause. `budget_usd`: US dollars; `max_tokens_total`: input and output; `timeout_s`: seconds
        that it works; `max_tool_calls`. An answer under way is not cut off by its tokens or its cost; no other begins.

        `tools`: what its tools answer from instead of being called: `"tape"` (the newest runs of this agent), `"tape:<filter of
        traces>"`, or `lab.tape(…)`. `on_miss`: what becomes of a call that was never recorded: `fail` ends the run,
        `live-if-readonly` calls tools that change nothing, `ask` waits for approval, `simulate:<model>` lets a model answer.

        A run that fails on the way is returned with `status == "failed"`; what is wrong before it starts is raised:
        `NotFoundError`, `UnknownPrefixError`, `MissingKeyError`, `SettingsError`.
        """
        stream = self.stream(
            prompt,
            agent=agent,
            model=model,
            model_settings=model_settings,
            thread=thread,
            approve=approve,
            max_turns=max_turns,
            budget_usd=budget_usd,
            max_tokens_total=max_tokens_total,
            timeout_s=timeout_s,
            max_tool_calls=max_tool_calls,
            attachments=attachments,
            metadata=metadata,
            tools=tools,
            on_miss=on_miss,
        )
        return await stream.result()

    @checks_keywords
    async def ask(
        self, prompt: str | Sequence[JsonObject], *, model: str | None = None, instructions: str = "",
        tools: Sequence[JsonObject] = (), response_format: JsonObject | None = None,
        model_settings: JsonObject | None = None, timeout_s: float = 120.0, metadata: Mapping[str, str] | None = None,
    ) -> ModelAnswer:  # fmt: skip
        """One answer of one model, without an agent: `.text`, `.usage`, `.cost_usd`, `.trace_id`. `lab.models.ask` says it as it comes."""
        return await whole_answer(self.models.ask(
            prompt, model=model, instructions=instructions, tools=tools, response_format=response_format, model_settings=model_settings,
            timeout_s=timeout_s, metadata=metadata,
        ))  # fmt: skip

    def resume(
        self, run_id: str, decisions: Mapping[str, Mapping[str, Json]], *, agent: sdk.Agent[Any] | None = None
    ) -> RunStream:
        """Go on with a paused run. `decisions`: call id to `{"decision": "approved" | "rejected", "message", "always"}`.

        `agent`: for a run of an SDK agent that another process started, or this one before it was restarted: the same agent,
        made here. Stored agents need none.
        """
        return RunStream(self, lambda: self.runner.resume(run_id, decisions, agent=agent))

    @checks_keywords
    async def fork(
        self,
        trace: Run | str,
        span_id: str | None = None,
        *,
        prompt: str | None = None,
        model: str | Mapping[str, str] | None = None,
        instructions: str | Mapping[str, str] | None = None,
        tools: Mapping[str, ToolStub] | None = None,
        results: Mapping[str, ToolStub] | None = None,
        again: bool = False,
        on_tools: OnTools | None = None,
        on_miss: str = "fail",
        approve: Approve = "ask",
        agent: sdk.Agent[Any] | None = None,
        context: object = None,
        budget_usd: float | None = None,
        max_tokens_total: int | None = None,
        timeout_s: float | None = None,
        max_tool_calls: int | None = None,
    ) -> Run:
        """Run again what a trace recorded, and go on live from `span_id`, or from where the first change is felt.

        Changes: `prompt`; `model` and `instructions`, a text or one by agent name; `tools` (a tool's name to what it says instead) and
        `results` (the id of one recorded call to what that call says instead); `again=True` goes live without a change. `on_tools`: `ask` waits
        for approval before a live call of a tool that may change the world, `live` does as the tools' own rules say, `tape`
        (or `tape:<filter of traces>`, `lab.tape(…)`) answers it from recorded runs, with `on_miss` as in `run`; unless said, a fork
        with `again` asks. `approve` is as in `run`. `agent` and `context` are for a run of an SDK agent of another process. Unchanged, everything is replayed: no provider, tool or guardrail
        is called. A tool that was replaced is never called, also when the fork pauses and goes on in another process. The new trace
        knows its parent. Limits are those of the run, unless others are given. Raises `UsageError` for a tool, agent or call that the run does not have.
        """
        from timestep_lab.runtime.forks import fork
        from timestep_lab.runtime.run import RunLimits

        trace_id = trace_id_of(trace)
        forked = RunStream(
            self,
            lambda: fork(
                self.runner,
                trace_id,
                span_id,
                prompt=prompt,
                model=model,
                instructions=instructions,
                tools=tools,
                results=results,
                again=again,
                on_tools=on_tools,
                on_miss=on_miss,
                approve=approve,
                agent=agent,
                context=context,
                limits=RunLimits.read(
                    budget_usd=budget_usd,
                    max_tokens_total=max_tokens_total,
                    timeout_s=timeout_s,
                    max_tool_calls=max_tool_calls,
                ).given(),
            ),
        )
        return await forked.result()

    def tape(
        self, traces: object, *, ignore: Mapping[str, Sequence[str] | str] | None = None,
        near: Mapping[str, Sequence[str] | str] | None = None,
    ) -> Tape:  # fmt: skip
        """What tools answered in these traces (a filter; or runs, ids, `lab.traces`, the preferred first), to run agents on:
        `lab.run(…, tools=tape)`, `lab.fork(…, on_tools=tape)`, `lab.compare(…, tools=tape)`.

        `ignore`: tool to the arguments that say nothing, `"*"` for all, as in `{"think": "*"}`. `near`: tool to free-text arguments
        that need only be nearly alike; such answers are shown as `drifted`. Raises `FilterError`, `NotFoundError`, `UsageError`.
        """
        from timestep_lab.runtime.tape import matching, record

        self.flush()
        is_filter = isinstance(traces, str) and re.fullmatch("[0-9a-f]{32}", traces) is None
        ids = matching(self.store, str(traces)) if is_filter else trace_ids_of(traces)
        return record(self.store, ids, ignore=ignore, near=near)

    def _tape(self, given: str | Tape | None, agent: str) -> Tape | None:
        if given is None:
            return None
        from timestep_lab.runtime.tape import read_tape

        self.flush()
        return read_tape(self.store, given, agent=agent)

    async def replay(
        self, trace: Run | str, span_id: str | None = None, *, times: int = 1, concurrency: int = 8, approve_all: bool = False,
        keep_traces: bool = False, **changes: Any,
    ) -> list[Replayed]:  # fmt: skip
        """Run the rest of a recorded run `times` times, from `span_id` or from where the first change is felt; without either, from
        its start. For counting how often it goes well: no thread, no run, and no trace unless `keep_traces`.

        The changes and limits are those of `fork`; each replay has the limits for itself. Nobody is asked: a live call that needs approval is refused unless `approve_all`. What
        a model or a tool raises is the `error` of that replay. Raises what `fork` raises before it starts.
        """
        from timestep_lab.runtime.warm_start import replay_many, warm_start

        start = await warm_start(self.runner, trace_id_of(trace), span_id, **changes)
        return await replay_many(
            start, times, concurrency=concurrency, approve_all=approve_all, keep_traces=keep_traces
        )

    async def outlook(
        self, run: Run | str, scorer: object = None, *, k: int = 8, wrong: object = None, right: object = None, tools: str | Tape = "tape",
        on_miss: str = "fail", concurrency: int = 16, budget_usd: float | None = None, approve_all: bool = False, agent: sdk.Agent[Any] | None = None,
        context: object = None, on_progress: Callable[[int, int], None] | None = None,
    ) -> Outlook:  # fmt: skip
        """How likely it still was to come out right: `k` continuations from each decision, with all before it as it was. Where the
        share falls, something happened.

        `scorer`: what right answers pass, such as `contains:°C`, a scorer or a function of the answer. Or say what is wrong or right as
        for `why`: `wrong="contains:°F"`, `right="the corrected answer"`. The rest is as in `why`.
        """
        from timestep_lab.evals import cause

        question = await cause.ask(
            self.runner, trace_id_of(run), scorer=scorer, wrong=wrong, right=right, tools=tools, on_miss=on_miss, agent=agent,
            context=context,
        )  # fmt: skip
        return await cause.outlook(
            self.runner, question, k=k, concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=on_progress
        )  # fmt: skip

    @checks_keywords
    async def why(
        self, run: Run | str, *, wrong: object = None, right: object = None, replays: int = 10, k: int = 8, tools: str | Tape = "tape",
        on_miss: str = "fail", corrections: Mapping[str, Json] | None = None, instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
        budget_usd: float | None = None, concurrency: int = 16, approve_all: bool = False, plan: bool = False,
        agent: sdk.Agent[Any] | None = None, context: object = None, on_progress: Callable[[int, int], None] | None = None,
    ) -> Why | WhyPlan:  # fmt: skip
        """Which step made a run go wrong: `.verdict`, `.suspects`, `.outlook`. Found by replaying it with and without each suspect.

        `wrong`: a text such as `contains:°F` that holds of wrong answers, a function of the answer that is true of them, or a scorer;
        or `right`: the corrected answer, a function, a scorer; neither for a run that failed. *Proven*: with the step as it was, or
        taken anew, it goes wrong, and repaired it comes out right. *Chance*: decided there, and taken anew it comes out right.

        Replays are answered from a tape (`tools`, `on_miss` as in `run`), or with `tools="live"` by tools that only read; the wider the
        pool, the more can be told. `corrections`: id of a call to what it should have said; `instructions`, `models`: agent to texts, or
        models, to try (unless given, those of other runs in the pool).
        Each suspect is confirmed with `replays` fresh replays, and as many again where they do not settle it.
        Each replay is kept, and a `why` that was stopped goes on without paying twice. `plan=True` says what it would take at most.
        """
        from timestep_lab.evals import cause

        question = await cause.ask(
            self.runner, trace_id_of(run), wrong=wrong, right=right, tools=tools, on_miss=on_miss, agent=agent, context=context
        )  # fmt: skip
        return await cause.why(
            self.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models, concurrency=concurrency,
            budget_usd=budget_usd, approve_all=approve_all, plan=plan, on_progress=on_progress,
        )  # fmt: skip

    @cached_property
    def causes(self) -> Causes:
        """`why` and `outlook` as events, and cases kept as tests: `.why(trace_id, …)`, `.plan(…)`, `.keep(trace_id, name, …)`."""
        from timestep_lab.service.causes import Causes

        return Causes(self)

    async def cancel(self, run_id: str) -> None:
        """Stop a run. What was said so far is kept. Raises `ConflictError` for a run that is over."""
        await self.runs.cancel(run_id)

    async def attachments(self, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """Files kept earlier, with the content that a model is given of each: images and PDFs as such, else bounded text."""
        from timestep_lab.runtime.attachments import with_content

        return await with_content(self.files, described) if described else []

    @cached_property
    def comparisons(self) -> Comparisons:
        """Comparisons made so far: `lab.comparisons()` lists them; `lab.comparison(id)` shows one."""
        from timestep_lab.service.comparisons import Comparisons

        return Comparisons(self)

    @cached_property
    def files(self) -> Files:
        """Files of this user: `.add(path)`, `.list()`, `.get(id)`, `.content(id)`, `.delete(id)`."""
        from timestep_lab.service.files import Files

        return Files(self.store)

    @cached_property
    def vector_stores(self) -> VectorStores:
        """`await .create(name, files=[…])`, `await store.search("…", k=5)`."""
        from timestep_lab.service.files import VectorStores

        return VectorStores(self.store, self.settings)

    def get_run(self, run_id: str) -> Run:
        """A run by id, with what it waits for. Raises `NotFoundError`."""
        view = self.runs.read(run_id)
        return Run(self, view.run, tuple(view.interruptions))

    def flush(self) -> None:
        """Wait until every span so far can be read: those of the bare Agents SDK or OpenTelemetry. What `run`, `approve`, `fork`,
        `compare` and the like did can be read when they return."""
        if "writer" in self._root.__dict__:
            self._root.writer.flush()

    # -- reading back

    def sql(self, query: str, params: Sequence[object] = ()) -> pandas.DataFrame:
        """One read-only SQL statement over the lab's views (`lab.sql("show tables")` lists them). Raises `QueryError`."""
        return self._select(query, params).df()

    # -- lifetime

    async def aclose(self) -> None:
        """End what goes on here; close tools, tracer and store. Spans not yet written are written first."""
        await self._end_background()
        if "runner" in self.__dict__:
            await self.runner.aclose()
        if "toolbox" in self.__dict__:
            await self.toolbox.aclose()
        if "mcp" in self.__dict__:
            self.mcp.close()
        if self._parent is None:
            if "router" in self.__dict__:
                await self.router.aclose()
            if "writer" in self.__dict__:
                self.writer.close()
            self.store.close()

    def close(self) -> None:
        """As `aclose`, for code without an event loop. Raises `UsageError` inside one (a notebook has one): `await lab.aclose()`."""
        import asyncio

        if in_event_loop():
            raise UsageError(
                "An event loop is running here, and the lab's tools live in it.", "Use: await lab.aclose()"
            )
        asyncio.run(self.aclose())

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --

    def _agent(self, agent: str | AgentRecord | sdk.Agent[Any] | None) -> Any:
        if agent is None or isinstance(agent, str):
            return self.agents.get(agent or "Personal Assistant")
        import agents as sdk

        if not isinstance(agent, sdk.Agent | AgentRecord):
            raise UsageError(f"{agent!r} is not an agent.", "Give an agent's name or id, or an Agents SDK Agent.")
        return agent

    def _select(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
        return self.store.sql(query, params, limit)

    def _subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        return self.store.subscribe(callback)

    @property
    def _owner(self) -> str:
        """Tells users, and labs, apart within this process."""
        return self.store.user_id

    def __repr__(self) -> str:
        where, counts, model = self._card()
        return f"Lab at {where}\n  {counts}\n  default model {model}\n  try: lab.chat()  lab.traces  await lab.run('…')"

    def _repr_html_(self) -> str:
        where, counts, model = map(html.escape, self._card())
        return (
            "<div style='border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:8px 12px;display:inline-block'>"
            f"<strong>Lab</strong> at <code>{where}</code><br>{counts}<br>default model <code>{model}</code><br>"
            "<small>try <code>lab.chat()</code>, <code>lab.traces</code>, <code>await lab.run('…')</code></small></div>"
        )

    def _card(self) -> tuple[str, str, str]:
        """Where it is, what it holds, and who answers."""
        waiting = len(self.approvals)
        counts = [f"{n:,} {what if n != 1 else what.removesuffix('s')}" for n, what in (
            (len(self.agents), "agents"), (len(self.threads), "threads"), (len(self.explorer()), "traces"),
        )]  # fmt: skip
        counts += [f"{waiting:,} waiting for approval"] if waiting else []
        return self._place, " · ".join(counts), self.default_model

    @property
    def _place(self) -> str:
        return self.store.db.url
