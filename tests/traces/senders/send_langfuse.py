import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL

os.environ |= {
    "LANGFUSE_PUBLIC_KEY": "pk-none",
    "LANGFUSE_SECRET_KEY": "sk-none",
    "LANGFUSE_HOST": os.environ["MODEL_SERVER"],
    "LANGFUSE_BASE_URL": os.environ["MODEL_SERVER"],
}
import openai as openai_errors
from langfuse import Langfuse, observe, propagate_attributes
from langfuse.openai import OpenAI

client = Langfuse()


@observe(as_type="tool")
def get_weather(city):
    return SUNNY


@observe(as_type="retriever")
def notes(query):
    return ["Paris is sunny."]


@observe(as_type="agent")
def weather_agent(question):
    with propagate_attributes(session_id="sess-1", user_id="ann"):
        openai = OpenAI(max_retries=0)
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
        tools = [{"type": "function", "function": TOOL}]
        first = openai.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message
        notes(question)
        messages += [
            first.model_dump(),
            {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": get_weather(city="Paris")},
        ]
        openai.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        with contextlib.suppress(openai_errors.RateLimitError):
            openai.chat.completions.create(model="gpt-4o-mini-broken", messages=messages)
        return (
            openai.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools)
            .choices[0]
            .message.content
        )


weather_agent(QUESTION)
client.flush()
