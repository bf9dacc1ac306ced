"""Take the picture of the README from the product: a served lab, a conversation in it, and the trace of that conversation.

    python -m tests.readme_picture

The picture carries the digest of the sources it was taken from; `tests/test_readme.py` compares it with those of today, so that a change
of the views asks for a new picture. Look at it before it is committed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser import chromium
from timestep_lab import __version__

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / ".github" / "overview.png"
SOURCES = ("src/timestep_lab/ui/static", "src/timestep_lab/app/static", "tests/readme_picture.py")
LARGEST = 250_000
QUESTION = "What's the weather in Oakland and in Berkeley?"
EARLIER = (
    "What's the weather in Tokyo?",
    "Switch to the dark theme.",
    "Will it rain in Nairobi?",
    "Weather in Oslo?",
    "Hello",
)

SHEET = """<style>
  body { margin: 0; width: 1600px; height: 1000px; background: #dfe6ef; position: relative; overflow: hidden }
  img { position: absolute; border-radius: 10px; box-shadow: 0 1px 2px #0f172a40, 0 12px 32px #0f172a38 }
</style>
<img src="%s" style="left: 32px; top: 32px">
<img src="%s" style="right: 32px; bottom: 32px">"""


def made_from() -> str:
    """What the picture shows, as a digest: it changes when a view, a style or this script does."""
    digest = hashlib.sha256()
    for source in SOURCES:
        place = ROOT / source
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A keyless lab with some traces, served as a user would; the link that signs its owner in."""
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    env |= {"WEATHER_MODE": "recorded", "PYTHONPATH": str(ROOT), "TIMESTEP_LAB_STORE": str(folder / "lab.duckdb")}
    program = [sys.executable, "-m", "timestep_lab"]
    for question in EARLIER:
        subprocess.run([*program, "run", question], cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    server = subprocess.Popen(
        [*program, "serve", "--port", "0"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        said = server.stdout.readline() + server.stdout.readline()
        link = re.search(r"http://\S+key=\S+", said)
        assert link is not None, said
        yield link.group(0)
    finally:
        server.terminate()
        server.wait(30)


def window(browser: Browser, width: int, height: int, *, dark: bool, signed_in: BrowserContext | None = None) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        locale="en-US",
        timezone_id="America/Los_Angeles",
        storage_state=signed_in.storage_state() if signed_in else None,
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    return page


def settled(page: Page) -> bytes:
    page.wait_for_timeout(1000)
    return page.screenshot()


def conversation(page: Page, address: str) -> bytes:
    """The chat, stopped where it asks; and then approved, so that the trace is whole."""
    page.goto(f"{address}/chat")
    page.get_by_role("textbox", name="Message").fill(QUESTION)
    page.keyboard.press("Enter")
    approve = page.get_by_role("button", name="Approve", exact=True)
    approve.wait_for()
    shown = settled(page)
    approve.click()
    page.locator(".tl-chat-facts").first.wait_for()
    return shown


def trace(page: Page, address: str) -> bytes:
    page.goto(f"{address}/traces")
    page.locator(".tl-list-row").filter(has_text="Oakland").click()
    page.locator(".tl-wf-row").first.wait_for()
    page.mouse.move(0, 0)
    return settled(page)


def take(browser: Browser, link: str) -> bytes:
    address = link.split("/?")[0]
    light = window(browser, 1060, 740, dark=False)
    light.goto(link)
    talk = conversation(light, address)
    dark = window(browser, 1130, 660, dark=True, signed_in=light.context)
    sheet = window(browser, 1600, 1000, dark=False)
    sheet.set_content(SHEET % (as_url(talk), as_url(trace(dark, address))))
    return settled(sheet)


def as_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def written(png: bytes) -> int:
    """Store the picture, in few colours and with its origin; its size in bytes."""
    about = PngInfo()
    about.add_text("Software", f"timestep-lab {__version__}")
    about.add_text("Source", "tests/readme_picture.py")
    about.add_text("Made-From", made_from())
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(160, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True, pnginfo=about)
    return PICTURE.stat().st_size


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.ARGS)
        size = written(take(browser, link))
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes (at most {LARGEST:,}); look at it")


if __name__ == "__main__":
    main()
