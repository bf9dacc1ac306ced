"""`Lab`: the entry point of the package."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.lab.run import Approvals, Run, RunStream
from timestep_lab.lab.views import LabViews
from timestep_lab.model.arguments import checks_arguments, shown, thread_id_of, trace_id_of, trace_ids_of
from timestep_lab.model.awaiting import says_await
from timestep_lab.model.codec import Json, JsonObject
from timestep_lab.model.errors import StoreUnavailableError, UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import AgentRecord, ModelAnswer
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
@checks_arguments("lab")
class Lab(LabViews):
    """A lab: build, run and compare agents. Everything that happens is stored as rows in one database.

    `store` is a path (default `./lab.duckdb`, or `TIMESTEP_LAB_STORE`), `":memory:"`, `"postgresql://…"`, or
    `"https://…"` for a served lab (with `token`, or `TIMESTEP_LAB_TOKEN`). Raises `StoreError` if it cannot be opened
    and, for a served lab, `AuthError`.

    Use it as a context manager or call `close()`. In a notebook it can stay open.

    Example:
        lab = Lab(":memory:")
        run = await lab.run("Do I need an umbrella in Oslo?", model="demo/assistant")
        lab.traces.df()[["input", "status"]]
        await lab.aclose()
    """

    def __new__(
        cls, store: str | Path | None = None, *, token: str | None = None, settings: Settings | None = None
    ) -> Lab:
        if not isinstance(store, str | PathLike | None):
            raise UsageError(
                f"Lab cannot open {shown(store)}.", "Pass a path or a URL, such as Lab('lab.duckdb').", param="store"
            )
        if not isinstance(settings, Settings | None):
            raise UsageError(
                f"{shown(settings)} is not settings.",
                "Pass a Settings, or set the environment's variables.",
                param="settings",
            )
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
            raise UsageError("A token is only used with a served lab.", "Omit token when opening a file or a database.")
        self._name = url
        self._wire(open_store(url, LOCAL_USER), None)

    def _wire(self, store: Store, parent: Lab | None) -> None:
        self.store = store
        self._parent = parent
        self._default_model = self.settings.default_model
        self.agents = Agents(self)
        self.threads = Threads(self)
        self.runs = Runs(self)
        self.models: Models = Models(self)
        self.datasets = Datasets(self)
        self.my_data = MyData(self)
        self.approvals = Approvals(self)

    def for_user(self, user_id: str) -> Lab:
        """This lab as another user sees it. It shares the database, router and trace writer; closing it closes only its
        own tools.
        """
        lab = object.__new__(Lab)
        lab.settings = self.settings
        store = self.store.for_user(user_id)
        if user_id != self._root.store.user_id:
            store.quota = Quota(store.db, user_id, self.settings.guests)
        lab._wire(store, self._root)
        return lab

    def _shared_name(self) -> str:
        """The name under which another process can open this lab. Raises `UsageError` for an in-memory lab and for
        another user's view.
        """
        if self._parent is not None:
            raise UsageError("This is one user's view of a lab.", "Serve the lab itself, which serves all its users.")
        if self.store.db.url == ":memory:":
            raise UsageError("Another process cannot open an in-memory lab.", "Store it in a file: Lab('lab.duckdb')")
        # `url` is absolute, so it is valid in any working directory, but it omits the password of a Postgres store; `_name` has it.
        return self.store.db.url if self.store.db.dialect == "duckdb" else self._name

    @property
    def _root(self) -> Lab:
        return self._parent._root if self._parent else self

    @property
    def default_model(self) -> str:
        """The model of agents without a model of their own. Cannot be changed in an open lab."""
        return self._default_model

    @default_model.setter
    def default_model(self, name: object) -> None:
        raise UsageError(
            "The default model of an open lab cannot be changed.",
            f"Pass model={name!r} where it is to be used, or set DEFAULT_AGENT_MODEL before opening the lab.",
            param="default_model",
        )

    # -- parts with expensive imports, created on first use

    @cached_property
    def router(self) -> Router:
        """Resolves model names to models. Shared by all users of the lab."""
        if self._parent:
            return self._root.router
        from timestep_lab.runtime.router import Router

        return Router(self.settings)

    @cached_property
    def writer(self) -> TraceWriter:
        """Writes spans to the store. `flush()` waits until they are stored."""
        if self._parent:
            return self._root.writer
        from timestep_lab.store.trace_writer import TraceWriter

        return TraceWriter(self.store.db)

    @cached_property
    def runner(self) -> Runner:
        """Runs agents. `stream`, `run` and `resume` use it."""
        from timestep_lab.runtime.runner import Runner

        return Runner(self.store, self.router, self.toolbox, self.settings, writer=self.writer)

    @cached_property
    def mcp(self) -> Mcp:
        """MCP servers: `.add(name, command=[…])`, `.add(name, url=…)`, `.add_function(f)`, `.list()`, `.remove(name)`, `await .tools()`."""
        from timestep_lab.service.mcp import Mcp

        return Mcp(self.store, lambda: self.toolbox)

    @cached_property
    def toolbox(self) -> Toolbox:
        """Connections to the user's MCP servers, and their tools."""
        from timestep_lab.runtime.mcp.toolbox import Toolbox

        return Toolbox(self.store.mcp_servers.find, self.settings, vector_stores=lambda: self.vector_stores)

    # -- running

    def stream(
        self, prompt: str | Sequence[Mapping[str, Json]], *, agent: str | AgentRecord | sdk.Agent | None = None,
        model: str | sdk.Model | None = None, model_settings: Mapping[str, Json] | None = None,
        thread: Thread | str | None = None, approve: Approve = "ask", max_turns: int = 10,
        budget_usd: float | None = None, max_tokens_total: int | None = None, timeout_s: float | None = None,
        max_tool_calls: int | None = None, attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None, tools: str | Tape | None = None, on_miss: str = "fail",
    ) -> RunStream:  # fmt: skip
        """Run one turn and iterate over its events (see `model.events`). Takes the same arguments as `run`."""
        from timestep_lab.runtime.run import RunLimits

        limits = RunLimits.read(
            budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s, max_tool_calls=max_tool_calls
        )

        model_name = model if model is None or isinstance(model, str) else self.router.add_model(model)

        async def events() -> AsyncGenerator[Event, None]:
            # In a thread: opening the store can block on another process or on the network.
            resolved = await in_thread(self._agent, agent)
            turn = self.runner.stream(
                prompt, agent=resolved, thread_id=thread_id_of(thread), model=model_name,
                model_settings=model_settings, approve=approve, max_turns=max_turns, limits=limits,
                attachments=attachments, metadata=metadata, tape=await in_thread(self._tape, tools, resolved.name),
                on_miss=on_miss,
            )  # fmt: skip
            async with aclosing(turn):
                async for event in turn:
                    yield event

        return RunStream(self, events)

    async def run(
        self, prompt: str | Sequence[Mapping[str, Json]], *, agent: str | AgentRecord | sdk.Agent | None = None,
        model: str | sdk.Model | None = None, model_settings: Mapping[str, Json] | None = None,
        thread: Thread | str | None = None, approve: Approve = "ask", max_turns: int = 10,
        budget_usd: float | None = None, max_tokens_total: int | None = None, timeout_s: float | None = None,
        max_tool_calls: int | None = None, attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None, tools: str | Tape | None = None, on_miss: str = "fail",
    ) -> Run:  # fmt: skip
        """Run one turn until it completes or waits for approval.

        Args:
            prompt: A text, or a list of Responses API input items.
            agent: Name or id of a stored agent, a version of one (`Front desk@3`), or an Agents SDK `Agent`. Default: Personal Assistant.
            model: `prefix/name`, or an Agents SDK `Model` (such as `agents.testing.ScriptedModel`). Overrides the agent's own model.
            model_settings: Settings that override the agent's own.
            thread: A thread, or its id, to continue. By default a new thread is started.
            approve: For tools that need approval: `ask` pauses the run, `all` approves every call, `none` rejects every call.
            budget_usd: Limit in US dollars. All limits cover the whole run, including handoffs and continuations after a pause.
            max_tokens_total: Limit of input plus output tokens.
            timeout_s: Limit of active time, in seconds.
            max_tool_calls: Limit of tool calls.
            tools: Answer tool calls from recordings instead of calling the tools: `"tape"` (the newest runs of this agent),
                `"tape:<trace filter>"`, or a `lab.tape(…)`.
            on_miss: For a call that was never recorded: `fail` ends the run, `live-if-readonly` calls tools that change nothing,
                `ask` waits for approval, `simulate:<model>` lets a model write the result.

        A run that reaches a limit ends with `status == "stopped"` and keeps its partial output; a model response in
        progress is not cut off by the token or cost limit. A run that fails is returned with `status == "failed"`.

        Raises `NotFoundError`, `UnknownPrefixError`, `MissingKeyError` or `SettingsError` before the run starts.
        """
        stream = self.stream(
            prompt, agent=agent, model=model, model_settings=model_settings, thread=thread, approve=approve,
            max_turns=max_turns, budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s,
            max_tool_calls=max_tool_calls, attachments=attachments, metadata=metadata, tools=tools, on_miss=on_miss,
        )  # fmt: skip
        return await stream.result()

    async def ask(
        self, prompt: str | Sequence[JsonObject], *, model: str | None = None, instructions: str = "",
        tools: Sequence[JsonObject] = (), response_format: JsonObject | None = None,
        model_settings: JsonObject | None = None, timeout_s: float = 120.0, metadata: Mapping[str, str] | None = None,
    ) -> ModelAnswer:  # fmt: skip
        """Call a model once, without an agent. Returns `.text`, `.usage`, `.cost_usd`, `.trace_id`. `lab.models.ask`
        streams the answer.
        """
        return await whole_answer(self.models.ask(
            prompt, model=model, instructions=instructions, tools=tools, response_format=response_format, model_settings=model_settings,
            timeout_s=timeout_s, metadata=metadata,
        ))  # fmt: skip

    def resume(
        self, run_id: str, decisions: Mapping[str, Mapping[str, Json]], *, agent: sdk.Agent | None = None
    ) -> RunStream:
        """Continue a paused run. `decisions` maps call ids to `{"decision": "approved" | "rejected" | "dismissed", "message",
        "always"}`.

        `agent`: needed only for a run of an Agents SDK `Agent` that was started by another process or before a restart:
        the same agent, constructed again. Stored agents do not need it.
        """
        return RunStream(self, lambda: self.runner.resume(run_id, decisions, agent=agent))

    async def fork(
        self, trace: Run | str, span_id: str | None = None, *, prompt: str | None = None,
        model: str | Mapping[str, str] | None = None, instructions: str | Mapping[str, str] | None = None,
        tools: Mapping[str, ToolStub] | None = None, results: Mapping[str, ToolStub] | None = None,
        again: bool = False, on_tools: OnTools | None = None, on_miss: str = "fail", approve: Approve = "ask",
        agent: sdk.Agent | None = None, context: object = None, budget_usd: float | None = None,
        max_tokens_total: int | None = None, timeout_s: float | None = None, max_tool_calls: int | None = None,
    ) -> Run:  # fmt: skip
        """Run a recorded trace again with changes: replay it up to `span_id`, or up to the first step that a change
        affects, then run live.

        Without changes everything is replayed, and no provider, tool or guardrail is called. The new trace records its
        parent. The original run's limits apply unless others are given.

        Args:
            prompt: Replaces the user's input.
            model: A model name for the first agent, or a mapping of agent names to models.
            instructions: Instructions for the first agent, or a mapping of agent names to instructions.
            tools: Tool name to the result that replaces it. A replaced tool is never called, even after a pause in another process.
            results: Id of a recorded call to the result that replaces it.
            again: Run live from `span_id` (or from the start) without any change.
            on_tools: How live tool calls are answered. `ask`: calls that may have side effects wait for approval (the default with
                `again`). `live`: the tools' own approval rules apply. `tape`, `tape:<trace filter>` or a `lab.tape(…)`: from recorded
                runs, with `on_miss` as in `run`.
            approve: As in `run`.
            agent: For a run of an Agents SDK `Agent` from another process: the same agent, constructed again.
            context: The SDK run context that goes with `agent`.

        Raises `UsageError` if the run has no such tool, agent or call.
        """
        from timestep_lab.runtime.forks import fork
        from timestep_lab.runtime.run import RunLimits

        trace_id = trace_id_of(trace)
        limits = RunLimits.read(
            budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s, max_tool_calls=max_tool_calls
        )
        forked = RunStream(
            self,
            lambda: fork(
                self.runner, trace_id, span_id, prompt=prompt, model=model, instructions=instructions, tools=tools, results=results, again=again,
                on_tools=on_tools, on_miss=on_miss, approve=approve, agent=agent, context=context, limits=limits.given(),
            ),
        )  # fmt: skip
        return await forked.result()

    def tape(
        self, traces: object, *, ignore: Mapping[str, Sequence[str] | str] | None = None,
        near: Mapping[str, Sequence[str] | str] | None = None,
    ) -> Tape:  # fmt: skip
        """A tape: the recorded tool results of some traces, for running agents without calling their tools. Use it in
        `lab.run(…, tools=tape)`, `lab.fork(…, on_tools=tape)` and `lab.compare(…, tools=tape)`.

        `traces`: a trace filter, or runs, ids or `lab.traces`; earlier ones take precedence. `ignore`: tool name to
        arguments that do not affect the result, `"*"` for all, as in `{"think": "*"}`. `near`: tool name to free-text
        arguments that only need to be similar; such results are marked `drifted`. Raises `FilterError`,
        `NotFoundError`, `UsageError`.
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
        """Run the rest of a recorded run `times` times, to measure how often it succeeds. Starts at `span_id`, else at
        the first step that a change affects, else at the beginning. No thread or run is stored, and no trace unless
        `keep_traces`.

        Takes the changes and limits of `fork`; limits apply to each replay separately. A live call that needs approval
        is rejected unless `approve_all`. An exception raised by a model or a tool is the `error` of that replay. Before
        it starts, raises what `fork` raises.
        """
        from timestep_lab.runtime.warm_start import replay_many, warm_start

        start = await warm_start(self.runner, trace_id_of(trace), span_id, **changes)
        return await replay_many(
            start, times, concurrency=concurrency, approve_all=approve_all, keep_traces=keep_traces
        )

    async def outlook(
        self, run: Run | str, scorer: object = None, *, k: int = 8, wrong: object = None, right: object = None, tools: str | Tape = "tape",
        on_miss: str = "fail", concurrency: int = 16, budget_usd: float | None = None, approve_all: bool = False, agent: sdk.Agent | None = None,
        context: object = None, on_progress: Callable[[int, int], None] | None = None,
    ) -> Outlook:  # fmt: skip
        """Estimate the probability of success after each decision of a run, from continuations of it. A drop marks the
        step to look at.

        `k`: Continuations after each decision, at most. Half of them are run first; the other half only where these
        disagree, and next to decisions that change the rate. The intervals are those of the continuations that were run.

        `scorer`: defines success: `contains:°C`, a scorer, or a function of the answer. Alternatively pass `wrong` or
        `right` as for `why`: `wrong="contains:°F"`, `right="the corrected answer"`. The other arguments are those of
        `why`.
        """
        from timestep_lab.evals import cause
        from timestep_lab.service.causes import in_numbers

        question = await cause.ask(
            self.runner, trace_id_of(run), scorer=scorer, wrong=wrong, right=right, tools=tools, on_miss=on_miss, agent=agent,
            context=context,
        )  # fmt: skip
        return await cause.outlook(
            self.runner, question, k=k, concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=in_numbers(on_progress)
        )  # fmt: skip

    async def why(
        self, run: Run | str, *, wrong: object = None, right: object = None, replays: int = 10, k: int = 8, tools: str | Tape = "tape",
        on_miss: str = "fail", corrections: Mapping[str, Json] | None = None, instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
        budget_usd: float | None = None, concurrency: int = 16, approve_all: bool = False, plan: bool = False,
        agent: sdk.Agent | None = None, context: object = None, on_progress: Callable[[int, int], None] | None = None,
    ) -> Why | WhyPlan:  # fmt: skip
        """Find the step that made a run go wrong, by replaying the run with and without each suspect: `.verdict`,
        `.suspects`, `.outlook`.

        A step is *proven* if the run fails when it is kept or resampled and succeeds when it is repaired. It is
        *chance* if the outcome is decided there and resampling it alone makes the run succeed.

        Args:
            wrong: Matches wrong answers: a text such as `contains:°F`, a function of the answer, or a scorer.
            right: The alternative to `wrong`: the corrected answer, a function, or a scorer. A failed run needs neither.
            replays: Fresh replays that confirm each suspect; as many again if the result is not settled.
            k: Continuations after each decision, for `.outlook`.
            tools: As in `run`: tools answer from a tape, and a larger tape allows more conclusions. `"live"` calls read-only tools.
            on_miss: As in `run`.
            corrections: Call id to the result it should have returned.
            instructions: Agent name to alternative instructions to try. Default: those of other runs on the tape.
            models: Agent name to alternative models to try. Default: those of other runs on the tape.
            plan: Return the maximum cost (a `WhyPlan`) instead of running.

        Every replay is stored, so an interrupted `why` continues without paying twice. Other code of the agent (guardrails,
        dynamic instructions, `on_handoff`) runs in each replay as in any run.
        """
        from timestep_lab.evals import cause
        from timestep_lab.service.causes import in_numbers

        question = await cause.ask(
            self.runner, trace_id_of(run), wrong=wrong, right=right, tools=tools, on_miss=on_miss, agent=agent, context=context
        )  # fmt: skip
        return await cause.why(
            self.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models, concurrency=concurrency,
            budget_usd=budget_usd, approve_all=approve_all, plan=plan, on_progress=in_numbers(on_progress),
        )  # fmt: skip

    @cached_property
    def causes(self) -> Causes:
        """`why` and `outlook` as event streams, and failed cases saved as tests: `.why(trace_id, …)`, `.plan(…)`,
        `.keep(trace_id, name, …)`.
        """
        from timestep_lab.service.causes import Causes

        return Causes(self)

    async def cancel(self, run_id: str) -> None:
        """Stop a run. Its partial output is kept. Raises `ConflictError` if the run has already ended."""
        await self.runs.cancel(run_id)

    async def attachments(self, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """Stored files with the content that is sent to the model: images and PDFs unchanged, others as limited text."""
        from timestep_lab.runtime.attachments import with_content

        return await with_content(self.files, described) if described else []

    @cached_property
    def comparisons(self) -> Comparisons:
        """Stored comparisons: `lab.comparisons()` lists them, `lab.comparison(id)` opens one."""
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
        """A run by its id, including pending approvals. Raises `NotFoundError`."""
        view = self.runs.read(run_id)
        return Run(self, view.run, tuple(view.interruptions))

    def flush(self) -> None:
        """Wait until all spans recorded so far are stored. Needed only for spans of the plain Agents SDK or
        OpenTelemetry: `run`, `approve`, `fork`, `compare` and similar methods have stored theirs when they return."""
        if "writer" in self._root.__dict__:
            self._root.writer.flush()

    # -- reading back

    def sql(self, query: str, params: Sequence[object] = ()) -> pandas.DataFrame:
        """Run a read-only SQL statement over the lab's views (`lab.sql("show tables")` lists them). Raises
        `QueryError`.
        """
        return self._select(query, params).df()

    # -- lifetime

    async def aclose(self) -> None:
        """End background work, then close the tools, the trace writer and the store. Pending spans are written first."""
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
            try:
                if "writer" in self.__dict__:
                    self.writer.close()
            finally:  # Also when spans could not be written: queries that run would keep the process from ending.
                self.store.close()

    def close(self) -> None:
        """Like `aclose`, for code without an event loop. Raises `UsageError` if one is running, as in a notebook: use
        `await lab.aclose()`.
        """
        import asyncio

        if in_event_loop():
            raise UsageError("close() cannot be called while an event loop is running.", "Use: await lab.aclose()")
        asyncio.run(self.aclose())

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        """Called by `copy.copy`, `copy.deepcopy` and `pickle`."""
        raise UsageError("A lab cannot be copied or pickled: it is an open database.", "Open it again: Lab(store)")

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _agent(self, agent: str | AgentRecord | sdk.Agent | None) -> AgentRecord | sdk.Agent:
        if agent is None or isinstance(agent, str):
            return self.agents.get("Personal Assistant" if agent is None else agent)
        import agents as sdk

        if not isinstance(agent, sdk.Agent | AgentRecord):
            raise UsageError(f"{agent!r} is not an agent.", "Give an agent's name or id, or an Agents SDK Agent.")
        return agent

    def _select(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
        return self.store.typed_sql(query, params, limit)

    def _subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        return self.store.subscribe(callback)

    @property
    def _owner(self) -> str:
        """Identifies this lab and user within the process."""
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
        """Location, contents and default model, for the repr."""
        try:
            held = [(len(self.agents), "agents"), (len(self.threads), "threads"), (len(self.explorer()), "traces")]
            waiting = len(self.approvals)
        except StoreUnavailableError as error:
            return self._place, str(error), self.default_model
        counts = [f"{n:,} {what if n != 1 else what.removesuffix('s')}" for n, what in held]
        counts += [f"{waiting:,} waiting for approval"] if waiting else []
        return self._place, " · ".join(counts), self.default_model

    @property
    def _place(self) -> str:
        return self.store.db.url
