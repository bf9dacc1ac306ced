"""A real JupyterLab: one server for the session, one notebook a test."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.conftest import Pages

READY = """() => { const c = window.jupyterapp?.shell?.currentWidget?.sessionContext;
  return c?.isReady && c.session?.kernel?.connectionStatus === "connected"; }"""
EXECUTE = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code }); let text = "";
  future.onIOPub = (m) => { if (m.content.text) text += m.content.text; if (m.content.ename) text += `${m.content.ename}: ${m.content.evalue}`; };
  await future.done; return text; }"""


class Notebook:
    """A notebook open in a page."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.path = path

    def run_all(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def restart(self) -> None:
        """A new kernel, as by Kernel, Restart; outputs stay."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.page.wait_for_function(READY, timeout=60_000)

    def write(self, cell: int, source: str) -> None:
        """Replace what stands in a cell."""
        self.page.evaluate(
            "([n, text]) => window.jupyterapp.shell.currentWidget.content.widgets[n].model.sharedModel.setSource(text)",
            [cell, source],
        )

    def execute(self, code: str) -> str:
        """Run code in the kernel beside the cells; what it printed."""
        text: str = self.page.evaluate(EXECUTE, code)
        return text

    def save_and_stop(self) -> dict[str, Any]:
        """Save, shut the kernel down; the notebook as it is on disk."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        saved: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        return saved


class JupyterLab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token = secrets.token_hex(8)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        settings = folder / ".settings"
        news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        news.parent.mkdir(parents=True)
        news.write_text('{"fetchNews": "false", "checkForUpdates": false}', "utf-8")
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
        env = {**os.environ, **{name: str(folder / f".{name.lower()}") for name in places}}
        env |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "PYTHONPATH": str(Path(__file__).parents[2])}
        arguments = [
            "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self._port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self._token}", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}", "--JupyterNotebookApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
        ]  # fmt: skip
        self._log = (folder / ".log").open("w")
        command = [sys.executable, "-m", "jupyterlab", *arguments]
        self._process = subprocess.Popen(command, env=env, stdout=self._log, stderr=subprocess.STDOUT)
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(
                    f"http://127.0.0.1:{self._port}/api/status?token={self._token}", timeout=2
                ).close()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{(self.folder / '.log').read_text()[-2000:]}")

    def open(
        self, pages: Pages, name: str, cells: Sequence[str], *, kernel: bool = True, classic: bool = False
    ) -> Notebook:
        """In single-document mode, without the file browser; `classic` opens it in Notebook 7, which the same server serves."""
        path = self.folder / f"{name}.ipynb"
        if cells:
            assert not path.exists(), f"Another test has a notebook {name!r}; this one needs a name of its own."
            path.write_text(json.dumps(_notebook(cells)), "utf-8")
        place = f"notebooks/{path.name}?" if classic else f"doc/tree/{path.name}?reset&"
        page = pages.open(f"http://127.0.0.1:{self._port}/{place}token={self._token}", height=1100)
        page.set_default_timeout(30_000)
        if kernel:
            page.wait_for_function(READY, timeout=60_000)
        return Notebook(page, path)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for a kernel that hangs; kernels end by themselves when it is gone
            self._process.kill()
            self._process.wait()
        self._log.close()


def _notebook(cells: Sequence[str]) -> dict[str, Any]:
    code = [
        {
            "cell_type": "code",
            "id": f"cell{n}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for n, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": code}


def running(folder: Path) -> Iterator[JupyterLab]:
    lab = JupyterLab(folder)
    try:
        yield lab
    finally:
        lab.close()
