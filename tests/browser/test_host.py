"""One ES module and one Python state, however a browser comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from timestep_lab.model.errors import UsageError
from timestep_lab.ui.view import Reply, View, handles


class Probe(View):
    stem = str(Path(__file__).with_name("components") / "probe")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.text = ""
        self.batches = 0

    def snapshot(self) -> dict[str, str]:
        return {"text": self.text}

    def static_html(self) -> str:
        return "<p>static</p>"

    def add(self, text: str) -> None:
        self.text += text
        self.emit({"kind": "add", "text": text})

    def merge(self, last: dict[str, Any], op: dict[str, Any]) -> bool:
        last["text"] += op["text"]
        return True

    @handles("double")
    async def _double(self, number: int, buffers: list[bytes]) -> Reply:
        return Reply(number * 2, [bytes(reversed(buffers[0]))])

    @handles("refuse")
    def _refuse(self) -> None:
        raise UsageError("No.", "Ask for something else.")


def test_what_is_added_before_during_and_after_mounting_is_all_there(show: Any) -> None:
    probe = Probe()
    probe.add("a")
    page: Page = show(probe)
    probe.add("b")
    probe.add("c")
    expect(page.locator(".log")).to_have_text("abc")


def test_two_browsers_see_the_same(show: Any) -> None:
    probe = Probe()
    one, two = show(probe), show(probe)
    probe.add("x")
    expect(one.locator(".log")).to_have_text("x")
    expect(two.locator(".log")).to_have_text("x")


def test_a_lost_message_is_noticed_and_the_view_recovers(show: Any) -> None:
    probe = Probe()
    page: Page = show(probe)
    page.evaluate("window.dropBatches = 1")
    probe.add("lost ")
    page.wait_for_function("window.dropped === 1")
    probe.add("found")
    expect(page.locator(".log")).to_have_text("lost found")


def test_a_thousand_small_changes_are_a_few_messages(show: Any) -> None:
    probe = Probe()
    page: Page = show(probe)
    before = probe._seq
    for _ in range(1000):
        probe.add("x")
    expect(page.locator(".log")).to_have_text("x" * 1000)
    assert probe._seq - before < 20


def test_calls_are_answered_with_values_and_bytes(show: Any) -> None:
    page: Page = show(Probe())
    page.locator(".ask").click()
    expect(page.locator(".answer")).to_have_text("42 3,2,1")


def test_a_refusal_reaches_the_browser_with_its_next_step(show: Any) -> None:
    page: Page = show(Probe())
    page.locator(".fail").click()
    expect(page.locator(".answer")).to_have_text("No. | Ask for something else.")


def test_the_static_copy_is_hidden_while_the_view_lives_and_shown_after(show: Any) -> None:
    page: Page = show(Probe())
    static_copy = page.locator("[data-tl-static]")
    expect(static_copy).to_be_hidden()
    page.evaluate("window.unmount()")
    expect(static_copy).to_be_visible()


def test_the_theme_follows_the_page_until_it_is_set(show: Any) -> None:
    probe = Probe()
    page: Page = show(probe, dark=True)
    root = page.locator(".tl-root")
    expect(root).to_have_attribute("data-tl-theme", "dark")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    expect(root).to_have_attribute("data-tl-theme", "light")
    probe.theme = "dark"
    expect(root).to_have_attribute("data-tl-theme", "dark")


@pytest.mark.parametrize(
    ("painted", "theme"), [("#181818", "dark"), ("oklch(0.98 0 0)", "light"), ("rgb(0 0 0 / 10%)", "light")]
)
def test_a_page_that_has_its_own_word_for_dark_is_followed_by_what_it_paints(
    show: Any, painted: str, theme: str
) -> None:
    """As Panel's templates, marimo and Colab. What hardly covers counts for nothing: the page below it does."""
    page: Page = show(Probe(), dark=False)
    page.evaluate("document.body.style.background = '#fff'")
    page.evaluate("(colour) => { document.getElementById('view').style.background = colour; }", painted)
    page.evaluate("document.body.classList.add('changed')")
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", theme)


def test_nobody_watches_after_the_page_is_closed(show: Any) -> None:
    probe = Probe()
    page: Page = show(probe)
    assert probe.is_watched
    page.evaluate("window.unmount()")
    page.close()
    for _ in range(100):
        if not probe.is_watched:
            break
        __import__("time").sleep(0.02)
    assert not probe.is_watched
