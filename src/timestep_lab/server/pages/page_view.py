"""What every page does: read from the lab when somebody looks, and again when what it shows has changed."""

from __future__ import annotations

import asyncio
import html
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.model.errors import LabError, NotFoundError, UsageError
from timestep_lab.model.records import Json
from timestep_lab.store.base import Change, Topic
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.view import Updates, View, handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab


# --- What the function of a page gives: a view, and what is said of it around it


NAME_LENGTH = 60


class NotHere(Exception):
    """What the page's address names is not there for this user."""


@dataclass(frozen=True, slots=True)
class Heading:
    """For a view that has none of its own: what it is, since when, the way back, and files to take along."""

    title: str
    facts: str
    at: datetime
    back: tuple[str, str]
    """Address and words."""
    files: Sequence[tuple[str, str]] = ()
    """Address and words of each."""


@dataclass(frozen=True, slots=True)
class Shown:
    view: Any
    name: str | None = None
    """Of the one thing that is opened, for the title of the browser's tab."""
    heading: Heading | None = None
    spoken: str | None = None
    """The heading of a view that shows none: for who hears the page."""


@dataclass(frozen=True, slots=True)
class Notice:
    """In the place of a view that cannot be shown."""

    title: str
    words: Sequence[str]
    link: tuple[str, str]
    """Address and words."""
    status: int
    """Of the answer."""


@contextmanager
def looked_up() -> Iterator[None]:
    """Around looking for what the address names, so that its absence is told apart from any other failure."""
    try:
        yield
    except NotFoundError as error:
        raise NotHere from error


def clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1].rstrip()}…"


def not_here(kind: str, many: str, path: str, *, guest: bool) -> Notice:
    why = f"It may have been deleted, or you are signed in as somebody else: everybody sees only their own {many}."
    hint = ["You are a guest here. The link in the terminal signs you in as the lab's owner."] if guest else []
    return Notice(f"This {kind} is not here", [why, *hint], (path, f"All {many}"), 404)


def trouble(error: Exception, path: str) -> Notice:
    """A `LabError` says itself what happened; of any other only the server's log tells."""
    if isinstance(error, LabError):
        return Notice(
            "This page cannot be shown", [error.message, error.next_step], (path, "Open it anew"), error.http_status
        )
    words = ["The lab met a fault of its own. Nothing was lost; the server's log says more."]
    return Notice("Something went wrong", words, (path, "Open it anew"), 500)


class PageView(View):
    """A page defines `topics`, `read()` and handlers. Its module hears `page` for a new state and `trouble` when reading failed."""

    topics: ClassVar[frozenset[Topic]] = frozenset()
    title: ClassVar[str] = ""

    def __init__(self, lab: UserLab) -> None:
        super().__init__()
        self.lab: Any = lab
        self._page: Json = None
        self._updates = Updates(self, self.refresh)
        self._reading = asyncio.Lock()
        self._asked = self._read_for = 0
        """How often it was asked to read anew, and how many of these what is shown answers."""
        self._unsubscribe: Callable[[], None] | None = None

    async def read(self) -> Json:
        """All that the page shows."""
        raise NotImplementedError

    def snapshot(self) -> Json:
        return {"page": self._page}

    def static_html(self) -> str:
        return f"<p>{html.escape(self.title)}: open it in the served app.</p>"

    def watched(self, now: bool) -> None:
        if now:
            if self._unsubscribe is None and self.topics:
                self._unsubscribe = self.lab.store.subscribe(self._changed)
            self.start(self.refresh())
        elif self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def refresh(self) -> None:
        """Read anew and show it; on return what is shown was read after the call. One reading at a time, so that none overwrites what a later
        one showed; one that was overtaken by another call is not shown, and is made again for both."""
        self._asked += 1
        mine = self._asked
        async with self._reading:
            while self._read_for < mine:
                began, asked = time.monotonic(), self._asked
                try:
                    page = json_safe(await self.read())
                except LabError as error:
                    self.emit({"kind": "trouble", "message": error.message, "next_step": error.next_step})
                    self._read_for = asked
                else:
                    if asked == self._asked:
                        self._page, self._read_for = page, asked
                        self.emit({"kind": "page", "page": page})
                self._updates.cost_s = time.monotonic() - began

    @handles("submit")
    async def _submit(self, name: str, args: dict[str, Json]) -> Json:
        """What a form asks of another handler: its answer, or a refusal that also names the field it is about."""
        try:
            if name not in self._handlers:
                raise UsageError(f"{type(self).__name__} has no answer to {name!r}.", "Reload the page.")
            answer = getattr(self, self._handlers[name])(**args)
            return {"value": await answer if inspect.isawaitable(answer) else answer}
        except LabError as error:
            return {"refused": {"message": error.message, "next_step": error.next_step, "param": error.param}}

    def _changed(self, change: Change) -> None:
        """On the store's thread."""
        if change.topic in self.topics:
            self._updates.soon()
