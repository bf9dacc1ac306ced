"""What a comparison needs of a lab, opened over a path and closed again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from timestep_lab.evals.results import EvalContext
from timestep_lab.runtime.mcp.toolbox import Toolbox
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.store import open_store
from timestep_lab.store.trace_writer import TraceWriter

MODEL = "openai_compatible/loop/m"


@asynccontextmanager
async def opened(
    path: Path | str, url: str = "http://127.0.0.1:1/v1", **settings: object
) -> AsyncIterator[EvalContext]:
    """`MODEL` (and any other name in its place) is asked at `url`."""
    store = open_store(str(path))
    chosen = Settings(openai_compatible={"loop": url}, demo_delay_ms=0.0, **settings)  # type: ignore[arg-type]
    bench = EvalContext(store, Router(chosen), Toolbox(store.mcp_servers.find, chosen), chosen, TraceWriter(store.db))
    try:
        yield bench
    finally:
        await bench.toolbox.aclose()
        await bench.router.aclose()
        bench.writer.close()
        store.close()
