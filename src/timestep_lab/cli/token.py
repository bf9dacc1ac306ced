"""`timestep-lab token`: a token for a served lab, for whoever can open its store."""

from __future__ import annotations

from datetime import timedelta

import click

from timestep_lab.cli.context import Context, say, store_option


@click.command("token")
@click.option("--user", default=None, metavar="ID", help="Whose token; default: the lab's own user.")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How long it is good for.")
@store_option
@click.pass_obj
def command(context: Context, user: str | None, days: int) -> int:
    """Print a token for Lab("http://…", token=…) and for the API. Works while the lab is served."""
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.server.gate import Tokens, secret_of

    with context.open_store() as store:
        tokens = Tokens(secret_of(store, Settings.load().secret))
        say(tokens.issue(user or store.user_id, anonymous=False, lifetime=timedelta(days=days)))
    return 0
