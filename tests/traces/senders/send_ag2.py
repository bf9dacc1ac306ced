import asyncio
import contextlib

from ag2 import Agent
from ag2.config import OpenAIConfig
from ag2.middleware import TelemetryMiddleware
from ag2.tools import tool
from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


async def main():
    watched = TelemetryMiddleware(agent_name="weather_agent", tracer_provider=tracing, capture_content=True)
    for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
        config = OpenAIConfig(model=model)
        agent = Agent("weather_agent", prompt=INSTRUCTIONS, config=config, tools=[get_weather], middleware=[watched])
        with contextlib.suppress(Exception):
            await agent.ask(QUESTION)


asyncio.run(main())
tracing.force_flush()
