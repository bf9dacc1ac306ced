"""The two agents that every user finds at first sight. Their ids are fixed, so links and notebooks can name them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from timestep_lab.types.errors import ConflictError
from timestep_lab.types.ids import BUILTIN_MCP_SERVER, PERSONAL_ASSISTANT, WEATHER_ASSISTANT
from timestep_lab.types.records import AgentRecord

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

GET_WEATHER = f"{BUILTIN_MCP_SERVER}.get_weather"
THINK = f"{BUILTIN_MCP_SERVER}.think"
SWITCH_THEME = "switch_theme"


def default_agents(user_id: str) -> tuple[AgentRecord, AgentRecord]:
    """Personal Assistant and Weather Assistant, as they are made for a new user."""
    settings = {"temperature": 0, "tool_choice": "auto"}
    personal = AgentRecord(
        id=PERSONAL_ASSISTANT,
        user_id=user_id,
        name="Personal Assistant",
        description="Answers questions of every kind and calls in other assistants.",
        instructions=(
            "You are a personal assistant. Answer briefly and truthfully, in the user's language.\n"
            "Hand off every question about weather, now or to come, to the Weather Assistant.\n"
            "Use the think tool before an answer that takes several steps.\n"
            "Use switch_theme when the user asks for a light or a dark theme."
        ),
        model_settings=settings,
        tool_ids=(THINK, SWITCH_THEME),
        handoff_ids=(WEATHER_ASSISTANT,),
    )
    weather = AgentRecord(
        id=WEATHER_ASSISTANT,
        user_id=user_id,
        name="Weather Assistant",
        description="Knows the weather, now and for the next hours, anywhere.",
        instructions=(
            "You are a weather assistant. Call get_weather for each place that is asked for, then answer in one or two "
            "sentences with temperature and conditions.\n"
            "Never guess the weather. If a call is refused, say that you may not look it up."
        ),
        model_settings=settings,
        tool_ids=(GET_WEATHER, THINK),
        approvals={GET_WEATHER: {"argument": "location", "contains": "berkeley"}},
    )
    return personal, weather


def ensure_default_agents(store: Store) -> None:
    """Make the two for a user who has no agents yet. A user who deleted one of them does not get it back."""
    if store.agents.count():
        return
    agents = default_agents(store.user_id)
    # Another process may be making them at this moment; then they are there, which is all we want.
    with contextlib.suppress(ConflictError):
        store.db.write(
            store.user_id,
            [store.agents.insert_statement(agent) for agent in agents],
            changes=[change for agent in agents for change in store.agents.changes(agent.id)],
        )
