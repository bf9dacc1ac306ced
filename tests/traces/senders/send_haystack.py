import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
from haystack import Document, Pipeline  # noqa: E402
from haystack.components.agents import Agent  # noqa: E402
from haystack.components.generators.chat import OpenAIChatGenerator  # noqa: E402
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever  # noqa: E402
from haystack.dataclasses import ChatMessage  # noqa: E402
from haystack.document_stores.in_memory import InMemoryDocumentStore  # noqa: E402
from haystack.tools import tool  # noqa: E402
from openinference.instrumentation import using_session  # noqa: E402
from openinference.instrumentation.haystack import HaystackInstrumentor  # noqa: E402

HaystackInstrumentor().instrument(tracer_provider=tracing)


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


notes = InMemoryDocumentStore()
notes.write_documents([Document(content="The weather of Paris is sunny."), Document(content="Rome is wet.")])
for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
    with contextlib.suppress(Exception), using_session("sess-1"):
        pipeline = Pipeline()
        pipeline.add_component("notes", InMemoryBM25Retriever(notes))
        agent = Agent(chat_generator=OpenAIChatGenerator(model=model), tools=[get_weather], system_prompt=INSTRUCTIONS)
        pipeline.add_component("weather_agent", agent)
        pipeline.run({"notes": {"query": QUESTION}, "weather_agent": {"messages": [ChatMessage.from_user(QUESTION)]}})
tracing.force_flush()
