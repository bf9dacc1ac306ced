"""`lab.threads` of a served lab."""

from __future__ import annotations

import builtins

from timestep_lab.lab.remote import decode
from timestep_lab.lab.remote.connection import Connection
from timestep_lab.lab.remote.failures import only_here
from timestep_lab.lab.threads import Thread, Threads
from timestep_lab.types.records import Json, Page, ThreadItem, ThreadRecord

PATH = "/api/v1/threads"
MOST = 1000
"""Rows that the server gives at once."""


class RemoteThread(Thread):
    def __init__(self, connection: Connection, record: ThreadRecord) -> None:
        self._connection, self.record = connection, record

    @property
    def items(self) -> list[ThreadItem]:
        return items_of(self._connection, self.id)

    def rename(self, title: str) -> Thread:
        self.record = rename(self._connection, self.id, title)
        return self

    def delete(self) -> None:
        self._connection.ask("DELETE", f"{PATH}/{self.id}")


class RemoteThreads(Threads):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, limit: int = 50) -> builtins.list[Thread]:
        found: list[ThreadRecord] = []
        after: str | None = None
        while len(found) < limit:
            page = self.page(after=after, limit=min(limit - len(found), MOST))
            found += page.data
            after = page.after
            if after is None:
                break
        return [RemoteThread(self._connection, record) for record in found]

    def page(self, *, after: str | None = None, limit: int = 20) -> Page[ThreadRecord]:
        told = self._connection.get(PATH, after=after, limit=limit)
        data = tuple(decode.records(ThreadRecord, told["data"]))
        return Page(data=data, has_more=told["has_more"], after=told["after"])

    def create(self, title: str | None = None, metadata: dict[str, Json] | None = None) -> Thread:
        if metadata:
            raise only_here("Metadata of a thread", "Leave metadata away: the served lab keeps its own there.")
        made = self._connection.post(PATH, {"title": title})
        return RemoteThread(self._connection, decode.record(ThreadRecord, made))

    def __getitem__(self, thread_id: str) -> Thread:
        return RemoteThread(self._connection, thread_of(self._connection, thread_id))

    def __len__(self) -> int:
        return int(self._connection.get(PATH, limit=1)["total"])


def thread_of(connection: Connection, thread_id: str) -> ThreadRecord:
    return decode.record(ThreadRecord, connection.get(f"{PATH}/{thread_id}"))


def items_of(connection: Connection, thread_id: str) -> list[ThreadItem]:
    items: list[ThreadItem] = []
    after: str | None = None
    while True:
        told = connection.get(f"{PATH}/{thread_id}/items", after=after, limit=MOST)
        items += decode.records(ThreadItem, told["data"])
        after = told["after"]
        if after is None:
            return items


def rename(connection: Connection, thread_id: str, title: str) -> ThreadRecord:
    changed = connection.ask("PUT", f"{PATH}/{thread_id}", json={"title": title})
    return decode.record(ThreadRecord, changed)
