"""OTLP requests read in a process beside this one, so that reading spans and storing them do not wait for one interpreter.

Both cost about as much; where there is a second processor, twice as many spans come in. A request goes to the other process as it came,
and rows come back, each message pickled behind its length. Small requests, which gain nothing, are read here.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from timestep_lab.types.errors import LabError

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.decoded import Decoded

WORTH_SENDING = 64 * 1024
"""Bytes of a request below which it is read here."""
CLOSE_S = 5.0
_LENGTH = struct.Struct("<Q")


class OtlpDecoder:
    """For one server. The other process begins with the first request worth it, and ends with `close` or with this process."""

    def __init__(self, *, processors: int | None = None) -> None:
        self._alone = (processors or os.cpu_count() or 1) < 2
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def read(self, body: bytes, content_type: str, content_encoding: str | None, user_id: str) -> Decoded:
        """`read_otlp`, and raises what it raises. Blocks; from any thread."""
        from timestep_lab.runtime.interchange.otlp_in import read_otlp

        request = (body, content_type, content_encoding, user_id)
        if self._alone or len(body) < WORTH_SENDING:
            return read_otlp(*request)
        with self._lock:
            if self._closed:
                return read_otlp(*request)
            try:
                answer = self._ask(request)
            except (OSError, EOFError):
                # It was killed, as by a machine that ran out of memory. The next request begins another.
                self._end()
                return read_otlp(*request)
        if isinstance(answer, LabError):
            raise answer
        return answer

    @property
    def pid(self) -> int | None:
        """Of the other process, once there is one."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._end()

    def _ask(self, request: tuple[bytes, str, str | None, str]) -> Decoded | LabError:
        if self._process is None:
            command = [sys.executable, "-m", __name__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, request)
        answer: Decoded | LabError = _receive(self._process.stdout)
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # It may have gone before it read what was written to it.
            process.stdin.close()  # Which ends it.
        process.stdout.close()
        try:
            process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _send(pipe: IO[bytes], message: object) -> None:
    packed = pickle.dumps(message, protocol=5)
    pipe.write(_LENGTH.pack(len(packed)))
    pipe.write(packed)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """Raises `EOFError` when the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    [length] = _LENGTH.unpack(head)
    packed = pipe.read(length)
    if len(packed) < length:
        raise EOFError
    return pickle.loads(packed)


def main() -> None:
    """The other process: answers until its input ends."""
    from timestep_lab.runtime.interchange.otlp_in import read_otlp

    # Rows refer to nothing that refers to them: looking for circles among tens of thousands takes a fifth of the time and finds none.
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the server, which ends this one.
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Whatever is printed here goes to the log, not between the answers.
    while True:
        try:
            request = _receive(requests)
        except EOFError:
            return
        answer: Decoded | LabError
        try:
            answer = read_otlp(*request)
        except LabError as error:
            answer = error
        _send(answers, answer)


if __name__ == "__main__":
    main()
