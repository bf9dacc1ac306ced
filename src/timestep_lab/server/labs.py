"""One lab per user, created on the first request and closed when unused. All share one database, router and trace
writer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypedDict, Unpack, overload

from fastapi import Depends
from starlette.requests import HTTPConnection

from timestep_lab.server.gate import Caller
from timestep_lab.service.operation import Scope

if TYPE_CHECKING:
    from datetime import datetime

    from timestep_lab.evals.plan import Plan
    from timestep_lab.model.codec import Json
    from timestep_lab.model.records import Interruption, RunRecord
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.service.causes import Causes
    from timestep_lab.service.comparisons import Comparisons
    from timestep_lab.service.datasets import Datasets
    from timestep_lab.service.files import VectorStores
    from timestep_lab.service.mcp import Mcp
    from timestep_lab.service.models import Models
    from timestep_lab.service.my_data import MyData
    from timestep_lab.service.runs import Runs
    from timestep_lab.service.threads import Threads
    from timestep_lab.service.traces import Source, Traces
    from timestep_lab.store.base import Rows
    from timestep_lab.store.trace_writer import TraceWriter
    from timestep_lab.ui.chat import Chat
    from timestep_lab.ui.chat_state import ChatSource
    from timestep_lab.ui.duel import ArenaView, Duel
    from timestep_lab.ui.explorer import TraceExplorer
    from timestep_lab.ui.grid import GridView
    from timestep_lab.ui.handoff_graph import HandoffGraph


class WaitingRun(Protocol):
    """A run that waits for a person, with the calls that it waits for."""

    record: RunRecord
    interruptions: tuple[Interruption, ...]


class WaitingRuns(Protocol):
    """All runs that wait for a person, by id."""

    def list(self) -> Sequence[WaitingRun]: ...
    def __getitem__(self, run_id: str) -> WaitingRun: ...


class ComparisonOptions(TypedDict, total=False):
    """What the Compare page passes to `lab.plan` and `lab.start_comparison`."""

    scorers: list[str]
    epochs: int
    approve: Literal["all", "none"]
    models: list[str]
    agents: list[str]
    prompts: list[str]
    settings: list[dict[str, Json]]


class ExplorerOptions(TypedDict, total=False):
    """What the Traces page passes to `lab.explorer`: the selection and order in its address."""

    filter: str
    search: str
    of: Source
    since: datetime | None
    until: datetime | None
    last_s: float
    order: str
    range: str
    unread: list[str]


class UserLab(Scope, Protocol):
    """One user's `Lab` in this process: its services, and what the pages use. Only `lab/` knows the class."""

    threads: Threads
    runs: Runs
    models: Models
    datasets: Datasets
    my_data: MyData

    @property
    def comparisons(self) -> Comparisons: ...
    @property
    def causes(self) -> Causes: ...

    @property
    def mcp(self) -> Mcp: ...
    @property
    def vector_stores(self) -> VectorStores: ...
    @property
    def trace_source(self) -> Traces: ...
    @property
    def chat_source(self) -> ChatSource: ...
    @property
    def approvals(self) -> WaitingRuns: ...

    def for_user(self, user_id: str) -> UserLab: ...
    async def attachments(self, described: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]: ...
    async def aclose(self) -> None: ...
    def _select(self, query: str, params: Sequence[object] = ..., limit: int | None = ...) -> Rows:
        """Run a read-only SQL statement over the lab's views."""
        ...

    # -- what the pages show

    @overload
    def chat(self, agent: str | None = ..., *, thread: str | None = ..., trace_base: str) -> Chat: ...
    @overload
    def chat(
        self, agent: str | None = ..., *, models: Sequence[str], blind: bool, trace_base: str,
        questions: Callable[[], Sequence[str]] | None,
    ) -> Duel: ...  # fmt: skip

    def explorer(self, **options: Unpack[ExplorerOptions]) -> TraceExplorer: ...
    def handoffs(self, agent: str) -> HandoffGraph: ...
    def grid_view(self, grid: str) -> GridView: ...
    def arena(self, grid: str) -> ArenaView: ...
    async def plan(self, data: object, **options: Unpack[ComparisonOptions]) -> Plan: ...
    async def start_comparison(self, data: object, **options: Unpack[ComparisonOptions]) -> GridView: ...


KEPT = 256
"""Number of labs kept open. An open lab is cheap unless it has connections to MCP servers."""


class Labs:
    """The open labs. `held` and `hold` keep a user's lab open: for a request until its response is sent, for a page as
    long as its session lives.
    """

    def __init__(self, lab: UserLab) -> None:
        self.root = lab
        self._open: OrderedDict[str, UserLab] = OrderedDict()
        self._holders: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def held(self, user_id: str) -> Iterator[UserLab]:
        lab, let_go = self.hold(user_id)
        try:
            yield lab
        finally:
            let_go()

    def hold(self, user_id: str) -> tuple[UserLab, Callable[[], None]]:
        """The user's lab, and a function to call once when it is no longer needed."""
        if user_id == self.root.store.user_id:
            return self.root, lambda: None
        lab = self._open.get(user_id)
        if lab is None:
            lab = self._open[user_id] = self.root.for_user(user_id)
        self._open.move_to_end(user_id)
        self._holders[user_id] += 1
        self._close_unused()
        return lab, lambda: self._let_go(user_id)

    def _let_go(self, user_id: str) -> None:
        self._holders[user_id] -= 1
        if not self._holders[user_id]:
            del self._holders[user_id]

    def _close_unused(self) -> None:
        """Close the least recently used labs. A lab with active runs is kept, even beyond the limit, since closing it
        would end them.
        """
        excess = len(self._open) - KEPT
        if excess <= 0:
            return
        unused = (user for user, lab in self._open.items() if user not in self._holders and not _goes_on(lab))
        for user in list(islice(unused, excess)):
            task = asyncio.get_running_loop().create_task(self._open.pop(user).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop_runs(self) -> None:
        """Cancel all runs in this process. Their partial output is stored, and their readers are told how they ended."""
        for lab in [self.root, *self._open.values()]:
            if runner := _runner_of(lab):
                await runner.stop_all()

    def give_up_spans_in(self, seconds: float) -> None:
        """Spans that the store does not take by then are given up; runs that wait for them end."""
        writer: TraceWriter | None = vars(self.root).get("writer")
        if writer is not None:
            writer.give_up_in(seconds)

    async def aclose(self) -> None:
        for lab in self._open.values():
            await lab.aclose()
        await asyncio.gather(*self._closing)


def caller_of(connection: HTTPConnection) -> Caller:
    caller: Caller = connection.state.caller
    return caller


def _runner_of(lab: UserLab) -> Runner | None:
    """The lab's runner, or None if it has not been created yet."""
    runner: Runner | None = vars(lab).get("runner")
    return runner


def _goes_on(lab: UserLab) -> bool:
    runner = _runner_of(lab)
    return runner is not None and runner.is_busy


async def lab_of(connection: HTTPConnection) -> AsyncIterator[UserLab]:
    # Async, to run on the event loop that owns these labs; FastAPI would call a sync function on a thread.
    labs: Labs = connection.app.state.labs
    with labs.held(caller_of(connection).user_id) as lab:
        yield lab


CurrentLab = Annotated[UserLab, Depends(lab_of)]
"""Dependency: the calling user's lab."""
