"""`timestep-lab serve`: API and app in one process."""

from __future__ import annotations

import click

from timestep_lab.cli.context import Context, store_option


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: a free one.")
@store_option
@click.pass_obj
def command(context: Context, host: str, port: int) -> int:
    """Serve the lab: chat, traces, comparisons and the API. Stops cleanly on SIGTERM or Ctrl-C."""
    from timestep_lab.app.run import serve

    with context.open() as lab:
        serve(lab, host=host, port=port, announce=click.echo, ends_process=True)
    return 0
