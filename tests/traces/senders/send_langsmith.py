import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

os.environ |= {"LANGSMITH_TRACING": "true", "LANGSMITH_OTEL_ENABLED": "true", "LANGSMITH_OTEL_ONLY": "true", "LANGSMITH_API_KEY": "none",
               "LANGSMITH_ENDPOINT": os.environ["MODEL_SERVER"], "LANGSMITH_PROJECT": "recorded"}  # fmt: skip
tracing = provider()
from langchain.agents import create_agent  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from langsmith import Client  # noqa: E402


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


for model in ("gpt-4o-mini", "gpt-4o-mini-broken"):
    agent = create_agent(
        ChatOpenAI(model=model, max_retries=0), tools=[get_weather], system_prompt=INSTRUCTIONS, name="weather_agent"
    )
    with contextlib.suppress(Exception):
        asked = {"messages": [{"role": "user", "content": QUESTION}]}
        agent.invoke(asked, {"metadata": {"session_id": "sess-1", "user_id": "ann"}})
Client().flush()
import time  # noqa: E402

time.sleep(2)
tracing.force_flush()
