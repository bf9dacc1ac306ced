"""The chat of a new user in a real JupyterLab: the flows of the served app's page, in a cell. A console error or an outside request fails it."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import Pages
from tests.browser.giving_files import give
from tests.browser.jupyter import JupyterLab

SETUP = """
import os
os.environ |= {"WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "2"}
from timestep_lab import Lab
lab = Lab("chat.duckdb")
chat = lab.chat()
"""
PATIENCE_MS = 45_000


def test_a_new_user_chats_approves_uploads_and_keeps_everything_in_a_cell(jupyterlab: JupyterLab, pages: Pages) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    notebook = jupyterlab.open(pages, "chat", [SETUP, "chat"])
    notebook.run_all()
    page = notebook.page
    page.set_default_timeout(PATIENCE_MS)
    message = page.get_by_role("textbox", name="Message")

    page.get_by_role("button", name="What's the weather in Berkeley").click()
    page.get_by_role("button", name="Approve", exact=True).click()
    expect(page.locator(".tl-chat-trace")).to_have_count(1)
    expect(page.locator(".tl-chat-handoff").first).to_contain_text("Weather Assistant")
    expect(page.locator(".tl-chat-step summary").filter(has_text="get_weather").first).to_be_visible()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")

    message.fill("Switch to the dark theme, please.")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", "dark")
    expect(page.locator(".tl-chat-trace")).to_have_count(2)

    give(page)
    message.fill("What is in these?")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-chat-trace")).to_have_count(3)
    kept = notebook.execute(
        "for f in sorted(lab.files.list(), key=lambda f: f.filename): print(f.filename, f.content_type)"
    )
    assert kept.splitlines() == ["note.txt text/plain", "red.png text/plain", "tea.md text/markdown"]

    page.get_by_role("button", name="Conversations").click()
    conversations = page.get_by_role("navigation", name="Conversations")
    conversations.get_by_role("button", name=re.compile("^Rename")).first.click()
    page.get_by_role("textbox", name="New title").fill("A good talk")
    page.keyboard.press("Enter")
    conversations.get_by_text("A good talk").wait_for()
    assert (
        notebook.execute("print(chat.thread_id is not None, [t.title for t in lab.threads.list()])")
        == "True ['A good talk']\n"
    )

    conversations.get_by_role("button", name="Delete A good talk").click()
    conversations.get_by_role("button", name="Delete", exact=True).click()
    # The question stood in the place of the title.
    expect(conversations.get_by_text("Delete this conversation?")).to_have_count(0)
    expect(conversations.get_by_text("A good talk")).to_have_count(0)
    assert notebook.execute("print(lab.threads.list())") == "[]\n"


def test_what_is_written_to_a_chat_whose_kernel_was_restarted_comes_along_to_the_next(
    jupyterlab: JupyterLab, pages: Pages
) -> None:
    expect.set_options(timeout=PATIENCE_MS)
    notebook = jupyterlab.open(pages, "restarted", [SETUP.replace("chat.duckdb", "restarted.duckdb"), "chat"])
    notebook.run_all()
    page = notebook.page
    page.set_default_timeout(PATIENCE_MS)
    message = page.get_by_role("textbox", name="Message")
    message.fill("Hello there")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-chat-trace")).to_have_count(1)

    notebook.restart()
    message.fill("Are you still there?")
    page.keyboard.press("Enter")
    problem = page.get_by_role("alert").filter(has_text="lab.chat(thread=")
    expect(problem).to_contain_text("If the kernel was restarted")
    expect(message).to_have_value("Are you still there?")

    line = re.search(r'lab\.chat\(thread="[^"]+"\)', problem.inner_text())
    assert line is not None
    notebook.write(1, line.group(0))
    notebook.run_all()
    expect(page.locator(".tl-chat-bubble")).to_have_text("Hello there")
    expect(message).to_have_value("Are you still there?")
