"""Guests of a served lab reach public MCP servers only; its own user reaches any."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.mcp.conftest import HttpServer, MakeToolbox, server
from timestep_lab.model.errors import ForbiddenError
from timestep_lab.runtime.mcp.server_records import is_public
from timestep_lab.runtime.mcp.toolbox import McpCatalog
from timestep_lab.store.store import open_store

GUEST = "somebody"
PUBLIC = "93.184.216.34"
PRIVATE_URLS = (
    "http://127.0.0.1:8765/mcp", "http://localhost/mcp", "http://LOCALHOST./mcp", "http://lab.localhost/mcp", "http://127.1/mcp",
    "http://2130706433/mcp", "http://0x7f000001/mcp", "http://0/mcp", "http://[::1]/mcp", "http://[::ffff:127.0.0.1]/mcp",
    "http://10.1.2.3/mcp", "http://192.168.0.1/mcp", "http://172.16.0.1/mcp", "http://100.64.0.1/mcp", "https://[fd00::1]/mcp",
    "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/mcp", "http://[64:ff9b::7f00:1]/mcp",
)  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE_URLS)
def test_a_guest_adds_no_server_at_a_private_address(url: str) -> None:
    with open_store(":memory:") as store:
        guests = McpCatalog(store.for_user(GUEST))
        with pytest.raises(ForbiddenError, match="has no public address"):
            guests.add("inside", url=url)
        assert guests.list() == []
        assert McpCatalog(store).add("inside", url=url).url == url


def test_a_guest_adds_a_server_at_a_public_one() -> None:
    with open_store(":memory:") as store:
        for n, url in enumerate(("https://example.org/mcp", f"http://{PUBLIC}/mcp", "http://[2606:4700::1111]/mcp")):
            McpCatalog(store.for_user(GUEST)).add(str(n), url=url)


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "2002:a00:1::", "fe80::1%eth0"])
def test_addresses_that_stand_for_no_one_host_of_the_internet_are_not_public(address: str) -> None:
    assert not is_public(address)


class Names:
    """What a name is found to be, one answer after the other; the last one stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self._addresses, self.asked = list(addresses), 0
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        address = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))]


async def test_a_name_that_means_a_private_address_is_not_connected_to(
    toolbox: MakeToolbox, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(server("docs", url=notes_url.replace("127.0.0.1", "docs.example")), user_id=GUEST)
    names = Names(monkeypatch, "127.0.0.1")
    _, [problem] = await toolbox(record).survey()
    assert names.asked
    assert "has no public address" in problem.message
    assert "127.0.0.1" not in str(problem)


async def test_neither_is_one_that_means_it_a_moment_later(
    toolbox: MakeToolbox, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(server("docs", url=notes_url.replace("127.0.0.1", "docs.example")), user_id=GUEST)
    Names(monkeypatch, PUBLIC, "127.0.0.1")
    _, [problem] = await toolbox(record).survey()
    assert "did not respond" in problem.message
    assert "127.0.0.1" not in str(problem)


async def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    toolbox: MakeToolbox, mortal_notes: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timestep_lab.runtime.mcp.server_records.is_public", lambda address: address == "127.0.0.1")
    record = replace(server("docs", url=mortal_notes.url.replace("127.0.0.1", "localhost")), user_id=GUEST)
    tools, problems = await toolbox(record).survey()
    assert problems == []
    assert {tool.server for tool in tools} == {"lab", "docs"}


class Elsewhere(BaseHTTPRequestHandler):
    """Sends every POST to another origin, and remembers who came."""

    url = target = ""
    seen: list[str] = []

    def do_POST(self) -> None:
        self.seen.append(self.path)
        self.send_response(307)
        self.send_header("Location", self.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def redirecting() -> Iterator[type[Elsewhere]]:
    aside = HTTPServer(("127.0.0.1", 0), Elsewhere)
    first = HTTPServer(("127.0.0.1", 0), Elsewhere)
    Elsewhere.seen, Elsewhere.target = [], f"http://127.0.0.1:{aside.server_port}/secret"
    threads = [threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}) for one in (first, aside)]
    for thread in threads:
        thread.start()
    Elsewhere.url = f"http://127.0.0.1:{first.server_port}/mcp"
    yield Elsewhere
    for one, thread in zip((first, aside), threads, strict=True):
        one.shutdown()
        thread.join()
        one.server_close()


async def test_a_redirect_to_another_origin_is_not_followed_and_said_nowhere_but_in_the_error(
    toolbox: MakeToolbox, redirecting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    _, [problem] = await toolbox(server("docs", url=redirecting.url, headers={"X-Key": "hunter22"})).survey()
    assert set(redirecting.seen) == {"/mcp"}
    assert "docs" in problem.message
    assert [record.name for record in caplog.records] == []
