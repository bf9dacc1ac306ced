"""What every adapter sends on the next turn of a conversation, after each thing that can be in an earlier one. `local/` is heard, too: its
engine is replaced by one that passes the request on to a model server."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from agents import ModelSettings, SQLiteSession

from tests.files.test_text_of_files import pdf
from tests.providers.calling import get_time, get_weather, run
from tests.providers.cases import CASES, Case
from tests.providers.test_conformance_answers import PIXEL, replayed, sent_arguments
from tests.wire import Call, Reply, Thought, WireServer, Words, chat_completions
from timestep_lab.model.errors import SettingsError
from timestep_lab.runtime.adapters import local
from timestep_lab.runtime.adapters.base import AnswerSchema
from timestep_lab.runtime.adapters.local import LocalModel
from timestep_lab.runtime.router import Router

LOCAL = Case("local", chat_completions, "local/a-model", lambda url: {}, "a-model", None)
BY_ITSELF = ("openai", "anthropic")
"""These read PDFs and give parts of other types in results of tools."""


@dataclass(frozen=True)
class ElsewhereEngine:
    """In place of a file with weights."""

    url: str
    supports_tools: bool = True
    tiny: bool = False

    async def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with (
            httpx.AsyncClient() as http,
            http.stream("POST", f"{self.url}/v1/chat/completions", json=dict(body)) as answer,
        ):
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data.startswith("{"):
                    yield json.loads(data)


@pytest.fixture(params=[*CASES, LOCAL], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def server(case: Case, server_for: Callable[[ModuleType], WireServer]) -> WireServer:
    return server_for(case.protocol)


@dataclass
class Talk:
    """A thread with a model."""

    router: Router
    model: Any
    session: SQLiteSession

    async def say(self, said: Any, **options: Any) -> Any:
        return await run(self.router, self.model, said, session=self.session, tools=[get_weather, get_time], **options)


@pytest.fixture
def talk(case: Case, server: WireServer, router_for: Callable[..., Router], monkeypatch: pytest.MonkeyPatch) -> Talk:
    async def elsewhere(path: Path) -> ElsewhereEngine:
        return ElsewhereEngine(server.url)

    monkeypatch.setattr(local, "engine_for", elsewhere)
    model = LocalModel("a-model", Path("a-model.gguf")) if case is LOCAL else case.model
    return Talk(router_for(case.configure(server.url)), model, SQLiteSession("a-thread"))


def conversation(server: WireServer) -> list[dict[str, Any]]:
    body = server.requests[-1].body
    return [one for one in body.get("messages") or body["input"] if one.get("role") != "system"]


async def test_three_turns_with_calls_whose_ids_repeat(talk: Talk, server: WireServer, case: Case) -> None:
    server.will(
        Reply(Words("Hello.")), Reply(Words("Looking."), Call("get_weather", {"location": "Rome"}, "0")), Reply(Call("get_time", {"zone": "UTC"}, "0")),
        Reply(Words("Fog.")), Reply(Call("get_weather", {"location": "Oslo"}, "0")), Reply(Words("Fog again.")), Reply(Words("Bye.")),
    )  # fmt: skip
    for said in ("Hi", "Rome?", "Oslo?", "Thanks"):
        await talk.say(said)
    assert replayed(server.requests[-1].body) == [
        ("user", ["text"]), ("assistant", ["text"]), ("user", ["text"]), ("assistant", ["text", "call get_weather Rome"]),
        ("tool", ["result get_weather 18"]), ("assistant", ["call get_time UTC"]), ("tool", ["result get_time 12:00"]),
        ("assistant", ["text"]), ("user", ["text"]), ("assistant", ["call get_weather Oslo"]), ("tool", ["result get_weather 18"]),
        ("assistant", ["text"]), ("user", ["text"]),
    ]  # fmt: skip


async def test_calls_of_one_answer_with_the_same_id_are_calls_of_their_own(talk: Talk, server: WireServer) -> None:
    rome, oslo = Call("get_weather", {"location": "Rome"}, "0"), Call("get_weather", {"location": "Oslo"}, "0")
    server.will(Reply(rome, oslo), Reply(Words("Fog.")))
    assert (await talk.say("Where?")).final_output == "Fog."
    assert replayed(server.requests[-1].body) == [
        ("user", ["text"]), ("assistant", ["call get_weather Rome", "call get_weather Oslo"]),
        ("tool", ["result get_weather 18", "result get_weather 18"]),
    ]  # fmt: skip


async def test_arguments_that_were_no_object_and_what_the_tool_said_of_them(
    talk: Talk, server: WireServer, case: Case
) -> None:
    server.will(
        Reply(Call("get_weather", '{"location": "Ro'), stop="length"), Reply(Words("Sorry.")), Reply(Words("Fine."))
    )
    for said in ("Where?", "Again?"):
        await talk.say(said)
    heard = json.dumps(conversation(server))
    assert "An error occurred while running the tool" in heard
    if case.name != "openai":
        assert {"INVALID_JSON": '{"location": "Ro'} in sent_arguments(server.requests[-1].body)


async def test_files_and_images_of_an_earlier_question(talk: Talk, server: WireServer, case: Case) -> None:
    data = base64.b64encode(pdf("Fourteen herons")).decode()
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"},
    ]
    server.will(Reply(Words("A dot, and herons.")), Reply(Words("Fourteen.")))
    await talk.say([{"role": "user", "content": content}])
    await talk.say("How many?")
    first = json.dumps(conversation(server)[0])
    assert PIXEL in first
    assert (data in first, "Fourteen herons" in first) == ((True, False) if case.name in BY_ITSELF else (False, True))


async def test_reasoning_of_an_earlier_turn(talk: Talk, server: WireServer, case: Case) -> None:
    server.will(
        Reply(Thought("Rome it is"), Call("get_weather", {"location": "Rome"})),
        Reply(Words("Fog.")),
        Reply(Words("Bye.")),
    )
    settings = {} if case is LOCAL else {"reasoning": {"effort": "low"}}
    await talk.say("Where?", model_settings=settings)
    await talk.say("Thanks", model_settings=settings)
    at = next(place for place, one in enumerate(conversation(server)) if "Rome it is" in json.dumps(one))
    assert at == 1  # with the turn that it led to


async def test_text_between_calls_and_after_them(talk: Talk, server: WireServer) -> None:
    """The results have to follow the answer with their calls directly."""
    calls = Call("get_weather", {"location": "Rome"}, "a"), Call("get_time", {"zone": "UTC"}, "b")
    server.will(Reply(Words("One."), calls[0], Words("Two."), calls[1], Words("Three.")), Reply(Words("Fog.")))
    await talk.say("Rome?")
    said = replayed(server.requests[-1].body)
    assert [role for role, _ in said][:3] == ["user", "assistant", "tool"]
    assert {role for role, _ in said[2:]} == {"tool"}
    assert [part for part in said[1][1] if part != "text"] == ["call get_weather Rome", "call get_time UTC"]
    heard = json.dumps(conversation(server))
    assert all(word in heard for word in ("One.", "Two.", "Three."))


async def test_an_answer_that_was_cut_while_the_model_reasoned(talk: Talk, server: WireServer, case: Case) -> None:
    """Claude's API rejects an answer that is only reasoning, OpenAI's reasoning that led to nothing."""
    server.will(Reply(Thought("Hm"), stop="length"), Reply(Words("Fine.")))
    await talk.say("Rome?")
    await talk.say("Well?")
    if not case.name.startswith("ollama"):
        assert [one.get("role") for one in conversation(server)] == ["user", "user"]


async def test_a_blank_answer(talk: Talk, server: WireServer, case: Case) -> None:
    """Claude's API rejects blank text, which it sent."""
    server.will(Reply(Words("\n\n")), Reply(Words("Fine.")))
    await talk.say("Rome?")
    await talk.say("Well?")
    if case.name == "anthropic":
        assert [one["role"] for one in conversation(server)] == ["user"]


async def test_an_answer_that_was_cut(talk: Talk, server: WireServer) -> None:
    server.will(Reply(Words("Half of"), stop="length"), Reply(Words("it.")))
    assert (await talk.say("All of it?")).final_output == "Half of"
    await talk.say("Go on.")
    assert "Half of" in json.dumps(conversation(server)[1])


@pytest.mark.parametrize("any_json", [True, False], ids=["any_object", "a_schema"])
async def test_the_form_of_the_answer_is_asked_for_in_every_turn(
    talk: Talk, server: WireServer, case: Case, any_json: bool
) -> None:
    wanted = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    schema = AnswerSchema(None) if any_json else AnswerSchema(wanted, name="place", description="Where it is.")
    server.will(Reply(Words('{"city": "Rome"}')))
    if any_json and case.name == "anthropic":
        with pytest.raises(SettingsError, match="JSON object"):
            await talk.say("Where?", output_type=schema)
        return
    for _ in range(2):
        assert (await talk.say("Where?", output_type=schema)).final_output == {"city": "Rome"}
    for request in server.requests:
        assert asked_form(request.body) == (("any", None, None) if any_json else ("schema", *named(case)))
        assert any_json or '"city"' in json.dumps(request.body)


def named(case: Case) -> tuple[str | None, str | None]:
    """The name and the description of the form, where the protocol has them."""
    return ("place", "Where it is.") if case.protocol is chat_completions or case.name == "openai" else (None, None)


def asked_form(body: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    form = (
        body.get("response_format")
        or (body.get("text") or {}).get("format")
        or body.get("format")
        or body.get("output_config", {}).get("format")
    )
    if form in ("json", {"type": "json_object"}):
        return "any", None, None
    inner = form.get("json_schema", form)
    return "schema", inner.get("name"), inner.get("description")


async def test_one_call_at_a_time_is_asked_for_or_made(talk: Talk, server: WireServer, case: Case) -> None:
    both = [Call("get_weather", {"location": "Rome"}, "a"), Call("get_time", {"zone": "UTC"}, "b")]
    server.will(Reply(*(both if "ollama" in case.name else both[:1])), Reply(Words("Fog.")))
    await talk.say("Where?", model_settings=ModelSettings(parallel_tool_calls=False))
    calls = [what for role, said in replayed(server.requests[-1].body) for what in said if what.startswith("call")]
    assert calls == ["call get_weather Rome"]
    if case.name == "anthropic":
        assert server.requests[0].body["tool_choice"]["disable_parallel_tool_use"] is True
    elif "ollama" not in case.name:
        assert server.requests[0].body["parallel_tool_calls"] is False


async def test_an_image_that_another_model_made(talk: Talk, server: WireServer) -> None:
    image: Any = {
        "id": "ig_1", "type": "image_generation_call", "status": "completed", "result": PIXEL,
        "provider_data": {"media_type": "image/png"},
    }  # fmt: skip
    await talk.session.add_items(
        [{"role": "user", "content": "Draw."}, image, {"role": "assistant", "content": "Here."}]
    )
    server.will(Reply(Words("Red.")))
    await talk.say("Which color?")
    last = json.dumps(conversation(server)[-1])
    assert PIXEL in last
    assert "Which color?" in last
