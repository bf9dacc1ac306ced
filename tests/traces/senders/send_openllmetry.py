import contextlib

import anthropic
import openai
from exporting import INSTRUCTIONS, QUESTION, TOOL, provider
from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
from opentelemetry.instrumentation.openai import OpenAIInstrumentor

tracing = provider()
OpenAIInstrumentor().instrument(tracer_provider=tracing)
AnthropicInstrumentor().instrument(tracer_provider=tracing)
asked = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
tools = [{"type": "function", "function": TOOL}]
client, claude = openai.OpenAI(max_retries=0), anthropic.Anthropic(max_retries=0)
with tracing.get_tracer("app").start_as_current_span("POST /chat"):
    client.chat.completions.create(model="gpt-4o-mini", messages=asked, tools=tools)
    client.responses.create(model="gpt-4o-mini", input=QUESTION, instructions=INSTRUCTIONS)
    client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    claude.messages.create(
        model="claude-sonnet-4-5-20250929", max_tokens=99, system=INSTRUCTIONS, messages=asked[1:],
        tools=[{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}],
    )  # fmt: skip
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(model="gpt-4o-mini-broken", messages=asked)
tracing.force_flush()
