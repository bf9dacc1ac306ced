"""What every command shares: the options before the command's name, the lab it opens, and the loop it runs in."""

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
    from rich.console import Console
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
        """The store alone, for commands that run no agent."""
        from timestep_lab.runtime.settings import Settings
        from timestep_lab.store.store import open_store

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


# What is printed comes from models, tools, files and other users. A terminal obeys control characters in it: they set its title, fill the
# clipboard, clear the screen (CWE-150). So all output goes through the three functions below, which show them escaped.

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 but tab and newline, DEL, and C1."""


def printable(text: str) -> str:
    """The text with control characters written as `\\x1b`; line ends and tabs stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def say(text: object, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(printable(str(text)), err=err)


def print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    # JSON escapes C0 itself; the others can only stand inside a string.
    click.echo(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def console(*, stderr: bool = False) -> Console:
    """For tables, colours and progress."""
    return _console_class()(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
            for segment in super().render(*args, **kwargs):
                # Segments that are `control` are Rich's own: moving the cursor of a progress bar.
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return PrintableConsole


def _plain(value: Any) -> Any:
    from datetime import datetime

    from timestep_lab.model.clock import iso

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
