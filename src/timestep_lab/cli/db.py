"""`timestep-lab db` and `timestep-lab doctor`: the store, and whether everything is set up."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from timestep_lab import __version__
from timestep_lab.cli.context import Context, console, json_option, print_json, say, store_option
from timestep_lab.cli.render import print_rows
from timestep_lab.model.errors import LabError, SettingsError, StoreReadOnlyError, UsageError
from timestep_lab.runtime.settings import Settings

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- `timestep-lab doctor`: checks the setup and says how to fix it


EXTRAS = {
    "local": ("xllamacpp", "models in this process (local/…)"),
    "postgres": ("psycopg", "a lab in PostgreSQL"),
    "files": ("wordllama", "search in files by meaning, offline"),
    "scale": ("distributed", "comparisons on a Dask cluster"),
}


@dataclass(frozen=True)
class Finding:
    what: str
    state: str
    """ready, missing (an optional part), or broken."""
    detail: str
    next_step: str = ""


@click.command("doctor")
@json_option
@store_option
@click.pass_obj
def doctor_command(context: Context, as_json: bool) -> int:
    """Check each provider, the store and the browser components: ready, or what is missing and how to fix it. Exit code
    1 if something is broken.
    """
    findings = list(examine(context))
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        out = console()
        signs = {"ready": "[green]✓[/]", "missing": "[dim]–[/]", "broken": "[red]✕[/]"}
        for finding in findings:
            then = f"  [dim]{escape(finding.next_step)}[/]" if finding.next_step else ""
            out.print(f"{signs[finding.state]} {escape(finding.what)}: {escape(finding.detail)}{then}")
    return int(any(finding.state == "broken" for finding in findings))


def examine(context: Context) -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("timestep-lab", "ready", f"{__version__} on Python {python}")
    try:
        Settings.load()
    except SettingsError as error:
        # All further checks depend on these.
        yield Finding("settings", "broken", error.message, error.next_step)
        return
    try:
        with context.open_store() as store:
            yield Finding("store", "ready", f"{store.db.url} ({store.db.dialect})")
            if store.db.dialect == "postgres":
                yield _vectors(store)
    except LabError as error:
        yield Finding("store", "broken", error.message, error.next_step)
    yield from _providers()
    yield _browser_assets()
    for extra, (module, what) in EXTRAS.items():
        if importlib.util.find_spec(module):
            yield Finding(f"extra [{extra}]", "ready", what)
        else:
            yield Finding(
                f"extra [{extra}]", "missing", f"not installed: {what}", f"pip install 'timestep-lab[{extra}]'"
            )


def _vectors(store: Store) -> Finding:
    row = store.db.query(store.user_id, "select extversion from pg_extension where extname = 'vector'").one()
    if row:
        return Finding("pgvector", "ready", f"{row[0]}, searches the passages of files")
    return Finding(
        "pgvector", "missing", "passages of files are searched with plain SQL: slower, same results",
        "Install the extension on the server before creating the lab.",
    )  # fmt: skip


def _providers() -> Iterator[Finding]:
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.settings import Settings

    settings = Settings.load()
    yield Finding("default model", "ready", settings.default_model)
    for status in Router(settings).providers():
        state = "ready" if status.ready else "missing"
        yield Finding(f"{status.prefix}/", state, status.detail, "" if status.ready else status.next_step)


def _browser_assets() -> Finding:
    from timestep_lab.ui.assets import STATIC, build

    try:
        sizes = [len(build(stem, host)) for stem in ("chat", "explorer") for host in ("notebook", "panel")]
    except (OSError, ValueError) as error:
        return Finding("browser parts", "broken", str(error), "Reinstall timestep-lab.")
    return Finding(
        "browser parts",
        "ready",
        f"{sum(sizes) // 1000} kB of scripts and styles in {STATIC.name}/, none from the network",
    )


KINDS = ("threads", "runs", "files")


@click.group("db")
def db_command() -> None:
    """Migrate, check, copy and repair the store; archive and delete old traces."""


@db_command.command("migrate")
@store_option
@click.pass_obj
def migrate(context: Context) -> int:
    """Migrate the store to this version's schema. Opening a lab does this, too."""
    with context.open_store() as store:
        say(f"{store.db.url} is up to date.")
    return 0


@db_command.command("status")
@store_option
@click.pass_obj
def status(context: Context) -> int:
    """Show which migrations the store has."""
    from timestep_lab.store import migrate

    with context.open_store() as store:
        rows = [[m.number, m.name, m.applied_at] for m in migrate.status(store.db)]
    print_rows(console(), ["number", "name", "applied at"], rows)
    return 0


@db_command.command("check")
@store_option
@click.pass_obj
def check(context: Context) -> int:
    """Check that the lab is intact, with all acknowledged data. A damaged lab is not changed."""
    from timestep_lab.store.base import SYSTEM_USER

    with context.open_store() as store:
        counts = [store.db.query(SYSTEM_USER, f"select count(*) from core.{name}").one() for name in KINDS]
        summary = ", ".join(f"{count[0]:,} {name}" for name, count in zip(KINDS, counts, strict=True) if count)
        say(f"{store.db.url} is intact: {summary}.")
    return 0


@db_command.command("repair")
@store_option
@click.pass_obj
def repair(context: Context) -> int:
    """Repair a DuckDB lab with a damaged write-ahead log or journal, keeping every change that can be recovered. The damaged files
    are kept under other names.
    """
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.duckdb.connect import repair as repaired
    from timestep_lab.store.store import EMBEDDED

    url = str(context.store or Settings.load().store or "lab.duckdb").removeprefix("duckdb://")
    if "://" in url or url.startswith((":memory:", EMBEDDED)):
        raise UsageError("Only a lab in a DuckDB file can be repaired.", "Select it with: --store PATH")
    path = Path(url).expanduser().resolve()
    try:
        done = repaired(path)
    except OSError as error:
        raise StoreReadOnlyError(
            f"{path} could not be copied and is unchanged: {error.strerror}.", "Free some disk space, then try again."
        ) from error
    if done is None:
        say(f"{path} needs no repair.")
        return 0
    say(f"{path} is repaired. Recovered {done.kept:,} of {done.size:,} bytes of its log.")
    if done.requests is not None:
        say(f"Recovered {done.requests:,} requests of its journal of received traces.")
    say("The damaged files: " + ", ".join(str(damaged) for damaged in done.aside))
    return 0


@db_command.command("copy")
@click.argument("source")
@click.argument("target")
def copy(source: str, target: str) -> int:
    """Copy a whole lab, with the rows of all users, into a new one: SOURCE and TARGET are paths of DuckDB files or
    postgresql:// URLs.

    A TARGET such as parquet:FOLDER is a folder of Parquet files, one per table. Counts and hashes of both sides are
    compared at the end.
    """
    from timestep_lab.store.store import EMBEDDED, open_database

    if "://" not in source and not Path(source).expanduser().exists() and not source.startswith(EMBEDDED):
        raise UsageError(f"There is no lab at {source}.", "Give the lab to copy as SOURCE.")
    from timestep_lab.store.copy import copy_lab, copy_to_parquet

    with closing(open_database(source)) as lab:
        if target.startswith("parquet:"):
            copied = copy_to_parquet(lab, Path(target.removeprefix("parquet:")).expanduser())
        else:
            with closing(open_database(target)) as new, console(stderr=True).status("Copying …") as shown:
                copied = copy_lab(
                    lab, new, progress=lambda table, rows: shown.update(f"Copying {table}: {rows:,} rows")
                )
    print_rows(console(), ["table", "rows", "sha256"], [[t.name, t.rows, t.sha256[:16]] for t in copied if t.rows])
    return 0


@db_command.command("archive")
@click.option(
    "--before",
    required=True,
    metavar="DATE",
    type=click.DateTime(["%Y-%m-%d"]),
    help="E.g. 2026-01-31: traces that ended before that day (UTC).",
)
@store_option
@click.pass_obj
def archive(context: Context, before: datetime) -> int:
    """Move all users' finished traces from before DATE into Parquet files, one per day, beside the lab's file. They
    remain readable.
    """
    from timestep_lab.store.archive import archive as archived
    from timestep_lab.store.archive import folder_of

    with context.open_store() as store:
        done = archived(store.db, before.replace(tzinfo=UTC))
        where = folder_of(Path(store.db.url))
    if done.days:
        say(f"{done.spans:,} spans of {done.days:,} days were moved to {where}, {done.bytes / 2**20:,.1f} MB.")
    else:
        say(f"No finished trace from before {before:%Y-%m-%d} is left to archive.")
    return 0


@db_command.command("prune")
@click.option("--older-than", "age", required=True, metavar="AGE", help="30d, 8w, 6m or 1y.")
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@store_option
@click.pass_obj
def prune(context: Context, age: str, dry_run: bool) -> int:
    """Delete all users' traces that started longer ago than AGE. Threads, runs and files are kept."""
    from timestep_lab.store import copy as retention

    with context.open_store() as store:
        gone = retention.prune(store.db, retention.parse_age(age), dry_run=dry_run)
    verb = "would go" if dry_run else "are gone"
    say(f"{gone.traces:,} traces with {gone.spans:,} spans from before {gone.before:%Y-%m-%d} UTC {verb}.")
    return 0
