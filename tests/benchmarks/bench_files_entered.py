"""How many of the package's files a warm `lab.run("hello", model="demo/echo")` enters: what a reader opens to follow one run.

    python tests/benchmarks/bench_files_entered.py            # the count, and each file with its functions
    python tests/benchmarks/bench_files_entered.py --at-most 35

Wanted: at most 35, on the thread of the event loop, whose path a reader follows. What the store's threads enter besides depends on which of
them a run happens to start, so it is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from types import FrameType

from timestep_lab import Lab

MARK = "/timestep_lab/"


async def entered() -> tuple[dict[str, set[str]], int]:
    """Functions by file, and how often the run goes from one file to another."""
    files: defaultdict[str, set[str]] = defaultdict(set)
    moves, last = 0, ""

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal moves, last
        path = frame.f_code.co_filename
        if event != "call" or MARK not in path:
            return
        name = path.partition(MARK)[2]
        files[name].add(frame.f_code.co_name)
        moves += name != last
        last = name

    async with Lab(":memory:") as lab:
        await lab.run("hello", model="demo/echo")
        sys.setprofile(profile)
        await lab.run("hello", model="demo/echo")
        sys.setprofile(None)
        return dict(files), moves


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-most", type=int, help="fail when more files are entered")
    at_most = parser.parse_args().at_most
    files, moves = asyncio.run(entered())
    for name, functions in sorted(files.items()):
        print(f"  {name}: {', '.join(sorted(functions))}")
    print(f"{len(files)} files entered, {moves} moves between them")
    return int(at_most is not None and len(files) > at_most)


if __name__ == "__main__":
    sys.exit(main())
