"""What the README and the workflows promise is what the program does."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from PIL import Image

from tests.readme_picture import LARGEST, PICTURE, SIZE, made_from
from timestep_lab.cli import main
from timestep_lab.cli.root import COMMANDS, root
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = dict.fromkeys(re.findall(r"```(\w+)\n(.*?)```", README, re.S))


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def section(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, str]:
    """First column to the second, of a section's table."""
    found = [line.strip("| ").split(" | ") for line in section(title).splitlines() if line.startswith("| `")]
    return {row[0]: row[1] for row in found}


def test_two_shell_commands_do_all_there_is_to_set_up() -> None:
    start, test = (block.strip() for block in blocks("bash"))
    assert "timestep-lab demo" in start
    assert "pytest" in test


async def test_the_python_of_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ast

    monkeypatch.chdir(tmp_path)
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "DEFAULT_AGENT_MODEL", "TIMESTEP_LAB_STORE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("WEATHER_MODE", "recorded")
    scope: dict[str, object] = {}
    for block in blocks("python"):
        code = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, scope)
        if result is not None:
            await result
    run = scope["run"]
    assert run.status == "completed"  # type: ignore[attr-defined]
    scope["served"].stop()  # type: ignore[attr-defined]
    await scope["lab"].aclose()  # type: ignore[attr-defined]


def test_the_provider_table_names_every_provider_and_no_other() -> None:
    named = set(re.findall(r"^\| `(\w+)/`", section("Models"), re.M))
    assert named == {status.prefix for status in Router(Settings.load(env={})).providers()}


def test_every_command_is_described_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command}\s+\S", text, re.M), command


def test_the_table_of_commands_says_what_their_help_says() -> None:
    helps = {f"`{name}`": root.get_command(click.Context(root), name).help for name in COMMANDS}
    assert rows("Commands") == {name: " ".join(text.split("\n\n")[0].split()) for name, text in helps.items()}


def test_every_printed_command_line_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    printed = set(re.findall(r"`timestep-lab ([a-z][^`]*)`", README))
    assert len(printed) >= 6
    for line in printed - {"COMMAND --help", "--store STORE COMMAND"}:
        words = shlex.split(line)
        names = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z]+", word), words))
        help_of = [*names[: 2 if names[0] in ("db", "models", "mcp") else 1], "--help"]
        assert main(help_of) == 0, line
        text = capsys.readouterr().out
        assert not [option for option in words if option.startswith("--") and option not in text], line


def test_the_environment_table_names_every_variable_that_is_read_and_no_other() -> None:
    named = {name for cell in rows("Environment") for name in re.findall(r"`(\w+)`", cell)}
    read = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', inspect.getsource(Settings.load)))
    for file in (ROOT / "src").rglob("*.py"):
        read |= set(re.findall(r'environ(?:\.get\(|\[)"(TIMESTEP_LAB_\w+)"', file.read_text("utf-8")))
    assert named == read


def test_the_picture_shows_the_views_of_today() -> None:
    assert f"]({PICTURE.relative_to(ROOT).as_posix()})" in README
    assert PICTURE.stat().st_size <= LARGEST
    with Image.open(PICTURE) as picture:
        assert picture.info["Source"] == "tests/readme_picture.py"
        assert picture.size == SIZE
        assert picture.info["Made-From"] == made_from(), (
            "The views changed since the picture was taken. Take it anew, and look at it: python -m tests.readme_picture"
        )


def test_nothing_committed_is_large_and_no_lab_is_among_it() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = [ROOT / name for name in listed if name]
    assert not [f for f in files if f.suffix == ".duckdb"]
    assert not [f for f in files if f.exists() and f.stat().st_size > 1_000_000]
