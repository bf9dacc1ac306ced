import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
from openinference.instrumentation.agno import AgnoInstrumentor  # noqa: E402

AgnoInstrumentor().instrument(tracer_provider=tracing)
from agno.agent import Agent  # noqa: E402
from agno.models.openai import OpenAIChat  # noqa: E402


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
    with contextlib.suppress(Exception):
        Agent(
            name="weather_agent",
            model=OpenAIChat(id=model, max_retries=0),
            tools=[get_weather],
            instructions=INSTRUCTIONS,
        ).run(QUESTION, session_id="sess-1", user_id="ann")
tracing.force_flush()
