"""The Chat page; `/chat/<thread id>` opens a conversation, `/chat?agent=<agent id>` starts one with an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timestep_lab.server.pages.page_view import Shown, looked_up
from timestep_lab.server.panel import page_argument

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab


def page(lab: UserLab, *, is_owner: bool) -> Shown:
    opened, agent, name = page_argument("id"), page_argument("agent"), None
    if opened is not None:
        with looked_up():
            name = lab.threads[opened].title
    if agent is not None:
        with looked_up():
            agent = lab.agents.get(agent).name
    chat = lab.chat(agent, thread=opened, trace_base="/traces/")
    return Shown(chat, name=name, spoken=name or "Chat")
