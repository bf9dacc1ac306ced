"""Model servers on loopback that speak each provider's protocol, byte for byte as its official client reads it.

    with WireServer(chat_completions) as server:
        server.will(Reply(Words("Hello")), Fault(429, retry_after="1"))
        … point a client at server.url …
        server.requests[0].body

What a server answers is said in neutral words (`script.py`); each protocol's module writes them in its own form.
"""

from tests.wire.script import (
    AtOnce,
    Block,
    Call,
    Cited,
    Counted,
    Cut,
    Deltas,
    Fault,
    FaultInStream,
    Instead,
    Raw,
    Redacted,
    Reply,
    Silence,
    Thought,
    Words,
)
from tests.wire.server import Recorded, WireServer

__all__ = [
    "AtOnce", "Block", "Call", "Cited", "Counted", "Cut", "Deltas", "Fault", "FaultInStream", "Instead", "Raw", "Recorded", "Redacted", "Reply", "Silence", "Thought",
    "WireServer", "Words",
]  # fmt: skip
