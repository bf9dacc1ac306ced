import contextlib

from exporting import QUESTION, SUNNY, provider
from openinference.instrumentation import using_session
from openinference.instrumentation.smolagents import SmolagentsInstrumentor
from smolagents import OpenAIModel, ToolCallingAgent, tool

tracing = provider()
SmolagentsInstrumentor().instrument(tracer_provider=tracing)


@tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Which.
    """
    return SUNNY


for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
    with contextlib.suppress(Exception), using_session("sess-1"):
        agent = ToolCallingAgent(
            [get_weather], OpenAIModel(model, client_kwargs={"max_retries": 0}), name="weather_agent", max_steps=2
        )
        agent.run(QUESTION)
tracing.force_flush()
