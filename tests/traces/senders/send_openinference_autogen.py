import asyncio
import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
from autogen_agentchat.agents import AssistantAgent  # noqa: E402
from autogen_ext.models.openai import OpenAIChatCompletionClient  # noqa: E402
from openinference.instrumentation.autogen_agentchat import AutogenAgentChatInstrumentor  # noqa: E402

AutogenAgentChatInstrumentor().instrument(tracer_provider=tracing)


async def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


async def main():
    info = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "family": "gpt-4o",
        "structured_output": True,
    }
    for model in ("gpt-4o-mini", "gpt-4o-mini-broken"):
        client = OpenAIChatCompletionClient(model=model, model_info=info, max_retries=0)
        agent = AssistantAgent(
            "weather_agent", client, tools=[get_weather], system_message=INSTRUCTIONS, reflect_on_tool_use=True
        )
        with contextlib.suppress(Exception):
            await agent.run(task=QUESTION)


asyncio.run(main())
tracing.force_flush()
