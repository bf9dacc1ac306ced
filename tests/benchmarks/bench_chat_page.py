"""The chat in the browser: 400 tokens that nothing delays, and a conversation of 200 messages. Run: `pytest … -m benchmark -s`.

Times are the page's own: from the first token's arrival in the browser to the paint that holds the last, and from the start of navigation
until the conversation stands and takes words. Panel's ChatInterface takes 3.35 s and 15–29 s for the same on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page
from tests.browser.conftest import Pages, browser, pages  # noqa: F401 - fixtures
from tests.server.lab_process import LabProcess, start, stop

from timestep_lab.model.ids import LOCAL_USER, new_id
from timestep_lab.model.records import ThreadItem, ThreadRecord
from timestep_lab.store.store import open_store

pytestmark = pytest.mark.benchmark
TOKENS = 400
STREAMED_S = 0.15
MESSAGES = 200
USABLE_S = 2.5
TTFT_S = 0.2
MODEL = f"demo/slow?ttft=200&tps=1000000&n={TOKENS}"
WATCH = """(last) => new Promise((done) => { let first = 0;
  const look = () => { const text = [...document.querySelectorAll("*")].flatMap(deep).at(-1) ?? "";
    if (text && !first) first = performance.now();
    if (text.trim().endsWith(last)) requestAnimationFrame(() => done(performance.now() - first)); else setTimeout(look, 2); };
  const deep = (node) => node.shadowRoot ? [...node.shadowRoot.querySelectorAll(".tl-chat-answer .tl-md")].map((e) => e.textContent) : [];
  look(); })"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    store = tmp_path_factory.mktemp("lab") / "lab.duckdb"
    filled = open_store(str(store), LOCAL_USER)
    thread = filled.threads.insert(ThreadRecord(id=new_id("thread"), user_id=LOCAL_USER, title="Long"))
    items = [
        ThreadItem(
            id=new_id("message"), thread_id=thread.id, user_id=LOCAL_USER, type=f"{('user', 'assistant')[n % 2]}_message",
            agent="Personal Assistant", data={"text": f"**Message {n}** " + "with some words and `code` " * 12, "status": "completed"},
        )
        for n in range(MESSAGES)
    ]  # fmt: skip
    filled.threads.append_items(thread.id, items)
    filled.close()
    served = start(store)
    yield served
    stop(served)


def signed_in(pages: Pages, lab: LabProcess) -> Page:  # noqa: F811
    page = pages.open(lab.sign_in_link)
    page.set_default_timeout(60_000)
    return page


def test_tokens_that_nothing_delays_are_there_at_once(pages: Pages, lab: LabProcess) -> None:  # noqa: F811
    page = signed_in(pages, lab)
    times, whole = [], []
    for _ in range(5):
        page.goto(f"{lab.url}/chat")
        page.locator(".tl-root[data-tl-state=ready]").wait_for()
        model = page.get_by_role("combobox", name="Model")
        model.evaluate("(select, name) => { select.append(new Option(name, name)); select.value = name; select.dispatchEvent(new Event('change')); }", MODEL)  # fmt: skip
        page.get_by_role("textbox", name="Message").fill("Go.")
        page.evaluate(
            "addEventListener('keydown', () => { window.asked = performance.now(); }, {capture: true, once: true})"
        )
        page.keyboard.press("Enter")
        times.append(page.evaluate(WATCH, f" {TOKENS - 1}") / 1000.0)
        whole.append(page.evaluate("(performance.now() - window.asked) / 1000") - TTFT_S)
    print(
        f"\nfrom Enter to the last, less the {TTFT_S} s that the model waits: {min(whole):.2f} to {max(whole):.2f} s",
        end="",
    )
    print(
        f"\n{TOKENS} tokens: best {min(times):.3f} s, worst {max(times):.3f} s from the first to the last in the page"
    )
    assert min(times) < STREAMED_S


def test_a_long_conversation_is_usable_soon(pages: Pages, lab: LabProcess) -> None:  # noqa: F811
    page = signed_in(pages, lab)
    page.goto(f"{lab.url}/chat")
    page.locator(".tl-root[data-tl-state=ready]").wait_for()
    thread = page.evaluate("async () => (await (await fetch('/api/v1/threads?search=Long')).json()).data[0].id")
    times = []
    for _ in range(3):
        page.goto(f"{lab.url}/chat?id={thread}")
        page.get_by_text(f"Message {MESSAGES - 1}", exact=True).wait_for()
        page.get_by_role("textbox", name="Message").fill("Now")
        times.append(page.evaluate("performance.now()") / 1000.0)
        assert page.locator(".tl-chat-item").count() >= MESSAGES
    print(f"\n{MESSAGES} messages: usable after {min(times):.2f} to {max(times):.2f} s")
    assert min(times) < USABLE_S
