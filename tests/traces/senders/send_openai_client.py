"""The OpenAI client in a loop with a tool, watched by the instrumentation that the environment names."""

import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL, provider

match os.environ["INSTRUMENTATION"]:
    case "opentelemetry":
        tracing = provider()
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=tracing)
        flush = tracing.force_flush
    case "openlit":
        import openlit

        openlit.init(otlp_endpoint=os.environ["MODEL_SERVER"], application_name="recorded", disable_metrics=True)
        from opentelemetry import trace

        flush = trace.get_tracer_provider().force_flush
    case "traceloop":
        from traceloop.sdk import Traceloop

        Traceloop.init(app_name="recorded", api_endpoint=os.environ["MODEL_SERVER"], telemetry_enabled=False)
        Traceloop.set_association_properties({"session_id": "sess-1", "user_id": "ann"})
        from opentelemetry import trace

        flush = trace.get_tracer_provider().force_flush
    case "logfire":
        import logfire

        logfire.configure(send_to_logfire=False, console=False)
        logfire.instrument_openai()
        flush = logfire.force_flush
    case "langwatch":
        import langwatch

        langwatch.setup(api_key="none", endpoint_url=os.environ["MODEL_SERVER"])
        from opentelemetry import trace

        flush = trace.get_tracer_provider().force_flush
    case "braintrust":
        tracing = provider()
        import braintrust

        braintrust.auto_instrument()
        flush = tracing.force_flush
import openai

client = openai.OpenAI(max_retries=0)


def get_weather(city):
    return SUNNY


def weather_agent(question):
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    tools = [{"type": "function", "function": TOOL}]
    first = client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message
    messages += [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": get_weather(city="Paris")},
    ]
    client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(model="gpt-4o-mini-broken", messages=messages)
    parts = client.chat.completions.create(
        model="gpt-4o-mini", messages=messages, tools=tools, stream=True, stream_options={"include_usage": True}
    )
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


if os.environ["INSTRUMENTATION"] == "traceloop":
    from traceloop.sdk.decorators import tool, workflow

    get_weather = tool(name="get_weather")(get_weather)
    weather_agent = workflow(name="weather_agent")(weather_agent)
    weather_agent(QUESTION)
elif os.environ["INSTRUMENTATION"] == "langwatch":
    get_weather = langwatch.span(name="get_weather", type="tool")(get_weather)

    @langwatch.trace(name="weather_agent", metadata={"thread_id": "sess-1", "user_id": "ann"})
    def watched(question):
        langwatch.get_current_trace().autotrack_openai_calls(client)
        return weather_agent(question)

    watched(QUESTION)
elif os.environ["INSTRUMENTATION"] == "openlit":
    weather_agent = openlit.trace(weather_agent)
    weather_agent(QUESTION)
else:
    from opentelemetry import trace

    with trace.get_tracer("app").start_as_current_span("POST /chat"):
        weather_agent(QUESTION)
flush()
