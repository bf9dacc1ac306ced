import asyncio
import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
if os.environ["INSTRUMENTATION"] == "openinference":
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
else:
    from opentelemetry.instrumentation.llamaindex import LlamaIndexInstrumentor
LlamaIndexInstrumentor().instrument(tracer_provider=tracing)

from llama_index.core.agent.workflow import FunctionAgent  # noqa: E402
from llama_index.core.retrievers import BaseRetriever  # noqa: E402
from llama_index.core.schema import NodeWithScore, TextNode  # noqa: E402
from llama_index.llms.openai import OpenAI  # noqa: E402


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


class Notes(BaseRetriever):
    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=TextNode(text="Paris is sunny.", id_="n1"), score=0.9)]


async def main():
    agent = FunctionAgent(
        name="weather_agent",
        tools=[get_weather],
        llm=OpenAI(model="gpt-4o-mini"),
        system_prompt=INSTRUCTIONS,
        streaming=False,
    )
    await agent.run(QUESTION)
    Notes().retrieve(QUESTION)
    with contextlib.suppress(Exception):
        await OpenAI(model="gpt-4o-mini-broken", max_retries=0).acomplete(QUESTION)


asyncio.run(main())
tracing.force_flush()
