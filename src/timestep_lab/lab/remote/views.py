"""`RemoteLooking`: the views and file exports of a served lab, fed over HTTP."""

from __future__ import annotations

import io
import json
import logging
import threading
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection as Socket

from timestep_lab.lab.views import LabViews
from timestep_lab.model.arguments import checks_arguments, refuse_both, trace_ids_of
from timestep_lab.model.codec import Json, Moment
from timestep_lab.model.errors import DataError, NotFoundError, QueryError, UsageError
from timestep_lab.model.records import TitledGraph
from timestep_lab.runtime.files.files import PART_BYTES
from timestep_lab.service import client as decode
from timestep_lab.service.client import CONNECT_S, Connection, remote, unsupported_remotely
from timestep_lab.service.files import Files
from timestep_lab.service.mcp import Mcp
from timestep_lab.service.my_data import check_place, written_whole
from timestep_lab.service.traces import Source, Traces, of_traces
from timestep_lab.store.base import Change, Rows, Topic, in_thread
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.liveness import Publisher

if TYPE_CHECKING:
    import agents as sdk
    import pandas
    from agents import FunctionTool

    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.evals.scorers.base import Scorers
    from timestep_lab.lab.remote.lab import RemoteLab
    from timestep_lab.lab.views import ManyTraces
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.ui.handoff_graph import HandoffGraph


FORMATS = (".json", ".jsonl", ".parquet", ".duckdb")
LONG_S = 600.0
"""Timeout in seconds for uploads and downloads of trace files."""


@checks_arguments("lab")
class RemoteLooking(LabViews):
    connection: Connection

    @property
    def _remote(self) -> RemoteLab:
        return cast("RemoteLab", self)

    def duel(self, agent: str, models: Sequence[str], **options: object) -> NoReturn:
        raise unsupported_remotely("A live duel", "Open the Compare page of the served lab in a browser.")

    @cached_property
    def trace_source(self) -> Traces:
        return remote(RemoteTraces, self.connection, _changes=self._remote.changes, causes=lambda: self._remote.causes)

    def handoffs(
        self, agent: str | sdk.Agent | None = None, *, filter: str = "", traces: ManyTraces | None = None
    ) -> HandoffGraph:
        from timestep_lab.ui.handoff_graph import HandoffGraph

        if agent is not None and not isinstance(agent, str):
            raise unsupported_remotely("An Agents SDK agent", "Pass the name of a stored agent, or omit it.")
        if traces is not None and not (traces := trace_ids_of(traces)):
            return HandoffGraph(TitledGraph(nodes=(), edges=(), title="Handoffs"), title="Handoffs")
        return super().handoffs(agent, filter=filter, traces=traces)

    # -- comparing

    async def _prepared(self, data: object, options: dict[str, object]) -> Comparison:
        """The comparison, already running on the server."""
        from timestep_lab.lab.remote.comparing import prepare

        resume = cast("str | None", options.pop("resume", None))
        return cast("Comparison", await prepare(self._remote, data, resume, options))

    async def _planned(self, data: object, options: dict[str, object]) -> Plan:
        from timestep_lab.evals.plan import Plan
        from timestep_lab.lab.remote.comparing import body_of

        body = await in_thread(body_of, self.connection, data, options)
        return Plan(tuple(await self._lab.comparisons.plan(**body)))

    def _empty_grid(self, id: str) -> Grid:
        return self.comparison(id)

    async def _score_traces(
        self, which: str | Sequence[str], scorers: Scorers, limit: int | None, keep: bool, again: bool, budget_usd: float | None
    ) -> Sequence[Mapping[str, Json]]:  # fmt: skip
        from timestep_lab.lab.remote.comparing import named_scorers

        return await self._lab.comparisons.score_traces(
            which, scorers=named_scorers(scorers), limit=limit, keep=keep, again=again, budget_usd=budget_usd
        )

    async def _rescored(self, id: str, scorers: Scorers, options: Mapping[str, Any]) -> Grid:
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
            Imported,
            self.connection.ask(
                "POST", "/api/v1/traces/upload", params={"name": Path(path).name}, content=content, timeout_s=LONG_S
            ),
        )

    def export(self, path: str | Path, *, trace_ids: ManyTraces | None = None, filter: str = "") -> int:
        refuse_both(trace_ids, filter)
        target = Path(path)
        check_place(target, "traces.html")
        ids = trace_ids_of(self.trace_source.frame(filter=filter) if trace_ids is None else trace_ids)
        if not ids:
            raise NotFoundError(
                "No trace matches, so no file was written.",
                "lab.traces shows all traces.",
                command="List the traces with: timestep-lab traces list",
            )
        known = target.suffix.lower()
        if known not in (*FORMATS, ".html"):
            raise UsageError(
                f"Traces cannot be exported as {target.suffix or 'a file without an extension'!r}.",
                f"Use one of the extensions {', '.join(FORMATS)}, .html.",
            )
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


# --- The parts of a served lab that are not single HTTP requests: change notifications over a websocket, typed SQL
# results, local files, and what is unsupported.


# --- `lab.files` of a served lab


class RemoteFiles(Files):
    """`add` reads a local file and uploads it."""

    def stream(self, file_id: str) -> Iterator[bytes]:
        """The content in chunks of at most 1 MiB. Raises `NotFoundError` immediately."""
        whole = io.BytesIO(self.content(file_id))
        return iter(lambda: whole.read(PART_BYTES), b"")

    def purge(self) -> int:
        """Not supported: the served lab deletes expired files itself."""
        raise unsupported_remotely(
            "Purging files", "Nothing needs to be done: the served lab deletes expired files itself."
        )


# --- `lab.mcp` of a served lab


class RemoteMcp(Mcp):
    """MCP servers of a served lab. Header values are not returned; they stay on the server."""

    def add_function(
        self,
        function: Callable[..., object] | FunctionTool,
        *,
        server: str = "functions",
        require_approval: Json = None,
    ) -> NoReturn:
        """Not supported: a function is served by the process that defines it."""
        raise unsupported_remotely(
            "A Python function",
            "Add it in the process that serves the lab, or as an MCP server with its own address: lab.mcp.add(name, url=…)",
        )

    def close(self) -> None:
        """Does nothing: no functions are served from this process."""


# --- SQL on a served lab, with exact values and types


EXACT = "application/vnd.timestep-lab.rows+json"
MOST = 1_000_000
"""Maximum number of rows that the server returns at once."""


def select(connection: Connection, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
    """At most `limit` rows. Raises `QueryError`, also if there are more than a million rows and no limit is given."""
    body = {"query": query, "params": json.loads(wire.dumps(list(params))), "limit": min(limit or MOST, MOST)}
    # Not as `json=`: a parameter may be NaN, and the server says what the database says of any other.
    headers = {"Accept": EXACT, "Content-Type": "application/json"}
    answer = connection.raw("POST", "/api/v1/sql", content=json.dumps(body).encode(), headers=headers)
    rows = wire.unpack_rows(wire.loads(answer))
    if rows.truncated and limit is None:
        raise QueryError(f"The result has more than {MOST:,} rows.", "Add a limit, or aggregate in the query.")
    return rows


# --- Traces of a served lab


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


log = logging.getLogger("timestep_lab.lab")
TOPICS: tuple[Topic, ...] = typing.get_args(Topic)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0


class Changes:
    """The remote counterpart of `Store.subscribe`. It connects on the first subscription, reconnects after errors, and
    calls back on its own thread.
    """

    def __init__(self, connection: Connection, user_id: str) -> None:
        self._connection, self._user_id = connection, user_id
        self._publisher = Publisher()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._socket: Socket | None = None
        self._closed = threading.Event()

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        end = self._publisher.subscribe(callback)
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._listen, name="timestep-lab remote changes", daemon=True)
                self._thread.start()
        return end

    def close(self) -> None:
        self._closed.set()
        if (socket := self._socket) is not None:
            socket.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=CONNECT_S)
        self._publisher.close()

    def _listen(self) -> None:
        url = f"ws{self._connection.url.removeprefix('http')}/api/v1/changes"
        headers = {"Authorization": f"Bearer {self._connection.token}"}
        wait, warned = FIRST_WAIT_S, False
        while not self._closed.is_set():
            try:
                with connect(url, additional_headers=headers, open_timeout=CONNECT_S) as socket:
                    self._socket, wait, warned = socket, FIRST_WAIT_S, False
                    # Changes before the connection was made were missed: report every topic as changed.
                    self._notify((topic, "") for topic in TOPICS)
                    for text in socket:
                        self._notify(json.loads(text))
            except InvalidStatus as error:
                if not warned:
                    log.warning("%s refused the change notifications: %s", self._connection.url, error)
                warned = True
            except (OSError, WebSocketException):
                pass  # Temporarily unreachable; reconnect below.
            self._socket = None
            self._closed.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _notify(self, changes: typing.Iterable[tuple[Topic, str]]) -> None:
        self._publisher.publish([Change(topic, self._user_id, id) for topic, id in changes])
