"""Files given to a chat as people give them: by button, dropped from elsewhere, pasted."""

from __future__ import annotations

from playwright.sync_api import Page, expect

_TAKE = "const files = new DataTransfer(); files.items.add(new File([text], name));"
_DROP = f"""(box, [name, text]) => {{ {_TAKE} for (const kind of ["dragover", "drop"])
  box.dispatchEvent(new DragEvent(kind, {{dataTransfer: files, bubbles: true, cancelable: true}})); }}"""
_PASTE = f"""(box, [name, text]) => {{ {_TAKE}
  box.dispatchEvent(new ClipboardEvent("paste", {{clipboardData: files, bubbles: true, cancelable: true}})); }}"""


def drop_and_send_at_once(page: Page, name: str, text: str) -> None:
    """A file is dropped and Enter pressed in the same moment."""
    enter = 'box.querySelector("textarea").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}))'
    page.locator(".tl-chat-main").evaluate(f"(box, given) => {{ ({_DROP})(box, given); {enter}; }}", [name, text])


def give(page: Page) -> None:
    """Three files of text; one of them calls itself a picture."""
    tea = {"name": "tea.md", "mimeType": "text/markdown", "buffer": b"Tea is at four."}
    page.locator(".tl-chat-composer input[type=file]").set_input_files(tea)  # type: ignore[arg-type]
    page.locator(".tl-chat-main").evaluate(_DROP, ["red.png", "The lighthouse is red."])
    page.get_by_role("textbox", name="Message").evaluate(_PASTE, ["note.txt", "The lighthouse is tall."])
    expect(page.locator(".tl-chat-composer .tl-chat-file")).to_have_count(3)
