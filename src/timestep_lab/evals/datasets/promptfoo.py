"""promptfoo's YAML: `tests` (and the `prompts` beside them) as a dataset.

Format: <https://www.promptfoo.dev/docs/configuration/test-cases/>. Read are `vars` (lists multiply into cases), `assert`,
`defaultTest`, `description`, `metadata` and `prompts` given in place; a test list in a file of its own by `file://`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.files import READERS, read_text
from timestep_lab.evals.datasets.rows import EXPECTED_NAMES, INPUT_NAMES, plain
from timestep_lab.evals.datasets.template import render_all
from timestep_lab.types.errors import DataError

_ASSERTIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "equals": lambda a: {"type": "exact", "value": a["value"], "case_sensitive": True},
    "contains": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True},
    "icontains": lambda a: {"type": "contains", "value": a["value"]},
    "contains-any": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True},
    "icontains-any": lambda a: {"type": "contains", "value": a["value"]},
    "contains-all": lambda a: {"type": "contains", "value": a["value"], "all": True, "case_sensitive": True},
    "icontains-all": lambda a: {"type": "contains", "value": a["value"], "all": True},
    "starts-with": lambda a: {"type": "starts_with", "value": a["value"]},
    "regex": lambda a: {"type": "regex", "pattern": a["value"]},
    "is-json": lambda a: {"type": "json_schema", "schema": a.get("value") or {}},
    "levenshtein": lambda a: {"type": "edit_distance", "value": a["value"], "at_most": a.get("threshold", 5)},
    "similar": lambda a: {"type": "similarity", "value": a["value"], "at_least": a.get("threshold", 0.75)},
    "llm-rubric": lambda a: {"type": "judge", "rubric": a["value"]},
    "latency": lambda a: {"type": "latency", "at_most_ms": a["threshold"]},
    "cost": lambda a: {"type": "cost", "at_most_usd": a["threshold"]},
    "is-refusal": lambda a: {"type": "refusal"},
    "trajectory:tool-used": lambda a: {"type": "tool_used", "name": a["value"]},
    "trajectory:step-count": lambda a: {"type": "steps", **_bounds(a["value"])},
}


def read(path: Path) -> tuple[list[Case], list[str]]:
    """Cases and prompt templates. Raises `DataError`, naming the test, for what is not understood: nothing is left out in silence."""
    config = _yaml(path)
    if isinstance(config, list):
        config = {"tests": config}
    if not isinstance(config, Mapping) or "tests" not in config:
        raise DataError(f"{path.name} has no tests.", "A promptfoo file has a list under `tests:`.")
    default = config.get("defaultTest") or {}
    cases = [
        case
        for number, test in enumerate(_tests(config["tests"], path), 1)
        for case in _cases(test, default, f"{path.name} test {number}")
    ]
    return cases, _prompts(config.get("prompts") or [], path)


def _yaml(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{path.name} is not YAML{line}: {getattr(error, 'problem', error)}.", "Correct it.") from error


def _tests(tests: Any, path: Path) -> Iterator[Any]:
    if isinstance(tests, str):
        file = path.parent / tests.removeprefix("file://")
        if file.suffix in (".yaml", ".yml"):
            yield from _tests(_yaml(file), file)
        elif file.suffix in READERS:
            yield from ({"vars": row} if "vars" not in row else row for row, _ in READERS[file.suffix](file))
        else:
            raise DataError(f"{path.name}: tests in {tests} cannot be read.", "Use CSV, JSON, JSONL, Parquet or YAML.")
    elif isinstance(tests, list):
        for test in tests:
            if isinstance(test, str):
                yield from _tests(test, path)
            else:
                yield test
    else:
        raise DataError(f"{path.name}: tests is not a list.", "List the tests, or name a file with file://.")


def _cases(test: Any, default: Mapping[str, Any], where: str) -> Iterator[Case]:
    if not isinstance(test, Mapping):
        raise DataError(f"{where} is not an object.", "A test has `vars:` and `assert:`.")
    variables = plain({**(default.get("vars") or {}), **(test.get("vars") or {})}, where)
    lists = {name: value if isinstance(value, list) else [value] for name, value in variables.items()}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        assertions = [*(default.get("assert") or []), *(test.get("assert") or [])]
        specs = tuple(render_all(_assertion(a, where), chosen) for a in assertions)
        asked = next((chosen[name] for name in INPUT_NAMES if isinstance(chosen.get(name), str)), "")
        expected = next((chosen[name] for name in EXPECTED_NAMES if name in chosen), None)
        about = {"description": test["description"]} if test.get("description") else {}
        yield Case(
            input=asked, expected=expected, vars=chosen, assertions=specs,
            metadata={**about, **plain(test.get("metadata") or {}, where)},
        )  # fmt: skip


def _assertion(assertion: Any, where: str) -> dict[str, Any]:
    if not isinstance(assertion, Mapping) or not isinstance(assertion.get("type"), str):
        raise DataError(f"{where} has an assertion without a type.", "Write `- type: contains` and `value: …`.")
    kind = assertion["type"]
    negated, name = kind.startswith("not-"), kind.removeprefix("not-")
    if name not in _ASSERTIONS:
        raise DataError(
            f"{where} uses the assertion {kind!r}, which is not one of those read here.",
            f"Known: {', '.join(sorted(_ASSERTIONS))}, each also with not-.",
        )
    try:
        spec = _ASSERTIONS[name](assertion)
    except KeyError as error:
        raise DataError(f"{where}: the assertion {kind!r} needs {error.args[0]!r}.", "Add it.") from error
    if "weight" in assertion:
        spec["weight"] = assertion["weight"]
    return {**spec, "negate": True} if negated else spec


def _bounds(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {ours: value[theirs] for theirs, ours in (("min", "at_least"), ("max", "at_most")) if theirs in value}
    return {"at_most": value}


def _prompts(prompts: Any, path: Path) -> list[str]:
    texts = []
    for prompt in prompts if isinstance(prompts, list) else [prompts]:
        text = prompt.get("raw") if isinstance(prompt, Mapping) else prompt
        if not isinstance(text, str):
            raise DataError(
                f"{path.name} has a prompt that is not text.", "Write the prompt in place, or name a .txt file."
            )
        texts.append(read_text(path.parent / text.removeprefix("file://")) if text.startswith("file://") else text)
    return texts
