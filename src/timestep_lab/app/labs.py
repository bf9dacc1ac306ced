"""One lab a user, made at the first request and closed when long unused. All share one database, router and tracer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from timestep_lab.app.tokens import Caller

if TYPE_CHECKING:
    from timestep_lab.types.protocols import LabLike

KEPT = 256
"""Labs kept open. One costs little until it connects to MCP servers of its own."""


class Labs:
    def __init__(self, lab: LabLike) -> None:
        self.root = lab
        self._open: OrderedDict[str, LabLike] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, user_id: str) -> LabLike:
        if user_id == self.root.store.user_id:
            return self.root
        lab = self._open.get(user_id)
        if lab is None:
            lab = self._open[user_id] = self.root.for_user(user_id)
        self._open.move_to_end(user_id)
        if len(self._open) > KEPT:
            self._close_oldest()
        return lab

    def _close_oldest(self) -> None:
        """Closing a lab would end its runs: one in which something goes on is kept, however many that makes."""
        oldest = next((user for user, lab in list(self._open.items())[:-1] if not _goes_on(lab)), None)
        if oldest is None:
            return
        task = asyncio.get_running_loop().create_task(self._open.pop(oldest).aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def stop_runs(self) -> None:
        """Cancel all users' runs that go on here. What they said so far is stored, and who follows one hears how it ended."""
        for lab in [self.root, *self._open.values()]:
            if runner := _runner_of(lab):
                await runner.stop_all()

    async def aclose(self) -> None:
        for lab in self._open.values():
            await lab.aclose()
        await asyncio.gather(*self._closing)


def caller_of(connection: HTTPConnection) -> Caller:
    caller: Caller = connection.state.caller
    return caller


def _runner_of(lab: LabLike) -> Any:
    """None while there is none: it is made when first used."""
    return vars(lab).get("runner")


def _goes_on(lab: LabLike) -> bool:
    runner = _runner_of(lab)
    return runner is not None and runner.is_busy


async def lab_of(connection: HTTPConnection) -> Any:
    # On the event loop, whose labs these are; FastAPI would call a plain function on a thread.
    labs: Labs = connection.app.state.labs
    return labs.of(caller_of(connection).user_id)


CurrentLab = Annotated[Any, Depends(lab_of)]
"""The calling user's lab (`types.protocols.LabLike`). `Any`, because FastAPI would take a protocol for a query parameter."""
