"""Several server processes over one Postgres, many users talking to all of them at once, while processes are killed and Postgres restarts.

What must hold: an acknowledged message is still there; a tool whose result was stored is not run again; nobody meets another's words; and
an error that a user is shown is one after which trying again works.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.mcp.weather_service import OSLO, WeatherService
from timestep_lab.store.postgres.embedded import EmbeddedPostgres

TRIES = 40
PAUSE_S = 0.5


class CountingWeather(WeatherService):
    """Knows every place, and how often each was asked for."""

    def answer(self, path: str, query: dict[str, str]) -> Any:
        return [OSLO] if path == "/nominatim" else super().answer(path, query)

    def asked_for(self) -> collections.Counter[str]:
        return collections.Counter(query["q"] for path, query in self.requests if path == "/nominatim")


@dataclass
class Figures:
    acknowledged: int = 0
    approvals: int = 0
    reads: int = 0
    kills: int = 0
    postgres_restarts: int = 0
    lost: list[str] = field(default_factory=list)
    """Acknowledged messages that are not there at the end."""
    tools_run_twice: list[str] = field(default_factory=list)
    tools_in_doubt: int = 0
    """Run again because their process died before the result was stored."""
    foreign: list[str] = field(default_factory=list)
    """Answers with another user's words."""
    gave_up: list[str] = field(default_factory=list)
    """Requests that no try got through."""
    faults: list[str] = field(default_factory=list)
    """Errors that are none of those after which a user is told to try again."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    latencies_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        quantiles = statistics.quantiles(self.latencies_ms, n=20) if len(self.latencies_ms) > 1 else [0.0] * 19
        return (
            f"{self.acknowledged} messages and {self.approvals} approvals acknowledged, {self.reads} reads; {self.kills} processes killed, "
            f"Postgres restarted {self.postgres_restarts}x; lost {len(self.lost)}, tools run twice {len(self.tools_run_twice)} "
            f"(in doubt {self.tools_in_doubt}), foreign rows {len(self.foreign)}, gave up {len(self.gave_up)}, faults {len(self.faults)}; "
            f"p50 {quantiles[9]:.0f} ms, p95 {quantiles[18]:.0f} ms; errors seen and overcome: {dict(self.errors)}"
        )


class Servers:
    """`timestep-lab serve`, as often as there are ports."""

    def __init__(self, count: int, url: str, weather: CountingWeather, folder: Path) -> None:
        self._command = [sys.executable, "-m", "timestep_lab", "serve", "--store", url]
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "TIMESTEP_LAB_SECRET": "chaos" * 10, "WEATHER_MODE": "live",
            "DEFAULT_AGENT_MODEL": "demo/assistant?delay=2", "WEATHER_NOMINATIM_URL": f"{weather.url}/nominatim",
            "WEATHER_GEOCODING_URL": f"{weather.url}/geocoding", "WEATHER_FORECAST_URL": f"{weather.url}/forecast",
        }  # fmt: skip
        self.ports = [_free_port() for _ in range(count)]
        self._processes = {port: self._start(port) for port in self.ports}

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def address(self) -> str:
        return random.choice(self.addresses)

    def kill_one(self) -> None:
        port = random.choice(self.ports)
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()
        self._processes[port] = self._start(port)

    async def ready(self, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        async with httpx.AsyncClient(timeout=5) as http:
            for port in self.ports:
                while True:
                    try:
                        if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                            break
                    except httpx.TransportError:
                        pass
                    assert time.monotonic() < deadline, (self._folder / f"{port}.log").read_text()
                    await asyncio.sleep(0.1)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=60)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        with (self._folder / f"{port}.log").open("ab") as log:
            return subprocess.Popen(
                [*self._command, "--port", str(port)], env=self._environment, cwd=self._folder, stdout=log, stderr=log
            )


class User:
    def __init__(self, number: int, servers: Servers, figures: Figures, http: httpx.AsyncClient) -> None:
        self.word = f"secretword{number:04}x"
        self._servers, self._figures, self._http = servers, figures, http
        self._headers: dict[str, str] = {}
        self._thread: str | None = None
        self._count = 0
        self.said: list[tuple[str, str]] = []
        """(thread, text) that a server has acknowledged."""
        self.in_doubt: set[str] = set()
        """Places whose approval was not answered at first."""
        self.tool_rows: collections.Counter[str] = collections.Counter()
        """How many finished calls the traces show, by place."""

    async def sign_in(self) -> None:
        answer = await self._call("POST", "/api/v1/auth/anonymous")
        self._headers = {"Authorization": f"Bearer {answer['access_token']}"}

    async def warm(self, address: str) -> None:
        """The first run of a process loads what runs need; the clock starts after that."""
        body = {"prompt": f"Good morning from {self.word}"}
        answer = await self._http.post(f"{address}/api/v1/runs", json=body, headers=self._headers, timeout=180)
        answer.raise_for_status()

    async def live(self, until: float) -> None:
        while time.monotonic() < until:
            await random.choices((self._chat, self._approve, self._read), (5, 3, 3))[0]()
            await asyncio.sleep(random.random() * 0.3)

    async def _chat(self) -> None:
        self._count += 1
        text = f"Hello number {self._count} from {self.word}"
        run = (await self._run({"prompt": text, "thread_id": self._thread}))["run"]
        if run["status"] == "completed":
            self._thread = run["thread_id"]
            self.said.append((run["thread_id"], text))
            self._figures.acknowledged += 1

    async def _approve(self) -> None:
        """Ask on one server, approve on another."""
        self._count += 1
        place = f"Berkeley {self.word} {self._count}"
        prompt = f'call get_weather {{"location": "{place}"}}'
        started = await self._run({"prompt": prompt, "agent": "Weather Assistant"})
        run = started["run"]
        if run["status"] != "needs_approval":
            return
        self.said.append((run["thread_id"], prompt))
        for _ in range(TRIES):
            tried = await self._once("POST", f"/api/v1/runs/{run['id']}/approve", {})
            if isinstance(tried, str):
                self.in_doubt.add(place)
                await asyncio.sleep(PAUSE_S)
                tried = await self._call("GET", f"/api/v1/runs/{run['id']}")
            if tried["run"]["status"] == "completed":
                self._figures.approvals += 1
                return
        self._figures.gave_up.append(f"approve {run['id']}: {tried}")

    async def _read(self) -> None:
        path = random.choice(("/api/v1/threads/list", "/api/v1/traces", "/api/v1/agents"))
        self._look_for_others(path, await self._call("GET", path))
        query = {"query": "select input, output from traces order by started_at desc limit 20"}
        self._look_for_others("sql", await self._call("POST", "/api/v1/sql", query))
        self._figures.reads += 2

    async def check(self) -> None:
        """After all is over: what was acknowledged is there, and nothing else is."""
        for thread in {thread for thread, _ in self.said}:
            answer = await self._call("GET", f"/api/v1/threads/{thread}/items?limit=1000")
            text = str(answer)
            self._look_for_others(thread, answer)
            self._figures.lost += [said for where, said in self.said if where == thread and said not in _unquoted(text)]
        query = {"query": "select arguments from tool_calls where tool = 'get_weather' and status = 'ok'"}
        rows = (await self._call("POST", "/api/v1/sql", query))["rows"]
        self.tool_rows.update(json.loads(row["arguments"])["location"] for row in rows)

    def _look_for_others(self, where: str, answer: Any) -> None:
        text = str(answer)
        if text.count("secretword") != text.count(self.word):
            self._figures.foreign.append(f"{self.word} at {where}: {text[:300]}")

    async def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        body = {key: value for key, value in body.items() if value is not None}
        answer = await self._call("POST", "/api/v1/runs", body)
        self._look_for_others("run", answer)
        return answer

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Tries again, as a user would who is told to."""
        answer: Any = None
        for attempt in range(TRIES):
            answer = await self._once(method, path, body)
            if not isinstance(answer, str):
                return answer
            await asyncio.sleep(PAUSE_S * min(attempt + 1, 4) * random.random())
        self._figures.gave_up.append(f"{method} {path}: {answer}")
        raise AssertionError(self._figures.gave_up[-1])

    async def _once(self, method: str, path: str, body: Any = None) -> Any:
        """The answer, or what went wrong in words."""
        began = time.perf_counter()
        try:
            response = await self._http.request(
                method, self._servers.address() + path, json=body, headers=self._headers
            )
        except httpx.TransportError as error:
            self._figures.errors[type(error).__name__] += 1
            return type(error).__name__
        if response.status_code >= 400:
            message = response.json()["error"]["message"]
            self._figures.errors[f"{response.status_code} {_shape(message)}"] += 1
            if not _says_what_to_do(response.status_code, message):
                self._figures.faults.append(f"{method} {path}: {response.status_code} {message}")
            return f"{response.status_code} {message}"
        self._figures.latencies_ms.append((time.perf_counter() - began) * 1000)
        return response.json()


async def chaos(folder: Path, *, servers: int, users: int, seconds: float, kill_every_s: float) -> Figures:
    figures = Figures()
    postgres = EmbeddedPostgres(folder / "pg", configuration="\nmax_connections = 200\n").start()
    url = postgres.url
    try:
        with CountingWeather() as weather:
            fleet = Servers(servers, _as_url(url), weather, folder)
            try:
                await fleet.ready()
                limits = httpx.Limits(max_connections=users * 2)
                async with httpx.AsyncClient(timeout=60, limits=limits) as http:
                    people = [User(number, fleet, figures, http) for number in range(users)]
                    await asyncio.gather(*(user.sign_in() for user in people))
                    await asyncio.gather(*(people[0].warm(address) for address in fleet.addresses))
                    end = time.monotonic() + seconds
                    trouble = asyncio.create_task(_trouble(fleet, postgres, figures, end, seconds, kill_every_s))
                    await asyncio.gather(*(user.live(end) for user in people))
                    await trouble
                    await fleet.ready()
                    await asyncio.gather(*(user.check() for user in people))
            finally:
                fleet.stop()
            for place, times in weather.asked_for().items():
                if times > 1:
                    # Cut off while it ran: then its result was stored once, by the attempt that came after.
                    cut_off = any(place in user.in_doubt and user.tool_rows[place] == 1 for user in people)
                    figures.tools_in_doubt += cut_off
                    figures.tools_run_twice += [] if cut_off else [place]
    finally:
        postgres.close()
    return figures


async def _trouble(
    fleet: Servers, postgres: EmbeddedPostgres, figures: Figures, end: float, seconds: float, kill_every_s: float
) -> None:
    restart_at = end - seconds / 2
    next_kill = time.monotonic() + kill_every_s
    while time.monotonic() < end:
        await asyncio.sleep(0.1)
        if time.monotonic() > next_kill:
            fleet.kill_one()
            figures.kills += 1
            next_kill += kill_every_s
        if not figures.postgres_restarts and time.monotonic() > restart_at:
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.ensure_running)
            figures.postgres_restarts += 1


def _says_what_to_do(status: int, message: str) -> bool:
    """Try again, or wait; or, of an approval whose answer was cut off, that somebody (oneself, just before) has decided already."""
    decided = status in (404, 409) and "is not waiting for approval" in message
    return decided or (status in (409, 429, 503) and any(word in message for word in ("again", "Wait")))


def _shape(message: str) -> str:
    """The message without what is different each time."""
    return re.sub(r"\b(run|prc|thr)_\w+|\d[\d.,:T+-]*", "…", message.splitlines()[0])[:120]


def _as_url(conninfo: str) -> str:
    from psycopg.conninfo import conninfo_to_dict

    found = conninfo_to_dict(conninfo)
    return f"postgresql://{found['user']}:{found['password']}@{found['host']}:{found['port']}/{found['dbname']}"


def _unquoted(text: str) -> str:
    return text.replace('\\"', '"').replace("\\'", "'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
