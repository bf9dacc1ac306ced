"""Find a Chromium, or say how to get one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The headless shell first: the same browser without the windows around the page, which cost more than the page.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = "Install one: `apt-get install chromium-headless-shell`, or `python -m playwright install chromium`."


def executable() -> str:
    """The path of the system's Chromium, else playwright's, else of one installed now. Fails with the remedy."""
    return _system() or _playwrights() or _install()


def _system() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _playwrights() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _install() -> str:
    tried = []
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        tried.append(["apt-get", "install", "-y", "-q", "chromium-headless-shell"])
    tried.append([sys.executable, "-m", "playwright", "install", "chromium"])
    outputs = []
    for command in tried:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if found := _system() or _playwrights():
            return found
        outputs.append(f"$ {' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    raise RuntimeError("\n".join([f"The browser tests need Chromium and could not install it. {REMEDY}", *outputs]))
