import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings

tracing = provider()
version = os.environ.get("FORMAT")
settings = InstrumentationSettings(tracer_provider=tracing, **({"version": int(version)} if version else {}))
Agent.instrument_all(settings)
agent = Agent("openai-chat:gpt-4o-mini", name="weather_agent", instructions=INSTRUCTIONS)


@agent.tool_plain
def get_weather(city: str) -> str:
    return SUNNY


agent.run_sync(QUESTION)
with contextlib.suppress(Exception):
    agent.run_sync(QUESTION, model="openai-chat:gpt-4o-mini-broken")
tracing.force_flush()
