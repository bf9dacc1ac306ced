"""A process that opens, writes to and closes labs as told, one line each on its standard input; it answers each with a line."""

from __future__ import annotations

import os
import sys
from datetime import datetime

from timestep_lab.store.base import Database, Statement
from timestep_lab.store.store import open_database

if __name__ == "__main__":
    labs: dict[str, Database] = {}
    for line in sys.stdin:
        verb, path = line.rstrip("\n").split(" ", 1)
        if verb == "open":
            labs[path] = open_database(path)
        elif verb == "write":
            sql = "insert into users (id, kind, created_at) values ($1, 'test', $2)"
            labs[path].write("alice", [Statement(sql, [str(os.getpid()), datetime(2026, 1, 1)])])
        elif verb == "close":
            labs.pop(path).close()
        print("done", flush=True)
