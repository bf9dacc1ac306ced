"""Processes for tests: started in milliseconds, ended as a power cut would."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

from tests.runtime import worker

# Processes forked from one that has everything imported: fifty of them start in seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.runtime.warm"])


class Worker:
    """A process that `kill` ends as a power cut would."""

    def __init__(self, job: Callable[..., Any], *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._ear, mouth = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=worker.main, args=(mouth, dict(env or {}), job, *arguments), daemon=True)
        self._process.start()
        mouth.close()

    def hear(self) -> dict[str, Any]:
        """What it acknowledges next."""
        return dict(self._ear.recv())

    def kill(self) -> list[dict[str, Any]]:
        """Kill it; return what it had still acknowledged."""
        self._process.kill()
        self._process.join()
        heard = []
        with contextlib.suppress(EOFError):
            while True:
                heard.append(self._ear.recv())
        self._ear.close()
        return heard
