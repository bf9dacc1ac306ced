"""What every command shares: the options before the command's name, the lab it opens, and the loop it runs in."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from timestep_lab.lab import Lab
    from timestep_lab.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    store: str | None = None
    debug: bool = False

    @contextmanager
    def open_store(self) -> Iterator[Store]:
        """The store alone, for commands that run no agent."""
        from timestep_lab.runtime.settings import Settings
        from timestep_lab.store.open import open_store

        store = open_store(self.store or Settings.load().store or "lab.duckdb")
        try:
            yield store
        finally:
            store.close()

    def open(self, **settings: Any) -> Lab:
        """The lab, with fields of `Settings` other than the environment gives."""
        from timestep_lab.lab import Lab
        from timestep_lab.runtime.settings import Settings

        return Lab(self.store, settings=replace(Settings.load(), **settings))


def with_lab(body: Callable[Concatenate[Lab, P], Awaitable[T]]) -> Callable[P, T]:
    """Turn `async def command(lab, …)` into a click callback that opens the lab, runs the loop and closes all again."""

    @wraps(body)
    def callback(*args: P.args, **kwargs: P.kwargs) -> T:
        context: Context = click.get_current_context().obj

        async def run() -> T:
            async with context.open() as lab:
                return await body(lab, *args, **kwargs)

        return run_async(run())

    return callback


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels the work and lets it clean up first."""
    return asyncio.run(work)


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    from datetime import datetime

    from timestep_lab.types.clock import iso

    return iso(value) if isinstance(value, datetime) else str(value)


store_option = click.option(
    "--store", metavar="STORE", expose_value=False, callback=lambda ctx, _param, value: _use_store(ctx, value),
    help="A path, or postgresql://…; default: TIMESTEP_LAB_STORE or ./lab.duckdb.",
)  # fmt: skip
"""`--store` after the command's name, for those who write it there."""


def _use_store(ctx: click.Context, value: str | None) -> None:
    if value is not None:
        ctx.obj = Context(store=value, debug=ctx.obj.debug)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
