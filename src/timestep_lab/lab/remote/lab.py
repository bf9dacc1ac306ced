"""`RemoteLab`: the class of `Lab("http://…")`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from timestep_lab.lab.lab import Approve, Lab
from timestep_lab.lab.remote.views import Changes, RemoteLooking, select
from timestep_lab.lab.run import Approvals, Run, RunStream
from timestep_lab.model.arguments import checks_arguments, messages_of, thread_id_of, trace_id_of
from timestep_lab.model.awaiting import says_await
from timestep_lab.model.codec import Json, list_of, objects_of
from timestep_lab.model.errors import NotServedError
from timestep_lab.model.events import CauseFound, CauseProgress, Event
from timestep_lab.model.records import AgentRecord
from timestep_lab.runtime.approvals import read_decision
from timestep_lab.runtime.attachments import file_ids_of
from timestep_lab.runtime.settings import Settings
from timestep_lab.service.agents import Agents
from timestep_lab.service.client import Connection, remote, unsupported_remotely
from timestep_lab.service.datasets import Datasets
from timestep_lab.service.models import Models
from timestep_lab.service.my_data import MyData, check_place, written_whole
from timestep_lab.service.runs import Runs
from timestep_lab.service.threads import Threads
from timestep_lab.service.traces import Traces
from timestep_lab.store.base import Change, Rows, in_thread

if TYPE_CHECKING:
    import agents as sdk

    from timestep_lab.evals.cause import Outlook, Why, WhyPlan
    from timestep_lab.evals.cause.blame import Blame
    from timestep_lab.evals.cause.findings import BlamePlan
    from timestep_lab.evals.plan import AnyAgent
    from timestep_lab.evals.scorers.base import Scorers
    from timestep_lab.runtime.forks import OnTools
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.recorded import ToolStub
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.runtime.tape import Tape
    from timestep_lab.runtime.warm_start import Replayed
    from timestep_lab.service.causes import Causes
    from timestep_lab.service.comparisons import Comparisons
    from timestep_lab.service.files import Files, VectorStores
    from timestep_lab.service.mcp import Mcp
    from timestep_lab.service.threads import Thread
    from timestep_lab.store.trace_writer import TraceWriter

WITH_THE_SERVER = {"store": "The store", "runner": "The runner", "toolbox": "The toolbox", "writer": "The trace writer"}
"""Parts of a local lab that a served lab does not have."""


class RemoteDatasets(Datasets):
    """Data is read on this machine; queries run on the server."""

    _connection: Connection

    @property
    def _sql(self) -> Callable[[str], list[dict[str, Any]]]:
        return lambda query: select(self._connection, query).dicts()

    @property
    def _filtered(self) -> Callable[[str], str]:
        return lambda filter: remote(Traces, self._connection).page(filter=filter, limit=1).sql


class RemoteMyData(MyData):
    """The export file is created by the server."""

    _connection: Connection

    def export(self, path: str | Path) -> Path:
        target = Path(path)
        check_place(target, "my-data.zip")
        content = self._connection.raw("GET", "/api/v1/my-data/export", timeout_s=600.0)
        with written_whole(target) as draft:
            draft.write_bytes(content)
        return target


@says_await("lab")
@checks_arguments("lab")
class RemoteLab(RemoteLooking, Lab):
    """A served lab, as seen by the user of a token. Agents, tools and files are stored on the server, and runs execute
    there.

    Objects that exist only in one process are not supported and raise `UsageError`: Agents SDK agents, Python functions
    as scorers, MCP server commands, the store, the runner. Errors of the server are raised as the same classes, and
    `StoreUnavailableError` if it does not answer.
    """

    def __init__(
        self, store: str | Path | None = None, *, token: str | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings.load()
        connection = Connection.open(str(store or self.settings.store), token or self.settings.token)
        try:
            me = connection.get("/api/v1/auth/me")
        except BaseException:
            connection.close()
            raise
        self.connection, self.user_id, self._default_model = connection, str(me["user"]["id"]), str(me["default_model"])
        self._parent = None
        self.changes = Changes(connection, self.user_id)
        self.agents = remote(Agents, connection)
        self.threads = remote(Threads, connection)
        self.datasets = remote(RemoteDatasets, connection)
        self.runs = remote(Runs, connection)
        self.models = remote(Models, connection)
        self.approvals = Approvals(self)
        self.my_data = remote(RemoteMyData, connection)

    # -- parts

    @property
    def router(self) -> Any:
        """The providers that the served lab can reach: `.providers()`, `await .list_models()`."""
        return self.models

    @cached_property
    def mcp(self) -> Mcp:
        from timestep_lab.lab.remote.views import RemoteMcp

        return remote(RemoteMcp, self.connection)

    @cached_property
    def comparisons(self) -> Comparisons:
        from timestep_lab.service.comparisons import Comparisons

        return remote(Comparisons, self.connection)

    @cached_property
    def files(self) -> Files:
        from timestep_lab.lab.remote.views import RemoteFiles

        return remote(RemoteFiles, self.connection)

    @cached_property
    def vector_stores(self) -> VectorStores:
        from timestep_lab.service.files import VectorStores

        return remote(VectorStores, self.connection, files=self.files)

    # -- running

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, Json]],
        *,
        agent: str | AgentRecord | sdk.Agent | None = None,
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
        """As `Lab.stream`. The run executes on the server: closing this stream cancels it, the end of this process does
        not.
        """
        if isinstance(agent, AgentRecord):
            agent = agent.ref
        if agent is not None and not isinstance(agent, str):
            raise unsupported_remotely("An Agents SDK agent", "Store it with lab.agents.create(…) and pass its name.")
        if model is not None and not isinstance(model, str):
            raise unsupported_remotely(
                "A model object", "Pass the name of a model that the served lab has: model='prefix/name'."
            )
        # Only the id of an attachment is sent: the file is on the server.
        files = file_ids_of(attachments)
        messages = prompt if isinstance(prompt, str) else messages_of(prompt)
        return self._following(lambda: self.runs.start(
            messages, agent=agent, model=model, model_settings=_dict(model_settings), thread_id=thread_id_of(thread),
            approve=approve, max_turns=max_turns, metadata=metadata, budget_usd=budget_usd, max_tokens_total=max_tokens_total,
            timeout_s=timeout_s, max_tool_calls=max_tool_calls, attachments=files, tools=_named_tape(tools), on_miss=on_miss,
        ))  # fmt: skip

    def resume(
        self, run_id: str, decisions: Mapping[str, Mapping[str, Json]], *, agent: sdk.Agent | None = None
    ) -> RunStream:
        if agent is not None:
            raise unsupported_remotely(
                f"The Agents SDK agent {agent.name!r}",
                "Decide in a process that opens the lab's file or database directly.",
            )
        given = {call_id: read_decision(call_id, decision) for call_id, decision in decisions.items()}
        return self._following(lambda: self.runs.decide(run_id, given))

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
        agent: sdk.Agent | None = None,
        context: object = None,
        budget_usd: float | None = None,
        max_tokens_total: int | None = None,
        timeout_s: float | None = None,
        max_tool_calls: int | None = None,
    ) -> Run:
        if agent is not None:
            raise unsupported_remotely("An Agents SDK agent", "Omit agent: the served lab has the run's agent.")
        if context is not None:
            raise unsupported_remotely("A context object", "Omit context, or open the store directly.")
        if approve != "ask":
            raise unsupported_remotely("A fork with automatic approval", "Omit approve, and decide with run.approve().")
        if any(callable(stub) for stubs in (tools, results) for stub in (stubs or {}).values()):
            raise unsupported_remotely("A function as the replacement of a tool", "Pass the tool's result as a text.")
        forked = self._following(lambda: self.runs.fork(
            trace_id_of(trace), span_id, prompt=prompt, model=model, instructions=instructions, tools=_dict(tools), results=_dict(results), again=again,
            on_tools=_named_tape(on_tools), on_miss=on_miss, budget_usd=budget_usd, max_tokens_total=max_tokens_total,
            timeout_s=timeout_s, max_tool_calls=max_tool_calls,
        ))  # fmt: skip
        return await forked.result()

    def tape(
        self, traces: object, *, ignore: Mapping[str, Sequence[str] | str] | None = None,
        near: Mapping[str, Sequence[str] | str] | None = None,
    ) -> NoReturn:  # fmt: skip
        raise unsupported_remotely("A tape object", "Name its traces instead: tools='tape:<trace filter>'.")

    async def replay(
        self, trace: Run | str, span_id: str | None = None, *, times: int = 1, concurrency: int = 8, approve_all: bool = False,
        keep_traces: bool = False, **changes: object,
    ) -> list[Replayed]:  # fmt: skip
        """As `Lab.replay`; the replays run on the server and stop when this call is cancelled."""
        from timestep_lab.service.causes import read_replayed

        given = _sent(_without_objects(changes))
        if "on_tools" in given:
            given["on_tools"] = _named_tape(given["on_tools"])
        last = await _last(
            self.causes.replay(
                trace_id_of(trace), span_id, times=times, concurrency=concurrency, approve_all=approve_all, keep_traces=keep_traces, **given
            ),
            None,
        )  # fmt: skip
        assert isinstance(last, CauseFound)
        return [read_replayed(one) for one in objects_of(last.found["replays"])]

    @cached_property
    def causes(self) -> Causes:
        from timestep_lab.service.causes import Causes

        return remote(Causes, self.connection)

    async def outlook(
        self, run: Run | str, scorer: object = None, *, on_progress: Callable[[int, int], None] | None = None, **options: object
    ) -> Outlook:  # fmt: skip
        """As `Lab.outlook`; the replays run on the server."""
        from timestep_lab.evals.cause.findings import Outlook
        from timestep_lab.service.causes import found_of

        given = _sent(options, scorer=scorer)
        return found_of(Outlook, await _last(self.causes.outlook(trace_id_of(run), **given), on_progress))

    async def why(
        self, run: Run | str, *, wrong: object = None, right: object = None, replays: int = 10, k: int = 8, tools: str | Tape = "tape",
        on_miss: str = "fail", corrections: Mapping[str, Json] | None = None, instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
        budget_usd: float | None = None, concurrency: int = 16, approve_all: bool = False, plan: bool = False,
        agent: sdk.Agent | None = None, context: object = None, on_progress: Callable[[int, int], None] | None = None,
    ) -> Why | WhyPlan:  # fmt: skip
        """As `Lab.why`; the replays run on the server and stop when this call is cancelled."""
        from timestep_lab.evals.cause.findings import Why
        from timestep_lab.service.causes import found_of

        asked = {
            "replays": replays, "k": k, "tools": tools, "on_miss": on_miss, "corrections": _dict(corrections), "instructions": instructions,
            "models": models, "agent": agent, "context": context,
        }  # fmt: skip
        paid = {} if plan else {"budget_usd": budget_usd, "concurrency": concurrency, "approve_all": approve_all}
        given = _sent({**asked, **paid}, wrong=wrong, right=right)
        if plan:
            return await self.causes.plan(trace_id_of(run), **given)
        return found_of(Why, await _last(self.causes.why(trace_id_of(run), **given), on_progress))

    async def blame(
        self, *, good: AnyAgent | str, bad: AnyAgent | str, cases: object, scorers: Scorers, plan: bool = False,
        budget_usd: float | None = None, on_progress: Callable[[int, int], None] | None = None, **options: object,
    ) -> Blame | BlamePlan:  # fmt: skip
        """As `Lab.blame`; the comparisons run on the server and stop when this call is cancelled."""
        from timestep_lab.evals.cause.blame import Blame
        from timestep_lab.lab.remote.comparing import body_of

        asked = {**options, "agents": [good, bad], "scorers": scorers, "budget_usd": budget_usd}
        body = await in_thread(body_of, self.connection, await self._data(cases), asked)
        body["good"], body["bad"] = body.pop("agents")
        body.pop("name")
        if plan:
            return await self.causes.plan_blame(**body)
        last = await _last(self.causes.blame(**body), on_progress)
        assert isinstance(last, CauseFound)
        grids = [await in_thread(self.comparison, str(id)) for id in list_of(last.found["comparisons"])]
        return Blame.from_json(last.found, grids)

    async def attachments(self, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
        """The attachments unchanged: the server adds the content."""
        return list(described)

    def flush(self) -> None:
        self.runs.flush()

    # -- reading back

    def _select(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
        from timestep_lab.lab.remote.views import select

        return select(self.connection, query, params, limit)

    # -- lifetime

    async def aclose(self) -> None:
        await in_thread(self.changes.close)
        await in_thread(self.connection.close)

    # -- parts that exist only on the server

    def for_user(self, user_id: str) -> Lab:
        raise unsupported_remotely("The lab of another user", "Open it with that user's token.")

    def __getattr__(self, name: str) -> NoReturn:
        if name in WITH_THE_SERVER:
            raise NotServedError(
                f"{WITH_THE_SERVER[name]} is not available in a served lab.",
                "It exists only on the server. Use runs, traces, sql and the other parts, or open the store directly: Lab(path).",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @cached_property
    def runner(self) -> Runner:
        self.__getattr__("runner")

    @cached_property
    def toolbox(self) -> Toolbox:
        self.__getattr__("toolbox")

    @cached_property
    def writer(self) -> TraceWriter:
        self.__getattr__("writer")

    # --

    def _following(self, begin: Callable[[], AsyncGenerator[Event, None]]) -> RunStream:
        return RunStream(self, lambda: self.runs.until_left(begin()))

    def _subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        return self.changes.subscribe(callback)

    @property
    def _owner(self) -> str:
        return f"{self.connection.url} {self.user_id}"

    @property
    def _place(self) -> str:
        return self.connection.url


def _named_tape(given: str | Tape | None) -> str | None:
    if given is None or isinstance(given, str):
        return given
    raise unsupported_remotely("A tape object", "Name its traces instead: 'tape:<trace filter>'.")


def _without_objects(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes in a form that can be sent. Raises `UsageError` for a function as the replacement of a tool."""
    if any(callable(stub) for name in ("tools", "results") for stub in (changes.get(name) or {}).values()):
        raise unsupported_remotely("A function as the replacement of a tool", "Pass the tool's result as a text.")
    return {name: _dict(value) if name in ("tools", "results") else value for name, value in changes.items()}


def _dict(given: Mapping[str, object] | None) -> dict[str, Json] | None:
    return None if given is None else cast("dict[str, Json]", dict(given))


def _sent(options: Mapping[str, object], **criteria: object) -> dict[str, Any]:
    """The arguments of a search in a form that can be sent. Raises `UsageError` for objects of this process."""
    from timestep_lab.evals.scorers.base import Scorer
    from timestep_lab.evals.scorers.registry import to_spec

    given: dict[str, Any] = dict(options)
    for name in ("agent", "context"):
        if given.pop(name, None) is not None:
            raise unsupported_remotely(f"An Agents SDK agent, or its {name}", "Open the store directly: Lab(path).")
    if "tools" in given and not isinstance(given["tools"], Mapping):
        given["tools"] = _named_tape(given["tools"])
    for name, value in criteria.items():
        spec = to_spec(value) if isinstance(value, Scorer) else value
        if callable(value) or (isinstance(spec, Mapping) and spec.get("type") == "function"):
            raise unsupported_remotely(
                "A Python function as a scorer",
                "Use a named scorer such as contains:°F, or open the store directly: Lab(path).",
            )
        given[name] = _dict(spec) if isinstance(spec, Mapping) else spec
    return {name: value for name, value in given.items() if value is not None}


async def _last(events: AsyncGenerator[Event, None], on_progress: Callable[[int, int], None] | None) -> Event:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, CauseProgress) and on_progress:
                on_progress(event.done, event.planned)
            last = event
    return last
