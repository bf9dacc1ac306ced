"""The playground: a recorded step becomes a request that can be changed, asked of several models at once, and kept."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from tests.server.lab_process import LabProcess
from tests.server.test_pages import PATIENCE_MS, TOO_SMALL, go, ready, serious

expect.set_options(timeout=PATIENCE_MS)
POST = "async ([path, body]) => (await fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)})).json()"


def column(page: Page, n: int) -> Any:
    return page.locator(".tl-play-column").nth(n)


def test_a_step_is_changed_asked_of_two_models_kept_as_a_version_and_compared(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/agents", width=1440, height=900))
    agent = page.evaluate(POST, ["/api/v1/agents", {"name": "Front desk", "instructions": "Be kind.", "model": "demo/assistant", "model_settings": {"temperature": 0.5}}])  # fmt: skip
    run = page.evaluate(POST, ["/api/v1/runs", {"prompt": "Who are you?", "agent": agent["id"]}])["run"]
    go(page, f"{lab.url}/traces?id={run['trace_id']}")
    page.locator(".tl-wf-row").filter(has_text="demo/assistant").first.click()
    page.get_by_role("link", name="Open in playground").click()
    ready(page)
    expect(page.get_by_label("Instructions")).to_have_value("Be kind.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Who are you?")
    expect(page.get_by_label("Temperature")).to_have_value("0.5")
    expect(column(page, 0).get_by_role("combobox", name="Model")).to_have_value("demo/assistant")
    assert serious(page) == []

    page.get_by_label("Message", exact=True).fill("Say tea, please")
    page.get_by_role("button", name="Add a model").click()
    page.keyboard.type("demo/echo")
    page.keyboard.press("Control+Enter")
    expect(column(page, 1)).to_contain_text("Say tea, please")
    for n in (0, 1):
        expect(column(page, n).locator(".tl-play-facts")).to_contain_text(re.compile(r"s.*tok.*free.*trace"))
    assert re.search(r"trace=\w+&step=\w+&model=demo%2Fassistant&model=demo%2Fecho$", page.url)
    assert serious(page) == []
    asked = column(page, 1).get_by_role("link", name="trace").get_attribute("href")
    assert asked is not None
    spans = page.evaluate("async (path) => (await fetch(path)).json()", f"/api/v1{asked}/spans")
    assert [span["kind"] for span in spans] == ["generation"]

    page.get_by_label("Instructions").fill("Be kind and brief.")
    page.get_by_role("button", name="Save as a prompt version").click()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="Front desk")).to_contain_text("is now version 2")
    now = page.evaluate("async (path) => (await fetch(path)).json()", f"/api/v1/agents/{agent['id']}")
    assert (now["version"], now["instructions"], now["model"]) == (2, "Be kind and brief.", "demo/assistant")

    page.get_by_role("button", name="Create a comparison").click()
    ready(page)
    case = json.loads(page.get_by_label("Cases", exact=True).input_value())
    assert case["input"] == "Say tea, please"
    assert case["messages"][0] == {"role": "system", "content": "Be kind and brief."}
    chosen = page.get_by_role("list", name="Chosen models")
    expect(chosen).to_contain_text("demo/assistant")
    expect(chosen).to_contain_text("demo/echo")
    expect(page.get_by_role("checkbox", name="Personal Assistant")).not_to_be_checked()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("main")).to_contain_text("Say tea, please")
    expect(page.get_by_role("heading", level=1)).to_contain_text("demo/assistant against demo/echo")


def test_what_is_wrong_is_told_where_it_is_and_the_others_answer(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/playground?model=nonsense/x&model=demo/echo"))
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_label("Temperature").fill("warm")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The temperature is not a number: warm.")
    expect(page.get_by_label("Temperature")).to_be_focused()
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_text("Tools none").click()
    page.get_by_label("Functions as JSON").fill('[{"nmae": "x"}]')
    page.get_by_role("button", name="Run", exact=True).click()
    expect(column(page, 1).get_by_role("alert")).to_contain_text("Tool 1 is invalid: it has no name")
    page.get_by_label("Functions as JSON").fill("")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(column(page, 1)).to_contain_text("Hello")
    expect(column(page, 0).get_by_role("alert")).to_contain_text("There is no provider 'nonsense'")
    page.reload()
    ready(page)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hello")
    expect(page.get_by_label("Temperature")).to_have_value("0.2")


def test_what_was_written_right_before_a_reload_is_there_after_it(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/playground?model=demo/echo"))
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()
    page.evaluate(
        """() => {
            const write = (root) => {
                for (const node of root.querySelectorAll("*")) {
                    if (node.matches('textarea[name="prompt"]')) {
                        node.value = "To the last letter";
                        node.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
                    }
                    if (node.shadowRoot) write(node.shadowRoot);
                }
            };
            write(document);
            location.reload();
        }"""
    )
    page.wait_for_function("performance.getEntriesByType('navigation')[0].type === 'reload'")
    expect(page.get_by_label("Message", exact=True)).to_have_value("To the last letter")


def test_an_answer_is_stopped_and_one_that_nobody_reads_any_more_ends(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/playground?model=demo/slow?tps=20%26n=2000"))
    page.get_by_label("Message", exact=True).fill("Count")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(column(page, 0)).to_contain_text("1 2 3")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(column(page, 0)).to_contain_text("Stopped.")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(column(page, 0)).to_contain_text("1 2 3")
    expect(column(page, 0)).not_to_contain_text("Stopped.")
    page.goto(f"{lab.url}/settings")
    deadline = time.monotonic() + 40
    while page.evaluate(
        "async () => (await (await fetch('/api/v1/traces')).json()).data.some((t) => t.status === 'running')"
    ):
        assert time.monotonic() < deadline, "It goes on although its page was left."
        time.sleep(0.3)
    said = page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data.map((t) => t.status)")
    assert len(said) == 2


def test_with_nothing_opened_it_says_how_to_begin_and_lists_recent_traces(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/playground", width=390, height=844, has_touch=True))
    expect(page.get_by_role("region", name="Start from a recorded step")).to_contain_text("press “Open in playground”")
    expect(page.get_by_role("link", name="Chat with an agent")).to_be_visible()
    assert page.evaluate(TOO_SMALL) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    page.evaluate(POST, ["/api/v1/runs", {"prompt": "Say coffee", "model": "demo/echo"}])
    page.reload()
    ready(page)
    page.get_by_role("link", name=re.compile("Say coffee")).click()
    ready(page)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Say coffee")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(column(page, 0)).to_contain_text("Say coffee")
    assert page.evaluate(TOO_SMALL) == []
    assert serious(page) == []


def test_a_new_agent_that_was_chosen_stays_chosen_when_the_page_changes(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/playground"))
    page.get_by_role("button", name="Save as a prompt version").click()
    page.get_by_label("Agent", exact=True).select_option(label="A new agent")
    page.get_by_label("Name of the new agent").fill("Verse")
    page.evaluate(POST, ["/api/v1/agents", {"name": "Late", "instructions": "Be late.", "model": "demo/echo"}])
    page.evaluate(POST, ["/api/v1/runs", {"prompt": "Hello.", "model": "demo/echo"}])
    expect(page.get_by_label("Agent", exact=True).get_by_role("option", name="Late")).to_be_attached()
    expect(page.get_by_label("Name of the new agent")).to_be_visible()
    expect(page.get_by_label("Name of the new agent")).to_have_value("Verse")
