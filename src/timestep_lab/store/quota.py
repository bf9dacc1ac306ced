"""Quota of one guest of a served lab. The lab's own user has none.

Stored rows are counted in the store, at most every few seconds; what was added since is counted in memory. A quota is therefore cheap
while it is far from exhausted, and several processes on one store can exceed it together by what they add within those seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timestep_lab.model.errors import BusyError, LabError, TooLargeError

if TYPE_CHECKING:
    from timestep_lab.store.base import Database

FRESH_S, AGAIN_S = 5.0, 0.5
"""Seconds that a count is valid; the second applies when the quota is exhausted, so that deletions are noticed."""
MB = 2**20
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLimits:
    """Limits of a guest; 0 means no limit."""

    files: int = 200
    megabytes: int = 500
    """Total size of files, and separately of traces sent per day."""
    threads: int = 2_000
    traces: int = 20_000
    runs: int = 20
    """Concurrent runs."""
    comparisons: int = 200
    agents: int = 200
    tool_servers: int = 50
    vector_stores: int = 100
    query_megabytes: int = 96
    """Memory of a query in SQL. Another one of any guest starts only while those that run use less."""


_KEPT = {
    "files": "select count(*) from files where user_id = $1",
    "megabytes": "select coalesce(sum(bytes), 0) from files where user_id = $1",
    "uploads": "select coalesce(sum(bytes_uploaded), 0) from uploads where user_id = $1 and status = 'pending'",
    "threads": "select count(*) from threads where user_id = $1",
    "traces": "select count(distinct trace_id) from core.traces_raw where user_id = $1",
    "comparisons": "select count(*) from comparison_runs where user_id = $1",
    "agents": "select count(*) from agents where user_id = $1",
    "tool_servers": "select count(*) from mcp_servers where user_id = $1",
    "vector_stores": "select count(*) from vector_stores where user_id = $1",
}


@dataclass(slots=True)
class _Counted:
    kept: int
    at: float
    taken: int = 0


class Quota:
    """Quota of one guest. The `take_…` methods raise `BusyError` or `TooLargeError` when it is exhausted; all block and are thread-safe."""

    def __init__(
        self, db: Database, user_id: str, limits: GuestLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self._db, self._user_id, self._clock = limits, db, user_id, clock
        self._lock = threading.Lock()
        self._counted: dict[str, _Counted] = {}
        self._sent, self._sent_at = 0.0, clock()

    @property
    def query_bytes(self) -> int | None:
        """Memory of a query in SQL in bytes; None: as much as the lab's own user has."""
        return self.limits.query_megabytes * MB or None

    def take_file(self, size: int) -> None:
        """Called before a file, or a part of one, is stored."""
        self._take(
            "files", 1, self.limits.files, lambda most: _full(f"A guest may keep {most:,} files.", "Delete some")
        )
        self.take_bytes(size)

    def take_bytes(self, size: int) -> None:
        def refused(most: int) -> LabError:
            return TooLargeError(
                f"The files of a guest are limited to {most // MB:,} MB in total.",
                f"Delete some first. {_OWNER}",
            )

        self._take("megabytes", size, self.limits.megabytes * MB, refused)

    def take_thread(self) -> None:
        self._take(
            "threads", 1, self.limits.threads, lambda most: _full(f"A guest may keep {most:,} threads.", "Delete some")
        )

    def take_traces(self, count: int = 1) -> None:
        self._take(
            "traces",
            count,
            self.limits.traces,
            lambda most: _full(f"A guest may keep {most:,} traces.", "Export them and continue as another guest"),
        )

    def take_comparison(self) -> None:
        self._take(
            "comparisons",
            1,
            self.limits.comparisons,
            lambda most: _full(f"A guest may keep {most:,} comparisons.", "Continue as another guest"),
        )

    def take_agent(self) -> None:
        self._take(
            "agents", 1, self.limits.agents, lambda most: _full(f"A guest may keep {most:,} agents.", "Delete some")
        )

    def take_tool_server(self) -> None:
        self._take(
            "tool_servers",
            1,
            self.limits.tool_servers,
            lambda most: _full(f"A guest may keep {most:,} MCP servers.", "Delete some"),
        )

    def take_vector_store(self) -> None:
        self._take(
            "vector_stores",
            1,
            self.limits.vector_stores,
            lambda most: _full(f"A guest may keep {most:,} vector stores.", "Delete some"),
        )

    def take_sent(self, size: int) -> None:
        """Called before reading this many bytes of sent traces. The daily allowance is replenished continuously."""
        most = self.limits.megabytes * MB
        with self._lock:
            now = self._clock()
            self._sent = max(0.0, self._sent - (now - self._sent_at) * most / DAY_S)
            self._sent_at = now
            if most and self._sent + size > most:
                raise TooLargeError(
                    f"A guest may send {most // MB:,} MB of traces a day.", f"Try again later. {_OWNER}"
                )
            self._sent += size

    def check_runs(self, running: int) -> None:
        """Called before another run starts."""
        if self.limits.runs and running >= self.limits.runs:
            raise BusyError(
                f"A guest is limited to {self.limits.runs} concurrent runs.",
                f"Wait until one has ended, or cancel one. {_OWNER}",
                retry_after=2.0,
            )

    def kept(self) -> dict[str, int]:
        """Returns current counts by the names of the limits that can be counted."""
        return {
            **{name: self._count(name) for name in _KEPT if name not in ("megabytes", "uploads")},
            "megabytes": -(-self._count("megabytes") // MB),
        }

    def _take(self, name: str, size: int, most: int, refused: Callable[[int], LabError]) -> None:
        if not most:
            return
        with self._lock:
            counted = self._counted.get(name)
            now = self._clock()
            is_over = counted is not None and counted.kept + counted.taken + size > most
            if counted is None or now - counted.at > (AGAIN_S if is_over else FRESH_S):
                counted = self._counted[name] = _Counted(self._count(name), now)
            if counted.kept + counted.taken + size > most:
                raise refused(most)
            counted.taken += size

    def _count(self, name: str) -> int:
        [count] = self._db.query(self._user_id, _KEPT[name], [self._user_id]).one() or (0,)
        if name == "megabytes":
            return int(count) + self._count("uploads")
        return int(count)


_OWNER = "The lab's owner can allow more."


def _full(what: str, how: str) -> BusyError:
    return BusyError(what, f"{how} first. {_OWNER}" if how.startswith("Delete") else f"{how}. {_OWNER}")
