"""Identifiers: long enough to be unguessable, with a prefix that shows what kind of record they name.

Trace and span ids follow OpenTelemetry (16 and 8 bytes, lower-case hex) so that they travel unchanged through OTLP.
"""

from __future__ import annotations

import secrets
import uuid

LOCAL_USER = "00000000-0000-0000-0000-00000000a11e"
"""User id of the only user of a local lab. Every row carries a user id; locally it is this one."""

PERSONAL_ASSISTANT = "00000000-0000-0000-0000-000000000000"
WEATHER_ASSISTANT = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""Ids of the two agents that are created for every user."""

BUILTIN_MCP_SERVER = "11111111-1111-1111-1111-111111111111"
"""Id of the built-in MCP server; a tool's id is `<server id>.<tool name>`."""

PREFIXES = {
    "thread": "thr", "item": "itm", "message": "msg", "run": "run", "reasoning": "rs", "function_call": "fc",
    "call": "call", "response": "resp", "batch": "bat", "file": "file", "upload": "upload", "part": "part",
    "vector_store": "vs", "conversation": "conv", "comparison": "cmp", "case": "case", "dataset": "data",
    "attachment": "atc", "score": "sc", "widget": "wdg", "process": "prc", "chunk": "chk", "workflow": "wf", "task": "tsk",
    "vote": "vote", "view": "view", "client_tool_call": "ctc", "share": "shr",
}  # fmt: skip


def new_id(kind: str) -> str:
    """Returns a new id such as `thr_5f0c…` (96 random bits). `kind` is a key of `PREFIXES`; any other raises `KeyError`."""
    return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"


def new_uuid() -> str:
    """Returns a random UUID as text, used for agents, users and MCP servers."""
    return str(uuid.uuid4())


def new_trace_id() -> str:
    """Returns 32 random hexadecimal digits, as OpenTelemetry requires."""
    return secrets.token_hex(16)


def new_span_id() -> str:
    """Returns 16 random hexadecimal digits, as OpenTelemetry requires."""
    return secrets.token_hex(8)
