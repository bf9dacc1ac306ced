"""From `timestep-lab serve` to the first answer, and the Overview of a lab with 100,000 traces. Run: `pytest … -m benchmark -s`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.benchmarks.trace_data import NOW, TraceData

from timestep_lab import Lab
from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.server.pages.overview import PERIODS, Overview
from timestep_lab.store.trace_import import TraceImport

pytestmark = pytest.mark.benchmark
ANSWERS_S = 4.0
TRACES = 100_000
READ_S = 1.0


def test_a_server_answers_soon_after_its_start(tmp_path: Path) -> None:
    health, pages = zip(*(start_s(tmp_path / str(n)) for n in range(3)), strict=True)
    print(
        f"\n/healthz after {min(health):.2f} to {max(health):.2f} s, the first page after {min(pages):.2f} to {max(pages):.2f} s"
    )
    assert min(health) < ANSWERS_S


def start_s(folder: Path) -> tuple[float, float]:
    """Seconds to the first answer, and to the first page."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "timestep_lab",
        "serve",
        "--port",
        str(port),
        "--store",
        str(folder / "lab.duckdb"),
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=os.environ, stdout=subprocess.DEVNULL)
    try:
        answered = waited(f"http://127.0.0.1:{port}/healthz", begin)
        return answered, waited(f"http://127.0.0.1:{port}/settings", begin)
    finally:
        process.terminate()
        process.wait(30)


def waited(url: str, begin: float) -> float:
    with httpx.Client(verify=False, timeout=60) as client:
        while True:
            try:
                client.get(url).raise_for_status()
                return time.perf_counter() - begin
            except httpx.TransportError:
                time.sleep(0.02)


async def test_the_overview_of_many_traces(tmp_path: Path) -> None:
    async with Lab(tmp_path / "lab.duckdb") as lab:
        data, importer = TraceData(lab.store.user_id), TraceImport(lab.store.db)
        moved = to_naive_utc(utc_now()) - NOW
        starts, spans = [], []
        for start, of_trace in data.traces(TRACES, 4):
            starts.append((*start[:4], start[4] + moved, *start[5:]))
            spans += [(*span[:11], span[11] + moved, span[12] + moved, *span[13:]) for span in of_trace]
            if len(starts) == 10_000:
                importer.rows(lab.store.user_id, spans, starts)
                starts, spans = [], []
        print()
        slowest = 0.0
        for period in PERIODS:
            page = Overview(lab, period=period)
            await page.read()
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                read = await page.read()
                times.append(time.perf_counter() - begin)
            slowest = max(slowest, min(times))
            print(f"{period:>4}: {read['totals']['runs']:>7,} runs in {min(times) * 1000:.0f} ms")
        assert read["totals"]["runs"] == TRACES
        assert slowest < READ_S
