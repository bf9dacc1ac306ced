"""What was typed and chosen in a form is there again after a reload of the page, with what was opened to write it."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from tests.server.lab_process import LabProcess
from tests.server.test_pages import answered, go, ready, say


def reloaded(page: Page, *, times: int = 2) -> None:
    """A second time, what nobody touched in between is still kept."""
    for _ in range(times):
        page.reload()
        ready(page)


def test_a_comparison_keeps_its_data_its_models_and_what_is_folded_away(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/compare"))
    page.get_by_role("button", name="New comparison").click()
    form = page.get_by_role("form", name="New comparison")
    page.get_by_label("Cases", exact=True).fill("What is 2 + 2?")
    page.get_by_role("button", name="Remove demo/echo").click()
    page.get_by_label("Models", exact=True).fill("demo/slow?n=3")
    page.keyboard.press("Enter")
    page.get_by_label("Scorers", exact=True).fill("exact")
    page.keyboard.press("Enter")
    page.get_by_label("Personal Assistant").uncheck()
    page.get_by_label("Weather Assistant").check()
    page.get_by_label("Repeats").fill("3")
    page.get_by_text("Prompts and settings as candidates").click()
    page.get_by_label("Prompts", exact=True).fill("Briefly: {{input}}")
    page.get_by_text("Failures of last week").click()
    reloaded(page)
    expect(form.get_by_role("listitem")).to_have_text(["demo/assistant", "demo/slow?n=3", "contains", "exact"])
    expect(page.get_by_label("Personal Assistant")).not_to_be_checked()
    expect(page.get_by_label("Weather Assistant")).to_be_checked()
    expect(page.get_by_label("Repeats")).to_have_value("3")
    expect(page.get_by_label("Prompts", exact=True)).to_have_value("Briefly: {{input}}")
    expect(page.get_by_label("Prompts", exact=True)).to_be_visible()
    expect(page.get_by_role("radio", name="Failures of last week")).to_be_checked()
    page.get_by_text("Type or paste").click()
    expect(page.get_by_label("Cases", exact=True)).to_have_value("What is 2 + 2?")
    page.get_by_text("File", exact=True).first.click()
    file = {"name": "support.csv", "mimeType": "text/csv", "buffer": b"input,expected\nCapital of Norway?,Oslo\n"}
    page.get_by_label("File", exact=True).last.set_input_files(file)  # type: ignore[arg-type]
    expect(page.get_by_role("status", name="Preview")).to_contain_text("Capital of Norway?")
    reloaded(page)
    expect(page.get_by_role("status", name="Preview")).to_contain_text("Capital of Norway?")
    expect(page.get_by_role("radio", name="File")).to_be_checked()


def test_an_agent_that_is_not_created_yet_keeps_its_fields_and_its_approval_rules(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/agents"))
    page.get_by_role("button", name="New agent").click()
    page.get_by_label("Name", exact=True).fill("Unsaved")
    page.get_by_role("checkbox", name="think").check()
    for _ in range(2):
        page.get_by_role("button", name="Add a rule").click()
    page.get_by_label("Tool", exact=True).last.select_option(label="get_weather")
    page.get_by_label("Which calls").last.select_option("contains")
    page.get_by_label("Argument", exact=True).last.fill("location")
    page.get_by_label("Value", exact=True).last.fill("Berk")
    page.get_by_role("tab", name="Try it").click()
    reloaded(page)
    expect(page.get_by_label("Name", exact=True)).to_have_value("Unsaved")
    expect(page.get_by_role("checkbox", name="think")).to_be_checked()
    expect(page.get_by_label("Which calls")).to_have_count(2)
    expect(page.get_by_label("Which calls").last).to_have_value("contains")
    expect(page.get_by_label("Argument", exact=True).last).to_have_value("location")
    expect(page.get_by_label("Value", exact=True).last).to_have_value("Berk")
    page.get_by_role("button", name="Close", exact=True).click()
    page.reload()  # What was closed has been given up.
    ready(page)
    expect(page.get_by_label("Name", exact=True)).to_have_count(0)


def test_the_drawers_of_a_trace_open_again_with_what_was_written_for_this_trace_alone(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    say(page, "Hello")
    answered(page)
    trace_id = page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data[0].trace_id")
    say(page, "Hello again")
    answered(page, 2)
    go(page, f"{lab.url}/traces?id={trace_id}")
    page.get_by_role("button", name="Score this trace").click()
    page.get_by_label("Note").fill("Half a thought")
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("region", name="Run again with a change").get_by_label("Model").fill("demo/echo")
    reloaded(page)
    expect(page.get_by_label("Note")).to_have_value("Half a thought")
    expect(page.get_by_role("region", name="Run again with a change").get_by_label("Model")).to_have_value("demo/echo")
    page.get_by_role("button", name="Add to data set").click()
    page.get_by_label("Name of the data set").fill("odd ones")
    reloaded(page, times=1)
    expect(page.get_by_label("Name of the data set")).to_have_value("odd ones")
    other = page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data[0].trace_id")
    go(page, f"{lab.url}/traces?id={other}")
    page.get_by_role("button", name="Score this trace").click()
    expect(page.get_by_label("Note")).to_have_value("")


def test_a_tool_a_query_and_a_prompt_version_keep_what_is_written_for_them(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/tools"))
    page.get_by_role("button", name=re.compile("get_weather")).first.click()
    page.get_by_label("Arguments", exact=True).fill('{"location": "Oslo"}')
    page.get_by_role("button", name="Add a server").click()
    page.get_by_label("Address").fill("https://example.org/mcp")
    reloaded(page)
    expect(page.get_by_label("Arguments", exact=True)).to_have_value('{"location": "Oslo"}')
    expect(page.get_by_label("Address")).to_have_value("https://example.org/mcp")

    go(page, f"{lab.url}/sql")
    page.get_by_role("button", name="Lines").click()
    page.get_by_label("Name", exact=True).fill("Runs")
    page.get_by_label("on the overview").check()
    reloaded(page)
    expect(page.get_by_role("button", name="Lines")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Name", exact=True)).to_have_value("Runs")
    expect(page.get_by_label("on the overview")).to_be_checked()

    go(page, f"{lab.url}/playground")
    page.get_by_role("combobox", name="Model").first.fill("demo/ec")
    page.get_by_role("button", name="Save as a prompt version").click()
    page.get_by_label("Agent", exact=True).select_option(label="A new agent")
    page.get_by_label("Name of the new agent").fill("Verse")
    reloaded(page)
    expect(page.get_by_role("combobox", name="Model").first).to_have_value("demo/ec")
    expect(page.get_by_label("Name of the new agent")).to_have_value("Verse")


def test_a_reason_for_rejecting_stays_with_its_call(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    for city in ("Berkeley", "North Berkeley"):
        go(page, f"{lab.url}/chat")
        say(page, f"What's the weather in {city}?")
        page.get_by_role("button", name="Approve", exact=True).wait_for()
    go(page, f"{lab.url}/approvals")
    north = page.get_by_role("listitem", name="get_weather waits for approval").filter(has_text="North")
    north.get_by_role("button", name="Reject…").click()
    north.get_by_label("Reason for rejecting").fill("Too far")
    reloaded(page)
    expect(north.get_by_label("Reason for rejecting")).to_have_value("Too far")
    expect(north.get_by_label("Reason for rejecting")).to_be_visible()
    expect(page.get_by_label("Reason for rejecting").locator("visible=true")).to_have_count(1)
