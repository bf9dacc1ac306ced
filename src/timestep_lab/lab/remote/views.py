"""`RemoteLooking`: the views and file exports of a served lab, fed over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from timestep_lab.lab.views import LabViews
from timestep_lab.model.arguments import trace_ids_of
from timestep_lab.model.errors import DataError, NotFoundError, UsageError
from timestep_lab.model.records import TitledGraph
from timestep_lab.service import client as decode
from timestep_lab.service.client import Connection, remote, unsupported_remotely
from timestep_lab.service.my_data import written_whole
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    import agents as sdk

    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.remote.lab import RemoteLab
    from timestep_lab.lab.views import ManyTraces
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.service.traces import Traces
    from timestep_lab.ui.handoff_graph import HandoffGraph
FORMATS = (".json", ".jsonl", ".parquet", ".duckdb")
LONG_S = 600.0
"""Timeout in seconds for uploads and downloads of trace files."""


class RemoteLooking(LabViews):
    connection: Connection

    @property
    def _remote(self) -> RemoteLab:
        return cast("RemoteLab", self)

    def duel(self, agent: str, models: Sequence[str], **options: object) -> NoReturn:
        raise unsupported_remotely("A live duel", "Open the Compare page of the served lab in a browser.")

    @cached_property
    def trace_source(self) -> Traces:
        from timestep_lab.lab.remote.overrides import RemoteTraces

        return remote(RemoteTraces, self.connection, _changes=self._remote.changes, causes=lambda: self._remote.causes)

    def handoffs(
        self, agent: str | sdk.Agent[Any] | None = None, *, filter: str = "", traces: ManyTraces | None = None
    ) -> HandoffGraph:
        from timestep_lab.ui.handoff_graph import HandoffGraph

        if agent is not None and not isinstance(agent, str):
            raise unsupported_remotely("An Agents SDK agent", "Pass the name of a stored agent, or omit it.")
        if traces is not None and not (traces := trace_ids_of(traces)):
            return HandoffGraph(TitledGraph(nodes=(), edges=(), title="Handoffs"), title="Handoffs")
        return super().handoffs(agent, filter=filter, traces=traces)

    # -- comparing

    async def _prepared(self, data: object, *, resume: str | None = None, **options: object) -> Any:
        """The comparison, already running on the server."""
        from timestep_lab.lab.remote.comparing import prepare

        return await prepare(self._remote, data, resume, options)

    async def _planned(self, data: object, options: dict[str, Any]) -> Plan:
        from timestep_lab.evals.plan import Plan
        from timestep_lab.lab.remote.comparing import body_of

        body = await in_thread(body_of, self.connection, data, options)
        return Plan(tuple(await self._lab.comparisons.plan(**body)))

    def _empty_grid(self, id: str) -> Grid:
        return self.comparison(id)

    async def _score_traces(self, which: Any, scorers: Any, **how: Any) -> list[dict[str, Any]]:
        from timestep_lab.lab.remote.comparing import named_scorers

        return await self._lab.comparisons.score_traces(which, scorers=named_scorers(scorers), **how)

    async def _rescored(self, id: str, scorers: object, options: dict[str, Any]) -> Grid:
        from timestep_lab.lab.remote.comparing import named_scorers

        await self._lab.comparisons.rescore(id, named_scorers(scorers), **options)
        return await in_thread(self.comparison, id)

    # -- files

    def import_traces(self, path: str | Path) -> Imported:
        """Upload a trace file to the served lab, at most 50 MB. `.duckdb` files are not accepted."""
        from timestep_lab.runtime.interchange.files import Imported

        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.", f"Check the file: ls -l {path}") from None
        return decode.record(
            Imported, self.connection.ask("POST", "/api/v1/traces/upload", content=content, timeout_s=LONG_S)
        )

    def export(self, path: str | Path, *, trace_ids: ManyTraces | None = None, filter: str = "") -> int:

        target = Path(path)
        known = target.suffix.lower()
        if known not in (*FORMATS, ".html"):
            raise UsageError(
                f"Traces cannot be exported as {target.suffix or 'a file without a suffix'!r}.",
                f"Use one of these suffixes: {', '.join(FORMATS)}, .html.",
            )
        ids = trace_ids_of(self.trace_source.frame(filter=filter) if trace_ids is None else trace_ids)
        if not ids:
            raise NotFoundError("No trace matches, so no file was written.", "lab.traces shows all traces.")
        if known == ".html":
            from timestep_lab.ui.html_export import export_html

            title = f"{len(ids)} traces · Timestep Lab"
            export_html(self.trace_source, target, trace_ids=ids, title=title)
            return len(ids)
        body = {"trace_ids": ids, "format": known.removeprefix(".")}
        content = self.connection.raw("POST", "/api/v1/traces/export", json=body, timeout_s=LONG_S)
        with written_whole(target) as draft:
            draft.write_bytes(content)
        return len(ids)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8765) -> None:
        raise unsupported_remotely("Serving", f"It is already served at {self.connection.url}.")
