import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from strands import Agent, tool
from strands.models.openai import OpenAIModel

tracing = provider()


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
    agent = Agent(
        name="weather_agent", model=OpenAIModel(client_args={"max_retries": 0}, model_id=model), system_prompt=INSTRUCTIONS, tools=[get_weather],
        trace_attributes={"session.id": "sess-9"}, callback_handler=None,
    )  # fmt: skip
    with contextlib.suppress(Exception):
        agent(QUESTION)
tracing.force_flush()
