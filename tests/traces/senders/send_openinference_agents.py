import asyncio
import contextlib

from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from openai import AsyncOpenAI
from openinference.instrumentation import using_session
from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor

tracing = provider()
OpenAIAgentsInstrumentor().instrument(tracer_provider=tracing)
model = OpenAIChatCompletionsModel("gpt-4o-mini", AsyncOpenAI())


@function_tool
def get_weather(city: str) -> str:
    return SUNNY


weather = Agent(name="Weather Agent", instructions=INSTRUCTIONS, tools=[get_weather], model=model)
triage = Agent(name="Triage", instructions="route", handoffs=[weather], model=model)
broken = Agent(
    name="Broken",
    instructions=INSTRUCTIONS,
    model=OpenAIChatCompletionsModel("gpt-4o-mini-broken", AsyncOpenAI(max_retries=0)),
)
for agent in (triage, broken):
    with contextlib.suppress(Exception), using_session("sess-1"):
        asyncio.run(Runner.run(agent, QUESTION, run_config=RunConfig(group_id="sess-1")))
tracing.force_flush()
