import contextlib
import os
from urllib.parse import urlsplit

import openai
from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL
from lmnr import Laminar, observe

server = urlsplit(os.environ["MODEL_SERVER"])
Laminar.initialize(project_api_key="none", base_url=f"http://{server.hostname}", http_port=server.port, force_http=True)
client = openai.OpenAI(max_retries=0)


@observe(name="get_weather", span_type="TOOL")
def get_weather(city: str) -> str:
    return SUNNY


@observe(name="POST /chat", session_id="sess-1", user_id="user-1")
def chat(question: str) -> str:
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
    tools = [{"type": "function", "function": TOOL}]
    first = client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message
    answered = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": get_weather(city="Paris")}
    messages += [first.model_dump(exclude_none=True), answered]
    return (
        client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=tools).choices[0].message.content
    )


chat(QUESTION)
with contextlib.suppress(openai.RateLimitError):
    client.chat.completions.create(model="gpt-4o-mini-broken", messages=[{"role": "user", "content": "q"}])
Laminar.flush()
Laminar.shutdown()
