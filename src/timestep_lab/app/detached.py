"""A stream that is made in a task of its own, so that a reader who goes away ends it as a cancellation.

A generator that is merely closed gets `GeneratorExit` and may not await; a cancelled task can still store what it has. And the whole
stream runs in one context, from before its first piece to its end: the Agents SDK keeps its spans in context variables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

logger = logging.getLogger("timestep_lab.app")
_running: set[asyncio.Task[None]] = set()


async def detached(source: AsyncIterator[bytes], on_fault: Callable[[Exception], bytes]) -> AsyncIterator[bytes]:
    """What `source` gives, once its first piece is there. Raises what it raises before that; what it raises later is logged, and the
    reader is told what `on_fault` makes of it."""
    pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def pump() -> None:
        begun = False
        try:
            async for piece in source:
                begun = True
                pieces.put_nowait(piece)
        except Exception as error:
            if begun:
                logger.error("a stream broke off", exc_info=error)
            pieces.put_nowait(on_fault(error) if begun else error)
        finally:
            pieces.put_nowait(None)

    task = asyncio.create_task(pump())
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        first = await pieces.get()
    except BaseException:
        task.cancel()
        raise
    if isinstance(first, Exception):
        raise first
    return _rest(first, pieces, task)


async def _rest(
    piece: bytes | Exception | None, pieces: asyncio.Queue[bytes | Exception | None], task: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    try:
        while isinstance(piece, bytes):
            yield piece
            piece = await pieces.get()
    finally:
        task.cancel()
