"""What changes in the served lab, heard over one websocket by as many as want to know."""

from __future__ import annotations

import json
import logging
import threading
import typing
from collections.abc import Callable

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.sync.connection import Connection as Socket

from timestep_lab.service.client import CONNECT_S, Connection
from timestep_lab.store.base import Change, Topic
from timestep_lab.store.liveness import Publisher

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
        wait, told = FIRST_WAIT_S, False
        while not self._closed.is_set():
            try:
                with connect(url, additional_headers=headers, open_timeout=CONNECT_S) as socket:
                    self._socket, wait, told = socket, FIRST_WAIT_S, False
                    # Whatever happened before nobody was told.
                    self._tell((topic, "") for topic in TOPICS)
                    for text in socket:
                        self._tell(json.loads(text))
            except InvalidStatus as error:
                if not told:
                    log.warning("%s does not tell what changes: %s", self._connection.url, error)
                told = True
            except (OSError, WebSocketException):
                pass  # Gone for now; asked again below.
            self._socket = None
            self._closed.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _tell(self, changes: typing.Iterable[tuple[Topic, str]]) -> None:
        self._publisher.publish([Change(topic, self._user_id, id) for topic, id in changes])
