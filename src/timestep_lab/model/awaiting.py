"""What a method that must be awaited gives back: a coroutine that says so where it was forgotten, and that a notebook can interrupt.

run = lab.run("hi")       # NotAwaited
run.output                # AttributeError: … Write: await lab.run(…)
run = await lab.run("hi")
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

K = TypeVar("K", bound=type[Any])
BEAT_S = 0.1


class NotAwaited(Coroutine[Any, Any, Any]):
    """A coroutine in every respect. What is not a coroutine's own is refused with the line that was meant."""

    def __init__(self, call: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._call, self._coroutine = call, coroutine

    def __await__(self) -> Generator[object, object, object]:
        return self._coroutine.__await__()

    def send(self, value: object) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __getattr__(self, name: str) -> object:
        if name.startswith(("_", "cr_")):
            return getattr(self._coroutine, name)
        raise AttributeError(
            f"{self._call}(…) was not awaited, so it has no {name!r} yet. Write: await {self._call}(…)"
        )

    def __repr__(self) -> str:
        return f"{self._call}(…) was not awaited, so nothing has run. Write: await {self._call}(…)"


def says_await(owner: str) -> Callable[[K], K]:
    """Decorates a class whose instances people call `owner` (`lab`, `run`): its public coroutine methods give `NotAwaited`, and what
    waits in one ends at once when a notebook's cell is interrupted."""

    def decorate(kind: K) -> K:
        for name, method in list(vars(kind).items()):
            if not name.startswith("_") and inspect.iscoroutinefunction(method):
                setattr(kind, name, _saying(method, f"{owner}.{name}"))
        return kind

    return decorate


def _saying(method: Callable[..., Coroutine[Any, Any, Any]], call: str) -> Callable[..., NotAwaited]:
    @functools.wraps(method)
    async def interruptible(*args: Any, **keywords: Any) -> Any:
        with interrupted_at_once():
            return await method(*args, **keywords)

    @functools.wraps(method)
    def saying(*args: Any, **keywords: Any) -> NotAwaited:
        return NotAwaited(call, interruptible(*args, **keywords))

    if mark := getattr(inspect, "markcoroutinefunction", None):  # Python 3.12
        mark(saying)
    return saying


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Around what waits in a notebook's cell. A kernel that is interrupted cancels the cell's task without waking its event loop, which
    then notices at its next event only (ipykernel issue 881): so there is an event ten times a second. What the notebook then shows is one
    line, not the stack of everything that waited."""
    if "ipykernel" not in sys.modules or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    timer = loop.call_later(BEAT_S, lambda: beat())

    def beat() -> None:
        nonlocal timer
        timer = loop.call_later(BEAT_S, beat)

    try:
        yield
    except asyncio.CancelledError as error:
        # IPython asks an exception for its own rendering. The same object goes on: `asyncio.timeout` looks for exactly this class.
        error._render_traceback_ = lambda: ["Interrupted. What was done so far is kept."]  # type: ignore[attr-defined]
        raise
    finally:
        timer.cancel()
