"""The websocket of a page's view: who may use it, and what is in its frames."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fastapi import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server.lab_process import LabProcess
from tests.server.page_socket import open_page, websocket
from timestep_lab.server.panel import pack, unpack

ANNA, BERT = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


async def page_of(lab: LabProcess, user: str) -> str:
    return await open_page(lab.url, "/settings", lab.tokens.issue(user))


def channel_of(lab: LabProcess, key: str, user: str | None) -> connect:
    return websocket(lab.url, f"/views/{key}", lab.tokens.issue(user) if user else None)


async def test_the_page_of_a_user_speaks_with_its_view(lab: LabProcess) -> None:
    key = await page_of(lab, ANNA)
    async with channel_of(lab, key, ANNA) as channel:
        await channel.send(json.dumps({"op": "sync", "mount": "m"}))
        [snapshot] = json.loads(await channel.recv())
        assert snapshot["op"] == "snap"
        await channel.send(json.dumps({"op": "call", "id": "1", "name": "nonsense", "args": {}}))
        told: list[dict[str, object]] = []
        while not any(message["op"] == "reply" for message in told):
            told += json.loads(await channel.recv())


@pytest.mark.parametrize("who", [BERT, None], ids=["another user", "nobody"])
async def test_nobody_else_speaks_with_it(lab: LabProcess, who: str | None) -> None:
    key = await page_of(lab, ANNA)
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with channel_of(lab, key, who) as channel:
            await channel.recv()


@pytest.mark.parametrize(
    "frame", ["{oops", "[1]", b"\xff\xff\xff\xff{}", b""], ids=["no JSON", "no object", "too short", "empty"]
)
async def test_what_is_no_message_ends_the_connection(lab: LabProcess, frame: str | bytes) -> None:
    key = await page_of(lab, ANNA)
    async with channel_of(lab, key, ANNA) as channel:
        await channel.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await channel.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003


@pytest.mark.parametrize("buffers", [[b""], [b"ab", b"", b"\x00" * 3]])
def test_binary_parts_come_out_as_they_went_in(buffers: list[bytes]) -> None:
    frame = {"type": "websocket.receive", "bytes": pack({"op": "reply", "value": "ü"}, buffers)}
    assert unpack(frame) == ({"op": "reply", "value": "ü"}, buffers)


def test_the_end_of_a_connection_is_told_from_a_message() -> None:
    with pytest.raises(WebSocketDisconnect):
        unpack({"type": "websocket.disconnect", "code": 1001})


async def test_a_hundred_pages_at_once_are_answered_whatever_cookies_other_programs_left(lab: LabProcess) -> None:
    users = [f"00000000-0000-4000-8000-{n:012d}" for n in range(100, 110)]
    foreign = ["a[b]=c", "_xsrf=2|1; x:y=1", "bad name=1", "expires=1; path=/; version=1"]
    async with httpx.AsyncClient(base_url=lab.url, verify=False, timeout=120) as client:

        async def status_of(n: int) -> int:
            head = {"Authorization": f"Bearer {lab.tokens.issue(users[n % 10])}", "Cookie": foreign[n % len(foreign)]}
            return (await client.get("/chat", headers=head)).status_code

        assert await asyncio.gather(*map(status_of, range(100))) == [200] * 100


async def test_an_address_does_not_choose_the_session_of_its_page(lab: LabProcess) -> None:
    for asked in ("", "chosen"):
        path = f"/settings?bokeh_session_id={asked}"
        keys = [await open_page(lab.url, path, lab.tokens.issue(user)) for user in (ANNA, ANNA, BERT)]
        assert len(set(keys)) == 3
