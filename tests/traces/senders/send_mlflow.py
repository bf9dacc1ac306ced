import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL

os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces"
import mlflow
import openai
from mlflow.entities import Document, SpanType

mlflow.openai.autolog()


@mlflow.trace(span_type=SpanType.TOOL)
def get_weather(city):
    return SUNNY


@mlflow.trace(span_type=SpanType.RETRIEVER)
def notes(query):
    return [Document(page_content="Paris is sunny.", metadata={"score": 0.9}, id="n1")]


@mlflow.trace(span_type=SpanType.AGENT)
def weather_agent(question):
    mlflow.update_current_trace(metadata={"mlflow.trace.session": "sess-1", "mlflow.trace.user": "ann"})
    client = openai.OpenAI(max_retries=0)
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    tools = [{"type": "function", "function": TOOL}]
    first = client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message
    notes(question)
    messages += [first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": get_weather(city="Paris")}]
    client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(model="gpt-4o-mini-broken", messages=messages)
    return (
        client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message.content
    )


weather_agent(QUESTION)
mlflow.flush_trace_async_logging()
