"""Whatever the host's theme and whatever the view's, text stands out from what is behind it. The host here is a page with JupyterLab's variables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_accessibility import serious
from tests.browser.test_chat import SETTINGS, answered, message
from tests.ui.sample_traces import SampleSource
from timestep_lab import Lab
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.trace_view import TraceView
from timestep_lab.ui.view import View

Show = Callable[..., Page]
Theme = Literal["light", "dark"]
HOSTS: dict[Theme, dict[str, str]] = {
    "light": {"--jp-layout-color1": "white", "--jp-ui-font-color1": "rgba(0, 0, 0, 0.87)"},
    "dark": {"--jp-layout-color1": "#111111", "--jp-ui-font-color1": "rgba(255, 255, 255, 1)"},
}
BECOME = """([theme, variables]) => {
  document.body.dataset.jpThemeLight = String(theme === "light");
  for (const [name, value] of Object.entries(variables)) document.documentElement.style.setProperty(name, value); }"""
CONTRAST = """() => {
  const root = document.querySelector(".tl-root"), probe = document.createElement("i"), canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  root.append(probe);
  const read = (name) => { probe.style.color = `var(--tl-${name})`; canvas.fillStyle = "#f0f"; canvas.fillStyle = getComputedStyle(probe).color;
    canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (one, other) => { const [a, b] = [light(read(one)), light(read(other))].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const inks = ["ink", "ink-soft", "ink-faint", "accent", "good", "bad", "warn", "agent-ink", "generation-ink", "tool-ink", "handoff-ink", "other-ink"];
  const found = inks.map((ink) => [ink, contrast(ink, "bg")]); probe.remove(); return Object.fromEntries(found); }"""
GROUND = "() => { const [r, g, b] = getComputedStyle(document.querySelector('.tl-root')).backgroundColor.match(/[\\d.]+/g).map((v) => Math.round(v * 255)); return [r, g, b]; }"
OWN: dict[Theme, list[int]] = {"light": [255, 255, 255], "dark": [22, 25, 29]}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    yield opened
    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join(30)


def shown_in(lab: Lab, view: str) -> View:
    traces = SampleSource.with_history(6)
    made: dict[str, Callable[[], View]] = {
        "chat": lab.chat,
        "duel": lambda: lab.chat(models=["demo/echo", "demo/assistant"]),
        "trace": lambda: TraceView(traces, list(traces.rows)[3]),
        "explorer": lambda: TraceExplorer(traces),
        "handoffs": lambda: lab.handoffs("Personal Assistant"),
    }
    return made[view]()


def in_host(page: Page, theme: Theme) -> Page:
    page.evaluate(BECOME, [theme, HOSTS[theme]])
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", theme)
    return page


@pytest.mark.parametrize("view", ["chat", "duel", "trace", "explorer", "handoffs"])
@pytest.mark.parametrize(("host", "chosen"), [("light", "dark"), ("dark", "light")])
def test_a_view_whose_theme_was_chosen_takes_no_colour_of_a_host_with_the_other(
    show: Show, lab: Lab, view: str, host: Theme, chosen: Theme
) -> None:
    shown = shown_in(lab, view)
    page = in_host(show(shown), host)
    shown.theme = chosen
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", chosen)
    assert page.evaluate(GROUND) == OWN[chosen]
    assert {ink: ratio for ink, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5} == {}
    assert serious(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_view_whose_theme_was_not_chosen_has_the_ground_of_its_host(show: Show, lab: Lab, theme: Theme) -> None:
    page = in_host(show(lab.chat()), theme)
    assert page.evaluate(GROUND) == ([255] * 3 if theme == "light" else [17] * 3)
    for warm in ("#fdf6e3", "#002b36"):
        page.evaluate("(value) => document.documentElement.style.setProperty('--jp-layout-color1', value)", warm)
        suits = (warm == "#fdf6e3") == (theme == "light")
        assert page.evaluate(GROUND) == (list(bytes.fromhex(warm[1:])) if suits else OWN[theme])


@pytest.mark.parametrize(("host", "chosen"), [("light", "dark"), ("dark", "light")])
def test_an_agent_that_switches_the_theme_leaves_the_conversation_readable(
    show: Show, lab: Lab, host: Theme, chosen: Theme
) -> None:
    page = in_host(show(lab.chat()), host)
    message(page).fill(f"Switch to the {chosen} theme, please.")
    message(page).press("Enter")
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", chosen)
    answered(page)
    assert serious(page) == []
    assert page.evaluate(GROUND) == OWN[chosen]
