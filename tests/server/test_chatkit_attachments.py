"""Files in a chat: announced, sent, attached; counted while they come, known by their bytes, called by a harmless name."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.server.served import ChatKitClient, Server, serve, text_of, thread_of
from timestep_lab.runtime.files.files import MAX_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serve(tmp_path_factory.mktemp("served") / "lab.duckdb") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def chat(server: Server) -> AsyncIterator[ChatKitClient]:
    async with server.client() as chat:
        yield chat


def png() -> bytes:
    """One grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


async def status_without_a_body(chat: ChatKitClient, path: str, announced: int) -> int:
    """What is answered to a request of which only the head was sent."""
    url = chat.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"PUT {path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {announced}\r\n"
    writer.write(f"{head}Authorization: {chat.http.headers['authorization']}\r\n\r\n".encode())
    status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    writer.close()
    return status


async def test_a_file_is_announced_then_sent_then_read_by_the_model(chat: ChatKitClient) -> None:
    made = await chat.ask("attachments.create", name="notes.txt", size=11, mime_type="text/plain")
    where = made["upload_descriptor"]
    sent = await chat.http.request(where["method"], where["url"], headers=where["headers"], content=b"hello notes")
    assert sent.status_code == 200, sent.text
    assert sent.json() == {"type": "file", "id": made["id"], "name": "notes.txt", "mime_type": "text/plain"}

    events = await chat.say("Look", attachments=(made["id"],), inference_options={"model": "demo/echo"})

    [message] = [i for i in await chat.items(thread_of(events)) if i["type"] == "user_message"]
    assert [a["id"] for a in message["attachments"]] == [made["id"]]
    assert message["attachments"][0]["thread_id"] == thread_of(events)
    asked = chat.lab.store.threads.session_items(thread_of(events))[0]
    assert "hello notes" in str(asked["content"])
    assert text_of(events)
    again = await chat.http.request(where["method"], where["url"], content=b"something else")
    assert again.status_code == 409


async def test_an_image_sent_in_a_form_is_known_by_its_bytes(chat: ChatKitClient) -> None:
    answer = await chat.http.post(f"{chat.path}/upload", files={"file": ("../../etc/passwd.txt", png(), "text/plain")})
    attachment = answer.json()
    assert (attachment["type"], attachment["mime_type"], attachment["name"]) == ("image", "image/png", "passwd.txt")
    shown = await chat.http.get(attachment["preview_url"])
    assert (shown.content, shown.headers["content-type"]) == (png(), "image/png")

    events = await chat.say("Look", attachments=(attachment["id"],), inference_options={"model": "demo/echo"})
    asked = chat.lab.store.threads.session_items(thread_of(events))[0]
    assert [part["type"] for part in asked["content"]] == ["input_text", "input_image"]


async def test_a_page_called_an_image_is_never_shown_as_a_page(chat: ChatKitClient) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    answer = await chat.http.post(f"{chat.path}/upload", files={"file": ("cat.png", page, "image/png")})
    assert answer.json()["type"] == "file"
    shown = await chat.http.get(f"/openai/v1/files/{answer.json()['id']}/content")
    assert shown.headers["content-disposition"].startswith("attachment")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in shown.headers["content-security-policy"]


async def test_fifty_megabytes_are_taken_and_one_byte_more_is_refused_before_the_rest_is_read(
    chat: ChatKitClient,
) -> None:
    upload = f"{chat.path}/upload"
    block = b"\0" * 2**20
    taken = await chat.http.post(upload, files={"file": ("big.bin", block * (MAX_BYTES // 2**20))})
    assert taken.status_code == 200, taken.text
    assert chat.lab.files.get(taken.json()["id"]).bytes == MAX_BYTES

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(MAX_BYTES // len(block)):
            yield block
        yield b"x"

    refused = await chat.http.put(upload, content=unannounced(), headers={"Content-Type": "application/octet-stream"})
    assert refused.status_code == 413
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert await status_without_a_body(chat, upload, MAX_BYTES + 1) == 413
    over = await chat.http.post(upload, files={"file": ("big.bin", block * (MAX_BYTES // 2**20) + b"x")})
    assert over.status_code == 413
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        await chat.ask("attachments.create", name="big.bin", size=MAX_BYTES + 1, mime_type="text/plain")


async def test_an_attachment_is_deleted_with_its_bytes_and_belongs_to_its_user(
    server: Server, chat: ChatKitClient
) -> None:
    made = (await chat.http.post(f"{chat.path}/upload", files={"file": ("a.txt", b"mine")})).json()
    waiting = await chat.ask("attachments.create", name="b.txt", size=1, mime_type="text/plain")
    async with server.client() as other:
        for attempt in (
            await other.http.post(
                other.path, json={"type": "attachments.delete", "params": {"attachment_id": made["id"]}}
            ),
            await other.http.put(f"{other.path}/upload?attachment_id={waiting['id']}", content=b"x"),
            await other.http.get(f"/openai/v1/files/{made['id']}/content"),
        ):
            assert attempt.status_code == 404
        thread = thread_of(await other.say("Hello"))
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await other.say("Look", thread, attachments=(made["id"],))
    await chat.ask("attachments.delete", attachment_id=made["id"])
    await chat.ask("attachments.delete", attachment_id=waiting["id"])
    assert (await chat.http.get(f"/openai/v1/files/{made['id']}/content")).status_code == 404


async def test_what_is_no_form_with_one_file_is_refused(chat: ChatKitClient) -> None:
    upload = f"{chat.path}/upload"
    for headers, body in (
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"no boundary here"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
        ),
    ):
        assert (await chat.http.post(upload, content=body, headers=headers)).status_code == 400
    two = [("file", ("a", b"1")), ("file", ("b", b"2"))]
    assert (await chat.http.post(upload, files=two)).status_code == 400


async def test_a_picture_is_announced_as_one_and_becomes_what_its_bytes_are(chat: ChatKitClient) -> None:
    made = await chat.ask("attachments.create", name="dot.png", size=len(png()), mime_type="image/png")
    assert (made["type"], made["mime_type"]) == ("image", "image/png")
    assert made["preview_url"].endswith(f"/openai/v1/files/{made['id']}/content")
    where = made["upload_descriptor"]
    sent = await chat.http.request(
        where["method"], where["url"], headers=where["headers"], content=b"no picture at all"
    )
    assert (sent.json()["type"], sent.json()["mime_type"]) == ("file", "text/plain")
    odd = await chat.ask("attachments.create", name="a", size=1, mime_type="<script>")
    assert (odd["type"], odd["mime_type"]) == ("file", "application/octet-stream")


async def test_a_file_of_less_than_nothing_is_refused(chat: ChatKitClient) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await chat.ask("attachments.create", name="a.txt", size=-1, mime_type="text/plain")
    assert refused.value.response.json()["error"]["param"] == "params.size"


@pytest.mark.parametrize("limit", [0, -1, 100_000])
async def test_a_page_of_a_size_that_is_none_is_refused(chat: ChatKitClient, limit: int) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await chat.ask("threads.list", limit=limit)
    assert refused.value.response.status_code == 400
    assert refused.value.response.json()["error"]["param"] == "params.limit"
