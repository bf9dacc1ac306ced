"""The container files and the commands that an operator types."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import yaml
from click.testing import CliRunner

from tests.postgres.labs import fill
from timestep_lab.cli.context import Context
from timestep_lab.cli.db import db_command as command
from timestep_lab.cli.db import doctor_command
from timestep_lab.cli.serve import serve_command
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.migrate import known_migrations
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.store import open_database

ROOT = Path(__file__).parents[2]


def test_the_compose_file_waits_for_postgres_checks_readiness_and_holds_no_secret() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    lab, postgres = services["lab"], services["postgres"]
    assert lab["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "/readyz" in " ".join(lab["healthcheck"]["test"])
    assert "pg_isready" in postgres["healthcheck"]["test"][1]
    assert all(port.startswith("127.0.0.1:") for port in lab["ports"])
    for service in (lab, postgres):
        assert all(
            "${" in value for name, value in service["environment"].items() if "PASSWORD" in name or "SECRET" in name
        )
    assert (ROOT / lab["build"]["dockerfile"]).exists()


def test_every_variable_extra_and_command_of_the_container_files_exists() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    values = {name: f"http://{name.lower()}.test" for name in services["lab"]["environment"]}
    assert set(values.values()) <= set(vars_of(Settings.load(env=values)))
    container = (ROOT / "Containerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r"\.\[(.+)\]", container)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", container, re.MULTILINE)
    assert json.loads(entry) == [name for name in project["scripts"] if name == "timestep-lab"]
    [command_line] = re.findall(r"^CMD (.+)$", container, re.MULTILINE)
    verb, *options = json.loads(command_line)
    assert verb == "serve"
    assert serve_command.make_context(verb, options).params["host"] == "0.0.0.0"


def vars_of(settings: Settings) -> list[object]:
    """Every value of theirs; of lists, each."""
    values = [getattr(settings, field.name) for field in fields(settings)]
    return [
        one
        for value in values
        if not isinstance(value, dict)
        for one in (value if isinstance(value, tuple) else [value])
    ]


def test_the_container_runs_as_nobody_special_and_copies_only_what_is_there() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    assert "USER lab" in lines
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line


def test_the_doctor_says_whether_vectors_are_compared_by_an_extension(lab_url: str) -> None:
    said = CliRunner().invoke(doctor_command, ["--json"], obj=Context(store=lab_url), catch_exceptions=False)
    findings = {finding["what"]: finding for finding in json.loads(said.stdout)}
    assert findings["pgvector"]["state"] in ("ready", "missing")
    assert findings["store"]["state"] == "ready"
    assert lab_url not in said.stdout  # it holds a password


def test_copy_prune_and_status_say_what_they_did(tmp_path: Path, lab_url: str) -> None:
    source = tmp_path / "lab.duckdb"
    lab = open_database(source)
    fill(lab, days=4)
    lab.close()
    shell = CliRunner()
    copied = shell.invoke(command, ["copy", str(source), lab_url], obj=Context(), catch_exceptions=False)
    assert copied.exit_code == 0
    assert "spans_raw\t72\t" in copied.stdout
    planned = shell.invoke(
        command, ["prune", "--older-than", "1d", "--dry-run"], obj=Context(store=lab_url), catch_exceptions=False
    )
    assert "would go" in planned.stdout
    shell.invoke(command, ["prune", "--older-than", "1d"], obj=Context(store=lab_url), catch_exceptions=False)
    again = shell.invoke(command, ["prune", "--older-than", "1d"], obj=Context(store=lab_url), catch_exceptions=False)
    assert again.stdout.startswith("0 traces")
    for place in (str(source), lab_url):
        status = shell.invoke(command, ["status"], obj=Context(store=place), catch_exceptions=False)
        assert [line.split()[1] for line in status.stdout.splitlines() if "_" in line] == [
            step.name for step in known_migrations("postgres")
        ]
    parquet = shell.invoke(
        command, ["copy", lab_url, f"parquet:{tmp_path / 'out'}"], obj=Context(), catch_exceptions=False
    )
    assert parquet.exit_code == 0
    assert (tmp_path / "out" / "spans_raw.parquet").exists()
    PostgresDatabase(lab_url).close()
