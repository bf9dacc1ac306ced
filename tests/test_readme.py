"""What the README and the workflows promise is what the program does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from timestep_lab.cli import main
from timestep_lab.cli.root import COMMANDS
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = dict.fromkeys(re.findall(r"```(\w+)\n(.*?)```", README, re.S))


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_two_shell_commands_do_all_there_is_to_set_up() -> None:
    start, test = (block.strip() for block in blocks("bash"))
    assert "timestep-lab demo" in start
    assert "pytest" in test


def test_continuous_integration_runs_the_readmes_test_command_everywhere() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "grep -m1 pytest" in script
    assert "README.md" in script
    assert "bash .ci/run" in workflow
    assert blocks("bash")[0].strip() in workflow


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
    await scope["lab"].aclose()  # type: ignore[attr-defined]


def test_the_provider_table_names_every_provider_and_no_other() -> None:
    table = README.split("## Models")[1].split("## ")[0]
    named = set(re.findall(r"^\| `(\w+)/`", table, re.M))
    assert named == {status.prefix for status in Router(Settings.load(env={})).providers()}


def test_every_command_is_described_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command}\s+\S", text, re.M), command


def test_nothing_committed_is_large_and_no_lab_is_among_it() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = [ROOT / name for name in listed if name]
    assert not [f for f in files if f.suffix == ".duckdb"]
    assert not [f for f in files if f.exists() and f.stat().st_size > 1_000_000]
