"""`lab.threads`: conversations, and what was said in them."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import TYPE_CHECKING

from timestep_lab.types.clock import utc_now
from timestep_lab.types.errors import NotFoundError
from timestep_lab.types.ids import new_id
from timestep_lab.types.records import Json, Page, ThreadItem, ThreadRecord
from timestep_lab.types.transcript import transcript

if TYPE_CHECKING:
    import pandas

    from timestep_lab.store.store import Store


class Thread:
    """One conversation. `.items` is read from the store each time, so it is never stale."""

    def __init__(self, store: Store, record: ThreadRecord) -> None:
        self._store = store
        self.record = record

    @property
    def id(self) -> str:
        """`thr_…`."""
        return self.record.id

    @property
    def title(self) -> str | None:
        """What it is called in lists; None until it has a name."""
        return self.record.title

    @property
    def items(self) -> list[ThreadItem]:
        """Everything a reader of the thread sees, oldest first."""
        return self._store.threads.all_items(self.id)

    def rename(self, title: str) -> Thread:
        """Give it a title; an empty one takes it away."""
        self.record = self._store.threads.update(self.id, title=title.strip() or None, updated_at=utc_now())
        return self

    def delete(self) -> None:
        """Delete the thread with its items, runs and what waits for approval. Its traces stay."""
        self._store.threads.delete(self.id)

    def transcript(self) -> str:
        """The conversation as Markdown."""
        return transcript(self.items, self.title or "Untitled")

    def df(self) -> pandas.DataFrame:
        """One row an item: item_index, type, agent, text, created_at, trace_id, item_id."""
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
        """One line, for lists and tuples; a cell that shows it alone shows the transcript."""
        return f"Thread({self.id!r}, {self.title or 'Untitled'!r})"

    def _repr_markdown_(self) -> str:
        return self.transcript()


class Threads:
    """The threads of one user."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, limit: int = 50) -> builtins.list[Thread]:
        """Newest first."""
        return [Thread(self._store, r) for r in self._store.threads.find(limit, newest_first=True)]

    def page(self, *, after: str | None = None, limit: int = 20) -> Page[ThreadRecord]:
        """Newest first. `after` is the id that the page before ended with; unknown raises `NotFoundError`."""
        return self._store.threads.page(after=after, limit=limit)

    def create(self, title: str | None = None, metadata: dict[str, Json] | None = None) -> Thread:
        """A new, empty thread."""
        record = ThreadRecord(
            id=new_id("thread"), user_id=self._store.user_id, title=title, metadata=metadata or {}
        )  # fmt: skip
        return Thread(self._store, self._store.threads.insert(record))

    def __getitem__(self, thread_id: str) -> Thread:
        """Raises `NotFoundError`."""
        found = self._store.threads.try_get(thread_id)
        if found is None:
            raise NotFoundError(f"There is no thread {thread_id!r}.", "List them with: timestep-lab threads list")
        return Thread(self._store, found)

    def __iter__(self) -> Iterator[Thread]:
        return iter(self.list())

    def __len__(self) -> int:
        return self._store.threads.count()

    def __repr__(self) -> str:
        rows = [f"  {t.id}  {t.title or 'Untitled'}" for t in self.list(10)]
        return f"{len(self)} threads" + (
            ", newest first:\n" + "\n".join(rows) if rows else ". Start one: await lab.run('…')"
        )
