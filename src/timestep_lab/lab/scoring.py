"""`lab.score_traces` and `lab.watch`: scorers over what happens outside of comparisons."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.store.base import Change, in_event_loop, in_thread

if TYPE_CHECKING:
    import pandas

    from timestep_lab.lab.lab import Lab

log = logging.getLogger("timestep_lab")

LOOK_EVERY_S = 5.0
"""However quiet it is: a change may have been missed."""
SETTLE_S = 0.3
"""Between a change and the look, so that many changes are one look."""
_LATE = timedelta(minutes=5)
"""How long after its end a trace may arrive."""


def frame_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows, columns=["trace_id", *names, "note"])


class Watch:
    """Scores traces as they end, until `await watch.stop()`, or the end of `async with lab.watch(…) as watch`."""

    def __init__(
        self, lab: Lab, scorers: Sequence[Any] | Any, sample: float, filter: str, budget_usd: float | None
    ) -> None:
        from timestep_lab.evals.scorers.registry import make_scorers

        if not in_event_loop():
            raise UsageError("Watching needs a running event loop.", "Use it in a notebook, or inside asyncio.run(…).")
        if not 0.0 < sample <= 1.0:
            raise UsageError(f"sample={sample!r} is not possible.", "Give a share above 0, up to 1.", param="sample")
        if not make_scorers(scorers):
            raise UsageError("No scorer was named.", "Give scorers=[…].", param="scorers")
        self.scored = 0
        """Traces so far."""
        self.last_error: LabError | None = None
        """Why the last look scored nothing, where it failed; the next look tries again."""
        self._lab, self._scorers, self._sample, self._filter, self._budget = lab, scorers, sample, filter, budget_usd
        self._since = utc_now()
        self._seen: dict[str, datetime] = {}
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed(change: Change) -> None:
            if change.topic == "traces" and not loop.is_closed():
                loop.call_soon_threadsafe(self._changed.set)

        self._unsubscribe = lab._subscribe(changed)
        self._task = loop.create_task(self._watch(), name="timestep-lab watch")

    async def stop(self) -> None:
        """Look once more, and end."""
        if self._task.done():
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._unsubscribe()
        await self._look()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            ended = await in_thread(self._ended)
            if ended:
                await self._lab.score_traces(ended, scorers=self._scorers, budget_usd=self._budget)
            self.last_error = None
        except LabError as error:
            log.warning("Traces could not be scored as they ended: %s", error)
            self.last_error = error
            return
        self.scored += len(ended)
        self._seen |= dict.fromkeys(ended, utc_now())

    def _ended(self) -> list[str]:
        """Traces of the sample that ended since, and were not scored here."""
        from timestep_lab.evals.rows import JUDGE

        early = utc_now() - 2 * _LATE
        self._seen = {id: at for id, at in self._seen.items() if at > early}
        ended = self._lab.sql(
            "select trace_id from traces where status = 'completed' and ended_at >= $1 and workflow <> $2",
            [max(self._since, utc_now() - _LATE), JUDGE],
        )["trace_id"]
        found = [str(id) for id in ended if str(id) not in self._seen and in_sample(str(id), self._sample)]
        if found and self._filter:
            fitting = set(self._lab.trace_source.frame(filter=self._filter)["trace_id"])
            found = [id for id in found if id in fitting]
        return found

    def __repr__(self) -> str:
        return f"<Watch: {self.scored} traces scored, {'ended' if self._task.done() else 'going on'}>"


def in_sample(trace_id: str, share: float) -> bool:
    """The same traces in every process, whoever asks."""
    return int(hashlib.sha256(trace_id.encode()).hexdigest()[:12], 16) < share * 16**12
