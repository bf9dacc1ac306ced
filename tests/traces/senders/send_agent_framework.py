import asyncio
import contextlib

from agent_framework import Agent
from agent_framework.observability import enable_instrumentation
from agent_framework.openai import OpenAIChatCompletionClient
from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
enable_instrumentation(enable_sensitive_data=True)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


async def main():
    for model in ("gpt-4o-mini", "gpt-4o-mini-broken"):
        client = OpenAIChatCompletionClient(model=model)
        with contextlib.suppress(Exception):
            await Agent(client=client, instructions=INSTRUCTIONS, name="weather_agent", tools=[get_weather]).run(
                QUESTION
            )


asyncio.run(main())
tracing.force_flush()
