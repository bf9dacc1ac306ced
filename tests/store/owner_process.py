"""A process that opens and closes labs as told, one line each on its standard input; it answers each with a line."""

from __future__ import annotations

import sys

from timestep_lab.store.base import Database
from timestep_lab.store.open import open_database

if __name__ == "__main__":
    labs: dict[str, Database] = {}
    for line in sys.stdin:
        verb, path = line.rstrip("\n").split(" ", 1)
        if verb == "open":
            labs[path] = open_database(path)
        elif verb == "close":
            labs.pop(path).close()
        print("done", flush=True)
