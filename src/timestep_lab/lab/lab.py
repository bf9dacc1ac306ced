"""`Lab`: the entry object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.lab.agents import Agents
from timestep_lab.lab.approvals import Approvals
from timestep_lab.lab.run import Run, RunStream
from timestep_lab.lab.threads import Threads
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.open import open_store
from timestep_lab.types.errors import NotFoundError, UsageError
from timestep_lab.types.ids import LOCAL_USER
from timestep_lab.types.records import Interruption, Json

if TYPE_CHECKING:
    import agents as sdk
    import pandas

    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.comparing import OnEvent
    from timestep_lab.runtime.files import Files, VectorStores
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.runtime.mcp.catalog import McpCatalog
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter
    from timestep_lab.types.comparison import ComparisonRecord
    from timestep_lab.ui.chat import Chat
    from timestep_lab.ui.explorer import TraceExplorer
    from timestep_lab.ui.handoff_graph import HandoffGraph
    from timestep_lab.ui.store_source import StoreSource
    from timestep_lab.ui.trace_view import TraceView

Approve = Literal["ask", "all", "none"]


class Lab:
    """Build, watch and compare agents; everything that happens is rows in one store.

    `store`: a path (default `./lab.duckdb`, or `TIMESTEP_LAB_STORE`), `":memory:"`, `"postgresql://…"`, or `"https://…"` for a
    served lab (then with `token`). Raises `StoreError` when the store cannot be opened; the message says what to do.

    Use it as a context manager, or call `close()`; a notebook may simply leave it open.
    """

    def __init__(
        self, store: str | Path | None = None, *, token: str | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings.load()
        url = str(store or self.settings.store or "lab.duckdb")
        if url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is a served lab.", "Open it with: Lab.connect(url, token=…)")
        if token is not None:
            raise UsageError("A token is for a served lab only.", "Leave token away for a file or a database.")
        self._wire(open_store(url, LOCAL_USER), None)

    def _wire(self, store: Store, parent: Lab | None) -> None:
        self.store = store
        self._parent = parent
        self.agents = Agents(store, self._check_model)
        self.threads = Threads(store)
        self.approvals = Approvals(self)

    def for_user(self, user_id: str) -> Lab:
        """The same lab as another user sees it. Shares the database, the router and the tracer; closing it closes its tools only."""
        lab = Lab.__new__(Lab)
        lab.settings = self.settings
        lab._wire(self.store.for_user(user_id), self._root)
        return lab

    @property
    def _root(self) -> Lab:
        return self._parent._root if self._parent else self

    # -- parts that cost an import, made when first used

    @cached_property
    def router(self) -> Router:
        if self._parent:
            return self._root.router
        from timestep_lab.runtime.router import Router

        return Router(self.settings)

    @cached_property
    def writer(self) -> TraceWriter:
        if self._parent:
            return self._root.writer
        from timestep_lab.store.trace_writer import TraceWriter

        return TraceWriter(self.store.db)

    @cached_property
    def runner(self) -> Runner:
        from timestep_lab.runtime.runner import Runner

        return Runner(self.store, self.router, self.toolbox, self.settings, writer=self.writer)

    @cached_property
    def mcp(self) -> McpCatalog:
        """MCP servers: `.add(name, command=[…])`, `.add(name, url=…)`, `.list()`, `.remove(name)`, `await .tools()`."""
        from timestep_lab.runtime.mcp.catalog import McpCatalog

        return McpCatalog(self.store, lambda: self.toolbox)

    @cached_property
    def toolbox(self) -> Toolbox:
        from timestep_lab.runtime.mcp.toolbox import Toolbox

        return Toolbox(self.store.mcp_servers.find, self.settings, vector_stores=lambda: self.vector_stores)

    # -- running

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, Json]],
        *,
        agent: str | sdk.Agent[Any] | None = None,
        model: str | None = None,
        model_settings: Mapping[str, Json] | None = None,
        thread: str | None = None,
        approve: Approve = "ask",
        max_turns: int = 10,
        attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None,
    ) -> RunStream:
        """Run one turn and read it event by event (`types.events`). Takes what `run` takes."""
        return RunStream(
            self,
            lambda: self.runner.stream(
                prompt,
                agent=self._agent(agent),
                thread_id=thread,
                model=model,
                model_settings=model_settings,
                approve=approve,
                max_turns=max_turns,
                attachments=attachments,
                metadata=metadata,
            ),
        )

    async def run(self, prompt: str | Sequence[Mapping[str, Json]], **options: Any) -> Run:
        """Run one turn to its end, or to where it waits for approval.

        `agent`: a name, an id, or an Agents SDK `Agent` (default: Personal Assistant). `model`: `prefix/name`, over the agent's
        own. `thread`: a thread's id to go on in. `approve`: `ask` pauses before a tool that needs approval, `all` approves,
        `none` rejects.

        A run that fails on the way is returned with `status == "failed"`; what is wrong before it starts is raised:
        `NotFoundError`, `UnknownPrefixError`, `MissingKeyError`, `SettingsError`.
        """
        return await self.stream(prompt, **options).result()

    def resume(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> RunStream:
        """Go on with a paused run. `decisions`: call id to `{"decision": "approved" | "rejected", "message", "always"}`."""
        return RunStream(self, lambda: self.runner.resume(run_id, decisions))

    async def fork(self, trace: Run | str, span_id: str | None = None, **changes: Any) -> Run:
        """Run again what a trace recorded, and go on live from `span_id`, or from where the first change is felt.

        Changes: `prompt`, `model`, `instructions`, `tools` (a tool's name to what it says instead); `again=True` goes live without one.
        Unchanged, everything is replayed and no provider is called. The new trace knows its parent.
        """
        from timestep_lab.runtime.forks import fork

        trace_id = trace.trace_id if isinstance(trace, Run) else trace
        self.flush()
        return await RunStream(self, lambda: fork(self.runner, trace_id, span_id, **changes)).result()

    async def cancel(self, run_id: str) -> None:
        """Stop a run. What was said so far is kept. Raises `ConflictError` for a run that is over."""
        await self.runner.cancel(run_id)

    async def attachments(self, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """Files kept earlier, with the content that a model is given of each: images as images, text as bounded text."""
        from timestep_lab.runtime.attachments import with_content

        return await with_content(self.files, described) if described else []

    @cached_property
    def files(self) -> Files:
        """Files of this user: `.add(path)`, `.list()`, `.get(id)`, `.content(id)`, `.delete(id)`."""
        from timestep_lab.runtime.files import Files

        return Files(self.store)

    @cached_property
    def vector_stores(self) -> VectorStores:
        """`await .create(name, files=[…])`, `await store.search("…", k=5)`."""
        from timestep_lab.runtime.files import VectorStores

        return VectorStores(self.store, self.settings)

    def get_run(self, run_id: str) -> Run:
        """A run by id, with what it waits for. Raises `NotFoundError`."""
        record = self.store.runs.try_get(run_id)
        if record is None:
            raise NotFoundError(f"There is no run {run_id!r}.", "List them with: timestep-lab traces list")
        state = self.store.run_states.try_get(run_id) if record.status == "needs_approval" else None
        waiting = tuple(Interruption(**dict(i)) for i in state.interruptions) if state else ()
        return Run(self, record, waiting)

    # -- looking

    def chat(
        self,
        agent: str = "Personal Assistant",
        *,
        model: str | None = None,
        thread: str | None = None,
        height: int | None = None,
        **options: Any,
    ) -> Chat:
        """A chat in the cell: the same component as in the served app. `thread`: the id of one to go on in."""
        from timestep_lab.lab.chat_source import LocalChatSource
        from timestep_lab.ui.chat import Chat

        if model is not None:
            self._check_model(model)
        if thread is not None:
            self.threads[thread]  # Raises for one that is not there.
        name = self.agents.get(agent).name
        return Chat(LocalChatSource(self), agent=name, model=model, thread_id=thread, height=height, **options)

    @cached_property
    def trace_source(self) -> StoreSource:
        """What the trace views read from."""
        from timestep_lab.lab.handoffs import declared_for
        from timestep_lab.lab.trace_files import diff_rows
        from timestep_lab.ui.store_source import StoreSource

        return StoreSource(
            self.store, declared=lambda trace_id: declared_for(self, trace_id), diff=lambda a, b: diff_rows(self, a, b)
        )

    @property
    def traces(self) -> TraceExplorer:
        """The explorer: all traces, live, the opened one beside the list. `.filter`, `.search`, `.sql`, `.df()`, `.selection`, `[trace_id]`."""
        return self.explorer()

    def explorer(
        self, *, filter: str = "", search: str = "", selection: str | None = None, **options: Any
    ) -> TraceExplorer:
        """The same, opened at a filter or a trace. Raises `FilterError`, `NotFoundError`."""
        from timestep_lab.ui.explorer import TraceExplorer

        explorer = TraceExplorer(self.trace_source, filter=filter, search=search, **options)
        if selection is not None:
            explorer.selection = selection
        return explorer

    def trace(self, run: Run | str) -> TraceView:
        """One trace: waterfall, handoff graph, conversation. `run`: a `Run`, or a trace's id."""
        from timestep_lab.ui.trace_view import TraceView

        return TraceView(self.trace_source, run.trace_id if isinstance(run, Run) else run)

    def handoffs(
        self, agent: str | sdk.Agent[Any] | None = None, *, filter: str = "", traces: Sequence[str] | None = None
    ) -> HandoffGraph:
        """The handoff graph: ways declared from `agent` dashed, ways travelled solid, over the given traces or all that match."""
        from timestep_lab.lab.handoffs import handoff_graph

        return handoff_graph(self, agent, filter, traces)

    def diff(self, left: Run | str, right: Run | str) -> pandas.DataFrame:
        """Two traces aligned, one row a step; `first_divergence` marks where they first differ."""
        from timestep_lab.lab.trace_files import diff_frame

        ids = [run.trace_id if isinstance(run, Run) else run for run in (left, right)]
        return diff_frame(self, *ids)

    # -- comparing

    async def compare(
        self, data: Any = None, *, resume: str | None = None, on_event: OnEvent | None = None, **options: Any
    ) -> Grid:
        """Ask every candidate every case and show the answers side by side.

        `data`: strings, dicts, a DataFrame, a path, or a query over past traces. Candidates are all combinations of `models`, `agents`,
        `settings` and `prompts`; `scorers` judge; `epochs` repeats honestly. `resume` goes on with one by its id. The other options are
        those of `evals.options.Options`: concurrency, timeout_s, retries, budget_usd, budget_tokens, cache, approve, seed.

        Raises `DataError`, `UsageError`, `UnknownPrefixError`, `MissingKeyError` before anything is asked. A case that
        fails is a cell with its error.
        """
        from timestep_lab.lab import comparing

        return await comparing.run(await comparing.prepare(self, data, resume, dict(options)), on_event)

    async def plan(self, data: Any, **options: Any) -> Plan:
        """What `compare` with the same arguments would take: calls, cache hits, cost and time, before anything is spent."""
        from timestep_lab.lab import comparing

        return await comparing.plan(self, data, dict(options))

    async def prepare_comparison(self, data: Any, **options: Any) -> Comparison:
        """A comparison ready to run: `async for event in comparison.events()`, then `comparison.grid()`."""
        from timestep_lab.lab import comparing

        return await comparing.prepare(self, data, None, dict(options))

    def comparisons(self, limit: int = 50) -> list[ComparisonRecord]:
        """Those made so far, newest first."""
        from timestep_lab.evals.rows import ComparisonRows

        return ComparisonRows(self.store.db, self.store.user_id).comparisons.find(limit, newest_first=True)

    def comparison(self, id: str) -> Grid:
        """A comparison made earlier. Raises `NotFoundError`."""
        from timestep_lab.evals.compare import load_grid
        from timestep_lab.lab.comparing import bench_of

        return load_grid(bench_of(self), id)

    # -- files

    def import_traces(self, path: str | Path) -> Imported:
        """Read OTLP (protobuf, JSON, JSONL), OpenInference, Agents SDK exports, or a lab's own. The same file twice adds nothing."""
        from timestep_lab.runtime.interchange.files import import_file

        return import_file(path, self.store)

    def export(self, path: str | Path, *, trace_ids: Sequence[str] | None = None, filter: str = "") -> int:
        """Write traces by the path's ending: `.json` (OTLP), `.jsonl`, `.parquet`, `.duckdb`, or `.html` that opens anywhere; how many."""
        from timestep_lab.lab.trace_files import export

        return export(self, Path(path), trace_ids, filter)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8765) -> None:
        """Serve this lab until interrupted. Blocks; from a notebook, run `timestep-lab serve` beside it."""
        from timestep_lab.app.run import serve

        serve(self, host=host, port=port, announce=print)

    def flush(self) -> None:
        """Wait until every span so far can be read."""
        if "writer" in self._root.__dict__:
            self._root.writer.flush()

    # -- reading back

    def sql(self, query: str, params: Sequence[Any] = ()) -> pandas.DataFrame:
        """One read-only SQL statement over the lab's views (`lab.sql("show tables")` lists them). Raises `QueryError`."""
        return self.store.sql(query, params).df()

    # -- lifetime

    async def aclose(self) -> None:
        """Close tools, tracer and store. Spans not yet written are written first."""
        if "runner" in self.__dict__:
            await self.runner.aclose()
        if "toolbox" in self.__dict__:
            await self.toolbox.aclose()
        if self._parent is None:
            if "router" in self.__dict__:
                await self.router.aclose()
            if "writer" in self.__dict__:
                self.writer.close()
            self.store.close()

    def close(self) -> None:
        """As `aclose`, for code without an event loop."""
        import asyncio

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

    def _agent(self, agent: str | sdk.Agent[Any] | None) -> Any:
        if agent is None or isinstance(agent, str):
            return self.agents.get(agent or "Personal Assistant")
        return agent

    def _check_model(self, model: str) -> object:
        return self.router.resolve(model)

    def __repr__(self) -> str:
        return f"Lab({self.store.db.url!r}, {len(self.agents)} agents, {len(self.threads)} threads)"
