"""The chat; `/chat/<thread id>` opens a conversation."""

from __future__ import annotations

from typing import Any

from timestep_lab.server.pages.page_view import Shown, looked_up
from timestep_lab.server.panel import page_argument


def page(lab: Any, *, is_owner: bool) -> Any:
    opened, name = page_argument("id"), None
    if opened is not None:
        with looked_up():
            name = lab.threads[opened].title
    chat = lab.chat(thread=opened, trace_base="/traces/")
    return Shown(chat, name=name)
