"""The calls of a Chat Completions answer, assembled from deltas in the forms in which servers send them; and its usage."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from timestep_lab.model.codec import Json
from timestep_lab.model.records import Usage
from timestep_lab.runtime.adapters.base import NAMELESS
from timestep_lab.runtime.emitter import Arguments, Emitter, Events, is_json_object
from timestep_lab.runtime.stream_items import CALL_EXTRAS

_OF_A_CALL = frozenset({"index", "id", "type", "function", "custom", "name", "arguments", "parameters", "input"})
_ARGUMENTS = ("arguments", "parameters", "input", "args")


@dataclass
class _Call:
    """A call assembled from deltas. It is emitted once its name is certain."""

    index: int | None
    id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    """Arguments that arrived before the call was opened."""
    joined: Arguments = field(default_factory=Arguments)
    empty: str = ""
    """`{}` that arrived before any arguments: the arguments if nothing follows, otherwise a placeholder."""
    named_again: str = ""
    """A name that was repeated after complete arguments: a new call starts if arguments follow."""
    extras: dict[str, Json] = field(default_factory=dict)
    """Data that the server expects back with the call, such as Gemini's signature of the thought that led to it."""
    item: Any = None

    @property
    def arguments(self) -> str:
        return self.joined.sent()


class ChatCalls:
    """Converts deltas of calls to events. Several calls can be open at once."""

    def __init__(self, emitter: Emitter, names: Collection[str]) -> None:
        """`names` are the functions that the model may call."""
        self._emit = emitter
        self._names = names
        self._calls: list[_Call] = []
        self._deprecated = False
        self._text = ""
        """JSON text of calls that is not complete yet."""
        self._unread: object = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def unread(self) -> str:
        """The start of what is no call in any known form; empty if there was none."""
        unread = self._text or self._unread
        return (unread if isinstance(unread, str) else json.dumps(unread, ensure_ascii=False))[:200] if unread else ""

    def read(self, given: object) -> Events:
        pieces = self._pieces(given)
        for place, piece in enumerate(pieces):
            nowhere = piece.get("index") is None and len(pieces) > 1
            yield from self._piece({**piece, "index": place} if nowhere else piece)

    def read_deprecated(self, given: Json) -> Events:
        """Reads the deprecated form of a single call, which gateways send beside the other."""
        if given and (self._deprecated or not self._calls):
            self._deprecated = True
            yield from self._piece({"function": given})

    def end(self, extras: Mapping[str, Json], model: str) -> Events:
        """Completes the calls. `extras`: provider data of the message, kept with the first."""
        for call in self._calls:
            if call.item is None:  # without a name, the model is told that the tool does not exist
                call.name = call.name or NAMELESS
                yield from self._open(call)
            if not call.arguments:
                yield from self._emit.arguments(call.empty, call.item)
            kept = {**call.extras, **(extras if call is self._calls[0] else {})}
            if kept:
                call.item.provider_data = {"model": model, **kept}

    def _pieces(self, given: object) -> list[Mapping[str, Json]]:
        if isinstance(given, str):
            self._text += given
            try:
                given, self._text = json.loads(self._text or "null"), ""
            except ValueError:
                return []
        pieces, unread = call_pieces(given, self._names)
        self._unread = self._unread or unread
        return pieces

    def _piece(self, piece: Mapping[str, Json]) -> Events:
        function = call_function(piece)
        name = self._bare(str(function.get("name") or ""))
        arguments = _arguments(next((function[key] for key in _ARGUMENTS if function.get(key) is not None), None))
        call = self._call_of(piece, name, arguments)
        self._name(call, name)
        call.named_again = name if not arguments and is_json_object(call.arguments) else ""
        call.extras |= {name: piece[name] for name in CALL_EXTRAS if piece.get(name)}
        if arguments == call.arguments and (name or is_json_object(arguments)):
            arguments = ""  # the whole call, or all of its arguments, were repeated
        if not call.arguments and arguments.strip() in ("{}", '""', "null"):
            call.empty, arguments = arguments, ""
        call.joined.add(arguments)
        if call.item is not None:
            yield from self._emit.arguments(arguments, call.item)
            return
        call.pieces.append(arguments)
        if call.name and (call.arguments or self._is_sure(call.name)):
            yield from self._open(call)

    def _bare(self, name: str) -> str:
        """Returns a name without the namespace and the markers of the format in which OpenAI's and Kimi's models write calls."""
        name = name.partition("<|")[0].strip()
        inner = name.removeprefix("functions.")
        return inner if inner in self._names and name not in self._names else name

    def _name(self, call: _Call, piece: str) -> None:
        """Merges a delta of a name: servers send it complete (once or in every delta), in pieces, or cumulatively; known names decide."""
        if call.item is not None or not piece or (piece == call.name and piece in self._names):
            return
        joined = call.name + piece
        if any(name.startswith(joined) for name in self._names):
            call.name = joined
        elif call.name not in self._names:
            call.name = piece if piece in self._names or piece.startswith(call.name) else joined

    def _is_sure(self, name: str) -> bool:
        """Returns whether the name is complete, so that the call can be emitted before its arguments."""
        return name in self._names and not any(other.startswith(name) for other in self._names if other != name)

    def _open(self, call: _Call) -> Events:
        call.item = yield from self._emit.tool_call(call.name, call.id, stays_open=True)
        for arguments in call.pieces:
            yield from self._emit.arguments(arguments, call.item)

    def _call_of(self, piece: Mapping[str, object], name: str, arguments: str) -> _Call:
        """Returns the call that a delta belongs to: the one with its index. Where a server uses one index for all calls, or none, a new id
        starts a new call, and so does a name with other arguments after complete ones. A delta with neither a known index nor an id nor
        a name belongs to the last call, if the server omits the index or counts deltas or functions."""
        index, given = as_index(piece.get("index")), str(piece["id"] if piece.get("id") is not None else "")
        known = [call for call in self._calls if call.index == index]
        newest = self._calls[-1] if self._calls else None
        is_open = newest is not None and not is_json_object(newest.arguments)
        if newest and not (known or given or name) and (is_open or None in (index, newest.index)):
            return newest
        same = [call for call in self._calls if given and call.id == given]
        known = [call for call in known if call in same] or known or ([] if name and index is not None else same)
        again = ""
        if newest and known:
            last = known[-1]
            is_whole, other_id = is_json_object(last.arguments), bool(given and last.id and given != last.id)
            more = is_whole and arguments.strip() not in ("", last.arguments.strip())
            if more and is_open and not (name or other_id or last.named_again):
                return newest
            is_other_tool = last.item is not None and name in self._names
            if other_id and name == last.name and not is_whole and arguments.strip() and arguments.lstrip()[0] != "{":
                return last  # vLLM makes a new id for each piece of a forced call
            other_name = last.name not in ("", name) and (is_whole or is_other_tool)
            if not (name and (more or other_id or other_name)) and not (more and (other_id or last.named_again)):
                last.id = last.id or given
                return last
            again = last.named_again
        self._calls.append(_Call(index, given, again))
        return self._calls[-1]


def call_pieces(given: object, names: Collection[str] = ()) -> tuple[list[Mapping[str, Json]], object]:
    """Returns pieces of calls, and what is none. Besides a list, servers send a single call, calls by index, id or name, and JSON text of
    any of these."""
    if isinstance(given, list):
        read = [call_pieces(one, names) for one in given]
        return [piece for pieces, _ in read for piece in pieces], next((unread for _, unread in read if unread), None)
    if isinstance(given, str):
        try:
            return call_pieces(json.loads(given or "null"), names)
        except ValueError:
            return [], given
    if not isinstance(given, Mapping):
        return [], given
    if _OF_A_CALL.intersection(given):
        return [given], None
    pieces: list[Mapping[str, Json]] = []
    for key, one in given.items():
        if isinstance(one, Mapping) and _OF_A_CALL.intersection(one):
            pieces.append({"id": key, **one} if as_index(key) is None else {"index": key, **one})
        elif key in names:
            pieces.append({"name": key, "arguments": one})
        else:
            return pieces, given
    return pieces, None


def as_index(given: Any) -> int | None:
    """Returns a number, which some servers send as text or as a fraction. Bedrock's gateway counts from -1."""
    try:
        return int(given)
    except (TypeError, ValueError, OverflowError):
        return None


def call_function(piece: Mapping[str, Json]) -> Mapping[str, Json]:
    """Returns the part of a call that has its name and arguments: Cloudflare sends them in the call itself, others JSON text or the name."""
    given = piece.get("function") or piece.get("custom")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = {**piece, "name": given}
    return next(iter(as_objects(given)), {}) or piece


def as_object(given: object) -> Mapping[str, Json]:
    return given if isinstance(given, (dict, Mapping)) else {}


def as_objects(given: object) -> list[Mapping[str, Json]]:
    """Returns the objects of a list; a single object becomes a list."""
    if not given:
        return []
    # `dict` is asked for first: an abstract class takes ten times as long, and this is called for every chunk.
    return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, (dict, Mapping))]


def _arguments(given: object) -> str:
    """Returns arguments as text, as the API specifies; some servers send an object."""
    if given is None or isinstance(given, str):
        return given or ""
    return json.dumps(given, ensure_ascii=False)


def _count(counted: Mapping[str, object], *names: str) -> int | None:
    """Returns the first of the named counts that is a number, which some servers send as text."""
    for name in names:
        given = counted.get(name)
        if isinstance(given, int | float | str) and (not isinstance(given, str) or given.isdecimal()):
            return int(given)
    return None


def chat_cost(counted: Mapping[str, Json]) -> float | None:
    """Returns what OpenRouter or Perplexity charges for the answer, in USD. None where it says nothing, or where the user's own key at
    another provider pays."""
    cost = counted.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    elif "cost_details" not in counted or counted.get("is_byok"):
        return None
    return (
        float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < math.inf else None
    )


def chat_usage(counted: Mapping[str, object]) -> Usage | None:
    """Returns the usage; None when neither input nor output was counted."""
    read, written = (
        _count(counted, "prompt_tokens", "input_tokens"),
        _count(counted, "completion_tokens", "output_tokens"),
    )
    if read is None and written is None:
        return None
    into, out = as_object(counted.get("prompt_tokens_details")), as_object(counted.get("completion_tokens_details"))
    cached = _count(into, "cached_tokens") or _count(counted, "cached_tokens", "prompt_cache_hit_tokens") or 0
    kept = _count(into, "cache_write_tokens", "cache_creation_tokens") or _count(counted, "cache_creation_input_tokens")
    reasoned = _count(out, "reasoning_tokens") or _count(counted, "reasoning_tokens") or 0
    # xAI and Gemini bill reasoning as output, and count it in the total only.
    beside = (_count(counted, "total_tokens") or 0) - (read or 0) - (written or 0)
    if read and beside > 0 and (beside == reasoned or not (reasoned or cached or kept)):
        written = (written or 0) + beside
    return Usage(
        requests=1, input_tokens=read or 0, output_tokens=written or 0, cached_tokens=cached, cache_write_tokens=kept or 0,
        reasoning_tokens=reasoned,
    )  # fmt: skip
