"""`lab.serve()`: beside a notebook, and from a script."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import httpx
import psutil
import pytest

from tests.server.lab_process import LabProcess
from tests.server.served import serve
from timestep_lab import Lab
from timestep_lab.model.errors import StoreUnavailableError, UsageError

SCRIPT = """
import gc, sys
from timestep_lab import Lab
before = sys.getswitchinterval()
with Lab("lab.duckdb") as lab:
    lab.serve(port=0)
print("left as it was:", sys.getswitchinterval() == before and gc.get_freeze_count() == 0)
"""
NOTEBOOK = """
import asyncio, os
from timestep_lab import Lab
async def cell():
    print(Lab("lab.duckdb").serve(port=0).link, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(cell())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEATHER_MODE", "recorded")
    return tmp_path


async def test_a_notebook_serves_its_lab_beside_itself_and_stops_it(folder: Path) -> None:
    async with Lab("lab.duckdb") as lab:
        with lab.serve(port=0) as served:
            assert served.link in served._repr_html_()
            assert served.link.startswith(served.url)
            there = Lab(served.link)
            run = await lab.run("What's the weather in Berkeley?", model="demo/assistant")
            assert (await there.approvals[run.id].approve()).status == "completed"
            await there.aclose()
            with pytest.raises(UsageError, match=r"Port .* is not available"):
                lab.serve(port=int(served.url.rpartition(":")[2]))
        assert not served.is_running
        served.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(served.url)
        assert "stopped" in served._repr_html_()
        assert lab.get_run(run.id).status == "completed"


def test_a_port_that_is_taken_is_said_in_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "timestep_lab", "serve", "--port", str(port)]
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.splitlines() == [
        f"error: Port {port} on 127.0.0.1 is not available; another program may be using it. Choose another with --port."
    ]


async def test_a_lab_that_no_other_process_can_open_says_so() -> None:
    async with Lab(":memory:") as lab:
        with pytest.raises(UsageError, match="memory"):
            lab.serve(port=0)


def test_a_lab_whose_spans_cannot_be_written_at_its_end_says_so_and_lets_go_of_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise StoreUnavailableError("The disk is full.", "Free space there.")

    lab = Lab("lab.duckdb")
    monkeypatch.setattr(lab._root.writer, "close", fails)
    with pytest.raises(StoreUnavailableError, match="The disk is full"):
        lab.close()
    with duckdb.connect("lab.duckdb") as alone:  # Refused while the lab has the file open, as its settings are others.
        assert alone.execute("select 1").fetchall() == [(1,)]


def test_the_server_ends_with_the_kernel_even_a_killed_one(folder: Path) -> None:
    kernel = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert kernel.returncode == -signal.SIGKILL
    assert "/?key=" in kernel.stdout, kernel.stderr
    left = [p for p in psutil.process_iter(["cwd", "cmdline"]) if p.info["cwd"] == str(folder) and p.pid != os.getpid()]
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
    with Lab(folder / "lab.duckdb") as again:
        assert len(again.agents) == 2


def test_a_script_serves_until_it_is_interrupted_and_the_interpreter_is_as_it_was(folder: Path) -> None:
    script = subprocess.Popen([sys.executable, "-uc", SCRIPT], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    link = ""
    while "/?key=" not in link:
        link = script.stdout.readline()
        assert link
    assert httpx.get(link.split()[-1], follow_redirects=True, timeout=60).status_code == 200
    script.send_signal(signal.SIGINT)
    told, _ = script.communicate(timeout=60)
    assert script.returncode == 0
    assert "left as it was: True" in told


def test_an_answer_on_a_kept_connection_does_not_wait_for_the_clients_acknowledgement(lab: LabProcess) -> None:
    """Its head and body are two writes: with Nagle's algorithm the second waits for the delayed acknowledgement of the first, 40 ms."""
    with lab.anonymous() as client:
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            client.get("/api/v1/auth/me").raise_for_status()
            taken.append(time.perf_counter() - began)
    assert statistics.quantiles(taken, n=4)[0] < 0.035


async def test_after_a_fault_of_the_lab_the_same_connection_serves_the_next_request(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve("lab.duckdb") as server:

        @server.served.api.get("/api/v1/faulty")
        async def faulty() -> None:
            raise RuntimeError("a mistake")

        headers = {"Authorization": f"Bearer {server.token('someone')}"}
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))

        async def ask(path: str) -> tuple[int, bytes]:
            head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Host": "127.0.0.1"}.items())
            writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert "connection: close" not in answer
            length = int(answer.partition("content-length: ")[2].split()[0])
            return int(answer.split()[1]), await reader.readexactly(length)

        for _ in range(3):
            status, body = await ask("/api/v1/faulty")
            assert status == 500
            assert b"Internal error while answering." in body
            assert (await ask("/api/v1/auth/me"))[0] == 200
        writer.close()
        await writer.wait_closed()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a mistake"] * 3
