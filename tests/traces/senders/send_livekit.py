import asyncio
import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from livekit.agents import Agent, AgentSession, RunContext, function_tool
from livekit.agents.telemetry import set_tracer_provider
from livekit.plugins import openai

tracing = provider()
set_tracer_provider(tracing, metadata={"langfuse.session.id": "room-1"})


class WeatherAgent(Agent):
    def __init__(self):
        super().__init__(instructions=INSTRUCTIONS)

    @function_tool
    async def get_weather(self, context: RunContext, city: str) -> str:
        """The weather of a city."""
        return SUNNY


async def main():
    for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
        async with AgentSession(llm=openai.LLM(model=model)) as session:
            await session.start(WeatherAgent())
            with contextlib.suppress(Exception):
                await asyncio.wait_for(session.run(user_input=QUESTION), 20)


asyncio.run(main())
tracing.force_flush()
