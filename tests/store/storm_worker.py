"""Writes to a lab until told to stop, and notes in a file what was acknowledged: `storm_worker.py LAB NAME FOLDER`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from timestep_lab.store.base import Change, Statement
from timestep_lab.store.store import open_database

COLUMNS = ("user_id", "thread_id", "seq", "item", "created_at")
MOMENT = datetime(2026, 1, 1)


def main(lab: str, name: str, folder: str) -> None:
    database = open_database(lab)
    stop = Path(folder) / "stop"
    with (Path(folder) / f"acknowledged.{name}").open("w", encoding="utf-8") as acknowledged:
        n = 0
        while not stop.exists():
            n += 1
            if n % 2:
                statement = Statement(
                    "insert into session_items (user_id, thread_id, seq, item, created_at) values ($1, $2, $3, '{}', $4) returning seq",
                    [name, "t", n, MOMENT],
                    expect=1,
                )
                [rows] = database.write(name, [statement], changes=[Change("threads", name, str(n))])
                assert rows.rows == [(n,)]
            else:
                database.append(name, {"session_items": (COLUMNS, [(name, "t", n, "{}", MOMENT)])})
            acknowledged.write(f"{n}\n")
            acknowledged.flush()
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
