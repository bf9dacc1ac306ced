"""Bad input: one line that says what happened and what to do, an exit code that is not 0, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done
from timestep_lab import Lab
from timestep_lab.model.errors import LabError

Cli = Callable[..., Done]


@pytest.mark.parametrize(
    ("arguments", "code", "says", "next_step"),
    [
        (("run", "hi", "--model", "olama/qwen3"), 2, "olama", "ollama"),
        (("run", "hi", "--model", "openai/gpt-4.1"), 2, "OPENAI_API_KEY", "demo/assistant"),
        (("run", "hi", "--model", "anthropic/claude-sonnet-4"), 2, "ANTHROPIC_API_KEY", "demo/assistant"),
        (("run", "hi", "--agent", "Personal Asistant"), 1, "no agent", "Did you mean 'Personal Assistant'?"),
        (("run", "hi", "--setting", "temprature=1"), 2, "temprature", "temperature"),
        (("run", "hi", "--setting", "temperature=hot"), 2, "temperature", ""),
        (("run", "hi", "--thread", "thr_missing"), 1, "thr_missing", "threads list"),
        (("run", "  "), 2, "empty", "prompt"),
        (("mcp", "add", "broken", "--", "no-such-command-here"), 2, "no-such-command-here", "PATH"),
        (("agents", "add", "A", "--tool", "get_wether"), 1, "get_wether", "get_weather"),
        (("sql", "drop table traces"), 2, "", ""),
        (("sql", "select * from tracs"), 2, "tracs", "traces"),
        (("traces", "list", "--filter", "modle == 'x'"), 2, "modle", "model"),
        (("traces", "import", "missing.jsonl"), 2, "missing.jsonl", ""),
        (("traces", "export", "traces.xlsx"), 1, "", ""),
        (("compare", "missing.csv", "--models", "demo/echo"), 2, "missing.csv", ""),
        (("approve", "run_missing"), 1, "run_missing", "timestep-lab approve"),
        (("run", "hi", "--model", "demo/"), 2, "no model", "timestep-lab models list demo"),
        (("run", "half a character: \udcff"), 2, "unpaired surrogate", "UTF-8"),
        (("run", "hi", "--no-such-option"), 2, "no-such-option", "timestep-lab run --help"),
        (("approve", "a", "b"), 2, "", "timestep-lab approve --help"),
        (("traces", "export", "no/such/folder/x.json"), 2, "no/such/folder", "mkdir"),
        (("traces", "export", "."), 2, "is a folder", ""),
        (("db", "copy", "nosuch.duckdb", "copy.duckdb"), 2, "nosuch.duckdb", ""),
        (("dem",), 2, "dem", "demo"),
        (("traces", "show", "0" * 32), 1, "no trace", "timestep-lab traces list"),
        (("agents", "show", "Nobody"), 1, "no agent", "timestep-lab agents add"),
    ],
)
def test_is_refused_in_one_line(cli: Cli, arguments: tuple[str, ...], code: int, says: str, next_step: str) -> None:
    done = cli(*arguments)
    assert done.code == code, done.err
    assert says in done.err
    assert next_step in done.err
    assert "Traceback" not in done.err
    error = [line for line in done.err.splitlines() if line.lower().startswith("error")]
    assert len(error) == 1


def test_an_agent_cycle_without_end_says_what_went_round(cli: Cli) -> None:
    done = cli("run", "What's the weather in Oakland?", "--max-turns", "1")
    assert done.code == 1
    assert "turn" in done.err


def test_exporting_traces_over_a_lab_is_refused_and_over_an_export_is_not(cli: Cli, folder: Path) -> None:
    assert cli("run", "hi", "--model", "demo/echo").code == 0
    for name in ("lab.duckdb", "./lab.duckdb"):
        done = cli("traces", "export", name)
        assert done.code == 2, done.err
        assert "it may be a lab" in done.err
    assert cli("--store", "other.duckdb", "db", "migrate").code == 0
    assert cli("traces", "export", "other.duckdb").code == 2
    assert [cli("traces", "export", "traces.duckdb").code for _ in range(2)] == [0, 0]
    done = cli("--store", "traces.duckdb", "traces", "list")
    assert done.code == 1
    assert "timestep-lab traces import" in done.err
    assert cli("threads", "list", "--json").json


def test_a_broken_setting_is_what_doctor_finds(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_INFERENCE_ENDPOINTS", "{bad")
    done = cli("doctor")
    assert done.code == 1
    assert "HF_INFERENCE_ENDPOINTS" in done.out
    monkeypatch.delenv("HF_INFERENCE_ENDPOINTS")
    (folder / ".env").write_bytes(b"OPENAI_API_KEY=\xff\xfe")
    done = cli("run", "hi")
    assert done.code == 2
    assert "UTF-8" in done.err


def test_a_damaged_file_is_named_and_left_as_it_is(cli: Cli, folder: Path) -> None:
    lab = folder / "lab.duckdb"
    lab.write_bytes(b"this is not a database" * 500)
    before = lab.read_bytes()
    done = cli("run", "hi")
    assert done.code == 1
    assert "lab.duckdb" in done.err
    assert lab.read_bytes() == before


def test_a_lab_of_a_later_version_is_refused(cli: Cli, folder: Path) -> None:
    import duckdb

    assert cli("db", "migrate").code == 0
    with duckdb.connect(str(folder / "lab.duckdb")) as connection:
        connection.execute("insert into core.schema_migrations values (9999, '9999_future', 'x', now()::timestamp)")
    done = cli("sql", "select 1")
    assert done.code == 1
    assert "newer version" in done.err
    assert "pip install --upgrade" in done.err


def test_a_folder_that_cannot_be_written_is_said_to_be_so(cli: Cli) -> None:
    # /proc takes no files even from root, whom ordinary permissions do not stop.
    where = "/proc/lab.duckdb" if Path("/proc").is_dir() else "/lab.duckdb"
    done = cli("--store", where, "sql", "select 1")
    assert done.code == 1
    assert where in done.err


def test_a_fault_of_our_own_is_one_line_too_and_debug_shows_where(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from timestep_lab.lab import Lab

    def broken(self: Lab, *_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Lab, "__init__", broken)
    quiet = cli("sql", "select 1")
    assert quiet.code == 1
    assert "--debug" in quiet.err
    assert "Traceback" not in quiet.err
    assert "Traceback" in cli("--debug", "sql", "select 1").err


def test_the_same_error_names_python_where_python_is_spoken() -> None:
    lab = Lab(":memory:")
    asked: dict[str, Callable[[], object]] = {
        "lab.traces": lambda: lab.trace("0" * 32), "lab.threads.list()": lambda: lab.threads["thr_x"],
        "lab.approvals": lambda: lab.get_run("run_x"), "lab.agents.create(": lambda: lab.agents.get("Nobody"),
        "lab.handoffs(my_agent)": lambda: lab.handoffs("Nobody"),
        "await lab.router.list_models('demo')": lambda: lab.router.resolve("demo/"),
    }  # fmt: skip
    for step, ask in asked.items():
        with pytest.raises(LabError) as refused:
            ask()
        assert step in str(refused.value)
        assert "timestep-lab " not in str(refused.value)
    lab.close()
