"""A served lab is killed and started again while its reader types, reads a stream, uploads a file, and has two tabs: ten times each.

python -m tests.benchmarks.bench_killed_server [rounds]
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.browser import chromium
from tests.browser.conftest import Pages
from tests.browser.test_chat_served import KILLED, Restarted


def main(rounds: int) -> int:
    failed = 0
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.ARGS)
        for what in KILLED:
            lab, good, began = Restarted(Path(folder) / f"{what.__name__}.duckdb"), 0, time.monotonic()
            for _ in range(rounds):
                pages = Pages(browser)
                try:
                    what(lab, pages)
                    good += 1
                except Exception:  # noqa: BLE001 - whatever it was, the other rounds say whether it happens again
                    traceback.print_exc()
                finally:
                    pages.close()
            lab.kill()
            failed += rounds - good
            print(f"{what.__name__}: {good} of {rounds}, {(time.monotonic() - began) / rounds:.1f} s each", flush=True)
        browser.close()
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)))
