"""What of a served lab is not one request: its changes over a websocket, typed SQL, files of this machine, and what belongs to one process."""

from __future__ import annotations

import io
import json
import logging
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection as Socket

from timestep_lab.model.codec import Moment
from timestep_lab.model.errors import QueryError
from timestep_lab.model.records import Json
from timestep_lab.runtime.files.files import PART_BYTES
from timestep_lab.service.client import CONNECT_S, Connection, unsupported_remotely
from timestep_lab.service.files import Files
from timestep_lab.service.mcp import Mcp
from timestep_lab.service.traces import Source, Traces, of_traces
from timestep_lab.store.base import Change, Rows, Topic
from timestep_lab.store.duckdb import loopback as wire
from timestep_lab.store.liveness import Publisher

if TYPE_CHECKING:
    import pandas
    from agents import FunctionTool


# --- `lab.files` of a served lab: what is not one request


class RemoteFiles(Files):
    """`add` reads a file of this machine and sends it."""

    def stream(self, file_id: str) -> Iterator[bytes]:
        """The bytes in parts of at most 1 MiB. Raises `NotFoundError` at once."""
        whole = io.BytesIO(self.content(file_id))
        return iter(lambda: whole.read(PART_BYTES), b"")

    def purge(self) -> int:
        """The served lab deletes what has expired."""
        raise unsupported_remotely("Purging files", "Nothing is to be done: the served lab deletes what has expired.")


# --- `lab.mcp` of a served lab: what belongs to one process


class RemoteMcp(Mcp):
    """Servers come without the values of their headers: those stay with the served lab."""

    def add_function(
        self, function: Callable[..., Any] | FunctionTool, *, server: str = "functions", require_approval: Json = None
    ) -> NoReturn:
        """A function is served by the process that it is in."""
        raise unsupported_remotely(
            "A function of this process",
            "Add it where the lab is served, or as an MCP server with an address of its own: lab.mcp.add(name, url=…)",
        )

    def close(self) -> None:
        """Nothing is served from here."""


# --- SQL asked of a served lab, with every value as the database gave it


EXACT = "application/vnd.timestep-lab.rows+json"
MOST = 1_000_000
"""Rows that the server gives at once."""


def select(connection: Connection, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
    """At most `limit` rows. Raises `QueryError`, also when there are more than a million rows and no limit is given."""
    body = {"query": query, "params": json.loads(wire.dumps(list(params))), "limit": min(limit or MOST, MOST)}
    rows = wire.unpack_rows(wire.loads(connection.raw("POST", "/api/v1/sql", json=body, headers={"Accept": EXACT})))
    if rows.truncated and limit is None:
        raise QueryError(f"The answer has more than {MOST:,} rows.", "Add a limit, or count in the query.")
    return rows


# --- Traces of a served lab: what is not one request


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
    """As `Store.subscribe`: callbacks come on a thread of ours. Listens from the first subscriber on, and again after each break."""

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
                    # Whatever happened before nobody was told.
                    self._tell((topic, "") for topic in TOPICS)
                    for text in socket:
                        self._tell(json.loads(text))
            except InvalidStatus as error:
                if not warned:
                    log.warning("%s does not tell what changes: %s", self._connection.url, error)
                warned = True
            except (OSError, WebSocketException):
                pass  # Gone for now; asked again below.
            self._socket = None
            self._closed.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _tell(self, changes: typing.Iterable[tuple[Topic, str]]) -> None:
        self._publisher.publish([Change(topic, self._user_id, id) for topic, id in changes])
