"""What a model server is to do, said without any protocol's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Stop = Literal["stop", "length", "tool_calls", "refusal", "error", "abort", "unsaid", "pause_turn"]
"""`error`, `abort` and `unsaid` (the stream closes without a reason) are for Chat Completions, `unsaid` for Anthropic Messages too, which alone
has `pause_turn`."""


@dataclass(frozen=True)
class Words:
    """Text, sent a word at a time."""

    text: str

    @property
    def pieces(self) -> list[str]:
        first, *rest = self.text.split(" ")
        return [first, *(f" {word}" for word in rest)]


@dataclass(frozen=True)
class Cited(Words):
    """Text with one web citation of the whole of it."""

    url: str = "https://example.org/a"
    title: str = "A page"


@dataclass(frozen=True)
class Thought(Words):
    signature: str = "c2lnbmF0dXJl"


@dataclass(frozen=True)
class Redacted:
    data: str = "cmVkYWN0ZWQ="


@dataclass(frozen=True)
class Call:
    """`arguments` as text are sent as they are, JSON or not."""

    name: str
    arguments: Mapping[str, Any] | str
    id: str = "call_1"

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, init=False)
class Deltas:
    """Chat Completions only: deltas exactly as some server sends them."""

    deltas: tuple[Mapping[str, Any], ...]

    def __init__(self, *deltas: Mapping[str, Any]) -> None:
        object.__setattr__(self, "deltas", deltas)


@dataclass(frozen=True)
class Block:
    """Exactly as it is sent: of Anthropic Messages a content block, with `input` in pieces of JSON; of OpenAI Responses an output item."""

    block: Mapping[str, Any]
    input: str = ""


@dataclass(frozen=True)
class Counted:
    """Tokens as a provider bills them: `input` contains what was read from and written to the cache."""

    input: int = 20
    output: int = 5
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True, init=False)
class Reply:
    """A whole answer. `pause_s` is waited before each piece after the first."""

    parts: tuple[Any, ...]
    stop: Stop
    counted: Counted
    pause_s: float

    def __init__(
        self, *parts: Any, stop: Stop | None = None, counted: Counted | None = None, pause_s: float = 0.0
    ) -> None:
        usual: Stop = "tool_calls" if any(isinstance(part, Call | Deltas) for part in parts) else "stop"
        for name, value in (
            ("parts", parts),
            ("stop", stop or usual),
            ("counted", counted or Counted()),
            ("pause_s", pause_s),
        ):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Fault:
    """An HTTP error instead of an answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "This is what the provider said."
    code: str | None = None


@dataclass(frozen=True)
class Instead:
    """Any other body instead of an answer."""

    body: str
    status: int = 200
    media_type: str = "application/json"


@dataclass(frozen=True)
class AtOnce:
    """The answer as one JSON object, although a stream was asked for."""

    reply: Reply


@dataclass(frozen=True)
class Raw:
    """Pieces of a stream exactly as they are; then its end, perhaps after a silence, or, `abrupt`, the loss of the connection."""

    pieces: tuple[bytes, ...]
    abrupt: bool = False
    silent_s: float = 0.0
    apart_s: float = 0.0
    """The time between two pieces."""


@dataclass(frozen=True)
class FaultInStream:
    """An error event after `after` pieces of an answer, in a response that began with 200."""

    reply: Reply
    after: int
    type: Literal["overloaded", "rate_limit"] = "overloaded"


@dataclass(frozen=True)
class Cut:
    """The connection is lost after `after` pieces."""

    reply: Reply
    after: int


@dataclass(frozen=True)
class Silence:
    """Nothing for a while, then `then`. With `after`, only once so many pieces were sent."""

    seconds: float
    then: Reply
    after: int | None = None


Step = Reply | Fault | FaultInStream | Cut | Silence | Instead | AtOnce | Raw
