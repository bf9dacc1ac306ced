"""`lab.serve` in a notebook: runs `timestep-lab serve` in a child process that ends with the kernel."""

from __future__ import annotations

import atexit
import html
import os
import subprocess
import sys
import threading
from collections import deque

from timestep_lab.model.errors import UsageError

START_S = 60
STOP_S = 45
"""Time in seconds that the server's runs have to finish when it stops."""
LINES_KEPT = 50


class Serving:
    """A running server: `url` is its address, and `link` also signs you in. A cell shows the link.

    `stop()`, or leaving the `with` block, ends it.

    Example:
        kept = Lab("lab.duckdb")
        served = kept.serve(port=0)
        assert isinstance(served, Serving)
        print(served.url)
        served.stop()
        await kept.aclose()
    """

    def __init__(self, store: str, host: str, port: int) -> None:
        """Start the server and wait until it answers. `store` may contain a password, so it is passed in the
        environment. Raises `UsageError` with the server's own message if it does not start.
        """
        command = [sys.executable, "-m", "timestep_lab", "serve", "--host", host, "--port", str(port), "--with-input"]
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._signed_in = threading.Event()
        self.url = self.link = ""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
            errors="replace", env={**os.environ, "TIMESTEP_LAB_STORE": store, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        atexit.register(self.stop)
        self._reader = threading.Thread(target=self._read, name="timestep-lab serving", daemon=True)
        self._reader.start()
        answers = self._signed_in.wait(START_S)
        if not answers or not self.link:
            self.stop()
            raise _why(self._said)

    def _read(self) -> None:
        """Read the server's output to its end, so that the pipe does not fill up."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.rstrip())
            if "/?key=" in line:
                self.link = line.split()[-1]
                self.url = self.link.partition("/?key=")[0]
                self._signed_in.set()
        self._process.stdout.close()
        self._signed_in.set()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; the partial output of its runs is kept. Safe to call twice."""
        atexit.unregister(self.stop)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Serving({self.url!r}{'' if self.is_running else ', stopped'})"

    def _repr_html_(self) -> str:
        if not self.is_running:
            return f"<div>The lab was served at {html.escape(self.url)}; it is stopped.</div>"
        link = f'<a href="{html.escape(self.link)}" target="_blank" rel="noopener">{html.escape(self.url)}</a>'
        return f"<div>The lab is served at {link} until <code>.stop()</code> or until this kernel ends. The link signs you in.</div>"


def _why(said: deque[str]) -> UsageError:
    reason = next((line for line in reversed(said) if line), "It printed no output.")
    return UsageError(
        f"The server did not start. {reason.removeprefix('error: ')}", "lab.serve(port=0) picks a free port."
    )
