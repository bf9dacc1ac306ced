"""Streams of all four protocols, damaged in every way that networks and servers know.

Whatever comes: an error is one of ours, text that arrived is not lost, and a call has the arguments that were sent or none that can run.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.providers.calling import Answer, ask, get_time, get_weather
from tests.providers.cases import ANTHROPIC, CHAT, OLLAMA, OPENAI, Case
from tests.wire import Call, Raw, Reply, Thought, WireServer, Words
from timestep_lab.model.errors import LabError
from timestep_lab.runtime.provider_errors import NO_RETRY
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.stream_items import INVALID_JSON, arguments_object

WORDS = "Alpha Beta Gamma Delta Épsilon Zeta"
REPLY = Reply(
    Thought("Rome it is"), Words(WORDS), Call("get_weather", {"location": "Rome"}, "call_a"), Call("get_time", {"zone": "UTC"}, "call_b"),
)  # fmt: skip
SENT = {("get_weather", '{"location": "Rome"}'), ("get_time", '{"zone": "UTC"}')}
EVERY_PROTOCOL = pytest.mark.parametrize("case", [CHAT, ANTHROPIC, OLLAMA, OPENAI], ids=str)


@pytest.fixture
def read(
    case: Case, server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> Callable[..., Any]:
    """The answer that came of these pieces, and the error with which it ended, if it did."""
    server = server_for(case.protocol)
    model = router_for(case.configure(server.url), NO_RETRY).get_model(case.model)

    async def of(pieces: list[bytes], *, abrupt: bool = False) -> tuple[Answer, LabError | None]:
        server.forget().will(Raw(tuple(pieces), abrupt))
        answer = Answer()
        try:
            await ask(model, tools=[get_weather, get_time], into=answer)
        except LabError as error:
            return answer, error
        return answer, None

    return of


def recorded(case: Case) -> list[bytes]:
    return list(case.protocol.pieces(REPLY, {"model": "m", "stream_options": {"include_usage": True}}))


def calls_of(answer: Answer) -> set[tuple[str, str]]:
    """Those that would run: named, with arguments that are an object."""
    found = [item for item in answer.response.output if item.type == "function_call" and item.name != "unnamed"]
    return {
        (item.name, json.dumps(arguments_object(item.arguments)))
        for item in found
        if INVALID_JSON not in arguments_object(item.arguments)
    }


def said(answer: Answer) -> str:
    return "".join(event.delta for event in answer.events if event.type == "response.output_text.delta")


def words_in(pieces: list[bytes]) -> list[str]:
    """Words of the text that arrived in pieces of text; events that tell the whole again do not count."""
    found = []
    for piece in pieces:
        text = piece.decode()
        if (
            "output_text.done" not in text
            and "part.done" not in text
            and "item.done" not in text
            and "completed" not in text
        ):
            text = text.replace("\\u00c9", "É")
            found += re.findall("|".join(WORDS.split()), text)
    return found


@EVERY_PROTOCOL
async def test_a_stream_split_at_every_byte_is_the_same_answer(case: Case, read: Callable[..., Any]) -> None:
    whole = b"".join(recorded(case))
    answer, error = await read([whole[at : at + 1] for at in range(len(whole))])
    assert error is None
    assert said(answer) == WORDS
    assert calls_of(answer) == SENT


@EVERY_PROTOCOL
async def test_a_stream_cut_at_any_byte_keeps_the_text_that_came_and_calls_nothing_by_halves(
    case: Case, read: Callable[..., Any]
) -> None:
    pieces = recorded(case)
    whole = b"".join(pieces)
    places = random.Random(0).sample(range(1, len(whole)), 12)
    for number, at in enumerate(places):
        arrived, length = [], 0
        for piece in pieces:
            length += len(piece)
            if length <= at:
                arrived.append(piece)
        answer, error = await read([whole[:at]], abrupt=bool(number % 2))
        assert all(word in said(answer) for word in words_in(arrived)), at
        assert error is not None or calls_of(answer) <= SENT, at


@EVERY_PROTOCOL
@pytest.mark.parametrize("damage", ["drop", "repeat", "swap", "garble"])
async def test_pieces_that_are_lost_repeated_or_damaged_lose_no_text_and_call_nothing_that_was_not_sent(
    case: Case, read: Callable[..., Any], damage: str
) -> None:
    pieces = recorded(case)
    for at in range(len(pieces)):
        damaged = list(pieces)
        if damage == "drop":
            del damaged[at]
        elif damage == "repeat":
            damaged.insert(at, pieces[at])
        elif damage == "swap":
            damaged[at - 1], damaged[at] = damaged[at], damaged[at - 1]
        else:
            middle = len(pieces[at]) // 2
            damaged[at] = pieces[at][:middle] + b"\xff\x00" + pieces[at][middle + 2 :]
        answer, error = await read(damaged)
        if damage != "swap":
            arrived = damaged if error is None and damage != "garble" else damaged[:at]
            assert all(word in said(answer) for word in words_in(arrived)), at
        assert error is not None or calls_of(answer) <= SENT, at


@EVERY_PROTOCOL
async def test_what_is_no_part_of_an_answer_between_its_pieces_changes_nothing(
    case: Case, read: Callable[..., Any]
) -> None:
    pieces = recorded(case)
    strange = (
        [b"\n", b"[]\n", b"null\n", b"3\n"]
        if case is OLLAMA
        else [b"data: []\n\n", b"data: null\n\n", b"data: 3\n\n", b": hm\n\n"]
    )
    for number, at in enumerate(random.Random(1).sample(range(1, len(pieces)), 8)):
        answer, error = await read([*pieces[:at], strange[number % 4], *pieces[at:]])
        assert all(word in said(answer) for word in words_in(pieces[:at])), at
        assert error is not None or (said(answer), calls_of(answer)) == (WORDS, SENT), at


def places_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places_in(part, (*at, key))


def with_other(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    if not at:
        return other
    changed = copy.copy(value)
    changed[at[0]] = with_other(value[at[0]], at[1:], other)
    return changed


@EVERY_PROTOCOL
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_a_value_of_another_type_than_the_protocol_says_is_never_a_raw_error(
    case: Case, read: Callable[..., Any]
) -> None:
    pieces = recorded(case)
    damages = []
    for number, piece in enumerate(pieces):
        head, mark, body = piece.decode().rpartition("data: ")
        if body.strip() != "[DONE]":
            value = json.loads(body)
            damages += [
                (number, at, other, f"{head}{mark}{json.dumps(with_other(value, at, other))}\n\n".encode())
                for at in places_in(value)
                for other in (None, "x", 3, [None], {"x": None})
            ]
    for number, at, other, piece in random.Random(0).sample(damages, 60):
        damaged = [*pieces[:number], piece, *pieces[number + 1 :]]
        answer, error = await read(damaged)
        assert all(word in said(answer) for word in words_in(pieces[:number])), (number, at, other)
        assert error is not None or answer.response.status == "completed"


async def test_a_count_of_tokens_that_is_no_number_costs_nobody_the_answer(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(CHAT.protocol)
    model = router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model)
    for counted in ("x", [None], {"prompt_tokens": None, "prompt_tokens_details": 3}):
        pieces = [piece for piece in recorded(CHAT) if b'"usage": {' not in piece]
        usage = f"data: {json.dumps({'choices': [], 'usage': counted})}\n\n".encode()
        server.forget().will(Raw((*pieces[:-1], usage, pieces[-1])))
        assert said(await ask(model, tools=[get_weather, get_time])) == WORDS


async def test_calls_whose_pieces_come_mixed_with_text_and_each_other_are_whole(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(CHAT.protocol)
    model = router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model)
    first, *pieces = recorded(CHAT)
    end = pieces[-3:]  # the reason, the usage, and [DONE]
    lanes: dict[str, list[bytes]] = {}
    for piece in pieces[:-3]:
        index = re.search(rb'"tool_calls": \[\{"index": (\d)', piece)
        lanes.setdefault(index.group(1).decode() if index else "text", []).append(piece)
    assert len(lanes) == 3
    for seed in range(20):
        chance, left = random.Random(seed), {name: list(lane) for name, lane in lanes.items()}
        mixed = []
        while left:
            name = chance.choice(sorted(left))
            mixed.append(left[name].pop(0))
            if not left[name]:
                del left[name]
        server.forget().will(Raw((first, *mixed, *end)))
        answer = await ask(model, tools=[get_weather, get_time])
        assert said(answer) == WORDS
        assert calls_of(answer) == SENT
