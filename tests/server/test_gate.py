"""Who gets in, from where, how big and how often: over HTTP, against a really served lab."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.server.lab_process import SECRET, LabProcess
from timestep_lab import Lab
from timestep_lab.model.errors import AuthError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.runtime.settings import Settings
from timestep_lab.server.gate import RateLimits, Tokens
from timestep_lab.server.server import Served

WHOM = "somebody"
CLAIMS = {"sub": WHOM, "aud": "timestep-lab", "exp": 4_000_000_000}


def unsigned(claims: dict[str, object]) -> str:
    return jwt.encode(claims, None, algorithm="none")


BAD_TOKENS = {
    "forged": Tokens("another secret that is long enough, too").issue(WHOM),
    "expired": Tokens(SECRET).issue(WHOM, lifetime=timedelta(seconds=-1)),
    "alg=none": unsigned(CLAIMS),
    "another algorithm with the right key": jwt.encode(CLAIMS, SECRET.ljust(64), algorithm="HS512"),
    "another audience": jwt.encode({**CLAIMS, "aud": "elsewhere"}, SECRET, algorithm="HS256"),
    "no audience": jwt.encode({"sub": WHOM, "exp": CLAIMS["exp"]}, SECRET, algorithm="HS256"),
    "no end": jwt.encode({"sub": WHOM, "aud": "timestep-lab"}, SECRET, algorithm="HS256"),
    "no user": jwt.encode({**CLAIMS, "sub": ""}, SECRET, algorithm="HS256"),
    "no token at all": "x.y.z",
}


def test_a_token_that_was_accepted_is_refused_once_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(SECRET)
    token = tokens.issue(WHOM, lifetime=timedelta(minutes=1))
    assert tokens.verify(token) == tokens.verify(token)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(AuthError, match="has expired"):
        tokens.verify(token)


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_token_opens_nothing(lab: LabProcess, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with lab.nobody() as client:
        for answer in (
            client.get("/api/v1/agents", headers=headers),
            client.get("/api/v1/agents", headers={"Cookie": f"{lab.tokens.cookie}={token}"}),
            client.post("/api/v1/sql", headers=headers, json={"query": "select 1"}),
        ):
            assert answer.status_code == 401
            assert answer.json()["error"]["message"]


def test_a_good_token_opens_the_door(lab: LabProcess) -> None:
    with lab.client(lab.tokens.issue(WHOM)) as client:
        assert client.get("/api/v1/agents").status_code == 200


def test_without_a_token_the_answer_says_how_to_get_one(lab: LabProcess) -> None:
    with lab.nobody() as client:
        answer = client.get("/api/v1/threads")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "/api/v1/auth/anonymous" in answer.json()["error"]["message"]


def test_every_route_of_the_api_but_the_open_ones_needs_a_token(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        document = client.get("/api/openapi.json").json()
    open_ones = {"/healthz", "/readyz", "/api/v1/auth/anonymous"}
    with lab.nobody() as client:
        for path, methods in document["paths"].items():
            for method in methods if path not in open_ones else ():
                answer = client.request(method, path.replace("{", "").replace("}", ""))
                assert answer.status_code == 401, f"{method} {path}"


def test_a_browser_that_opens_a_page_becomes_a_user_with_a_cookie_that_no_script_reads(lab: LabProcess) -> None:
    with lab.nobody() as client:
        answer = client.get("/settings")
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert cookie.split("=", 1)[1].split(";")[0] not in answer.text


def test_a_page_of_another_site_changes_nothing(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        for method, path in (("POST", "/api/v1/threads"), ("POST", "/api/v1/auth/sign-out"), ("DELETE", "/api/v1/agents/x"), ("PUT", "/api/v1/agents/x")):  # fmt: skip
            answer = client.request(method, path, headers={"Origin": "https://evil.example"}, json={})
            assert answer.status_code == 403, path
        assert client.post("/api/v1/threads", headers={"Origin": "null"}, json={}).status_code == 403
        assert client.post("/api/v1/threads", headers={"Origin": lab.url}, json={}).status_code < 300
        answer = client.get("/api/v1/threads", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("page", ["", "/chat", "/approvals"])
def test_a_page_of_another_site_gets_no_websocket(lab: LabProcess, page: str) -> None:
    with lab.anonymous() as client:
        token = client.headers["authorization"].removeprefix("Bearer ")
    with pytest.raises(InvalidStatus) as refused:
        connect(
            f"{lab.url.replace('http', 'ws')}{page}/ws", origin="https://evil.example",  # type: ignore[arg-type]
            additional_headers={"Cookie": f"{lab.tokens.cookie}={token}"},
        )  # fmt: skip
    assert refused.value.response.status_code == 403


def test_a_websocket_without_a_token_is_refused(lab: LabProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{lab.url.replace('http', 'ws')}/chat/ws", origin=lab.url)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 401


def test_too_large_a_body_is_refused_before_it_is_sent(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        authorization = client.headers["authorization"]
    place = urlsplit(lab.url)
    assert place.hostname is not None
    head = (
        f"POST /api/v1/threads HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {60 * 2**20}\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port or 80), timeout=10) as wire:
        wire.sendall(head.encode())  # And not one byte of the body.
        assert wire.recv(200).startswith(b"HTTP/1.1 413")


def test_traces_are_taken_in_batches_as_large_as_exporters_send_and_a_larger_one_is_told_to_be_split(
    lab: LabProcess,
) -> None:
    with lab.anonymous() as client:
        spans = [
            {"traceId": f"{1:032x}", "spanId": f"{number:016x}", "name": "chat", "startTimeUnixNano": str(10**18),
             "endTimeUnixNano": str(10**18), "attributes": [{"key": "input.value", "value": {"stringValue": "x" * 25_000}}]}
            for number in range(1, 513)
        ]  # fmt: skip
        answer = client.post("/v1/traces", json={"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}, timeout=60)
        assert (answer.status_code, answer.json()) == (200, {})
        authorization = client.headers["authorization"]
    place = urlsplit(lab.url)
    assert place.hostname is not None
    head = (
        f"POST /v1/traces HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {300 * 2**20}\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port or 80), timeout=10) as wire:
        wire.sendall(head.encode())
        answered = wire.recv(10_000)
        while b"BATCH_SIZE" not in answered and (more := wire.recv(10_000)):
            answered += more
    assert answered.startswith(b"HTTP/1.1 413")
    assert b"OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in answered


def test_log_records_are_taken_beside_the_spans_they_belong_to(lab: LabProcess) -> None:
    ids = {"traceId": f"{7:032x}", "spanId": f"{7:016x}"}
    record = {**ids, "timeUnixNano": "1", "eventName": "gen_ai.user.message", "body": {"kvlistValue": {"values": [
        {"key": "content", "value": {"stringValue": "why?"}}]}}}  # fmt: skip
    chat = [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]
    span = {**ids, "name": "chat", "startTimeUnixNano": str(10**18), "endTimeUnixNano": str(10**18), "attributes": chat}
    with lab.anonymous() as client:
        plain = {"timeUnixNano": "1", "body": {"stringValue": "listening"}}
        answer = client.post("/v1/logs", json={"resourceLogs": [{"scopeLogs": [{"logRecords": [record, plain]}]}]})
        assert answer.status_code == 200
        assert answer.json()["partialSuccess"]["rejectedLogRecords"] == 1
        client.post("/v1/traces", json={"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).raise_for_status()
        answer = client.post("/api/v1/sql", json={"query": "select input from traces"})
        assert answer.status_code == 200, answer.text
        found = answer.json()["rows"]
        assert found == [{"input": "why?"}]
        assert client.post("/v1/logs", content=b"", headers={"Content-Type": "application/x-protobuf"}).content == b""


@pytest.mark.parametrize(
    ("path", "words"),
    [("/v1/metrics", "OTEL_METRICS_EXPORTER=none"), ("/api/v2/spans", "OTLP over HTTP"), ("/api/traces", "OTLP over HTTP")],
)  # fmt: skip
def test_exporters_of_other_protocols_are_told_what_to_send(lab: LabProcess, path: str, words: str) -> None:
    with lab.anonymous() as client:
        answer = client.post(path, content=b"[]", headers={"Content-Type": "application/json"})
    assert answer.status_code == 404
    assert words in answer.json()["error"]["message"]


def test_too_large_a_body_of_unknown_length_is_refused_on_its_way(lab: LabProcess) -> None:
    sent = 0

    def endless() -> object:
        nonlocal sent
        for _ in range(64):
            sent += 2**20
            yield b" " * 2**20

    with lab.anonymous() as client:
        try:
            answer = client.post(
                "/api/v1/threads", content=endless(), headers={"Content-Type": "application/json"}  # type: ignore[arg-type]
            )  # fmt: skip
        except httpx.WriteError:  # The server closed the connection while we were still talking.
            assert sent < 64 * 2**20
        else:
            assert answer.status_code == 413
            assert "larger than" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/chat", "/api/v1/agents", "/healthz", "/assets/shell.js", "/nowhere"])
def test_every_answer_carries_the_security_headers(lab: LabProcess, path: str) -> None:
    with lab.nobody() as client:
        headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "object-src 'none'" in headers["content-security-policy"]


def test_a_client_cannot_say_who_it_is_by_a_header(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        agents = client.get("/api/v1/agents", headers={"X-Timestep-User": LOCAL_USER}).json()
        assert LOCAL_USER not in {agent["user_id"] for agent in agents}
        page = client.get("/settings", headers={"X-Timestep-User": LOCAL_USER})
    assert "<strong>Guest</strong>" in page.text


def test_signing_out_takes_the_cookie_away(lab: LabProcess) -> None:
    with lab.nobody() as browser:
        browser.get("/settings")
        assert browser.get("/api/v1/agents").status_code == 200
        assert browser.post("/api/v1/auth/sign-out").status_code == 204
        assert browser.get("/api/v1/agents").status_code == 401


def test_the_link_in_the_terminal_signs_in_the_labs_own_user_and_leaves_no_key_behind(lab: LabProcess) -> None:
    with lab.nobody() as browser:
        answer = browser.get(lab.sign_in_link)
        assert answer.status_code == 303
        assert "key" not in answer.headers["location"]
        owners = {agent["user_id"] for agent in browser.get("/api/v1/agents").json()}
        assert owners == {LOCAL_USER}


def test_a_link_of_an_earlier_start_says_so_and_signs_nobody_in(lab: LabProcess) -> None:
    with lab.nobody() as stranger:
        answer = stranger.get("/settings?key=wrong")
        assert answer.status_code == 401
        assert "This link has expired" in answer.text
        assert 'href="/settings"' in answer.text  # On as a guest.
        assert "set-cookie" not in answer.headers
        assert 'href="/evil.example"' in stranger.get(f"{lab.url}//evil.example?key=wrong").text
    with lab.nobody() as owner:
        owner.get(lab.sign_in_link)
        again = owner.get("/settings?key=wrong")
        assert (again.status_code, again.headers["location"]) == (303, "/settings")


def test_an_address_at_which_nothing_is_gives_a_browser_a_page_and_a_program_json(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        page = client.get("/<nope>", headers={"Accept": "text/html,*/*"})
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "There is no page at /&lt;nope&gt;." in page.text
        assert 'href="/"' in page.text
        for path, accept in (("/nope", "*/*"), ("/api/v1/nope", "text/html")):
            answer = client.get(path, headers={"Accept": accept})
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


async def test_who_calls_too_often_is_told_how_long_to_wait(tmp_path: Path) -> None:
    own = Lab(tmp_path / "lab.duckdb", settings=Settings.load(env={"TIMESTEP_LAB_SECRET": SECRET}))
    limits = RateLimits(requests_per_second=0.5, request_burst=3, sign_ins_per_minute=1, sign_in_burst=2)
    served = Served(own, loopback=True, pages=False, limits=limits)
    try:
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            mine = {"Authorization": f"Bearer {served.tokens.issue('a')}"}
            answers = [await client.get("/api/v1/agents", headers=mine) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
            assert "Try again in" in answers[-1].json()["error"]["message"]
            other = {"Authorization": f"Bearer {served.tokens.issue('b')}"}
            assert (await client.get("/api/v1/agents", headers=other)).status_code == 200
            made = [(await client.post("/api/v1/auth/anonymous")).status_code for _ in range(3)]
            assert made == [200, 200, 429]
    finally:
        await own.aclose()
