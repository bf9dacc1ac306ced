"""What a lab in Postgres needs done now and then, by whichever of its processes comes first: the partitions of the days to come, the
word index of days that are over, and the batch ids of an hour ago forgotten."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import LabError
from timestep_lab.store.base import SYSTEM_USER, Database, Statement

log = logging.getLogger("timestep_lab.store")

EVERY_S = 600.0
DAYS_AHEAD = 7
REMEMBER = timedelta(hours=1)
"""How long a batch id is known: far longer than any failover."""


def keep_house(db: Database) -> None:
    """Raises `StoreError`."""
    now = to_naive_utc(utc_now())
    db.write(
        SYSTEM_USER,
        [
            Statement("delete from core.ingest_batches where written_at < $1", [now - REMEMBER]),
            Statement("select core.ensure_partitions($1, $2)", [now.date(), (now + timedelta(days=DAYS_AHEAD)).date()]),
        ],
    )
    index_words(db)


def index_words(db: Database) -> int:
    """Index the words of all days that are over, one transaction a day. Returns how many days it were. Raises `StoreError`."""
    days = 0
    while db.write(SYSTEM_USER, [Statement("select core.index_words(1)")])[0].rows[0][0]:
        days += 1
    return days


class Housekeeper:
    """Does it on a thread of its own, soon after the start and every `EVERY_S` seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timestep-lab housekeeping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                keep_house(self._db)
            except LabError as error:
                log.warning("Housekeeping is put off: %s", error)
