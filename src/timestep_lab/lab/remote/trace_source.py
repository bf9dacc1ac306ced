"""Traces of a served lab: what is not one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from timestep_lab.lab.remote.rows import select
from timestep_lab.model.codec import Moment
from timestep_lab.service.traces import Source, Traces, of_traces

if TYPE_CHECKING:
    import pandas

    from timestep_lab.lab.remote.changes import Changes
    from timestep_lab.service.client import Connection


class RemoteTraces(Traces):
    _connection: Connection
    _changes: Changes

    def frame(
        self,
        *,
        filter: str = "",
        search: str = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> pandas.DataFrame:
        page = self.page(filter=filter, search=search, source=source, since=since, until=until, limit=1)
        return select(self._connection, page.sql).df()

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return self._changes.subscribe(of_traces(callback))
