"""The SDK speaks with Claude Code in a process beside it; here with answers as that gives them."""

import asyncio
import json

from exporting import INSTRUCTIONS, QUESTION, SUNNY, provider
from openinference.instrumentation.claude_agent_sdk import ClaudeAgentSDKInstrumentor

tracing = provider()
ClaudeAgentSDKInstrumentor().instrument(tracer_provider=tracing)

import claude_agent_sdk  # noqa: E402
from claude_agent_sdk import ClaudeAgentOptions, Transport  # noqa: E402

MODEL = "claude-sonnet-4-5-20250929"
USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 2000, "output_tokens": 33}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}


class Answers(Transport):
    def __init__(self):
        self.queue = asyncio.Queue()
        self.hooks = {}

    async def connect(self): ...

    async def end_input(self): ...

    async def close(self):
        await self.queue.put(None)

    def is_ready(self):
        return True

    async def write(self, data):
        for line in filter(None, data.splitlines()):
            said = json.loads(line)
            if said.get("type") == "control_request":
                self.hooks = said["request"].get("hooks") or {}
                response = {"subtype": "success", "request_id": said["request_id"], "response": {"commands": []}}
                await self.queue.put({"type": "control_response", "response": response})
            elif said.get("type") == "user":
                for answer in self.answers():
                    await self.queue.put(answer)

    def hook(self, event, **more):
        told = {
            "hook_event_name": event,
            "session_id": "sess-1",
            "tool_name": CALL["name"],
            "tool_input": CALL["input"],
            **more,
        }
        for matcher in self.hooks.get(event, []):
            for callback in matcher["hookCallbackIds"]:
                request = {
                    "subtype": "hook_callback",
                    "callback_id": callback,
                    "input": told,
                    "tool_use_id": CALL["id"],
                }
                yield {"type": "control_request", "request_id": f"{event}-{callback}", "request": request}

    def answers(self):
        def message(content, stop):
            told = {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": MODEL,
                "content": content,
                "stop_reason": stop,
                "usage": USAGE,
            }
            return {"type": "assistant", "message": told, "parent_tool_use_id": None, "session_id": "sess-1"}

        yield {
            "type": "system",
            "subtype": "init",
            "session_id": "sess-1",
            "model": MODEL,
            "tools": ["get_weather"],
            "cwd": "/",
        }
        yield message([{"type": "text", "text": "Checking."}, CALL], "tool_use")
        yield from self.hook("PreToolUse")
        yield from self.hook("PostToolUse", tool_response=SUNNY)
        result = {"type": "tool_result", "tool_use_id": CALL["id"], "content": SUNNY}
        yield {
            "type": "user",
            "message": {"role": "user", "content": [result]},
            "parent_tool_use_id": None,
            "session_id": "sess-1",
        }
        yield message([{"type": "text", "text": "It is sunny in Paris"}], "end_turn")
        yield {
            "type": "result", "subtype": "success", "duration_ms": 20, "duration_api_ms": 10, "is_error": False, "num_turns": 2, "session_id": "sess-1",
            "total_cost_usd": 0.003, "usage": {name: 2 * count for name, count in USAGE.items()}, "result": "It is sunny in Paris",
        }  # fmt: skip

    async def read_messages(self):
        while (answer := await self.queue.get()) is not None:
            if answer["type"] == "user":
                await asyncio.sleep(0.3)  # The hooks answer first.
            yield answer
            if answer["type"] == "result":
                return


async def ask():
    options = ClaudeAgentOptions(system_prompt=INSTRUCTIONS, model=MODEL)
    async for _ in claude_agent_sdk.query(prompt=QUESTION, options=options, transport=Answers()):
        pass


asyncio.run(asyncio.wait_for(ask(), 60))
tracing.force_flush()
