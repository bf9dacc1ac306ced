"""The workflow runs what `.ci` and the README hold, and nothing of its own: what passes here passes there.

`drift` names every difference; the last test makes some and sees them named.
"""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
SCRIPT = (ROOT / ".ci" / "run").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
Workflow = dict[str, Any]

TOOLS = re.compile(r"\b(?:pytest|ruff|mypy|nbval)\b")
"""Checks have one home: `.ci/run`."""


def commands(workflow: Workflow, job: str) -> list[str]:
    return [step["run"].strip() for step in workflow["jobs"][job]["steps"] if "run" in step]


def readme_line(mark: str) -> str:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
    return next(line for line in lines if mark in line)


def pythons(workflow: Workflow) -> list[str]:
    found: list[str] = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    return found


def drift(workflow: Workflow, script: str) -> list[str]:
    """Where the workflow and `.ci` say different things; empty when they agree."""
    found = []
    expected = {
        "test": ["bash .ci/run"],
        "first-run": ["python .ci/first_run.py"],
        "migrations": ["bash .ci/migrations"],
        "clients": ["pip install '.[test]' && python .ci/client_matrix.py"],
        "smoke": [readme_line("timestep-lab demo")],
    }
    for job, lines in expected.items():
        if job not in workflow["jobs"]:
            found.append(f"there is no job {job}")
        elif commands(workflow, job) != lines:
            found.append(f"the job {job} runs {commands(workflow, job)}, not {lines}")
    for job in workflow["jobs"]:
        found += [f"the job {job} runs a check of its own: {c}" for c in commands(workflow, job) if TOOLS.search(c)]
        for name in re.findall(r"\.ci/[\w.]+", " ".join(commands(workflow, job))):
            if not (ROOT / name).is_file():
                found.append(f"the job {job} runs {name}, which is not there")
    if "grep -m1 pytest" not in script or "README.md" not in script:
        found.append(".ci/run does not take its test command from the README")
    found += [
        f".ci/run does not run {tool}"
        for tool in ("ruff check .", "ruff format --check .", "mypy")
        if tool not in script
    ]
    least = PROJECT["requires-python"].removeprefix(">=")
    if pythons(workflow)[:1] != [least]:
        found.append(f"the oldest Python tested is not {least}, which pyproject.toml promises")
    return found


def test_the_workflow_runs_what_ci_run_and_the_readme_say() -> None:
    assert drift(WORKFLOW, SCRIPT) == []


def test_every_promised_system_and_python_is_tried() -> None:
    assert pythons(WORKFLOW) == ["3.11", "3.12", "3.13"]
    assert set(WORKFLOW["jobs"]["smoke"]["strategy"]["matrix"]["system"]) == {"macos-latest", "windows-latest"}


def test_a_release_waits_for_every_check_and_a_deployment_for_the_release() -> None:
    jobs = WORKFLOW["jobs"]
    assert set(jobs["release"]["needs"]) == {"test", "first-run", "migrations", "smoke", "build"}
    assert jobs["deploy"]["needs"] == "release"
    for job in ("release", "deploy"):
        assert "refs/tags/v" in jobs[job]["if"]
        assert jobs[job]["environment"] == "production"


def test_the_secrets_of_the_deployment_are_named_and_go_to_nothing_else() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    used = set(re.findall(r"secrets\.(\w+)", text))
    assert used == {"DEPLOY_DATABASE_URL", "DEPLOY_HOST", "DEPLOY_SSH_KEY"}
    assert all(f"#   {name}" in text for name in used)
    others = [step for name, job in WORKFLOW["jobs"].items() if name != "deploy" for step in job["steps"]]
    assert "secrets." not in str(others)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_screenshots_and_the_wheel_are_kept() -> None:
    kept = {
        step["with"]["path"]
        for job in WORKFLOW["jobs"].values()
        for step in job["steps"]
        if "upload-artifact" in step.get("uses", "")
    }
    assert {"test-artifacts", "dist/*.whl"} <= kept
    assert (ROOT / ".github" / "dependabot.yml").is_file()


@pytest.mark.parametrize(
    ("job", "lines", "said"),
    [
        ("test", ["pytest"], "a check of its own"),
        ("test", [], "the job test runs []"),
        ("first-run", ["python .ci/first.py"], "which is not there"),
        ("smoke", ["pip install .", "timestep-lab run hello"], "the job smoke runs"),
    ],
)  # fmt: skip
def test_a_workflow_that_goes_its_own_way_is_named(job: str, lines: list[str], said: str) -> None:
    other = copy.deepcopy(WORKFLOW)
    other["jobs"][job]["steps"] = [{"run": line} for line in lines]
    assert any(said in difference for difference in drift(other, SCRIPT))


@pytest.mark.parametrize("line", ["mypy", "ruff check .", "grep -m1 pytest"])
def test_a_check_taken_out_of_ci_run_is_named(line: str) -> None:
    assert drift(WORKFLOW, SCRIPT.replace(line, "true")) != []


def test_another_oldest_python_is_named() -> None:
    other = copy.deepcopy(WORKFLOW)
    other["jobs"]["test"]["strategy"]["matrix"]["python"] = ["3.12"]
    assert drift(other, SCRIPT) == ["the oldest Python tested is not 3.11, which pyproject.toml promises"]


def test_the_weekly_workflow_runs_what_depends_on_programs_of_others() -> None:
    weekly = yaml.safe_load((ROOT / ".github" / "workflows" / "senders.yml").read_text("utf-8"))
    scripts = [".ci/mcp_servers.py", ".ci/mcp_conformance.py"]
    assert commands(weekly, "mcp") == ["pip install .", *(f"python {script}" for script in scripts)]
    assert commands(weekly, "promptfoo") == ["python .ci/promptfoo_scores.py"]
    assert commands(weekly, "notebooks")[-1] == "python .ci/notebooks_under_load.py"
    assert commands(weekly, "soak")[-1] == "pytest tests/benchmarks/bench_soak.py -m benchmark -s"
    assert all((ROOT / script).is_file() for script in [*scripts, ".ci/promptfoo_scores.py"])


def test_actions_of_others_are_named_by_commit() -> None:
    """A tag can be moved to other code."""
    used = [step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []


def test_the_image_installs_one_version_of_every_dependency_that_the_project_allows() -> None:
    locked = dict(
        line.split("==") for line in (ROOT / ".ci" / "locked.txt").read_text("utf-8").splitlines() if "==" in line
    )
    assert "--constraint .ci/locked.txt" in (ROOT / "Containerfile").read_text("utf-8")
    wanted = [
        *PROJECT["dependencies"],
        *(PROJECT["optional-dependencies"][extra][0] for extra in ("postgres", "files")),
    ]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement
