"""What every page does: read from the lab when somebody looks, and again when what it shows has changed."""

from __future__ import annotations

import html
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.records import Json
from timestep_lab.store.base import Change, Topic
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.view import Updates, View, handles

if TYPE_CHECKING:
    from timestep_lab.model.protocols import LabLike


class PageView(View):
    """A page defines `topics`, `read()` and handlers. Its module hears `page` for a new state and `trouble` when reading failed."""

    topics: ClassVar[frozenset[Topic]] = frozenset()
    title: ClassVar[str] = ""

    def __init__(self, lab: LabLike) -> None:
        super().__init__()
        self.lab: Any = lab
        self._page: Json = None
        self._updates = Updates(self, self.refresh)
        self._unsubscribe: Callable[[], None] | None = None

    async def read(self) -> Json:
        """All that the page shows."""
        raise NotImplementedError

    def snapshot(self) -> Json:
        return {"page": self._page}

    def twin_html(self) -> str:
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
        began = time.monotonic()
        try:
            self._page = json_safe(await self.read())
        except LabError as error:
            self.emit({"kind": "trouble", "message": error.message, "next_step": error.next_step})
        else:
            self.emit({"kind": "page", "page": self._page})
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
