"""Whether the clients that people use hold a conversation through `/openai/v1`: three turns, with a tool call in the second.

    python .ci/client_matrix.py [--clients openai,langchain] [--keep FOLDER]

Each client package is installed in an environment of its own (in FOLDER, or one that is thrown away); npm's where node is there.
A lab is served with four models behind it: the demo's, and servers that speak Chat Completions, Anthropic Messages and Ollama's API.
Prints a table; ends with 1 when a conversation failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tests.wire import Call, Reply, WireServer, Words, anthropic_messages, chat_completions, ollama_chat  # noqa: E402

TURNS = ("Hello.", "What is the weather in Oslo?", "Thank you.")
PER_CONVERSATION_S = 120


@dataclass(frozen=True)
class Client:
    """`code` reads `URL`, `KEY`, `MODEL`, `TURNS` and `API` ("chat" or "responses"), and calls `done(places, answers)`."""

    package: str
    apis: tuple[str, ...]
    code: str


HEAD = '''
import asyncio, json, os
URL, KEY, MODEL, API = (os.environ[n] for n in ("URL", "KEY", "MODEL", "API"))
TURNS = json.loads(os.environ["TURNS"])
SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
PLACES = []
def get_weather(location: str) -> str:
    """The weather in a place."""
    PLACES.append(location)
    return json.dumps({"location": location, "temperature": 18, "unit": "celsius", "condition": "Fog"})
def done(answers):
    assert PLACES == ["Oslo"], f"the tool was called with {PLACES}"
    assert len(answers) == 3 and all(answers), f"the answers were {answers}"
'''

CLIENTS = {
    "openai": Client(
        "openai",
        ("chat", "responses"),
        """
from openai import OpenAI
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0)
function = {"name": "get_weather", "description": "The weather in a place.", "parameters": SCHEMA}
said, answers = [], []
for turn in TURNS:
    said.append({"role": "user", "content": turn})
    while True:
        if API == "chat":
            tools = [{"type": "function", "function": function}]
            message = client.chat.completions.create(model=MODEL, messages=said, tools=tools).choices[0].message
            said.append(message.model_dump(exclude_none=True))
            calls = [(c.id, c.function.arguments) for c in message.tool_calls or ()]
            text = message.content
        else:
            answer = client.responses.create(model=MODEL, input=said, tools=[{"type": "function", **function}])
            said += [item.model_dump(exclude_none=True) for item in answer.output]
            calls = [(i.call_id, i.arguments) for i in answer.output if i.type == "function_call"]
            text = answer.output_text
        if not calls:
            break
        for id, arguments in calls:
            result = get_weather(**json.loads(arguments))
            said.append({"role": "tool", "tool_call_id": id, "content": result} if API == "chat"
                        else {"type": "function_call_output", "call_id": id, "output": result})
    answers.append(text)
done(answers)
""",
    ),
    "openai-agents": Client(
        "openai-agents",
        ("chat", "responses"),
        """
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, SQLiteSession, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
set_tracing_disabled(True)
async def main():
    kind = OpenAIChatCompletionsModel if API == "chat" else OpenAIResponsesModel
    model = kind(MODEL, AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0))
    agent, session = Agent(name="A", model=model, tools=[function_tool(get_weather)]), SQLiteSession("s")
    done([(await Runner.run(agent, turn, session=session)).final_output for turn in TURNS])
asyncio.run(main())
""",
    ),
    "langchain": Client(
        "langchain-openai",
        ("chat", "responses"),
        """
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
weather = tool(get_weather)
model = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, use_responses_api=API == "responses").bind_tools([weather])
said, answers = [], []
for turn in TURNS:
    said.append(HumanMessage(turn))
    while True:
        message = model.invoke(said)
        said.append(message)
        if not message.tool_calls:
            break
        said += [weather.invoke(call) for call in message.tool_calls]
    answers.append(message.text if isinstance(message.text, str) else message.text())
done(answers)
""",
    ),
    "pydantic-ai": Client(
        "pydantic-ai-slim[openai]",
        ("chat", "responses"),
        """
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
kind = OpenAIChatModel if API == "chat" else OpenAIResponsesModel
agent = Agent(kind(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY)), tools=[get_weather])
said, answers = [], []
for turn in TURNS:
    result = agent.run_sync(turn, message_history=said)
    said = result.all_messages()
    answers.append(result.output)
done(answers)
""",
    ),
    "litellm": Client(
        "litellm",
        ("chat",),
        """
import litellm
tools = [{"type": "function", "function": {"name": "get_weather", "description": "The weather in a place.", "parameters": SCHEMA}}]
said, answers = [], []
for turn in TURNS:
    said.append({"role": "user", "content": turn})
    while True:
        message = litellm.completion(model=f"openai/{MODEL}", api_base=URL, api_key=KEY, messages=said, tools=tools).choices[0].message
        said.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            said.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(**json.loads(call.function.arguments))})
    answers.append(message.content)
done(answers)
""",
    ),
    "llama-index": Client(
        "llama-index-llms-openai-like",
        ("chat",),
        """
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
model = OpenAILike(model=MODEL, api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0)
tool = FunctionTool.from_defaults(get_weather)
said, answers = [], []
for turn in TURNS:
    said.append(ChatMessage(role="user", content=turn))
    while True:
        response = model.chat_with_tools([tool], chat_history=said)
        said.append(response.message)
        calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        if not calls:
            break
        for call in calls:
            result = get_weather(**call.tool_kwargs)
            said.append(ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": call.tool_id}))
    answers.append(response.message.content)
done(answers)
""",
    ),
    "instructor": Client(
        "instructor",
        ("chat",),
        """
from collections.abc import Iterable
import instructor
from openai import OpenAI
from pydantic import BaseModel
class Weather(BaseModel):
    location: str
Weather.__name__ = Weather.__qualname__ = "get_weather"
client = OpenAI(base_url=URL, api_key=KEY, max_retries=0)
asks = instructor.from_openai(client, mode=instructor.Mode.PARALLEL_TOOLS)
said, answers = [], []
for number, turn in enumerate(TURNS):
    said.append({"role": "user", "content": turn})
    if number == 1:
        raws = []
        asks.on("completion:response", raws.append)
        found = [*asks.chat.completions.create(model=MODEL, messages=said, response_model=Iterable[Weather])]
        message = raws[-1].choices[0].message
        said.append(message.model_dump(exclude_none=True))
        for weather, call in zip(found, message.tool_calls, strict=True):
            said.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(weather.location)})
    message = client.chat.completions.create(model=MODEL, messages=said).choices[0].message
    said.append(message.model_dump(exclude_none=True))
    answers.append(message.content)
done(answers)
""",
    ),
    "llm": Client(
        "llm",
        ("chat",),
        """
from llm.default_plugins.openai_models import Chat
model = Chat("lab", model_name=MODEL, api_base=URL, supports_tools=True)
model.key = KEY
conversation = model.conversation(tools=[get_weather])
done([conversation.chain(turn).text() for turn in TURNS])
""",
    ),
}

NODE = """
const OpenAI = require("openai").default;
const { URL: url, KEY: key, MODEL: model, API: api } = process.env;
const parameters = { type: "object", properties: { location: { type: "string" } }, required: ["location"] };
const about = { name: "get_weather", description: "The weather in a place.", parameters };
const places = [], answers = [], said = [];
const look = (text) => { const { location } = JSON.parse(text); places.push(location); return JSON.stringify({ location, temperature: 18, unit: "celsius", condition: "Fog" }); };
(async () => {
  const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
  for (const turn of JSON.parse(process.env.TURNS)) {
    said.push({ role: "user", content: turn });
    for (;;) {
      if (api === "chat") {
        const { message } = (await client.chat.completions.create({ model, messages: said, tools: [{ type: "function", function: about }] })).choices[0];
        said.push(message);
        if (!message.tool_calls?.length) { answers.push(message.content); break; }
        for (const call of message.tool_calls) said.push({ role: "tool", tool_call_id: call.id, content: look(call.function.arguments) });
      } else {
        const answer = await client.responses.create({ model, input: said, tools: [{ type: "function", strict: false, ...about }] });
        said.push(...answer.output);
        const calls = answer.output.filter((item) => item.type === "function_call");
        if (!calls.length) { answers.push(answer.output_text); break; }
        for (const call of calls) said.push({ type: "function_call_output", call_id: call.call_id, output: look(call.arguments) });
      }
    }
  }
  if (JSON.stringify(places) !== '["Oslo"]' || answers.length !== 3 || !answers.every(Boolean)) throw new Error(JSON.stringify({ places, answers }));
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = [*CLIENTS, *(["openai (npm)"] if shutil.which("npm") else [])]
    parser.add_argument("--clients", default=",".join(names))
    parser.add_argument("--keep", type=Path, help="a folder for the clients' environments, to be used again")
    asked = parser.parse_args()
    failed = 0
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chat, claude, ollama = (
            stack.enter_context(WireServer(p)) for p in (chat_completions, anthropic_messages, ollama_chat)
        )
        models = {
            "demo/assistant": None,
            "openai_compatible/wire/m": chat,
            "anthropic/claude-haiku-4-5": claude,
            "ollama/qwen3": ollama,
        }
        url, key = stack.enter_context(served_lab(chat.url, claude.url, ollama.url))
        print("| client | API |", " | ".join(models), "|\n|---|---|" + "---|" * len(models), flush=True)
        for name in asked.clients.split(","):
            apis = CLIENTS[name].apis if name in CLIENTS else ("chat", "responses")
            command, unfit = installed(name, folder)
            for api in apis:
                cells = []
                for model, server in models.items():
                    if server:
                        call = Reply(Call("get_weather", {"location": "Oslo"}, "call_1"))
                        server.forget().will(
                            Reply(Words("Hello.")), call, Reply(Words("Fog.")), Reply(Words("You are welcome."))
                        )
                    more = {
                        "URL": url,
                        "KEY": key,
                        "MODEL": model,
                        "API": api,
                        "TURNS": json.dumps(TURNS),
                        "OPENAI_API_KEY": key,
                    }
                    said = unfit or conversation(command, folder, {**os.environ, **more})
                    failed += bool(said)
                    cells.append(said or "works")
                print(f"| {name} | {api} |", " | ".join(cells), "|", flush=True)
    return 1 if failed else 0


@contextmanager
def served_lab(chat: str, claude: str, ollama: str) -> Iterator[tuple[str, str]]:
    """(address of the API, token)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ, "OPENAI_COMPATIBLE": json.dumps({"wire": f"{chat}/v1"}), "ANTHROPIC_BASE_URL": claude, "OLLAMA_HOST": ollama,
            "TIMESTEP_LAB_DEMO_DELAY_MS": "0", "TIMESTEP_LAB_STORE": str(Path(folder) / "lab.duckdb"),
        }  # fmt: skip
        program = [
            sys.executable,
            "-c",
            "import sys; from timestep_lab.cli.root import main; sys.exit(main(sys.argv[1:]))",
        ]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen([*program, "serve", "--port", port], env=env, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(f"http://127.0.0.1:{port}/readyz", server)
            token = subprocess.run([*program, "token"], env=env, capture_output=True, text=True, check=True, cwd=folder)
            yield f"http://127.0.0.1:{port}/openai/v1", token.stdout.strip()
        finally:
            server.terminate()
            server.wait(60)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise SystemExit("The lab could not be served.")


def installed(name: str, folder: Path) -> tuple[list[str], str]:
    """(what runs this client's code, why it could not be installed)."""
    place = folder / name.replace(" ", "_")
    try:
        if name not in CLIENTS:
            place.mkdir(parents=True, exist_ok=True)
            if not (place / "node_modules").exists():
                subprocess.run(
                    ["npm", "install", "--silent", "openai"], cwd=place, check=True, capture_output=True, timeout=600
                )
            (place / "client.js").write_text(NODE)
            return ["node", str(place / "client.js")], ""
        python = place / "bin" / "python"
        if not python.exists():
            venv.create(place, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "-q", CLIENTS[name].package]
            subprocess.run(pip, check=True, capture_output=True, timeout=900)
        (place / "client.py").write_text(HEAD + CLIENTS[name].code)
        return [str(python), str(place / "client.py")], ""
    except (subprocess.SubprocessError, OSError) as error:
        return [], f"not installed: {error}"[:120]


def conversation(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """Empty when it went well, else the last thing that was said."""
    env.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PER_CONVERSATION_S)
    except subprocess.TimeoutExpired:
        return "no end"
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1] if lines else "failed")[:160].replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
