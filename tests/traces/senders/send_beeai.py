"""BeeAI's agent with a tool, watched by OpenInference."""

import asyncio

from beeai_framework.agents.requirement import RequirementAgent
from beeai_framework.backend import ChatModel
from beeai_framework.tools import tool
from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from openinference.instrumentation.beeai import BeeAIInstrumentor

tracing = provider()
BeeAIInstrumentor().instrument(tracer_provider=tracing)


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


async def main() -> None:
    model = ChatModel.from_name("openai:gpt-4o-mini")
    await RequirementAgent(llm=model, tools=[get_weather], instructions=INSTRUCTIONS).run(QUESTION)


asyncio.run(main())
tracing.force_flush()
