"""Receives changes made by other processes: LISTEN on one connection outside the pool, reconnected whenever it is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import Connection, sql

from timestep_lab.model.errors import StoreUnavailableError
from timestep_lab.store.base import Change, Topic

log = logging.getLogger("timestep_lab.store")

PAYLOAD_BYTES = 7900
"""Maximum payload; NOTIFY is limited to less than 8000 bytes."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


def payloads(changes: Sequence[Change], sender: str) -> Iterator[str]:
    """Yields changes as NOTIFY payloads, as many in each as fit."""
    chunk: list[list[str]] = []
    size = 0
    for change in dict.fromkeys(changes):
        entry = [change.topic, change.user_id, change.id]
        length = len(json.dumps(entry)) + 1
        if chunk and size + length > PAYLOAD_BYTES - len(sender) - 20:
            yield json.dumps([sender, chunk])
            chunk, size = [], 0
        chunk.append(entry)
        size += length
    if chunk:
        yield json.dumps([sender, chunk])


class Listener:
    """Calls `publish` with changes announced by other senders. `sender` is this process's own name, whose announcements are skipped.

    After a reconnect, a change with an empty id is published for each topic, because some may have been missed.
    """

    def __init__(
        self,
        connect: Callable[[], Connection[Any]],
        channel: str,
        sender: str,
        publish: Callable[[Sequence[Change]], None],
    ) -> None:
        self._connect, self._channel, self._sender, self._publish = connect, channel, sender, publish
        self._closing = threading.Event()
        self._ready = threading.Event()
        self._socket: socket.socket | None = None
        self._heard_since_start = False
        self._thread = threading.Thread(target=self._run, name="timestep-lab listener", daemon=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float = 5.0) -> None:
        """Returns when changes announced from now on are received (or, if the server is down, their loss will be)."""
        self._ready.wait(timeout_s)

    def close(self) -> None:
        self._closing.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already lost
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(timeout=5)

    def _run(self) -> None:
        pause, missed = SHORTEST_PAUSE_S, False
        while not self._closing.is_set():
            try:
                with self._connect() as connection:
                    self._listen(connection, missed=missed)
            except (psycopg.Error, StoreUnavailableError) as error:
                missed = True
                if not self._closing.is_set():
                    log.info("Waiting to reconnect to Postgres for change notifications: %s", error)
            finally:
                self._socket = None
            if self._heard_since_start:
                pause, self._heard_since_start = SHORTEST_PAUSE_S, False
            self._closing.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _listen(self, connection: Connection[Any], *, missed: bool) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as self._socket:
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            self._heard_since_start = True
            self._ready.set()
            if missed:
                self._publish([Change(topic, "", "") for topic in typing.get_args(Topic)])
            for notification in connection.notifies():
                self._hear(notification.payload)

    def _hear(self, payload: str) -> None:
        sender, entries = json.loads(payload)
        if sender != self._sender:
            self._publish([Change(topic, user_id, id) for topic, user_id, id in entries])
