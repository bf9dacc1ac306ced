"""Browser fixtures. `show(view)` opens a view on a page of its own; a request to anywhere else or a console error fails the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import chromium
from tests.browser.page_host import PageHost
from timestep_lab.cli.serve import copy_notebooks
from timestep_lab.ui.view import View

if TYPE_CHECKING:
    from tests.browser.jupyter import JupyterLab

WAIT_MS = 30_000
"""How long a page may take on a machine that is busy with other things; what is there at once is waited for no longer."""
expect.set_options(timeout=WAIT_MS)
LOCAL = re.compile(r"^(?:https?|wss?)://(?:127\.0\.0\.1|localhost)[:/]|^(?:data|blob|about|file):")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: while Playwright's synchronous driver lives, its event loop counts as running in this
    # thread, and no asynchronous test could run in between.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.ARGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def page_host() -> Iterator[PageHost]:
    host = PageHost()
    yield host
    host.close()


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """One for all tests of a worker, with the notebooks of the project in its folder."""
    from tests.browser import jupyter

    folder = tmp_path_factory.mktemp("jupyterlab")
    copy_notebooks(folder)
    yield from jupyter.running(folder)


class Pages:
    """Opens pages and remembers what they did that they must not."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.faults: list[str] = []

    def open(self, address: str, *, dark: bool = False, width: int = 1200, height: int = 800, **options: Any) -> Page:
        scheme = "dark" if dark else "light"
        context = self._browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda r: None if LOCAL.match(r.url) else self.faults.append(f"external request: {r.url}"))
        page.on("console", lambda m: self.faults.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.goto(address)
        return page

    def close(self) -> None:
        while self._contexts:
            self._contexts.pop().close()


@pytest.fixture
def pages(browser: Browser) -> Iterator[Pages]:
    opened = Pages(browser)
    yield opened
    opened.close()
    assert opened.faults == []


@pytest.fixture
def show(pages: Pages, page_host: PageHost) -> Callable[..., Page]:
    def open_view(view: View, **options: Any) -> Page:
        page = pages.open(page_host.show(view), **options)
        page.wait_for_selector(".tl-root[data-tl-state=ready]")
        return page

    return open_view
