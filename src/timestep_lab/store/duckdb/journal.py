"""Journal of received trace requests: the file `<lab>.received`, whose entries are durable before a request is acknowledged.

An entry is a request, or the numbers of requests whose spans are stored. Appending one takes a quarter of the time, and of the log, of a row
of a table. The file is emptied whenever nothing in it waits, and removed when the lab is closed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from timestep_lab.model.errors import StoreError, StoreUnavailableError
from timestep_lab.store.base import Received
from timestep_lab.store.duckdb.loopback import ClosedError
from timestep_lab.store.migrate import keep_beside

RECEIVED = ".received"
"""Suffix of the journal beside a lab."""
ENTRY = struct.Struct("<4sIQQ")
"""Kind, length of the head, length of the body, number. Followed by the CRC-32 of these, the head and the body; then by those."""
CHECKSUM = struct.Struct("<I")
REQUEST, DONE, MAGIC = b"TLRQ", b"TLRD", b"TLR"
"""What an entry begins with, and what is common to both."""
_flush = getattr(os, "fdatasync", os.fsync)

Acknowledged = Callable[[int, int, bool], None]
"""Stores the acknowledged state of the journal, its `size` and `chain`, outside of it; durably if the third argument is true."""


@dataclass(slots=True)
class Contents:
    """What is in a journal."""

    size: int = 0
    """Length in bytes of the entries up to the first invalid one."""
    chain: int = 0
    """CRC-32 over the checksums of these entries."""
    is_damaged: bool = False
    """Whether an entry is invalid although valid ones follow it: then it was not just interrupted while being written."""
    last_number: int = 0
    waiting: dict[int, tuple[int, bytes, int]] = field(default_factory=dict)
    """Maps a request to the place of its body, its head, and the length of its body."""
    chains: dict[int, int] = field(default_factory=dict)
    """Maps the end of each entry to `chain` there."""


def contents(path: Path) -> Contents:
    """Reads the journal of the lab at `path`. Raises `OSError` if it cannot be read; a missing one is empty."""
    found = Contents(chains={0: 0})
    journal = path.with_name(path.name + RECEIVED)
    if not journal.is_file():
        return found
    with journal.open("rb") as file:
        at = 0
        while entry := _entry(file.fileno(), at):
            kind, number, head, body_at, n_bytes, checksum = entry
            at = body_at + n_bytes
            found.chain = zlib.crc32(CHECKSUM.pack(checksum), found.chain)
            found.chains[at], found.size = found.chain, at
            found.last_number = max(found.last_number, number)
            if kind == REQUEST:
                found.waiting[number] = (body_at, head, n_bytes)
            else:
                for done in json.loads(head):
                    found.waiting.pop(done, None)
        found.is_damaged = any(_entry(file.fileno(), later) for later in _magics(file.fileno(), at + 1))
    return found


def damage(path: Path, size: int, chain: int) -> str | None:
    """Returns what is wrong with the journal of the lab at `path`, of which `size` bytes with this `chain` were acknowledged."""
    journal = path.with_name(path.name + RECEIVED)
    found = contents(path)
    lost = f"so traces that were acknowledged are missing from the lab {path}."
    if size and not journal.is_file():
        return f"The journal of received traces, {journal}, is missing, {lost}"
    if found.is_damaged or found.chains.get(size) != chain:
        return f"The journal of received traces, {journal}, is damaged or not complete, {lost}"
    return None


def salvage(path: Path, to: Path) -> int:
    """Writes a journal with the intact requests of a damaged one to the file `to`; returns how many there are."""
    journal = path.with_name(path.name + RECEIVED)
    n_requests = 0
    if not journal.is_file():
        return 0
    with journal.open("rb") as file, to.open("wb") as saved:
        at = 0
        for later in _magics(file.fileno(), 0):
            if later >= at and (entry := _entry(file.fileno(), later)):
                kind, _, _, body_at, n_bytes, _ = entry
                at = body_at + n_bytes
                saved.write(_read(file.fileno(), later, at - later))
                n_requests += kind == REQUEST
    return n_requests


def _entry(file: int, at: int) -> tuple[bytes, int, bytes, int, int, int] | None:
    """Returns kind, number, head, place and length of the body, and checksum of the entry at `at`; None if there is no valid one."""
    start = _read(file, at, ENTRY.size + CHECKSUM.size)
    if len(start) < ENTRY.size + CHECKSUM.size or not start.startswith(MAGIC):
        return None
    kind, n_head, n_body, number = ENTRY.unpack_from(start)
    [checksum] = CHECKSUM.unpack_from(start, ENTRY.size)
    if at + len(start) + n_head + n_body > os.fstat(file).st_size:
        return None
    rest = _read(file, at + len(start), n_head + n_body)
    if zlib.crc32(rest, zlib.crc32(start[: ENTRY.size])) != checksum:
        return None
    return kind, number, rest[:n_head], at + len(start) + n_head, n_body, checksum


def _magics(file: int, at: int) -> Iterator[int]:
    """Yields where an entry might begin, from `at`."""
    size, step = os.fstat(file).st_size, 1 << 20
    while at < size:
        piece = _read(file, at, step + len(MAGIC) - 1)
        place = piece.find(MAGIC)
        while 0 <= place < step:
            yield at + place
            place = piece.find(MAGIC, place + 1)
        at += step


def _read(file: int, at: int, n_bytes: int) -> bytes:
    os.lseek(file, at, os.SEEK_SET)
    pieces = []
    while n_bytes > 0 and (piece := os.read(file, n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


class Journal:
    """The journal in the process that owns the lab. Thread-safe. Raises `StoreUnavailableError` when the disk is full or fails, and
    `ClosedError` after `abandon`."""

    def __init__(self, path: Path, acknowledged: Acknowledged) -> None:
        self._path, self._journal = path, path.with_name(path.name + RECEIVED)
        self._acknowledged = acknowledged
        self._lock = threading.Lock()
        self._file: int | None = None
        self._is_abandoned = False
        found = contents(path)
        self.last_number = found.last_number
        self._size, self._chain, self._left = found.size, found.chain, found.waiting
        self._waiting = set(found.waiting)
        if self._journal.is_file():
            self._open()
            if self._waiting:
                os.ftruncate(self._open(), self._size)  # An entry may have been interrupted while being written.
                acknowledged(self._size, self._chain, False)
            else:
                self._empty()

    @property
    def size(self) -> int:
        return self._size

    def left(self) -> list[tuple[int, Received]]:
        """Returns the requests that an earlier process did not finish."""
        found = []
        for number, (at, head, n_bytes) in sorted(self._left.items()):
            user_id, reader, content_type, content_encoding = json.loads(head)
            body = _read(self._open(), at, n_bytes)
            found.append((number, Received(user_id, reader, body, content_type, content_encoding)))
        return found

    def add(self, number: int, request: Received) -> None:
        """Appends a request; durable on return."""
        head = json.dumps([request.user_id, request.reader, request.content_type, request.content_encoding]).encode()
        with self._lock:
            if self._is_abandoned:
                raise ClosedError
            self._append(REQUEST, number, head, request.body)
            self._waiting.add(number)

    def done(self, numbers: Sequence[int]) -> None:
        """Marks requests as stored or refused; durable on return."""
        with self._lock:
            if self._is_abandoned or self._waiting.isdisjoint(numbers):
                return
            self._waiting.difference_update(numbers)
            if self._waiting:
                self._append(DONE, max(numbers), json.dumps(list(numbers)).encode(), b"")
            else:
                self._empty()

    def abandon(self) -> None:
        """Leaves the file as it is to the next engine, after a fatal failure of the store."""
        with self._lock:
            self._is_abandoned = True

    def close(self) -> None:
        """Removes the file if nothing waits; otherwise the next process that opens the lab stores what does."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                if not self._waiting and not self._is_abandoned:
                    self._journal.unlink(missing_ok=True)

    # --

    def _append(self, kind: bytes, number: int, head: bytes, body: bytes) -> None:
        start = ENTRY.pack(kind, len(head), len(body), number)
        checksum = CHECKSUM.pack(zlib.crc32(body, zlib.crc32(head, zlib.crc32(start))))
        try:
            file = self._open()
            os.lseek(file, self._size, os.SEEK_SET)
            written = _write(file, start + checksum + head) + _write(file, body)
            _flush(file)
        except OSError as error:
            with contextlib.suppress(OSError):  # What is behind the last entry is not read.
                os.ftruncate(self._open(), self._size)
            raise unwritable(self._journal, error) from error
        self._size += written
        self._chain = zlib.crc32(checksum, self._chain)
        self._acknowledged(self._size, self._chain, False)

    def _empty(self) -> None:
        """Empties the file. What is acknowledged of it is stored first: a file that is shorter than that counts as damaged."""
        try:
            self._acknowledged(0, 0, True)
            os.ftruncate(self._open(), 0)
        except OSError as error:
            raise unwritable(self._journal, error) from error
        self._size = self._chain = 0

    def _open(self) -> int:
        if self._file is None:
            is_new = not self._journal.exists()
            keep_beside(self._path, RECEIVED)
            self._file = os.open(self._journal, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            if is_new and os.name == "posix":  # The new name has to be durable, too.
                folder = os.open(self._journal.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        return self._file


def _write(file: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    return len(data)


def unwritable(journal: Path, error: OSError) -> StoreError:
    """Returns the error of a file beside the lab that the disk did not take."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailableError(
            f"The disk of the lab is full: {journal} cannot be written.", "Free space there, then try again."
        )
    return StoreUnavailableError(f"{journal} cannot be written: {error.strerror}.", f"Check: ls -l {journal}")
