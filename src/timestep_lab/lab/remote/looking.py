"""What a served lab shows and what it writes out: the same views, fed over the wire."""

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
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    import agents as sdk

    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.remote.chat_source import RemoteChatSource
    from timestep_lab.lab.remote.lab import RemoteLab
    from timestep_lab.lab.views import ManyTraces
    from timestep_lab.model.comparison import ComparisonRecord
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.service.traces import Traces
    from timestep_lab.ui.arena import ArenaView
    from timestep_lab.ui.handoff_graph import HandoffGraph

FORMATS = (".json", ".jsonl", ".parquet", ".duckdb")
LONG_S = 600.0
"""For files of traces, which may be large."""


class RemoteLooking(LabViews):
    connection: Connection

    @property
    def _remote(self) -> RemoteLab:
        return cast("RemoteLab", self)

    @cached_property
    def chat_source(self) -> RemoteChatSource:
        from timestep_lab.lab.remote.chat_source import RemoteChatSource

        return RemoteChatSource(self._remote)

    def duel(self, agent: str, models: Sequence[str], **options: Any) -> NoReturn:
        raise unsupported_remotely("A live duel as an object", "Open the Compare page of the served lab in a browser.")

    @cached_property
    def trace_source(self) -> Traces:
        from timestep_lab.lab.remote.trace_source import RemoteTraces

        return remote(RemoteTraces, self.connection, _changes=self._remote.changes)

    def handoffs(
        self, agent: str | sdk.Agent[Any] | None = None, *, filter: str = "", traces: ManyTraces | None = None
    ) -> HandoffGraph:
        from timestep_lab.ui.handoff_graph import HandoffGraph

        if agent is not None and not isinstance(agent, str):
            raise unsupported_remotely("An Agents SDK agent", "Name a stored one, or leave it away.")
        if traces is not None and not (traces := trace_ids_of(traces)):
            return HandoffGraph(TitledGraph(nodes=(), edges=(), title="Handoffs"), title="Handoffs")
        return super().handoffs(agent, filter=filter, traces=traces)

    # -- comparing

    async def _prepared(self, data: Any, *, resume: str | None = None, **options: Any) -> Any:
        """Under way in the served lab."""
        from timestep_lab.lab.remote import comparing

        return await comparing.prepare(self.connection, data, resume, options)

    async def _planned(self, data: Any, options: dict[str, Any]) -> Plan:
        from timestep_lab.lab.remote import comparing

        return await comparing.plan(self.connection, data, options)

    def comparisons(self, limit: int = 50) -> list[ComparisonRecord]:
        from timestep_lab.model.comparison import ComparisonRecord

        return decode.records(ComparisonRecord, self.connection.get("/api/v1/compare", limit=limit))

    def comparison(self, id: str) -> Grid:
        from timestep_lab.lab.comparing import NotebookDisplay
        from timestep_lab.lab.remote.comparing import grid_of

        grid = grid_of(self.connection, id)
        grid.shown_by = NotebookDisplay(self._lab)
        return grid

    def _empty_grid(self, id: str) -> Grid:
        return self.comparison(id)

    def arena(self, grid: Grid | str, *, seed: int | None = None) -> ArenaView:
        from timestep_lab.evals.arena import Arena
        from timestep_lab.lab.remote.comparing import RemoteArenaRows
        from timestep_lab.ui.arena import ArenaView

        shown = self.comparison(grid) if isinstance(grid, str) else grid
        return ArenaView(Arena(RemoteArenaRows(self.connection, self._remote.user_id), shown, seed=seed))

    async def _score_traces(self, which: Any, scorers: Any, **how: Any) -> list[dict[str, Any]]:
        from timestep_lab.lab.remote.comparing import named_scorers

        body = {"which": which if isinstance(which, str) else list(which), "scorers": named_scorers(scorers)}
        body |= {name: value for name, value in how.items() if value is not None}
        found: list[dict[str, Any]] = await in_thread(self.connection.post, "/api/v1/traces/score", body)
        return found

    async def _rescored(self, id: str, scorers: Any, options: dict[str, Any]) -> Grid:
        from timestep_lab.lab.remote.comparing import PATH, named_scorers

        await in_thread(self.connection.post, f"{PATH}/{id}/rescore", {**options, "scorers": named_scorers(scorers)})
        return await in_thread(self.comparison, id)

    # -- files

    def import_traces(self, path: str | Path) -> Imported:
        """Send a file of traces to the served lab, at most 50 MB. A `.duckdb` file is refused there."""
        from timestep_lab.runtime.interchange.files import Imported

        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.", f"Look at: ls -l {path}") from None
        return decode.record(
            Imported, self.connection.ask("POST", "/api/v1/traces/upload", content=content, timeout_s=LONG_S)
        )

    def export(self, path: str | Path, *, trace_ids: ManyTraces | None = None, filter: str = "") -> int:

        target = Path(path)
        known = target.suffix.lower()
        if known not in (*FORMATS, ".html"):
            raise UsageError(
                f"Traces cannot be exported as {target.suffix or 'a file without an ending'!r}.",
                f"End its name in one of: {', '.join(FORMATS)}, .html.",
            )
        ids = trace_ids_of(self.trace_source.frame(filter=filter) if trace_ids is None else trace_ids)
        if not ids:
            raise NotFoundError("No trace matches, so nothing was written.", "Look at lab.traces.")
        if known == ".html":
            from timestep_lab.ui.html_export import export_html

            title = f"{len(ids)} traces · Timestep Lab"
            export_html(self.trace_source, target, trace_ids=ids, title=title)
            return len(ids)
        body = {"trace_ids": ids, "format": known.removeprefix(".")}
        content = self.connection.raw("POST", "/api/v1/traces/export", json=body, timeout_s=LONG_S)
        draft = target.with_name(f".{target.name}.draft")
        try:
            draft.write_bytes(content)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return len(ids)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8765) -> None:
        raise unsupported_remotely("Serving", f"It is served already, at {self.connection.url}.")
