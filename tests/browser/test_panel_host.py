"""The same views in a page that Panel serves."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Pages

SERVER = """
import sys
import panel as pn
from tests.ui.sample_traces import SampleSource
from timestep_lab.ui.explorer import TraceExplorer

source, shown = SampleSource.with_history(20), []

def page():
    explorer = TraceExplorer(source, theme="dark")
    shown.append(explorer)
    return pn.Column(explorer.panel(), pn.widgets.Button(name="Filter in Python", on_click=lambda _: setattr(explorer, "filter", 'status == "failed"')))

pn.serve(page, port=int(sys.argv[1]), show=False, title="Traces")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("panel") / "log").open("w+")
    command = [sys.executable, "-c", SERVER, str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text()[-2000:]) from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_the_explorer_works_in_a_served_page_and_reaches_nothing_else(pages: Pages, address: str) -> None:
    page = pages.open(address)
    expect(page.locator(".tl-list-row")).to_have_count(20, timeout=30_000)
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", "dark")
    page.locator(".tl-list-row").nth(3).click()
    expect(page.locator(".tl-wf-row:visible")).to_have_count(10)
    page.get_by_role("button", name="Filter in Python").click()
    expect(page.get_by_role("combobox", name="Filter")).to_have_value('status == "failed"')
    box = page.get_by_role("combobox", name="Filter")
    box.fill("modle == 3")
    box.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="modle")).to_be_visible()
