"""Which host names a served lab answers to, and that two labs on one host keep their users apart."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.server.lab_process import LabProcess
from tests.server.served import SETTINGS, serve
from timestep_lab import Lab
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.runtime.settings import Settings
from timestep_lab.server.gate import Tokens, answers_to

OURS = ("localhost", "localhost:8765", "LOCALHOST:1", "lab.localhost:8765", "127.0.0.1:8765", "127.0.0.2", "[::1]:8765")
FOREIGN = (
    "evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:8765", "", "[",
    "evil.example@localhost", "localhost/evil.example", "notlocalhost",
)  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_on_loopback_a_lab_answers_to_the_machine_s_own_names(host: str) -> None:
    assert answers_to((), loopback=True)(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_on_loopback_a_lab_answers_to_no_other_name(host: str) -> None:
    assert not answers_to((), loopback=True)(host)


def test_names_can_be_added_for_a_proxy_in_front() -> None:
    answers = answers_to(("Hub.example.org", "lab.example.org:443"), loopback=True)
    assert answers("hub.example.org:8000")
    assert answers("lab.example.org")
    assert answers("localhost:8765")
    assert not answers("evil.example")
    assert answers_to(("*",), loopback=True)("evil.example")


def test_a_lab_that_others_reach_answers_to_any_name_until_names_are_set() -> None:
    assert answers_to((), loopback=False)("lab.example.org")
    assert not answers_to(("lab.example.org",), loopback=False)("evil.example")


def test_the_names_are_read_from_the_environment() -> None:
    assert Settings.load(env={"TIMESTEP_LAB_HOSTS": "a.example, b.example ,"}).hosts == ("a.example", "b.example")
    assert Settings.load(env={}).hosts == ()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/auth/anonymous"), ("POST", "/api/v1/runs"), ("GET", "/api/v1/agents"), ("GET", "/"), ("GET", "/healthz")],
)  # fmt: skip
def test_a_page_whose_name_was_pointed_here_is_answered_nothing(lab: LabProcess, method: str, path: str) -> None:
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    with lab.anonymous() as client:
        answer = client.request(method, path, headers=rebound, json={"prompt": "hi"} if method == "POST" else None)
    assert answer.status_code == 403
    assert "'evil.example'" in answer.json()["error"]["message"]
    assert "TIMESTEP_LAB_HOSTS" in answer.json()["error"]["message"]


def test_neither_is_its_websocket(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        headers = {"Authorization": client.headers["authorization"]}
    parts = urlsplit(lab.url)
    with (
        socket.create_connection((parts.hostname, parts.port)) as here,
        pytest.raises(InvalidStatus) as refused,
    ):
        connect(f"ws://evil.example:{parts.port}/ws", sock=here, additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_a_host_that_was_allowed_is_answered(tmp_path: Path) -> None:
    settings = Settings.load(env={"TIMESTEP_LAB_SECRET": "s" * 40, "TIMESTEP_LAB_HOSTS": "hub.example.org"})
    async with serve(tmp_path / "lab.duckdb", settings) as server, httpx.AsyncClient(base_url=server.url) as client:
        for host, status in (("hub.example.org", 200), ("evil.example", 403)):
            answer = await client.post("/api/v1/auth/anonymous", headers={"Host": host, "Origin": f"http://{host}"})
            assert answer.status_code == status


async def test_two_labs_on_one_host_do_not_sign_each_other_s_users_out(tmp_path: Path) -> None:
    other = Settings.load(env={"TIMESTEP_LAB_SECRET": "t" * 40})
    async with (
        serve(tmp_path / "a.duckdb", SETTINGS) as a,
        serve(tmp_path / "b.duckdb", other) as b,
        httpx.AsyncClient() as browser,
    ):
        for server in (a, b):
            link = await browser.get(f"{server.url}/?key={server.served.owner_key}")
            assert link.status_code == 303
        for server in (a, b):
            assert (await browser.get(f"{server.url}/api/v1/auth/me")).json()["user"] == {"id": LOCAL_USER}
        await browser.post(f"{b.url}/api/v1/auth/sign-out")
        assert (await browser.get(f"{a.url}/api/v1/auth/me")).status_code == 200
        assert (await browser.get(f"{b.url}/api/v1/auth/me")).status_code == 401


def test_the_cookie_s_name_is_that_of_the_secret() -> None:
    assert Tokens("s" * 40).cookie == Tokens("s" * 40).cookie != Tokens("t" * 40).cookie
    assert "s" * 8 not in Tokens("s" * 40).cookie


def test_a_sign_in_link_opens_the_lab_for_its_owner(lab: LabProcess) -> None:
    with Lab(lab.sign_in_link) as mine:
        assert {agent.user_id for agent in mine.agents.list()} == {LOCAL_USER}
