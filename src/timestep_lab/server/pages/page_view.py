"""The base class of pages: reads from the lab when shown, and again when its data changes."""

from __future__ import annotations

import asyncio
import html
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, NotFoundError, UsageError
from timestep_lab.store.base import Change, Topic
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.view import Updates, View, handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab


# --- The result of a page function: a view and its surroundings


NAME_LENGTH = 60


class NotHere(Exception):
    """The item named in the page's address does not exist for this user."""


@dataclass(frozen=True, slots=True)
class Heading:
    """The heading of a view that has none of its own: title, time, back link, and downloads."""

    title: str
    facts: str
    at: datetime
    back: tuple[str, str]
    """Address and text."""
    files: Sequence[tuple[str, str]] = ()
    """Address and text of each."""


@dataclass(frozen=True, slots=True)
class Shown:
    view: View
    name: str | None = None
    """The name of the open item, for the browser's title."""
    heading: Heading | None = None
    spoken: str | None = None
    """A heading for screen readers, if the view shows none."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Replaces a view that cannot be shown."""

    title: str
    words: Sequence[str]
    link: tuple[str, str]
    """Address and text."""
    status: int
    """HTTP status of the response."""


@contextmanager
def looked_up() -> Iterator[None]:
    """Wraps the lookup of the item in the address, so that a missing item is distinguished from other errors."""
    try:
        yield
    except NotFoundError as error:
        raise NotHere from error


def clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1].rstrip()}…"


def not_here(kind: str, many: str, path: str, *, guest: bool) -> Notice:
    why = f"It may have been deleted, or you are signed in as a different user: users see only their own {many}."
    hint = ["You are a guest here. The link in the terminal signs you in as the lab's owner."] if guest else []
    return Notice(f"This {kind} does not exist", [why, *hint], (path, f"All {many}"), 404)


def trouble(error: Exception, path: str) -> Notice:
    """The notice for an error. A `LabError` has its own message; for others, refer to the server's log."""
    if isinstance(error, LabError):
        return Notice(
            "This page cannot be shown", [error.message, error.next_step], (path, "Reload"), error.http_status
        )
    words = ["Internal error. Nothing was lost; see the server's log."]
    return Notice("Something went wrong", words, (path, "Reload"), 500)


class PageView(View):
    """A page defines `topics`, `read()` and handlers. Its module receives `page` for a new state and `trouble` when
    reading failed.
    """

    topics: ClassVar[frozenset[Topic]] = frozenset()
    title: ClassVar[str] = ""

    def __init__(self, lab: UserLab) -> None:
        super().__init__()
        self.lab = lab
        self._page: Json = None
        self._updates = Updates(self, self.refresh)
        self._reading = asyncio.Lock()
        self._asked = self._read_for = 0
        """How often it was asked to read anew, and how many of these what is shown answers."""
        self._unsubscribe: Callable[[], None] | None = None

    async def read(self) -> object:
        """The complete state of the page. Times and records in it are sent as JSON."""
        raise NotImplementedError

    def snapshot(self) -> Json:
        return {"page": self._page}

    def static_html(self) -> str:
        return f"<p>{html.escape(self.title)}: open this page in the served app.</p>"

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
        """Call another handler for a form: its result, or an error that names the form field."""
        try:
            if name not in self._handlers:
                raise UsageError(f"{type(self).__name__} has no handler {name!r}.", "Reload the page.")
            answer = getattr(self, self._handlers[name])(**args)
            return {"value": await answer if inspect.isawaitable(answer) else answer}
        except LabError as error:
            return {"refused": {"message": error.message, "next_step": error.next_step, "param": error.param}}

    def _changed(self, change: Change) -> None:
        """Called on the store's thread."""
        if change.topic in self.topics:
            self._updates.soon()
