"""What a page says of itself: its title, whose it is, and why what was asked for cannot be shown."""

from __future__ import annotations

import asyncio
import html
import logging
import re
from typing import Any

import pytest

from tests.server.lab_process import LabProcess
from timestep_lab.model.errors import UsageError
from timestep_lab.runtime.settings import Settings
from timestep_lab.server import pages
from timestep_lab.server.pages import files as embeddings
from timestep_lab.server.pages import shell
from timestep_lab.server.pages.page_view import NotHere, Notice, PageView

NOT_THERE = {
    "/traces/nope": "This trace does not exist",
    "/chat?id=thr_nope": "This conversation does not exist",
    "/compare/nope": "This comparison does not exist",
    "/agents/nope": "This agent does not exist",
}


def title(text: str) -> str:
    found = re.search(r"<title>(.*?)</title>", text)
    assert found is not None
    return html.unescape(found.group(1))


@pytest.mark.parametrize(("path", "said"), NOT_THERE.items())
def test_what_is_not_there_is_said_within_the_navigation_with_a_way_on(lab: LabProcess, path: str, said: str) -> None:
    with lab.anonymous() as client:
        answer = client.get(path, follow_redirects=True)
    text = answer.text
    assert answer.status_code == 404
    assert said in text
    assert "It may have been deleted, or you are signed in as a different user" in text
    assert 'aria-label="Pages"' in text
    assert f'href="{path.partition("?")[0].removesuffix("/nope")}">All ' in text
    assert "Traceback" not in text
    assert title(text) == f"{said} · Timestep Lab"


@pytest.mark.parametrize(
    ("path", "way_on"),
    [
        ("/nowhere", ("/", "Open Overview")),
        ("/trace", ("/traces", "Open Traces")),
        ("/settings/profile", ("/settings", "Open Settings")),
        ("/traces/one/two", ("/traces", "Open Traces")),
        ("/%3Cscript%3Ealert(1)%3C/script%3E", ("/", "Open Overview")),
    ],
)
def test_an_unknown_address_is_told_with_404_within_the_navigation_with_a_way_on(
    lab: LabProcess, path: str, way_on: tuple[str, str]
) -> None:
    with lab.anonymous() as client:
        answer = client.get(path, headers={"Accept": "text/html"})
        data = client.get(path)
    text = answer.text
    assert (answer.status_code, data.status_code) == (404, 404)
    assert title(text) == "Page not found · Timestep Lab"
    assert text.count("<h1") == 1
    assert 'aria-label="Pages"' in text
    assert 'aria-current="page"' not in text
    assert f'<a class="shell-button" href="{way_on[0]}">{way_on[1]}</a>' in text
    assert "<script>alert" not in text
    assert data.json()["error"]["type"] == "invalid_request_error"


def test_what_is_somebody_elses_is_not_there(lab: LabProcess) -> None:
    with lab.anonymous() as a, lab.anonymous() as b:
        thread = a.post("/api/v1/threads", json={"title": "A secret talk"}).json()["id"]
        assert title(a.get(f"/chat?id={thread}").text) == "A secret talk · Timestep Lab"
        text = b.get(f"/chat?id={thread}").text
    assert "This conversation does not exist" in text
    assert "secret" not in text


@pytest.mark.parametrize("entry", shell.entries(), ids=lambda entry: entry.title)
def test_every_page_has_its_own_title(lab: LabProcess, entry: shell.Entry) -> None:
    with lab.anonymous() as client:
        assert title(client.get(entry.path).text) == f"{entry.title} · Timestep Lab"


def test_the_tab_of_one_thing_bears_its_name_which_is_never_read_as_markup(lab: LabProcess) -> None:
    name = "{{ 7 * 7 }} <script>alert(1)</script> & more"
    asked = {"cases": ["Say tea"], "models": ["demo/echo"], "name": name}
    with lab.anonymous() as client:
        made = client.post("/api/v1/compare", json=asked).json()["id"]
        comparison = client.get(f"/compare?id={made}").text
        question = " ".join(["Tell me of tea"] * 9)
        run = client.post("/api/v1/runs", json={"prompt": question, "model": "demo/echo"}).json()["run"]
        trace = client.get(f"/traces?id={run['trace_id']}").text
    assert title(comparison) == f"{name} · Timestep Lab"
    assert "<script>alert" not in comparison
    assert "{{ 7 * 7 }}" in comparison
    assert re.fullmatch(r"Tell me of tea.{20,46}… · Timestep Lab", title(trace))


def test_guests_are_told_that_they_are_guests_and_the_owner_is_not(lab: LabProcess) -> None:
    hint = "The link in the terminal signs you in as the lab&#39;s owner."
    with lab.nobody(follow_redirects=True) as guest, lab.nobody(follow_redirects=True) as owner:
        assert hint in guest.get("/tools").text.replace("'", "&#39;")
        assert hint not in owner.get(lab.sign_in_link).text.replace("'", "&#39;")


def failing(error: Exception) -> Any:
    class Entry:
        path, things = "/traces", ("trace", "traces")

        @staticmethod
        def make(lab: Any, *, is_owner: bool) -> Any:
            raise error

    return Entry()


def test_a_failure_while_a_page_is_made_is_told_in_its_own_words_and_a_fault_only_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def said(error: Exception) -> Notice:
        shown = pages._shown(failing(error), None, is_owner=False, guest=False)
        assert isinstance(shown, Notice)
        return shown

    assert said(NotHere()).title == "This trace does not exist"
    assert said(UsageError("No model.", "Choose one.")).words == ["No model.", "Choose one."]
    assert caplog.records == []
    with caplog.at_level(logging.ERROR):
        fault = said(ValueError("/srv/secret/path"))
    assert fault.title == "Something went wrong"
    assert "secret" not in " ".join(fault.words)
    assert "/srv/secret/path" in caplog.text


def test_a_duel_with_an_unknown_model_is_refused_within_the_navigation(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        answer = client.get("/compare?duel=nonsense/a&duel=demo/echo")
    text = answer.text
    assert answer.status_code == 400
    assert "This page cannot be shown" in text
    assert "nonsense" in text
    assert 'aria-label="Pages"' in text


def test_embeddings_that_cannot_be_had_are_said_before_a_store_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Settings.load(env={})
    monkeypatch.setattr(embeddings, "find_spec", lambda name: object())
    assert embeddings.default_embeddings(here) == {"model": "local/wordllama", "problem": None}
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    assert "timestep-lab[files]" in str(embeddings.default_embeddings(here)["problem"])
    keyless = Settings.load(env={"DEFAULT_EMBEDDING_MODEL": "openai/text-embedding-3-small"})
    assert "OPENAI_API_KEY" in str(embeddings.default_embeddings(keyless)["problem"])


class Counting(PageView):
    """Shows how often it was read; each reading takes until the test lets it end."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.readings: list[asyncio.Event] = []

    async def read(self) -> Any:
        n = len(self.readings) + 1
        may_end = asyncio.Event()
        self.readings.append(may_end)
        await may_end.wait()
        return n


async def test_a_page_that_is_read_anew_while_it_is_read_shows_the_later_reading() -> None:
    page = Counting()
    early = asyncio.create_task(page.refresh())
    await asyncio.sleep(0)
    later = [asyncio.create_task(page.refresh()) for _ in range(2)]
    await asyncio.sleep(0)
    page.readings[0].set()
    await asyncio.sleep(0.01)
    assert page.snapshot() == {"page": None}, "What was read before a later change is not shown."
    assert not early.done()
    page.readings[1].set()
    await asyncio.gather(early, *later)
    assert page.snapshot() == {"page": 2}
    assert len(page.readings) == 2, "All that was asked for meanwhile is answered by one more reading."
