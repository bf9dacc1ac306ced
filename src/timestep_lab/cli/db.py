"""`timestep-lab db`: the store itself."""

from __future__ import annotations

import click

from timestep_lab.cli.context import Context, console, store_option
from timestep_lab.cli.tables import print_rows


@click.group("db")
def command() -> None:
    """Migrate the store, and see how it stands."""


@command.command("migrate")
@store_option
@click.pass_obj
def migrate(context: Context) -> int:
    """Bring the store to this version's schema. Opening a lab does this too."""
    with context.open_store() as store:
        click.echo(f"{store.db.url} is up to date.")
    return 0


@command.command("status")
@store_option
@click.pass_obj
def status(context: Context) -> int:
    """Which migrations the store has."""
    from timestep_lab.store import migrate

    with context.open_store() as store:
        rows = [[m.number, m.name, m.applied_at] for m in migrate.status(store.db)]
    print_rows(console(), ["number", "name", "applied at"], rows)
    return 0
