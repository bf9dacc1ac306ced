import asyncio
import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider

os.environ["SEMANTICKERNEL_EXPERIMENTAL_GENAI_ENABLE_OTEL_DIAGNOSTICS_SENSITIVE"] = "true"
tracing = provider()
from openai import AsyncOpenAI  # noqa: E402
from semantic_kernel.agents import ChatCompletionAgent  # noqa: E402
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion  # noqa: E402
from semantic_kernel.functions import kernel_function  # noqa: E402


class Weather:
    @kernel_function(name="get_weather", description="The weather of a city.")
    def get_weather(self, city: str) -> str:
        return SUNNY


async def main():
    for model in ("gpt-4o-mini", "gpt-4o-mini-broken"):
        service = OpenAIChatCompletion(ai_model_id=model, async_client=AsyncOpenAI(max_retries=0))
        agent = ChatCompletionAgent(
            service=service, name="weather_agent", instructions=INSTRUCTIONS, plugins=[Weather()]
        )
        with contextlib.suppress(Exception):
            await agent.get_response(QUESTION)


asyncio.run(main())
tracing.force_flush()
