import asyncio
import contextlib
import warnings

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

warnings.simplefilter("ignore")
tracing = provider()

from google.adk.agents import LlmAgent  # noqa: E402
from google.adk.models.lite_llm import LiteLlm  # noqa: E402
from google.adk.runners import InMemoryRunner  # noqa: E402
from google.genai import types  # noqa: E402


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


async def main():
    for model in ("openai/gpt-4o-mini", "openai/gpt-4o-mini-broken"):
        with contextlib.suppress(Exception):
            await ask(model)


async def ask(model):
    agent = LlmAgent(
        name="weather_agent",
        model=LiteLlm(model, num_retries=0, max_retries=0),
        instruction=INSTRUCTIONS,
        tools=[get_weather],
    )
    runner = InMemoryRunner(agent, app_name="recorded")
    session = await runner.session_service.create_session(app_name="recorded", user_id="ann")
    said = types.Content(role="user", parts=[types.Part(text=QUESTION)])
    async for _ in runner.run_async(user_id="ann", session_id=session.id, new_message=said):
        pass


asyncio.run(main())
tracing.force_flush()
