import asyncio
import contextlib

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import SingleThreadedAgentRuntime
from autogen_ext.models.openai import OpenAIChatCompletionClient
from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()


async def get_weather(city: str) -> str:
    return SUNNY


async def main():
    client = OpenAIChatCompletionClient(model="gpt-4o-mini")
    agent = AssistantAgent(
        "weather_agent", client, tools=[get_weather], system_message=INSTRUCTIONS, reflect_on_tool_use=True
    )
    runtime = SingleThreadedAgentRuntime(tracer_provider=tracing)
    runtime.start()
    await RoundRobinGroupChat([agent], max_turns=1, runtime=runtime).run(task=QUESTION)
    client = OpenAIChatCompletionClient(model="gpt-4o-mini-broken", model_info=client.model_info, max_retries=0)
    with contextlib.suppress(Exception):
        await RoundRobinGroupChat([AssistantAgent("broken", client)], max_turns=1, runtime=runtime).run(task=QUESTION)
    with contextlib.suppress(Exception):
        await runtime.stop_when_idle()


asyncio.run(main())
tracing.force_flush()
