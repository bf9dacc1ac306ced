"""What `.github/CONTRIBUTING.md` prints works as printed: each block is put where it says, and used."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.store.test_migrate import Session
from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers import registry
from timestep_lab.evals.scorers.base import SCORERS, Answer
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings
from timestep_lab.store import migrate
from timestep_lab.ui import assets

GUIDE = (Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md").read_text("utf-8")
MOST_LINES = 9


def block(section: str, language: str) -> str:
    text = GUIDE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)[0]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a module as if it lay in a folder of the package."""
    written: list[str] = []

    def put(package: str, name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
        of = importlib.import_module(package)
        monkeypatch.setattr(of, "__path__", [*of.__path__, str(tmp_path)])
        written.append(f"{package}.{name}")
        return importlib.import_module(written[-1])

    yield put
    for name in written:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("section", ["A provider", "A scorer", "A view", "A migration"])
def test_each_thing_takes_fewer_than_ten_lines(section: str) -> None:
    languages = {"A view": ["python", "js"], "A migration": ["sql"]}.get(section, ["python"])
    for language in languages:
        lines = [line for line in block(section, language).splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, section


def test_a_provider_is_found_by_the_name_of_its_file(write: Any) -> None:
    write("timestep_lab.runtime.providers", "lmstudio", block("A provider", "python"))
    router = Router(Settings.load(env={}))
    assert "lmstudio" in router.prefixes
    assert router.resolve("lmstudio/qwen3").full == "lmstudio/qwen3"
    assert next(status for status in router.providers() if status.prefix == "lmstudio").ready
    assert router.get_model("lmstudio/qwen3") is not None


def test_a_scorer_is_found_by_its_name(write: Any) -> None:
    write("timestep_lab.evals.scorers", "polite", block("A scorer", "python"))
    registry._catalogue.cache_clear()
    try:
        polite, rude = registry.make_scorers(["polite", "not:polite"])
        answer = Answer(output="Thank you.")
        assert polite.check(answer, Case(input="")).value == 1.0
        assert rude.negate
    finally:
        SCORERS.pop("polite", None)
        registry._catalogue.cache_clear()


def test_a_view_is_drawn_by_the_module_of_its_name(write: Any, tmp_path: Path) -> None:
    view = write("timestep_lab.ui", "greeting", block("A view", "python")).Greeting()
    assert view.snapshot() == {"words": "Hello"}
    assert "Hello" in view.static_html()
    static = tmp_path / "static"
    static.mkdir()
    # Of the source tree: an installed wheel carries the sources packed as one file.
    for file in (Path(__file__).parents[1] / "src/timestep_lab/ui/static/shared").iterdir():
        (static / "shared").mkdir(exist_ok=True)
        (static / "shared" / file.name).write_bytes(file.read_bytes())
    (static / "greeting.js").write_text(block("A view", "js"), "utf-8")
    module = assets.build(str(static / "greeting"))
    assert "state.words" in module
    assert "import {" not in module


def test_a_migration_runs_once() -> None:
    ours = migrate.known_migrations("duckdb")
    stars = migrate._migration("0042_stars.sql", block("A migration", "sql"))
    session = Session()
    assert migrate.migrate(session, [*ours, stars]) == [*ours, stars]
    assert migrate.migrate(session, [*ours, stars]) == []
    assert session.run("select count(*) from core.stars") == [(0,)]
    session.connection.close()
