import asyncio
import contextlib
import os

import logfire
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, RunConfig, Runner, function_tool
from exporting import INSTRUCTIONS, QUESTION, SUNNY
from openai import AsyncOpenAI

logfire.configure(send_to_logfire=False, console=False)
logfire.instrument_openai_agents()

Model = OpenAIResponsesModel if os.environ.get("PROTOCOL") == "responses" else OpenAIChatCompletionsModel
model = Model("gpt-4o-mini", AsyncOpenAI())


@function_tool
def get_weather(city: str) -> str:
    return SUNNY


weather = Agent(name="Weather Agent", instructions=INSTRUCTIONS, tools=[get_weather], model=model)
triage = Agent(name="Triage", instructions="route", handoffs=[weather], model=model)
broken = Agent(name="Broken", instructions=INSTRUCTIONS, model=Model("gpt-4o-mini-broken", AsyncOpenAI(max_retries=0)))
for agent in (triage, broken):
    with contextlib.suppress(Exception):
        asyncio.run(Runner.run(agent, QUESTION, run_config=RunConfig(group_id="sess-1")))
logfire.force_flush()
