import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from openinference.instrumentation import using_session
from openinference.instrumentation.pydantic_ai import OpenInferenceSpanProcessor
from pydantic_ai import Agent

tracing = provider()
first = tracing._active_span_processor._span_processors
tracing._active_span_processor._span_processors = (OpenInferenceSpanProcessor(), *first)
Agent.instrument_all()
agent = Agent("openai-chat:gpt-4o-mini", name="weather_agent", instructions=INSTRUCTIONS)


@agent.tool_plain
def get_weather(city: str) -> str:
    return SUNNY


with using_session("sess-1"):
    agent.run_sync(QUESTION)
    with contextlib.suppress(Exception):
        agent.run_sync(QUESTION, model="openai-chat:gpt-4o-mini-broken")
tracing.force_flush()
