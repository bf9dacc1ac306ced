import contextlib

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

tracing = provider()
from crewai import LLM, Agent, Crew, Task  # noqa: E402
from crewai.tools import tool  # noqa: E402
from openinference.instrumentation import using_session  # noqa: E402
from openinference.instrumentation.crewai import CrewAIInstrumentor  # noqa: E402
from openinference.instrumentation.openai import OpenAIInstrumentor  # noqa: E402

CrewAIInstrumentor().instrument(tracer_provider=tracing, skip_dep_check=True)
OpenAIInstrumentor().instrument(tracer_provider=tracing)


@tool("get_weather")
def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


for model in ("gpt-4o-mini", "gpt-4o-mini-broken"):
    llm = LLM(model=model, max_retries=0)
    agent = Agent(
        role="weather_agent",
        goal="Tell the weather.",
        backstory=INSTRUCTIONS,
        llm=llm,
        tools=[get_weather],
        max_retry_limit=0,
    )
    with contextlib.suppress(Exception), using_session("sess-1"):
        Crew(agents=[agent], tasks=[Task(description=QUESTION, expected_output="The weather.", agent=agent)]).kickoff()
tracing.force_flush()
