"""Following something live without being overrun: many notices, few refreshes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from timestep_lab.model.errors import LabError
from timestep_lab.ui.view import View

log = logging.getLogger(__name__)
LEAST_S = 0.15


class Updates:
    """Runs `refresh` soon after `soon()` was called, from any thread, one at a time, and never more than a fifth of the time.

    `cost_s` is how long the last refresh took; the owner sets it. A notice that comes while a refresh runs leads to one more.
    """

    def __init__(self, view: View, refresh: Callable[[], Awaitable[None]]) -> None:
        self._view = view
        self._refresh = refresh
        self._due = False
        self._running = False
        self.cost_s = 0.0

    def soon(self) -> None:
        if self._due:
            return
        self._due = True
        self._view.in_loop(self._begin, max(LEAST_S, 4 * self.cost_s))

    def _begin(self) -> None:
        if not self._running:
            self._view.start(self._run())

    async def _run(self) -> None:
        self._running = True
        try:
            while self._due:
                self._due = False
                try:
                    await self._refresh()
                except LabError as error:
                    log.warning("%s could not be brought up to date: %s", type(self._view).__name__, error)
                if self._due:
                    await asyncio.sleep(max(LEAST_S, 4 * self.cost_s))
        finally:
            self._running = False
