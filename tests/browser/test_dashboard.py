"""The example of a dashboard of one's own, as `panel serve` runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from timestep_lab import Lab

EXAMPLE = Path(__file__).parents[2] / "notebooks" / "dashboard.py"


async def fill(store: Path) -> None:
    lab = Lab(store)
    await lab.run("Hello", model="demo/echo")
    await lab.run("Hello again", model="demo/echo")
    await lab.run("hello", model="demo/flaky?rate=1&seed=1")
    await lab.aclose()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dashboard")
    subprocess.run(
        [sys.executable, "-c", f"import asyncio; from pathlib import Path; from tests.browser.test_dashboard import fill; asyncio.run(fill(Path({str(folder / 'lab.duckdb')!r})))"],
        cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "panel", "serve", str(EXAMPLE), "--port", str(port)]
    log = (folder / "log").open("w+")
    env = {**os.environ, "TIMESTEP_LAB_STORE": str(folder / "lab.duckdb")}
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard", timeout=30).close()
                break
            except OSError:  # Not there yet, or slow.
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text()[-2000:]) from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/dashboard"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def opened(pages: Pages, address: str) -> Page:
    page = pages.open(address)
    page.set_default_timeout(30_000)
    expect(page.locator(".tl-list-row")).to_have_count(3, timeout=30_000)
    return page


def test_a_panel_widget_drives_the_explorer_and_the_explorer_drives_what_is_beside_it(
    pages: Pages, address: str
) -> None:
    page = opened(pages, address)
    expect(page.get_by_text("3 traces, 1 failed").first).to_be_visible(timeout=20_000)
    page.locator("select").filter(has_text="failed").first.select_option("failed")
    expect(page.locator(".tl-list-row")).to_have_count(1, timeout=20_000)
    expect(page.get_by_text("1 trace, 1 failed").first).to_be_visible(timeout=20_000)
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "completed"')
    box.press("Enter")
    expect(page.get_by_text("2 traces, 0 failed")).to_be_visible(timeout=20_000)


def test_a_plot_and_the_handoff_graph_follow_what_is_filtered_and_selected(pages: Pages, address: str) -> None:
    page = opened(pages, address)
    plot, graph = page.locator(".bk-Figure"), page.locator(".tl-handoff-graph")
    expect(plot).to_have_count(1)
    expect(graph).to_contain_text("3 ×", timeout=20_000)
    page.locator(".tl-list-row").first.click()
    expect(graph).to_contain_text("1 ×", timeout=20_000)
    expect(page.locator(".tl-handoff-graph")).to_have_count(1)


def test_sessions_share_the_lab_and_not_what_they_have_filtered(pages: Pages, address: str) -> None:
    first, second = opened(pages, address), opened(pages, address)
    first.locator("select").filter(has_text="failed").first.select_option("failed")
    expect(first.locator(".tl-list-row")).to_have_count(1, timeout=20_000)
    second.wait_for_timeout(300)
    expect(second.locator(".tl-list-row")).to_have_count(3, timeout=20_000)


@pytest.mark.parametrize(("theme", "system_is_dark"), [("dark", False), ("default", True)])
def test_the_theme_of_the_template_is_followed_and_not_that_of_the_system(
    pages: Pages, address: str, theme: str, system_is_dark: bool
) -> None:
    """`FastListTemplate(theme=…)`, or what the reader chose by its switch, which is in the address."""
    page = pages.open(f"{address}?theme={theme}", dark=system_is_dark)
    expect(page.locator(".tl-list-row")).to_have_count(3, timeout=60_000)
    for root in page.locator(".tl-root").all():
        expect(root).to_have_attribute("data-tl-theme", "dark" if theme == "dark" else "light")
