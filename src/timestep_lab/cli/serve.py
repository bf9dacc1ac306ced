"""`timestep-lab serve`: API and app in one process."""

from __future__ import annotations

import os
import signal
import threading

import click

from timestep_lab.cli.context import Context, say, store_option


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: a free one.")
@click.option(
    "--with-input",
    is_flag=True,
    hidden=True,
    help="Stop when standard input ends, as it does with the program that holds it.",
)
@store_option
@click.pass_obj
def command(context: Context, host: str, port: int, with_input: bool) -> int:
    """Serve the lab: chat, traces, comparisons and the API. Stops cleanly on SIGTERM or Ctrl-C."""
    from timestep_lab.server.server import serve

    if with_input:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    with context.open() as lab:
        serve(lab, host=host, port=port, announce=say, ends_process=True)
    return 0


def _stop_with_input() -> None:
    # Not through sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    signal.raise_signal(signal.SIGINT)
