"""`lab.threads`: conversations and their items."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval, Len

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import JsonObject
from timestep_lab.model.display import transcript
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import RunRecord, ThreadItem, ThreadRecord
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope

if TYPE_CHECKING:
    import pandas

    from timestep_lab.store.store import Store

MOST = 1000
"""Maximum number of rows per page."""
ThreadId = Annotated[str, Len(1, 200)]
ItemId = Annotated[str, Len(1, 200)]
Title = Annotated[str, Len(0, 500)]
Limit = Annotated[int, Interval(ge=1, le=MOST)]
After = Annotated[str, Len(0, 200)]
"""Id of the last row of the previous page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPage:
    """A page of threads. `after` is the cursor of the next page, or None; `total` counts all threads, if requested;
    `runs` holds the newest run of each thread, if requested."""

    data: list[ThreadRecord]
    has_more: bool
    after: str | None
    total: int | None
    runs: list[RunRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPage:
    """A page of items. `after` is the cursor of the next page, or None."""

    data: list[ThreadItem]
    has_more: bool
    after: str | None


class Thread:
    """A conversation. `.items` is read from the store on every access.

    Example:
        first = await lab.run("My name is Ann.", model="demo/echo")
        await lab.run("And again.", model="demo/echo", thread=first.thread)
        print(len(first.thread.items), first.thread.title)
    """

    def __init__(self, threads: Threads, record: ThreadRecord) -> None:
        self._threads = threads
        self.record = record

    @property
    def id(self) -> str:
        """The thread id, `thr_…`."""
        return self.record.id

    @property
    def title(self) -> str | None:
        """The title shown in lists; None if it has none."""
        return self.record.title

    @property
    def items(self) -> list[ThreadItem]:
        """All visible items of the thread, oldest first."""
        return self._threads.all_items(self.id)

    def rename(self, title: str) -> Thread:
        """Set the title; an empty title removes it."""
        self.record = self._threads.rename(self.id, title)
        return self

    def delete(self) -> None:
        """Delete the thread with its items, runs and pending approvals. Its traces are kept."""
        self._threads.delete(self.id)

    def transcript(self) -> str:
        """The conversation as Markdown."""
        return transcript(self.items, self.title or "Untitled")

    def df(self) -> pandas.DataFrame:
        """One row per item: item_index, type, agent, text, created_at, trace_id, item_id."""
        import pandas

        rows = [
            {
                "item_index": i.item_index, "type": i.type, "agent": i.agent, "text": i.data.get("text"),
                "created_at": i.created_at, "trace_id": i.trace_id, "item_id": i.id,
            }
            for i in self.items
        ]  # fmt: skip
        return pandas.DataFrame(
            rows, columns=["item_index", "type", "agent", "text", "created_at", "trace_id", "item_id"]
        )  # fmt: skip

    def __repr__(self) -> str:
        """A one-line repr; a notebook cell that displays only the thread shows the transcript."""
        return f"Thread({self.id!r}, {self.title or 'Untitled'!r})"

    def _repr_markdown_(self) -> str:
        return self.transcript()


@op.noun("threads")
class Threads:
    """A user's threads.

    Example:
        run = await lab.run("Hello", model="demo/echo")
        thread = lab.threads[run.thread.id]
        lab.threads.delete(thread.id)
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/threads", alias="/threads/list")
    def page(
        self,
        *,
        limit: Limit = 20,
        after: After | None = None,
        search: Annotated[str, Len(0, 1000)] = "",
        count: bool = True,
        runs: bool = False,
    ) -> ThreadPage:
        """A page of threads, newest first. `search`: only threads whose title or messages contain the text.

        `count`: whether to compute `total`. `runs`: whether to include the newest run of each thread. Raises
        `NotFoundError` for an unknown `after`.
        """
        threads = self._scope.store.threads
        if search.strip():
            matching = threads.search(search.strip(), limit)
            newest = _newest_runs(self._scope.store, matching) if runs else []
            return ThreadPage(data=matching, has_more=False, after=None, total=len(matching), runs=newest)
        page = threads.page(after=after, limit=limit)
        total = threads.count() if count else None
        newest = _newest_runs(self._scope.store, page.data) if runs else []
        return ThreadPage(data=[*page.data], has_more=page.has_more, after=page.after, total=total, runs=newest)

    @op.post("/threads", status=201, local={"metadata": "Omit metadata: the served lab sets its own."})
    def add(self, title: Title | None = None, metadata: JsonObject | None = None) -> ThreadRecord:
        """Create an empty thread."""
        store = self._scope.store
        if store.quota:
            store.quota.take_thread()
        record = ThreadRecord(id=new_id("thread"), user_id=store.user_id, title=title, metadata=metadata or {})
        return store.threads.insert(record)

    @op.get("/threads/{thread_id}")
    def read(self, thread_id: ThreadId) -> ThreadRecord:
        """One thread. Raises `NotFoundError`."""
        record = self._scope.store.threads.try_get(thread_id)
        if record is None:
            raise NotFoundError(
                f"There is no thread {thread_id!r}.",
                "lab.threads.list() lists the threads.",
                command="List them with: timestep-lab threads list",
            )
        return record

    @op.put("/threads/{thread_id}")
    def rename(self, thread_id: ThreadId, title: Title | None = None) -> ThreadRecord:
        """Set the title; an empty title removes it. Raises `NotFoundError`."""
        self.read(thread_id)
        return self._scope.store.threads.update(thread_id, title=(title or "").strip() or None, updated_at=utc_now())

    @op.delete("/threads/{thread_id}")
    def delete(self, thread_id: ThreadId) -> None:
        """Delete a thread with its items, runs and pending approvals. Its traces are kept. Raises `NotFoundError`."""
        self._scope.store.threads.delete(thread_id)

    @op.get("/threads/{thread_id}/items")
    def items(self, thread_id: ThreadId, *, limit: Limit = 100, after: After | None = None) -> ItemPage:
        """The visible items of the thread, oldest first. Raises `NotFoundError`."""
        self.read(thread_id)
        page = self._scope.store.threads.items(thread_id, after, limit)
        return ItemPage(data=[*page.data], has_more=page.has_more, after=page.after)

    @op.post("/threads/{thread_id}/items/{item_id}/branch", status=201)
    def branch(self, thread_id: ThreadId, item_id: ItemId, *, title: Title | None = None) -> ThreadRecord:
        """A new thread with everything before the item, both for the reader and for the model. The original thread is
        unchanged; the new one records where it was branched, and has the same title unless another is given. Raises
        `NotFoundError`.
        """
        from timestep_lab.runtime.forks import branch

        branched = branch(self._scope.store, thread_id, item_id)
        return branched if title is None else self.rename(branched.id, title)

    # -- whole lists, and `Thread` objects

    def list(self, limit: int = 50) -> builtins.list[Thread]:
        """Newest first."""
        records: builtins.list[ThreadRecord] = []
        after: str | None = None
        while len(records) < limit:
            page = self.page(limit=min(limit - len(records), MOST), after=after, count=False)
            records += page.data
            after = page.after
            if after is None:
                break
        return [Thread(self, record) for record in records]

    def all_items(self, thread_id: str) -> builtins.list[ThreadItem]:
        """All items of a thread, oldest first. Raises `NotFoundError`."""
        page = self.items(thread_id, limit=MOST)
        items = page.data
        while page.after is not None:
            page = self.items(thread_id, limit=MOST, after=page.after)
            items = [*items, *page.data]
        return items

    def create(self, title: str | None = None, metadata: JsonObject | None = None) -> Thread:
        """Create an empty thread."""
        return Thread(self, self.add(title, metadata))

    def __getitem__(self, thread_id: str) -> Thread:
        """The thread with this id. Raises `NotFoundError`."""
        return Thread(self, self.read(thread_id))

    def __iter__(self) -> Iterator[Thread]:
        return iter(self.list())

    def __len__(self) -> int:
        return self.page(limit=1).total or 0

    def __repr__(self) -> str:
        rows = [f"  {t.id}  {t.title or 'Untitled'}" for t in self.list(10)]
        return f"{len(self)} threads" + (
            ", newest first:\n" + "\n".join(rows) if rows else ". Start one: await lab.run('…')"
        )


def _newest_runs(store: Store, threads: Sequence[ThreadRecord]) -> builtins.list[RunRecord]:
    return store.runs.newest_of_each("thread_id", [thread.id for thread in threads])
