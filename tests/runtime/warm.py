"""Imported once by the process that workers are forked from: what takes half a second in each is done here for all."""

from __future__ import annotations

import asyncio
import importlib

import agents as sdk

from tests.runtime.bench import SETTINGS
from timestep_lab.runtime.router import Router

for module in (
    "duckdb",
    "psycopg_pool",
    "timestep_lab.store.duckdb.database",
    "timestep_lab.store.postgres.database",
    "timestep_lab.store.liveness",
    "timestep_lab.runtime.tools.weather",
    "tests.runtime.worker",
):
    importlib.import_module(module)


async def _speak_once() -> None:
    config = sdk.RunConfig(model_provider=Router(SETTINGS), tracing_disabled=True)
    result = sdk.Runner.run_streamed(
        sdk.Agent(name="Warm", model="demo/slow?ttft=0&tps=1000&n=2"), "hi", run_config=config
    )
    async for _ in result.stream_events():
        pass


asyncio.run(_speak_once())
