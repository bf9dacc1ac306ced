import contextlib
import os
import time

import agentops
import openai
from agentops.sdk.decorators import agent, operation, tool
from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL

server = os.environ["MODEL_SERVER"]
agentops.init(
    api_key="00000000-0000-0000-0000-000000000000",
    endpoint=server,
    exporter_endpoint=f"{server}/v1/traces",
    auto_start_session=False,
)
trace = agentops.start_trace(trace_name="POST /chat", tags=["recorded"])
client = openai.OpenAI(max_retries=0)


@tool(name="get_weather")
def get_weather(city: str) -> str:
    return SUNNY


@agent(name="weather_agent")
class Agent:
    @operation(name="answer")
    def answer(self, question: str) -> str:
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
        tools = [{"type": "function", "function": TOOL}]
        first = client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message
        call = first.tool_calls[0]
        messages += [
            first.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": get_weather("Paris")},
        ]
        return (
            client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools)
            .choices[0]
            .message.content
            or ""
        )


Agent().answer(QUESTION)
with contextlib.suppress(openai.RateLimitError):
    client.chat.completions.create(model="gpt-4o-mini-broken", messages=[{"role": "user", "content": "q"}])
agentops.end_trace(trace, end_state="Success")
time.sleep(6)  # It writes from a thread of its own.
