"""A stream that is made in a task of its own, so that a reader who goes away ends it as a cancellation.

A generator that is merely closed gets `GeneratorExit` and may not await; a cancelled task can still store what it has. And the whole
stream runs in one context, from before its first piece to its end: the Agents SDK keeps its spans in context variables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

logger = logging.getLogger("timestep_lab.server")
_running: set[asyncio.Task[None]] = set()
ALIVE_S = 15.0


async def detached(
    source: AsyncIterator[bytes], on_fault: Callable[[Exception], bytes], *, alive: bytes | None = None
) -> AsyncIterator[bytes]:
    """What `source` gives, once its first piece is there. Raises what it raises before that; what it raises later is logged, and the
    reader is told what `on_fault` makes of it. `alive` is sent when nothing else was for 15 s."""
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
    return _rest(first, pieces, task, alive)


async def _rest(
    piece: bytes | Exception | None,
    pieces: asyncio.Queue[bytes | Exception | None],
    task: asyncio.Task[None],
    alive: bytes | None,
) -> AsyncIterator[bytes]:
    try:
        while isinstance(piece, bytes):
            yield piece
            try:
                async with asyncio.timeout(ALIVE_S if alive else None):
                    piece = await pieces.get()
            except TimeoutError:
                piece = alive
    finally:
        task.cancel()
