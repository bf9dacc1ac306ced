"""Shared by all commands: global options, opening the lab, running the event loop, and printing."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

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
        """The store only, for commands that do not run agents."""
        from timestep_lab.runtime.settings import Settings
        from timestep_lab.store.store import open_store

        store = open_store(self.store or Settings.load().store or "lab.duckdb")
        try:
            yield store
        finally:
            store.close()

    def open(self, **settings: Any) -> Lab:
        """The lab, with these fields of `Settings` overriding the environment."""
        from timestep_lab.lab import Lab
        from timestep_lab.runtime.settings import Settings

        return Lab(self.store, settings=replace(Settings.load(), **settings))


def with_lab(body: Callable[Concatenate[Lab, P], Awaitable[T]]) -> Callable[P, T]:
    """Turns `async def command(lab, …)` into a click callback that opens the lab, runs the coroutine and closes the
    lab.
    """

    @wraps(body)
    def callback(*args: P.args, **kwargs: P.kwargs) -> T:
        context: Context = click.get_current_context().obj

        async def run() -> T:
            async with context.open() as lab:
                return await body(lab, *args, **kwargs)

        return run_async(run())

    return callback


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to the end. Ctrl-C cancels it and waits for its cleanup."""
    return asyncio.run(work)


# Printed text comes from models, tools, files and other users. A terminal interprets control characters in it: they can set its title,
# fill the clipboard or clear the screen (CWE-150). So all output goes through the three functions below, which escape them.

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 control characters except tab and newline, DEL, and C1."""


def printable(text: str) -> str:
    """The text with control characters escaped as `\\x1b`; line ends and tabs are kept."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def say(text: object, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(printable(str(text)), err=err)


def print_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    # JSON itself escapes C0; the others can only occur inside a string.
    click.echo(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def console(*, stderr: bool = False) -> Console:
    """A Rich console for tables, colours and progress."""
    return _console_class()(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                # `control` segments are Rich's own: cursor movements of a progress bar.
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return PrintableConsole


def _plain(value: object) -> str:
    from datetime import datetime

    from timestep_lab.model.clock import iso

    return iso(value) if isinstance(value, datetime) else str(value)


store_option = click.option(
    "--store", metavar="STORE", expose_value=False, callback=lambda ctx, _param, value: _use_store(ctx, value),
    help="A path, or postgresql://…; default: TIMESTEP_LAB_STORE or ./lab.duckdb.",
)  # fmt: skip
"""`--store`, also accepted after the command's name."""


def _use_store(ctx: click.Context, value: str | None) -> None:
    if value is not None:
        ctx.obj = Context(store=value, debug=ctx.obj.debug)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
