"""Take the picture of the README from the product: a served lab, a conversation in it, the trace of that conversation, a comparison, and
where a run of a known fault went wrong.

    python -m tests.readme_picture

The picture carries the digest of the sources it was taken from; `tests/test_readme.py` compares it with those of today, so that a change
of the views asks for a new picture. Look at it before it is committed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser import chromium
from tests.evals.planted import World
from tests.runtime.bench import open_bench
from timestep_lab import __version__
from timestep_lab.evals import cause
from timestep_lab.evals.cause import Why

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / ".github" / "overview.png"
SOURCES = (
    "src/timestep_lab/ui/static", "src/timestep_lab/server/static", "src/timestep_lab/evals/cause/findings.py", "tests/readme_picture.py",
)  # fmt: skip
LARGEST = 250_000
QUESTION = "What's the weather in Oakland and in Berkeley?"
SIZE = (1760, 1112)

SHEET = """<style>
  body { margin: 0; width: 1760px; height: 1112px; background: #dfe6ef; position: relative; overflow: hidden }
  img { position: absolute; border-radius: 10px; outline: 1px solid #b8c4d4 }
</style>
<img src="%s" style="left: 28px; top: 28px">
<img src="%s" style="left: 652px; top: 28px; width: 1080px">
<img src="%s" style="left: 652px; top: 694px; width: 1080px">
<img src="%s" style="left: 652px; top: 926px; width: 1080px">"""
CAUSE = """<style>
  body {{ margin: 0; padding: 14px 20px; width: 1160px; font: 15px/1.4 system-ui, sans-serif; color: #16202c; background: #fff }}
  p {{ margin: 0 0 10px }} svg {{ max-width: none; width: 1120px; height: 132px }}
</style><p><strong>{sentence}</strong></p>{curve}"""


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
    """A keyless lab in which the demo ran, served as a user would; the link that signs its owner in."""
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    env |= {
        "WEATHER_MODE": "recorded",
        "PYTHONPATH": str(ROOT / "src"),
        "TIMESTEP_LAB_STORE": str(folder / "lab.duckdb"),
    }
    program = [sys.executable, "-m", "timestep_lab"]
    subprocess.run([*program, "demo"], cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
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


def settled(page: Page, **options: Any) -> bytes:
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)
    return page.screenshot(**options)


def conversation(page: Page, address: str) -> bytes:
    """The chat, stopped where it asks; and then approved, so that the trace is whole."""
    page.goto(f"{address}/chat")
    page.locator(".tl-root[data-tl-state=ready]").first.wait_for()
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
    page.locator(".tl-list-row").filter(has_text="Oakland").first.click()
    page.locator(".tl-wf-row").first.wait_for()
    return settled(page)


def comparison(page: Page, address: str) -> bytes:
    """The verdict and what it stands on, without the page's navigation."""
    page.goto(f"{address}/compare")
    page.get_by_text("demo/assistant against demo/echo").click()
    verdict = page.locator(".tl-conclusion")
    verdict.wait_for()
    main, first = page.locator("main").bounding_box(), verdict.bounding_box()
    assert main is not None
    assert first is not None
    return settled(page, clip={"x": main["x"], "y": first["y"] - 14, "width": 1200, "height": 236})


async def found() -> Why:
    """Why a run went wrong in which one lookup of six was misled once."""
    async with open_bench() as bench:
        world = World(bench, steps=6, seed=3, noise=0.08, fault="swap", at=3, persistent=False)
        await world.healthy(12)
        run = await world.faulty()
        bench.writer.flush()
        question = await cause.ask(
            bench.runner, run.trace_id, wrong=world.is_wrong, right=None, tools="live", on_miss="fail"
        )
        answer = await cause.why(bench.runner, question, k=12)
        assert isinstance(answer, Why)
        return answer


def take(browser: Browser, link: str, why: Why) -> bytes:
    address = link.split("/?")[0]
    chat = window(browser, 600, 1056, dark=False)
    chat.goto(link)
    talk = conversation(chat, address)
    traced = trace(window(browser, 1440, 860, dark=True, signed_in=chat.context), address)
    compared = comparison(window(browser, 1380, 800, dark=False, signed_in=chat.context), address)
    sheet = window(browser, *SIZE, dark=False)
    reason = window(browser, 1200, 180, dark=False)
    reason.set_content(CAUSE.format(sentence=html.escape(why.verdict), curve=why.outlook._repr_html_()))
    told = settled(reason)
    sheet.set_content(SHEET % (as_url(talk), as_url(traced), as_url(compared), as_url(told)))
    return settled(sheet)


def as_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def written(png: bytes) -> int:
    """Store the picture with its origin; its size in bytes."""
    about = PngInfo()
    about.add_text("Software", f"timestep-lab {__version__}")
    about.add_text("Source", "tests/readme_picture.py")
    about.add_text("Made-From", made_from())
    # 256 colours, chosen to cover the rare ones too: the kinds of steps are told apart by them.
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.quantize(method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(PICTURE, optimize=True, pnginfo=about)
    return PICTURE.stat().st_size


def main() -> None:
    why = asyncio.run(found())
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.ARGS)
        size = written(take(browser, link, why))
        browser.close()
    print(f"{PICTURE.relative_to(ROOT)}: {size:,} bytes (at most {LARGEST:,}); look at it")


if __name__ == "__main__":
    main()
