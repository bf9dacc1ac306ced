"""Coroutines returned by the public async methods: they explain a forgotten `await` and can be interrupted from a notebook.

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
from typing import Any, NoReturn, TypeVar

K = TypeVar("K", bound=type)
BEAT_S = 0.1


class NotAwaited(Coroutine[object, object, object]):
    """A coroutine that raises an `AttributeError` with the correct call when it is used as the result it would return."""

    def __init__(self, call: str, coroutine: Coroutine[object, object, object]) -> None:
        self._call, self._coroutine = call, coroutine

    def __await__(self) -> Generator[object, object, object]:
        return self._coroutine.__await__()

    def send(self, value: object) -> object:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> object:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __getattr__(self, name: str) -> object:
        if name.startswith(("_", "cr_")):
            return getattr(self._coroutine, name)
        raise AttributeError(
            f"{self._call}(…) was not awaited, so it has no {name!r} yet. Write: await {self._call}(…)"
        )

    def _not_a_result(self, *_: object) -> NoReturn:
        """Raises a `TypeError` for what a coroutine does not support."""
        raise TypeError(repr(self))

    __iter__ = __aiter__ = __getitem__ = __contains__ = __enter__ = __aenter__ = _not_a_result
    __add__ = __radd__ = __lt__ = __gt__ = __le__ = __ge__ = __float__ = _not_a_result

    def __repr__(self) -> str:
        return f"{self._call}(…) was not awaited, so nothing has run. Write: await {self._call}(…)"


def says_await(owner: str) -> Callable[[K], K]:
    """Class decorator for objects that users call `owner` (`lab`, `run`): public coroutine methods return `NotAwaited`, and awaiting one
    stops at once when a notebook cell is interrupted."""

    def decorate(kind: K) -> K:
        for name, method in list(vars(kind).items()):
            if not name.startswith("_") and inspect.iscoroutinefunction(method):
                setattr(kind, name, _saying(method, f"{owner}.{name}"))
        return kind

    return decorate


def _saying(method: Callable[..., Coroutine[object, object, object]], call: str) -> Callable[..., NotAwaited]:
    @functools.wraps(method)
    async def interruptible(*args: object, **keywords: object) -> object:
        with interrupted_at_once():
            return await method(*args, **keywords)

    @functools.wraps(method)
    def saying(*args: object, **keywords: object) -> NotAwaited:
        return NotAwaited(call, interruptible(*args, **keywords))

    if mark := getattr(inspect, "markcoroutinefunction", None):  # Python 3.12
        mark(saying)
    return saying


@contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Context manager that makes an await in a notebook cell interruptible. An interrupted kernel cancels the cell's task without waking
    its
    event loop, which notices only at its next event (ipykernel issue 881), so a timer fires ten times a second. The notebook shows one line
    instead of the traceback."""
    if "ipykernel" not in sys.modules or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    timer = loop.call_later(BEAT_S, lambda: beat())

    def beat() -> None:
        nonlocal timer
        timer = loop.call_later(BEAT_S, beat)

    try:
        with interrupted_with("Interrupted. Completed work is kept."):
            yield
    finally:
        timer.cancel()


@contextmanager
def interrupted_with(line: str) -> Iterator[None]:
    """Context manager: what a notebook shows of an interrupt, unless something inside has said it already."""
    try:
        yield
    except asyncio.CancelledError as error:
        # IPython asks an exception for its own rendering. The same object is re-raised: `asyncio.timeout` expects exactly this class.
        if not hasattr(error, "_render_traceback_"):
            error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
        raise
