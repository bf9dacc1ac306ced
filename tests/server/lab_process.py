"""A lab served by `timestep-lab serve` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from timestep_lab.server.gate import Tokens

SECRET = "a secret of the tests, long enough for HS256"
START_S = 40
TOLD, SAID = "stdout.txt", "stderr.txt"


@dataclass(frozen=True, slots=True)
class LabProcess:
    url: str
    sign_in_link: str
    """For the lab's own user, as printed in the terminal."""
    process: subprocess.Popen[bytes]
    store: Path

    @property
    def tokens(self) -> Tokens:
        return Tokens(SECRET)

    def nobody(self, **options: Any) -> httpx.Client:
        """A client without a token. The address is plain http, so no certificates are loaded for it."""
        return httpx.Client(base_url=self.url, timeout=30, verify=False, **options)

    def client(self, token: str) -> httpx.Client:
        return self.nobody(headers={"Authorization": f"Bearer {token}"})

    def anonymous(self) -> httpx.Client:
        """A client signed in as a new user."""
        with self.nobody() as nobody:
            answer = nobody.post("/api/v1/auth/anonymous")
        answer.raise_for_status()
        return self.client(answer.json()["access_token"])


def start(store: Path, *, port: int = 0, pages: bool = True, name: str | None = None) -> LabProcess:
    """Keyless, offline (the weather is the recorded one), on a port that is free. Without `pages`, they are not waited for. `name`: what is
    opened in the place of the file `store`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "PYTHONPATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR")
    }
    env = {**kept, "TIMESTEP_LAB_SECRET": SECRET, "WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "2"}
    command = [sys.executable, "-m", "timestep_lab", "serve", "--port", str(port), "--store", name or str(store)]
    # Into files, not pipes: a pipe that nobody reads on would hold the server up once it is full.
    with (store.parent / TOLD).open("w") as told, (store.parent / SAID).open("a") as said:
        process = subprocess.Popen(command, cwd=store.parent, env=env, stdout=told, stderr=said)
    first, second = _first_lines(store.parent / TOLD, process)
    url = re.search(r"http://[^\s]+", first)
    link = re.search(r"http://[^\s]+key=[^\s]+", second)
    assert url is not None, first + second
    assert link is not None, second
    served = LabProcess(url.group(0), link.group(0), process, store)
    if not pages:
        return served
    with served.nobody() as client:  # The pages are there some seconds after the API.
        client.get("/settings", timeout=60).raise_for_status()
    return served


def _first_lines(told: Path, process: subprocess.Popen[bytes]) -> list[str]:
    deadline = time.monotonic() + START_S
    while len(lines := told.read_text().splitlines()) < 2:
        assert process.poll() is None, f"serve ended with {process.returncode}"
        assert time.monotonic() < deadline, f"serve said nothing for {START_S} s"
        time.sleep(0.02)
    return lines[:2]


def stop(lab: LabProcess) -> None:
    lab.process.send_signal(signal.SIGTERM)
    try:
        lab.process.wait(60)
        said = (lab.store.parent / SAID).read_text()
        torn = said.find("Timeout (")
        assert torn < 0, f"It had to be torn out of what held it up:\n{said[max(0, torn - 2000) : torn + 12000]}"
    except subprocess.TimeoutExpired:
        lab.process.kill()
        lab.process.wait()
        raise
