"""Processes untrusted bytes in a subprocess with memory and time limits.

Whatever a file decompresses to or a parser does, this process stays responsive and alive. Messages between the two processes are
pickled with a length prefix.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Self

from timestep_lab.model.errors import DataError, LabError, QueryError, StoreUnavailableError, TooLargeError
from timestep_lab.store.liveness import interruptible, was_interrupted

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

MEMORY = 2**30
"""Memory limit of the process in bytes, beyond its own code (on Linux; elsewhere only time is limited)."""
CLOSE_S = 5.0
PIPE_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")


class WorkerDied(Exception):
    """The process ended without an answer: it was killed, or crashed on its input."""

    def __init__(self, returncode: int | None) -> None:
        """`returncode`: as of `subprocess.Popen`, None if it is unknown."""
        super().__init__(f"ended with {returncode}")
        self.returncode = returncode

    def as_error(self, memory: int) -> LabError:
        """Returns what the sender is told. A process that others ended says nothing about its input, which may be sent again; one that
        crashed had most likely no memory left."""
        if self.returncode is None or -self.returncode in _ENDED_BY_OTHERS:
            return StoreUnavailableError("The process that reads this was killed.", "Send it again.")
        if self.returncode > 0:
            return DataError("This could not be read.", "The reason is in the log of the process that reads it.")
        return too_much(memory)


_ENDED_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Worker:
    """A subprocess that serves one call at a time. Started by the first call; ends with `close`, when a call exceeds a limit, or with this
    process."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, target: str, *args: object, time_limit_s: float) -> Any:
        """Calls the function `module:name` and returns its result or raises its exception; `TooLargeError` if it exceeds memory or time."""
        [answer] = self.stream(target, *args, time_limit_s=time_limit_s)
        return answer

    def stream(self, target: str, *args: object, time_limit_s: float) -> Iterator[Any]:
        """Returns the values of a generator function, or the single result of another function. The call has begun on return."""
        process = self._started()
        assert process.stdin is not None
        late = threading.Event()

        def too_late() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(time_limit_s, too_late)
        clock.daemon = True
        clock.start()
        begun = False
        try:
            with interruptible(process.kill):
                send(process.stdin, (target, args))
            begun = True
        except OSError as error:
            raise _why(process, time_limit_s if late.is_set() else None) from error
        finally:
            if not begun:
                self._stop(process, clock)
        return self._answers(process, clock, late, time_limit_s)

    def _answers(
        self,
        process: subprocess.Popen[bytes],
        clock: threading.Timer,
        late: threading.Event,
        time_limit_s: float,
    ) -> Iterator[Any]:
        assert process.stdout is not None
        whole = False
        try:
            with interruptible(process.kill):
                while (answer := receive(process.stdout)) is not None:
                    [kind, value] = answer
                    if kind == "error":
                        whole = True
                        raise value
                    yield value
                whole = True
        except (OSError, EOFError) as error:
            raise _why(process, time_limit_s if late.is_set() else None) from error
        finally:
            clock.cancel()
            if not whole:  # Its remaining output belongs to no later call.
                self._stop(process, clock)

    def _stop(self, process: subprocess.Popen[bytes], clock: threading.Timer) -> None:
        clock.cancel()
        process.kill()
        if self._process is process:
            self.close()

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):  # It may have ended before reading its input.
            process.stdin.close()  # Ends the process.
        process.stdout.close()
        try:
            process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(self._memory)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for pipe in (self._process.stdin, self._process.stdout):
                _enlarge(pipe)
        return self._process


def _enlarge(pipe: IO[bytes] | None) -> None:
    """Lets a whole message of usual size fit into the pipe, so that the writer does not wait for the reader; only Linux allows it."""
    if pipe is not None and (set_size := getattr(fcntl, "F_SETPIPE_SZ", None)):
        with suppress(OSError):  # Beyond the user's limit.
            fcntl.fcntl(pipe, set_size, PIPE_BYTES)


def _why(process: subprocess.Popen[bytes], time_limit_s: float | None) -> Exception:
    """Returns the error of a call whose process ended. `time_limit_s`: the limit, if it was exceeded."""
    if time_limit_s is not None:
        return TooLargeError(
            f"Reading this exceeded the time limit of {time_limit_s:g} s.", "Send it in smaller parts."
        )
    if was_interrupted():
        return QueryError("Reading this was interrupted.", "Retry the request.")
    with suppress(subprocess.TimeoutExpired):
        process.wait(CLOSE_S)  # It closes its pipes shortly before its end can be read.
    return WorkerDied(process.returncode)


def apart(target: str, *args: object, time_limit_s: float, memory: int = MEMORY) -> Any:
    """Runs one `Worker.call` in a process of its own."""
    with Worker(memory) as worker:
        try:
            return worker.call(target, *args, time_limit_s=time_limit_s)
        except WorkerDied as died:
            raise died.as_error(memory) from None


def too_much(memory: int) -> TooLargeError:
    return TooLargeError(f"Reading this exceeded the memory limit of {memory >> 20:,} MB.", "Send it in smaller parts.")


def send(pipe: IO[bytes], message: object) -> None:
    packed = pickle.dumps(message, protocol=5)
    pipe.write(_LENGTH.pack(len(packed)))
    pipe.write(packed)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Receives a message. Raises `EOFError` when the other side has ended."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    [length] = _LENGTH.unpack(head)
    packed = pipe.read(length)
    if len(packed) < length:
        raise EOFError
    return pickle.loads(packed)


def main() -> None:
    """Main loop of the subprocess: answers calls until its input ends."""
    memory = int(sys.argv[1])
    _bound(memory)
    # Rows have no reference cycles; searching for them among tens of thousands of objects takes a fifth of the time.
    gc.disable()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is meant for the server, which ends this process.
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Prints go to the log, not between the answers.
    with suppress(BrokenPipeError):  # The other process has ended.
        _answer_calls(calls, answers, memory)


def _answer_calls(calls: IO[bytes], answers: IO[bytes], memory: int) -> None:
    while True:
        try:
            target, args = receive(calls)
        except EOFError:
            return
        try:
            module, _, name = target.partition(":")
            result = getattr(importlib.import_module(module), name)(*args)
            for piece in result if isinstance(result, Iterator) else (result,):
                send(answers, ("piece", piece))
        except LabError as error:
            send(answers, ("error", error))
        except MemoryError:
            send(answers, ("error", too_much(memory)))
            return  # The process is in no state to continue.
        else:
            send(answers, None)


def _bound(memory: int) -> None:
    if sys.platform != "linux":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
