"""Client side of the loopback protocol: store operations executed by the process that owns the lab's file."""

from __future__ import annotations

import base64
import contextlib
import json
import numbers
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypedDict
from uuid import UUID

from timestep_lab.model import errors
from timestep_lab.model.errors import DataError, LabError, QueryError, StoreTooNewError, StoreUnavailableError
from timestep_lab.store.base import Change, Columns, Row, Rows, Statement, Tables, by_columns
from timestep_lab.store.liveness import Publisher, interruptible, was_interrupted
from timestep_lab.store.memory import growth_limit
from timestep_lab.store.migrate import latest

# --- `<lab>.owner.json`: the address of the process that owns the lab's file. Readable by its user only, replaced atomically


@dataclass(frozen=True, slots=True)
class Owner:
    pid: int
    port: int
    token: str
    """Grants access to the lab; only users who can read the file have it."""
    schema: int
    """Latest migration known to the owner. A client with other migrations would misread the tables."""


class OwnerFile:
    def __init__(self, lab: Path) -> None:
        self.path = lab.with_name(lab.name + ".owner.json")

    def read(self) -> Owner | None:
        """Returns the owner; None when there is no valid file."""
        try:
            payload = json.loads(self.path.read_text(encoding="utf-8"))
            return Owner(int(payload["pid"]), int(payload["port"]), str(payload["token"]), int(payload["schema"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, owner: Owner) -> None:
        """Raises `OSError`, and leaves the file as it was."""
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            handle = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(owner), file)
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def remove(self, owner: Owner) -> None:
        """Removes the file if it still names this owner."""
        if self.read() == owner:
            self.path.unlink(missing_ok=True)


# --- Backends: the file itself (`Engine`), or a connection to the process that holds it (`Loopback`)


class ClosedError(Exception):
    """The backend has lost the file. It is unknown whether the last call was executed: find the new owner, and repeat a write with the
    same batch id."""


class Backend(Protocol):
    """The operations of `store.base.Database`. Each may raise `ClosedError`."""

    local: bool
    """True if the file belongs to this process: a call that raised `ClosedError` was not executed."""

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows: ...

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns: ...

    def write(
        self,
        user_id: str,
        statements: Sequence[Statement],
        *,
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> list[Rows]: ...

    def append(
        self,
        user_id: str,
        tables: Tables,
        *,
        then: Sequence[Statement] = (),
        changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None: ...

    def select(
        self,
        user_id: str,
        sql: str,
        params: Sequence[object] = (),
        *,
        limit: int | None = None,
        timeout_s: float | None = 30.0,
    ) -> Rows: ...

    def listen(self) -> None:
        """Returns when the publisher receives every change of any process."""
        ...

    def close(self) -> None: ...

    def abandon(self) -> None:
        """Releases what a forked child inherited, without affecting the parent."""
        ...


# --- Lossless JSON encoding of values, between a client and the owner, and for answers stored for retries
#
# JSON has null, booleans, numbers and strings; Python's JSON supports integers of any size and writes floats losslessly,
# including NaN and infinities. Any other column value is an object with the key `$`.


CONTAINERS = frozenset({list, tuple, dict})


def dumps(message: object) -> bytes:
    """Encodes a message. Raises `DataError` for a value that no column can store."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=_tag, check_circular=False)
    return text.encode("utf-8", "surrogatepass")


def loads(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=_untag)


def pack_row(row: Sequence[object]) -> list[object]:
    """Prepares a row (or parameters) for `dumps`: nested lists and mappings are tagged, to distinguish them from structure."""
    if CONTAINERS.isdisjoint(map(type, row)):
        return list(row)
    return [_pack(value) for value in row]


class PackedRows(TypedDict):
    columns: Sequence[str]
    rows: list[list[object]]
    truncated: bool


def pack_rows(result: Rows) -> PackedRows:
    return {
        "columns": result.columns,
        "rows": [pack_row(row) for row in result.rows],
        "truncated": result.truncated,
    }


def unpack_rows(packed: PackedRows) -> Rows:
    return Rows(tuple(packed["columns"]), to_tuples(packed["rows"]), packed["truncated"])


def to_tuples(rows: Iterable[Sequence[object]]) -> list[Row]:
    return [tuple(row) for row in rows]


def pack_statement(statement: Statement) -> list[object]:
    return [statement.sql, pack_row(statement.params), statement.expect]


def unpack_statement(packed: Sequence[Any]) -> Statement:
    return Statement(packed[0], packed[1], packed[2])


def pack_change(change: Change) -> list[str]:
    return [change.topic, change.user_id, change.id]


def unpack_change(packed: Sequence[Any]) -> Change:
    return Change(packed[0], packed[1], packed[2])


def pack_error(error: LabError) -> list[object]:
    return [type(error).__name__, {name: value for name, value in vars(error).items() if not name.startswith("_")}]


def unpack_answer(data: bytes) -> Any:
    """Returns the result of a call, or raises its error."""
    answer = loads(data)
    if "error" not in answer:
        return answer["ok"]
    name, state = answer["error"]
    kind: type[LabError] = getattr(errors, name, errors.StoreError)
    error = kind.__new__(kind)
    LabError.__init__(error, state["message"], state["next_step"])
    vars(error).update(state)
    raise error


def _pack(value: Any) -> object:
    kind = type(value)
    if kind is list:
        return {"$": "list", "v": [_pack(inner) for inner in value]}
    if kind is tuple:
        return {"$": "tuple", "v": [_pack(inner) for inner in value]}
    if kind is dict:
        return {"$": "dict", "v": [[_pack(key), _pack(inner)] for key, inner in value.items()]}
    return value


_MISSING = ("NaTType", "NAType")
"""The types of pandas's missing values. NaT passes for a `datetime`."""


def _tag(value: object) -> object:
    """Encodes types that `json` does not know. `datetime` comes before `date`, its base class."""
    if type(value).__name__ in _MISSING:
        return None
    match value:
        case datetime():
            return {"$": "datetime", "v": value.isoformat()}
        case date():
            return {"$": "date", "v": value.isoformat()}
        case time():
            return {"$": "time", "v": value.isoformat()}
        case timedelta():
            return {"$": "interval", "v": [value.days, value.seconds, value.microseconds]}
        case bytes() | bytearray() | memoryview():
            return {"$": "bytes", "v": base64.b64encode(value).decode("ascii")}
        case Decimal():
            return {"$": "decimal", "v": str(value)}
        case UUID():
            return {"$": "uuid", "v": str(value)}
        case numbers.Integral():  # numpy's
            return int(value)
        case numbers.Real():
            return float(value)
        case Mapping():
            return _pack(dict(value))
    raise DataError(
        f"A value of type {type(value).__name__} cannot be stored.",
        "Store numbers, text, bytes, datetimes, or JSON made of them.",
    )


def _untag(found: dict[str, Any]) -> object:
    tag = found.get("$")
    if tag is None:
        return found
    return _UNTAG[tag](found["v"])


_UNTAG: dict[str, Callable[[Any], object]] = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "interval": lambda v: timedelta(days=v[0], seconds=v[1], microseconds=v[2]),
    "bytes": base64.b64decode,
    "decimal": Decimal,
    "uuid": UUID,
}


# --- Framing: eight bytes of length, then the message. Sent at once, without delay


LENGTH = struct.Struct("!Q")
MAX_BYTES = 1 << 30


class FrameError(OSError):
    """The other side does not use this protocol."""


def prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, max_bytes: int = MAX_BYTES) -> bytes | None:
    """Returns the next message; None when the other side closed the connection between two messages."""
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > max_bytes:
        raise FrameError(f"a message of {length} bytes exceeds the limit of {max_bytes}")
    body = _exactly(connection, length)
    if body is None and length:
        raise ConnectionResetError("the connection was closed within a message")
    return bytes(body or b"")


def _exactly(connection: socket.socket, count: int) -> bytearray | None:
    buffer = bytearray(count)
    view, got = memoryview(buffer), 0
    while got < count:
        read = connection.recv_into(view[got:])
        if read == 0:
            if got == 0:
                return None
            raise ConnectionResetError("the connection was closed within a message")
        got += read
    return buffer


CONNECT_S = 5.0
ANSWER_S = 60.0
"""A live owner answers much sooner; a stopped one (Ctrl-Z, a debugger) never does."""
CONNECTIONS_KEPT = 8


class Loopback:
    """A backend that calls the owner. Raises `ClosedError` when the owner does not respond at its address.

    `lost` is called on the listening thread when the stream of changes ends.
    """

    local = False

    def __init__(self, owner: Owner, publisher: Publisher, lost: Callable[[Loopback], None]) -> None:
        self.owner, self._publisher, self._lost = owner, publisher, lost
        self._idle: deque[socket.socket] = deque()
        self._listening: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._listen_lock = threading.Lock()
        self.closed = False
        self._idle.append(self._connect("calls"))
        self._check_version()

    # -- Database

    def query(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Rows:
        return unpack_rows(self._call(op="query", user_id=user_id, sql=sql, params=pack_row(params)))

    def columns(self, user_id: str, sql: str, params: Sequence[object] = ()) -> Columns:
        return by_columns(self.query(user_id, sql, params))

    def select(
        self, user_id: str, sql: str, params: Sequence[object] = (), *, limit: int | None = None, timeout_s: float | None = 30.0
    ) -> Rows:  # fmt: skip
        answer = self._call(
            timeout_s, op="select", user_id=user_id, sql=sql, params=pack_row(params), limit=limit, timeout_s=timeout_s,
            max_growth=growth_limit(),
        )  # fmt: skip
        return unpack_rows(answer)

    def write(
        self, user_id: str, statements: Sequence[Statement], *, changes: Sequence[Change] = (), batch_id: str | None = None
    ) -> list[Rows]:  # fmt: skip
        answer = self._call(
            op="write", user_id=user_id, statements=[pack_statement(s) for s in statements],
            changes=[pack_change(c) for c in changes], batch_id=batch_id,
        )  # fmt: skip
        return [unpack_rows(rows) for rows in answer]

    def append(
        self, user_id: str, tables: Tables, *, then: Sequence[Statement] = (), changes: Sequence[Change] = (),
        batch_id: str | None = None,
    ) -> None:  # fmt: skip
        packed = {name: [list(columns), [pack_row(row) for row in rows]] for name, (columns, rows) in tables.items()}
        self._call(
            op="append", user_id=user_id, tables=packed, then=[pack_statement(s) for s in then],
            changes=[pack_change(c) for c in changes], batch_id=batch_id,
        )  # fmt: skip

    def listen(self) -> None:
        with self._listen_lock:
            if self._listener is None:
                self._listening = self._connect("changes")
                self._listener = threading.Thread(target=self._hear, name="timestep-lab listener", daemon=True)
                self._listener.start()

    def ask_to_hand_over(self) -> None:
        self._call(op="hand_over", user_id="")

    def close(self) -> None:
        self.closed = True
        while self._idle:
            self._idle.pop().close()
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join(timeout=CONNECT_S)

    def abandon(self) -> None:
        self.closed = True
        for connection in [*self._idle, *([self._listening] if self._listening else [])]:
            connection.close()

    # -- connections

    def _check_version(self) -> None:
        known = latest("duckdb")
        if self.owner.schema == known:
            return
        self.close()
        if self.owner.schema > known:
            raise StoreTooNewError(
                f"The lab is in use by a newer version of timestep-lab (pid {self.owner.pid}).",
                "Upgrade with: pip install --upgrade timestep-lab",
            )
        raise StoreUnavailableError(
            f"The lab is in use by an older version of timestep-lab (pid {self.owner.pid}).",
            "Stop that process; the lab is then upgraded on opening.",
        )

    def _connect(self, use: str) -> socket.socket:
        try:
            connection = socket.create_connection(("127.0.0.1", self.owner.port), timeout=CONNECT_S)
        except OSError as error:
            raise ClosedError from error
        try:
            prepare(connection)
            send(connection, dumps({"token": self.owner.token, "use": use}))
            answer = receive(connection)
            if answer is None or loads(answer) != {"ok": True}:
                raise ClosedError
        except (OSError, ValueError, ClosedError) as error:
            connection.close()
            raise ClosedError from error
        connection.settimeout(None)
        return connection

    def _call(self, longer: float | None = 0.0, **request: object) -> Any:
        """Sends a request and waits for the answer, `longer` than usual for calls with their own time limit (None: without limit)."""
        data = dumps(request)
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect("calls")
        try:
            connection.settimeout(None if longer is None else ANSWER_S + longer)
            send(connection, data)
            with interruptible(lambda: _hang_up(connection)):
                answer = receive(connection)
        except TimeoutError as error:
            connection.close()
            raise StoreUnavailableError(
                f"The process that owns the lab (pid {self.owner.pid}) does not respond.", "Resume it, or stop it."
            ) from error
        except OSError as error:
            connection.close()
            raise _stopped() or ClosedError() from error
        except BaseException:
            connection.close()  # Interrupted between request and answer: unusable.
            raise
        if answer is None:
            connection.close()
            raise _stopped() or ClosedError()
        if self.closed or len(self._idle) >= CONNECTIONS_KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        return unpack_answer(answer)

    def _hear(self) -> None:
        connection = self._listening
        assert connection is not None
        with connection:
            try:
                while (data := receive(connection)) is not None:
                    self._publisher.publish([unpack_change(change) for change in loads(data)])
            except OSError:
                pass  # Disconnected; handled below.
        if not self.closed:
            self._lost(self)


def _hang_up(connection: socket.socket) -> None:
    """Makes the waiting caller return at once. The owner's query runs until its time limit."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _stopped() -> QueryError | None:
    return QueryError("The query was interrupted.", "Run it again.") if was_interrupted() else None
