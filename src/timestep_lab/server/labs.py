"""One lab a user, made at the first request and closed when long unused. All share one database, router and tracer."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from timestep_lab.server.gate import Caller

if TYPE_CHECKING:
    from timestep_lab.model.protocols import LabLike

KEPT = 256
"""Labs kept open. One costs little until it connects to MCP servers of its own."""


class Labs:
    """`held` and `hold` keep a user's lab open: for a request until its answer has been sent, for a page as long as its session lives."""

    def __init__(self, lab: LabLike) -> None:
        self.root = lab
        self._open: OrderedDict[str, LabLike] = OrderedDict()
        self._holders: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def held(self, user_id: str) -> Iterator[LabLike]:
        lab, let_go = self.hold(user_id)
        try:
            yield lab
        finally:
            let_go()

    def hold(self, user_id: str) -> tuple[LabLike, Callable[[], None]]:
        """The user's lab, and what to call, once, when it is needed no more."""
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
        """The longest unused first. Closing a lab would end its runs: one in which something goes on is kept, however many that makes."""
        excess = len(self._open) - KEPT
        if excess <= 0:
            return
        unused = (user for user, lab in self._open.items() if user not in self._holders and not _goes_on(lab))
        for user in list(islice(unused, excess)):
            task = asyncio.get_running_loop().create_task(self._open.pop(user).aclose())
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


async def lab_of(connection: HTTPConnection) -> AsyncIterator[Any]:
    # On the event loop, whose labs these are; FastAPI would call a plain function on a thread.
    labs: Labs = connection.app.state.labs
    with labs.held(caller_of(connection).user_id) as lab:
        yield lab


CurrentLab = Annotated[Any, Depends(lab_of)]
"""The calling user's lab (`model.protocols.LabLike`). `Any`, because FastAPI would take a protocol for a query parameter."""
