"""Runs of a served lab, as rows and as events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.lab.run import Approvals, Run
from timestep_lab.model.arguments import messages_of
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.events import Event, RunEnded, RunStarted
from timestep_lab.model.records import Interruption, Json, RunRecord
from timestep_lab.service import client as decode
from timestep_lab.service.client import Connection
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab

PATH = "/api/v1/runs"
MOST = 500


def run_of(lab: Lab, told: Mapping[str, Any]) -> Run:
    return Run(lab, decode.record(RunRecord, told["run"]), tuple(decode.records(Interruption, told["interruptions"])))


def run_body(prompt: str | Sequence[Mapping[str, Json]], attachments: Sequence[Mapping[str, Json]], **rest: Any) -> Any:
    """What `POST /runs` takes. Of an attachment its id is enough: the file is the server's."""
    said = prompt if isinstance(prompt, str) else messages_of(prompt)
    named = [str(attachment["id"]) for attachment in attachments]
    return {"prompt": said, "attachments": named, **{name: value for name, value in rest.items() if value is not None}}


async def until_left(connection: Connection, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Events of a run that its reader stops by leaving early. A connection that breaks stops nothing."""
    run_id = ""
    try:
        async for event in events:
            if isinstance(event, RunStarted):
                run_id = event.run.id
            elif isinstance(event, RunEnded):
                run_id = ""
            yield event
    except (GeneratorExit, asyncio.CancelledError):
        if run_id:
            with contextlib.suppress(ConflictError, NotFoundError):  # It ended in this moment.
                await asyncio.shield(in_thread(cancel, connection, run_id))
        raise
    finally:
        await events.aclose()


def cancel(connection: Connection, run_id: str) -> None:
    connection.post(f"{PATH}/{run_id}/cancel")


class RemoteApprovals(Approvals):
    def __init__(self, lab: Lab, connection: Connection) -> None:
        super().__init__(lab)
        self._connection = connection

    def list(self) -> list[Run]:
        told = self._connection.get(PATH, status="needs_approval", limit=MOST)
        return [run_of(self._lab, one) for one in reversed(told)]
