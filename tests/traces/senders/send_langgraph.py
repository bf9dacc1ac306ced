import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

tracing = provider()
if os.environ["INSTRUMENTATION"] == "openinference":
    from openinference.instrumentation.langchain import LangChainInstrumentor
else:
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor as LangChainInstrumentor
LangChainInstrumentor().instrument(tracer_provider=tracing)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


for name in ("gpt-4o-mini", "gpt-4o-mini-broken"):
    model = ChatOpenAI(model=name, max_retries=0)
    agent = create_agent(model, [get_weather], system_prompt=INSTRUCTIONS, name="weather_agent")
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    with contextlib.suppress(Exception):
        agent.invoke(asked, {"configurable": {"thread_id": "t-1"}, "metadata": {"session_id": "sess-1"}})
tracing.force_flush()
