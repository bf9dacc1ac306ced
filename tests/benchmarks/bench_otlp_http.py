"""Small requests, and OTLP over HTTP from the first byte sent to every span queryable, of a served lab in a process of its own.

Four connections send at once, as the exporters of four programs would. The baseline is DuckDB's appender taking the same decoded rows in the
same run, committed request by request. Run: `pytest tests/benchmarks/bench_otlp_http.py -m benchmark -s`. With PHOENIX_PYTHON or
MLFLOW_PYTHON set to the Python of an environment that has one of them, it takes the same requests in the same run, for comparison.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.benchmarks.bench_trace_writing import OTLP_OF_RAW, SPANS, SPANS_A_SECOND, append, bare_lab, otlp, rows

from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.runtime.interchange import read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.spans import Row

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
REQUEST, ROUNDS, CONNECTIONS = 2_000, 8, 4
EXPORTED, KEPT_A_SECOND, ANEW_A_SECOND = 500, 25_000, 18_000
"""Spans in a request of an exporter, and how many of its one connection, or of one for each request, are to be queryable in a second."""
HALF_MEGABYTE = 405
"""Spans in a request of 500 kB."""
ME_MS, AGENTS_MS, HALF_MEGABYTE_MS = 3.0, 6.0, 40.0
WARM_UP, MEASURED = 10, 40


@pytest.fixture
def served(tmp_path: Path) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "timestep_lab", "--store", str(tmp_path / "lab.duckdb"), "serve", "--port", "0"]
    environment = {**os.environ, "TIMESTEP_LAB_SECRET": "s" * 40, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        with httpx.Client(base_url=found[0], timeout=60) as client:
            token = client.post("/api/v1/auth/anonymous").raise_for_status().json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            yield client
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def test_spans_sent_over_http_are_queryable_at_two_fifths_of_the_raw_appenders_rate(
    served: httpx.Client, tmp_path: Path
) -> None:
    bare = bare_lab(tmp_path)
    taken_s, raw_s = [], []
    for seed in range(ROUNDS):
        some = rows(LOCAL_USER, seed)
        requests = [otlp(some[first : first + REQUEST]) for first in range(0, SPANS, REQUEST)]
        decoded = [read_otlp(body, PROTOBUF, None, LOCAL_USER).spans for body in requests]

        def send(body: bytes) -> None:
            served.post("/v1/traces", content=body, headers={"Content-Type": PROTOBUF}).raise_for_status()

        began = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(send, requests))
        asked = served.post("/api/v1/sql", json={"query": "select count(*) as n from spans"}).raise_for_status().json()
        taken_s.append(time.perf_counter() - began)
        assert asked["rows"] == [{"n": SPANS * (seed + 1)}]
        began = time.perf_counter()
        for batch in decoded:
            append(bare, batch)
        raw_s.append(time.perf_counter() - began)
    bare.close()
    http, raw = SPANS / min(taken_s), SPANS / min(raw_s)
    print(
        f"\nOTLP over HTTP to queryable: {http:,.0f} spans/s, raw appender {raw:,.0f} spans/s: {http / raw:.2f} of it"
    )
    assert http >= SPANS_A_SECOND
    assert http >= OTLP_OF_RAW * raw


@pytest.mark.parametrize("kept", [True, False], ids=["one connection", "a connection each"])
def test_one_exporter_that_sends_batch_after_batch_is_kept_up_with(served: httpx.Client, kept: bool) -> None:
    taken_s = []
    for seed in range(ROUNDS):
        some = rows(LOCAL_USER, seed)
        requests = [otlp(some[first : first + EXPORTED]) for first in range(0, SPANS, EXPORTED)]
        headers = {"Content-Type": PROTOBUF, "Authorization": served.headers["Authorization"]}
        address = f"{served.base_url}/v1/traces".replace("//v1", "/v1")

        def anew(address: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
            """The address is plain http: without `verify=False` the client would load certificates, longer than the request takes."""
            with httpx.Client(verify=False) as client:
                return client.post(address, content=content, headers=headers)

        send = served.post if kept else anew
        began = time.perf_counter()
        for body in requests:
            send(address, content=body, headers=headers).raise_for_status()
        asked = served.post("/api/v1/sql", json={"query": "select count(*) as n from spans"}).raise_for_status().json()
        taken_s.append(time.perf_counter() - began)
        assert asked["rows"] == [{"n": SPANS * (seed + 1)}]
    rate = SPANS / min(taken_s)
    print(
        f"\n{'one connection' if kept else 'a connection for each request'}, {EXPORTED} spans a request: {rate:,.0f} spans/s"
    )
    assert rate >= (KEPT_A_SECOND if kept else ANEW_A_SECOND)


BESIDE_SPANS, BESIDE_S = 2_000, 400.0
"""How many spans others are sent, and how long they may take to show them all."""


def phoenix(url: str) -> int:
    asked = {"query": "{projects{edges{node{recordCount}}}}"}
    found = httpx.post(f"{url}/graphql", json=asked, timeout=60).raise_for_status().json()
    return sum(edge["node"]["recordCount"] for edge in found["data"]["projects"]["edges"])


def mlflow(url: str) -> int:
    """It counts traces, of 10 spans each, and shows them in pages."""
    of_all = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]
    asked = {"locations": of_all, "max_results": 500}
    found = httpx.post(f"{url}/api/3.0/mlflow/traces/search", json=asked, timeout=60).raise_for_status().json()
    return 10 * len(found.get("traces", []))


OTHERS: dict[str, tuple[list[str], dict[str, str], Callable[[str], int]]] = {
    "PHOENIX": (
        ["-m", "phoenix.server.main", "serve"],
        {"PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": "{port}", "PHOENIX_GRPC_PORT": "{other}", "PHOENIX_WORKING_DIR": "{folder}"},
        phoenix,
    ),
    "MLFLOW": (
        ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "--backend-store-uri", "sqlite:///{folder}/mlflow.db"],
        {},
        mlflow,
    ),
}  # fmt: skip
"""How each is started, with what in its environment, and how many spans it shows."""


@pytest.mark.parametrize("name", list(OTHERS))
def test_what_others_take_for_the_same_requests(name: str, tmp_path: Path) -> None:
    """No limit is asserted: it is a measure to hold ours against."""
    python = os.environ.get(f"{name}_PYTHON")
    if python is None:
        pytest.skip(f"{name}_PYTHON names no environment that has it")
    arguments, environment, shown = OTHERS[name]
    port, other = free_port(), free_port()
    places = {"port": port, "other": other, "folder": tmp_path}
    url = f"http://127.0.0.1:{port}"
    requests = [otlp(some) for some in batched(rows(LOCAL_USER, 0)[:BESIDE_SPANS], EXPORTED)]
    headers = {"Content-Type": PROTOBUF, "x-mlflow-experiment-id": "0"}
    process = subprocess.Popen(
        [python, *(argument.format(**places) for argument in arguments)],
        env={**os.environ, **{key: value.format(**places) for key, value in environment.items()}},
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: is_up(f"{url}/health" if name == "MLFLOW" else f"{url}/healthz"))
        with httpx.Client(timeout=BESIDE_S, headers=headers) as client:
            began = time.perf_counter()
            for body in requests:
                client.post(f"{url}/v1/traces", content=body).raise_for_status()
            answered = time.perf_counter() - began
        wait_until(lambda: shown(url) >= BESIDE_SPANS)
        took = time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    print(f"\n{name}: answered {BESIDE_SPANS / answered:,.0f} spans/s, queryable {BESIDE_SPANS / took:,.0f} spans/s")


def batched(some: list[Row], size: int) -> Iterator[list[Row]]:
    return (some[first : first + size] for first in range(0, len(some), size))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_up(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BESIDE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_request_on_a_kept_connection_takes_as_long_as_its_work(served: httpx.Client) -> None:
    """Without TCP_NODELAY small requests wait 44 ms for an acknowledgement; with it large ones are no slower."""
    body = otlp(rows(LOCAL_USER, 0)[:HALF_MEGABYTE])
    large = f"OTLP of {len(body) // 1000} kB"
    requests: dict[str, tuple[float, Callable[[], httpx.Response]]] = {
        "/auth/me": (ME_MS, lambda: served.get("/api/v1/auth/me")),
        "/agents": (AGENTS_MS, lambda: served.get("/api/v1/agents")),
        large: (HALF_MEGABYTE_MS, lambda: served.post("/v1/traces", content=body, headers={"Content-Type": PROTOBUF})),
    }

    def median_ms(send: Callable[[], httpx.Response], count: int) -> float:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            send().raise_for_status()
            taken.append((time.perf_counter() - began) * 1000)
        return statistics.median(taken)

    best: dict[str, float] = {}
    for name, (_, send) in requests.items():
        median_ms(
            send, WARM_UP
        )  # The first traces start the process that reads OTLP; the first answers wait for imports.
        best[name] = min(median_ms(send, MEASURED) for _ in range(3))
    print("\n" + ", ".join(f"{name} {ms:.1f} ms" for name, ms in best.items()) + " (p50)")
    for name, (most, _) in requests.items():
        assert best[name] < most, name
