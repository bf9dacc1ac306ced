"""A served lab from a notebook's side: remote, and local on the same file, as the same user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.server.lab_process import LabProcess
from timestep_lab import Lab
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.settings import Settings
from timestep_lab.ui.view import View

SETTINGS = Settings.load(env={"WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "0"})
ASKS = "What's the weather in Berkeley?"
"""A question whose tool asks for approval."""
ANSWERS = "What's the weather in Oakland?"
"""One whose tool does not."""


def remote_lab(served: LabProcess, user_id: str | None = None) -> Lab:
    """Of a new user, unless one is named."""
    return Lab(served.url, token=served.tokens.issue(user_id or new_uuid()), settings=SETTINGS)


class Both:
    """One user's lab twice: over the wire, and in this process on the same file."""

    def __init__(self, served: LabProcess) -> None:
        self.user_id = new_uuid()
        self.remote = remote_lab(served, self.user_id)
        self._root = Lab(served.store, settings=SETTINGS)
        self.local = self._root.for_user(self.user_id)

    async def aclose(self) -> None:
        await self.remote.aclose()
        await self.local.aclose()
        await self._root.aclose()


class Watcher:
    """A browser that shows a view: what it is told, and the view as it would draw it now."""

    def __init__(self, view: View) -> None:
        self.view, self.told = view, list[Mapping[str, Any]]()
        view.attach(self)
        view.receive(self, {"op": "sync", "mount": "page"})

    def post(self, message: Mapping[str, Any], buffers: Sequence[bytes]) -> None:
        self.told.append(message)

    def state(self) -> Any:
        shown = self.view.snapshot()
        return getattr(shown, "value", shown)

    async def until(self, holds: Callable[[Any], bool], within_s: float = 180.0) -> Any:
        """The state, as soon as it is so. The view brings it about: nothing is asked of it but to show itself."""
        async with asyncio.timeout(within_s):
            while not holds(state := self.state()):
                await asyncio.sleep(0.05)
        return state

    def leave(self) -> None:
        self.view.detach(self)
