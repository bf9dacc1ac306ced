import asyncio
import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, function_tool, set_trace_processors  # noqa: E402
from openai import AsyncOpenAI  # noqa: E402
from weave.integrations.openai_agents.otel_processor import WeaveOtelTracingProcessor  # noqa: E402

set_trace_processors([WeaveOtelTracingProcessor()])


@function_tool
def get_weather(city: str) -> str:
    return SUNNY


def model(name):
    return OpenAIResponsesModel(name, AsyncOpenAI(max_retries=0))


weather = Agent(name="Weather Agent", instructions=INSTRUCTIONS, tools=[get_weather], model=model("gpt-4o-mini"))
triage = Agent(name="Triage", instructions="route", handoffs=[weather], model=model("gpt-4o-mini"))
broken = Agent(name="Broken", instructions=INSTRUCTIONS, model=model("gpt-4o-mini-broken"))
for agent in (triage, broken):
    with contextlib.suppress(Exception):
        asyncio.run(Runner.run(agent, QUESTION, run_config=RunConfig(group_id="sess-1")))
tracing.force_flush()
