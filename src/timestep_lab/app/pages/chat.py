"""The chat; `/chat/<thread id>` opens a conversation."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument


def page(lab: Any, *, is_owner: bool) -> Any:
    chat = lab.chat(thread=page_argument("id"), trace_base="/traces/")
    return chat.panel(sizing_mode="stretch_width")
