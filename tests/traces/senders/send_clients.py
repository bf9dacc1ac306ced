"""Clients of single providers, each watched by the instrumentation that the environment names."""

import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL, provider

tracing = provider()
library, _, client_name = os.environ["INSTRUMENTATION"].partition(" ")
prefix = {"openllmetry": "opentelemetry", "openinference": "openinference"}[library]
module = __import__(f"{prefix}.instrumentation.{client_name}", fromlist=["*"])
for name in dir(module):
    if name.endswith("Instrumentor") and name not in ("BaseInstrumentor",):
        getattr(module, name)().instrument(tracer_provider=tracing)
messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
tools = [{"type": "function", "function": TOOL}]
server = os.environ["MODEL_SERVER"]


def ask(call, model, read):
    """A first turn that calls the tool, and a second that answers; then one that fails."""
    said = read(call(model, messages))
    calls = said["tool_calls"]
    answered = {"role": "tool", "content": SUNNY}
    if client_name == "ollama":
        answered["tool_name"] = "get_weather"
    else:
        answered["tool_call_id"] = calls[0]["id"]
    call(model, [*messages, {key: said[key] for key in said if key in ("role", "content", "tool_calls")}, answered])
    with contextlib.suppress(Exception):
        call(f"{model}-broken", messages)


def read(answer):
    return answer.choices[0].message.model_dump(exclude_none=True)


with tracing.get_tracer("app").start_as_current_span("POST /chat"):
    match client_name:
        case "mistralai":
            try:
                from mistralai.client import Mistral
            except ImportError:
                from mistralai import Mistral

            mistral = Mistral(api_key="none", server_url=server)
            ask(
                lambda model, said: mistral.chat.complete(model=model, messages=said, tools=tools),
                "mistral-small-latest",
                read,
            )
            mistral.embeddings.create(model="mistral-embed", inputs=["a", "b"])
        case "groq":
            from groq import Groq

            groq = Groq(api_key="none", base_url=server, max_retries=0)
            ask(
                lambda model, said: groq.chat.completions.create(model=model, messages=said, tools=tools),
                "llama-3.3-70b-versatile",
                read,
            )
        case "ollama":
            from ollama import Client

            ollama = Client(host=server)
            ask(
                lambda model, said: ollama.chat(model=model, messages=said, tools=tools),
                "llama3.2",
                lambda answer: answer.message.model_dump(exclude_none=True),
            )
            ollama.embed(model="nomic-embed-text", input=["a", "b"])
        case "cohere":
            import cohere

            co = cohere.ClientV2(api_key="none", base_url=server)
            ask(
                lambda model, said: co.chat(model=model, messages=said, tools=tools),
                "command-a-03-2025",
                lambda answer: answer.message.model_dump(exclude_none=True),
            )
            co.embed(model="embed-v4.0", texts=["a", "b"], input_type="search_query", embedding_types=["float"])
            co.rerank(model="rerank-v3.5", query=QUESTION, documents=["Paris is sunny.", "Rome is wet."])
        case "litellm":
            import litellm

            ask(
                lambda model, said: litellm.completion(
                    model=f"openai/{model}", messages=said, tools=tools, max_retries=0
                ),
                "gpt-4o-mini",
                read,
            )
            litellm.embedding(model="openai/text-embedding-3-small", input=["a", "b"])
tracing.force_flush()
