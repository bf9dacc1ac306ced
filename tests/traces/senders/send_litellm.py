import contextlib
import os
import time

from exporting import INSTRUCTIONS, QUESTION, TOOL

os.environ |= {"OTEL_EXPORTER": "otlp_http", "OTEL_ENDPOINT": os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces"}
import litellm

litellm.callbacks = ["otel"]
messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
tools = [{"type": "function", "function": TOOL}]
litellm.completion("openai/gpt-4o-mini", messages=messages, tools=tools, metadata={"session_id": "sess-1"})
litellm.completion("anthropic/claude-sonnet-4-5-20250929", messages=messages, tools=tools)
litellm.embedding("openai/text-embedding-3-small", input=["a", "b"])
with contextlib.suppress(litellm.RateLimitError):
    litellm.completion("openai/gpt-4o-mini-broken", messages=messages, num_retries=0, max_retries=0)
time.sleep(8)  # It writes from a thread of its own.
