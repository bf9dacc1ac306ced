"""A stream that is made in a task of its own, so that a reader who goes away ends it as a cancellation.

A generator that is merely closed gets `GeneratorExit` and may not await; a cancelled task can still store what it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

logger = logging.getLogger("timestep_lab.app")
_running: set[asyncio.Task[None]] = set()


async def detached(
    source: AsyncIterator[bytes], on_fault: Callable[[Exception], bytes], *, first: bytes | None = None
) -> AsyncIterator[bytes]:
    """What `source` gives. `on_fault` says what the reader is told when it breaks off; `first` was taken from it before."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for piece in source:
                pieces.put_nowait(piece)
        except Exception as error:
            logger.error("a stream broke off", exc_info=error)
            pieces.put_nowait(on_fault(error))
        finally:
            pieces.put_nowait(None)

    task = asyncio.create_task(pump())
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        if first is not None:
            yield first
        while (piece := await pieces.get()) is not None:
            yield piece
    finally:
        task.cancel()
