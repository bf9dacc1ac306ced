"""A lab with something in every corner, for tests that move or prune whole labs."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

from timestep_lab.model.records import (
    AgentRecord,
    McpServerRecord,
    RunRecord,
    ScoreRecord,
    ThreadItem,
    ThreadRecord,
    Usage,
)
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.store.base import Database
from timestep_lab.store.store import Store
from timestep_lab.store.trace_import import TraceImport

NOW = datetime.now(UTC).replace(microsecond=123456)
ODD_TEXT = "tab\t newline\n quote'\" backslash \\ ünïcode 🌂 \x1f unit"


def fill(db: Database, users: tuple[str, ...] = ("alice", "bob"), *, days: int = 4, traces_a_day: int = 3) -> None:
    for user in users:
        _control(Store(db, user), user)
        _traces(db, user, days, traces_a_day)
    _files(db, users[0])


def _control(store: Store, user: str) -> None:
    store.agents.insert(
        AgentRecord(id="a", user_id=user, name="A", instructions=ODD_TEXT, model_settings={"b": 1.5, "a": [1, None]})
    )
    store.mcp_servers.insert(
        McpServerRecord(id="m", user_id=user, name="time", command=("x", "--y"), headers={"k": "v"})
    )
    for n in range(3):
        store.threads.insert(
            ThreadRecord(id=f"t{n}", user_id=user, title=ODD_TEXT, created_at=NOW - timedelta(hours=n))
        )
        store.threads.append_items(
            f"t{n}", [ThreadItem(id=f"i{n}{k}", thread_id=f"t{n}", user_id=user, type="user_message", data={"text": ODD_TEXT}) for k in range(3)]
        )  # fmt: skip
        store.threads.append_session_items(f"t{n}", [{"role": "user", "content": ODD_TEXT}], run_id="r")
    store.runs.insert(
        RunRecord(
            id="r", user_id=user, thread_id="t0", trace_id=f"{1:032x}", agent_id=None, agent="A", status="completed",
            usage=Usage(requests=2, input_tokens=7), cost_usd=0.1 + 0.2, ttft_ms=1 / 3,
        )
    )  # fmt: skip
    store.scores.insert(
        ScoreRecord(id="s", user_id=user, target="trace", target_id=f"{0:032x}", name="good", value=float("nan"))
    )


def _traces(db: Database, user: str, days: int, traces_a_day: int) -> None:
    starts, spans = [], []
    for n in range(days * traces_a_day):
        trace_id, at = f"{n:032x}", NOW - timedelta(days=n // traces_a_day, minutes=n)
        starts.append(TraceStart(trace_id=trace_id, user_id=user, workflow="chat", thread_id="t0", started_at=at))
        history = [{"role": "user", "content": f"{ODD_TEXT} {k} " * 20} for k in range(6)]
        for k, kind in enumerate(("agent", "generation", "tool")):
            spans.append(
                SpanRecord(
                    trace_id=trace_id, span_id=f"{n * 3 + k:016x}", parent_id=None if k == 0 else f"{n * 3:016x}", user_id=user,
                    kind=kind, name=kind, agent="A", status="ok", model="m" if k == 1 else None, started_at=at + timedelta(seconds=k),
                    ended_at=at + timedelta(seconds=k + 1.5), input_tokens=10 if k == 1 else None, output_tokens=3 if k == 1 else None,
                    cost_usd=0.1 if k == 1 else None, attributes={"k": k, "text": ODD_TEXT}, input=history, output=ODD_TEXT,
                )  # type: ignore[arg-type]
            )  # fmt: skip
    TraceImport(db).records(starts, spans)


def _files(db: Database, user: str) -> None:
    embedding = [struct.unpack("f", struct.pack("f", value))[0] for value in (0.1, -2.5, 1e-7)]
    now = NOW.replace(tzinfo=None)
    db.append(
        user,
        {
            "core.file_parts": (
                ("user_id", "owner_id", "part_no", "data"),
                [(user, "f", n, bytes(range(256))) for n in range(40)],
            ),
            "core.chunks": (
                ("user_id", "vector_store_id", "file_id", "position", "content", "words", "embedding"),
                [(user, "v", "f", n, ODD_TEXT, " words", embedding) for n in range(20)],
            ),
            "core.users": (("id", "kind", "name", "created_at"), [(user, "anonymous", ODD_TEXT, now)]),
        },
    )
