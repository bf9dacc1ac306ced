"""promptfoo assertions as scorers. Format: <https://www.promptfoo.dev/docs/configuration/expected-outputs/>."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from timestep_lab.evals.datasets.files import ending, load_yaml, parsed_yaml, read_text
from timestep_lab.evals.datasets.template import check_template, render, render_all
from timestep_lab.evals.javascript import read_script
from timestep_lab.evals.javascript_values import as_text, python_pattern, shortened
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.errors import DataError

Spec = dict[str, Json]

FACTUALITY = """The answer does not disagree in any fact with this expert's answer; it may say less or more: {value}"""

KINDS: Mapping[str, Callable[[Mapping[str, Json]], Spec]] = {
    "equals": lambda a: (
        {"type": "json_equals", "value": a["value"]}
        if isinstance(a["value"], dict | list)
        else {"type": "exact", "value": a["value"], "case_sensitive": True, "verbatim": True}
    ),
    "contains": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True, "verbatim": True},
    "icontains": lambda a: {"type": "contains", "value": a["value"], "verbatim": True},
    "contains-any": lambda a: {"type": "contains", "value": a["value"], "case_sensitive": True, "verbatim": True},
    "icontains-any": lambda a: {"type": "contains", "value": a["value"], "verbatim": True},
    "contains-all": lambda a: {
        "type": "contains",
        "value": a["value"],
        "all": True,
        "case_sensitive": True,
        "verbatim": True,
    },
    "icontains-all": lambda a: {"type": "contains", "value": a["value"], "all": True, "verbatim": True},
    "starts-with": lambda a: {"type": "starts_with", "value": a["value"], "verbatim": True},
    "regex": lambda a: {"type": "regex", "pattern": python_pattern(as_text(a["value"]))},
    "is-json": lambda a: {"type": "json_schema", "schema": _schema(a.get("value")), "formats": True, "fenced": False},
    "contains-json": lambda a: {
        "type": "json_schema",
        "schema": _schema(a.get("value")),
        "formats": True,
        "objects": True,
    },
    "levenshtein": lambda a: {
        "type": "edit_distance",
        "value": a["value"],
        "at_most": a.get("threshold", 5),
        "verbatim": True,
    },
    "similar": lambda a: {"type": "similarity", "value": a["value"], "pass_at": a.get("threshold", 0.75)},
    "javascript": lambda a: {"type": "javascript", "script": a["value"], **_threshold(a)},
    "word-count": lambda a: {"type": "word_count", **_bounds(a["value"], exact=True)},
    "llm-rubric": lambda a: {"type": "judge", "rubric": a["value"], "scale": "0-1", **_threshold(a), **_judge(a)},
    "model-graded-closedqa": lambda a: {"type": "judge", "rubric": a["value"], **_judge(a)},
    "factuality": lambda a: {"type": "judge", "rubric": FACTUALITY.format(value=a["value"]), **_judge(a)},
    "latency": lambda a: {"type": "latency", "at_most_ms": a["threshold"]},
    "cost": lambda a: {"type": "cost", "at_most_usd": a["threshold"]},
    "is-refusal": lambda a: {"type": "refusal", "promptfoo": True},
    "trajectory:tool-used": lambda a: {"type": "tool_used", "tool": a["value"]},
    "trajectory:step-count": lambda a: {"type": "steps", **_bounds(a["value"])},
}
_ALIASES = {"model-graded-factuality": "factuality"}
_UNSUPPORTED = (
    "agent-rubric", "answer-relevance", "bleu", "classifier", "contains-html", "contains-sql", "contains-xml", "context-faithfulness",
    "context-recall", "context-relevance", "conversation-relevance", "finish-reason", "g-eval", "gleu", "guardrails", "is-html", "is-sql",
    "is-valid-function-call", "is-valid-openai-function-call", "is-valid-openai-tools-call", "is-xml", "max-score", "meteor", "moderation",
    "perplexity", "perplexity-score", "pi", "python", "rouge-n", "ruby", "search-rubric", "select-best", "skill-used", "tool-call-f1",
    "trace-error-spans", "trace-span-count", "trace-span-duration", "trajectory:goal-success", "trajectory:tool-args-match",
    "trajectory:tool-sequence", "webhook",
)  # fmt: skip
"""Unsupported promptfoo assertion types. In a table's `__expected`, a text that starts with one is not taken as the
expected text.
"""
_EVERY = ("type", "value", "weight", "metric", "transform", "description")
_THRESHOLD = ("levenshtein", "similar", "latency", "cost", "llm-rubric", "javascript")
_JUDGES = ("llm-rubric", "model-graded-closedqa", "factuality")
_LISTS = ("contains-any", "contains-all", "icontains-any", "icontains-all")
_TEXT = (
    "contains", "icontains", "starts-with", "regex", "llm-rubric", "model-graded-closedqa", "factuality", "trajectory:tool-used", "javascript",
)  # fmt: skip
_SHORT = re.compile(r"(?P<kind>(?:not-)?[a-z][a-z0-9:-]*?)(?:\((?P<number>\d+(?:\.\d+)?)\))?(?::(?P<value>.*)|\Z)", re.DOTALL)  # fmt: skip
_SHORT_THRESHOLDS = {"similar": 0.8, "levenshtein": 0.75}
"""Default thresholds in a table cell; elsewhere they are 0.75 and 5."""
_JUDGE_SETTINGS = ("provider", "rubricPrompt")


def read_assertion(
    assertion: object, variables: Mapping[str, object], options: Mapping[str, object], path: Path | None, where: str
) -> Spec:
    """The scorer for an assertion of a test with these variables and options. Raises `DataError`."""
    if not isinstance(assertion, Mapping) or not isinstance(assertion.get("type"), str):
        raise DataError(f"{where} has an assertion without a type.", "Write `- type: contains` and `value: …`.")
    kind = assertion["type"]
    what = f"{where}: the assertion {kind!r}"
    if kind == "assert-set":
        return _set(assertion, variables, options, path, where)
    negated, name = kind.startswith("not-"), kind.removeprefix("not-")
    name = _ALIASES.get(name, name)
    if name not in KINDS:
        known = [*KINDS, "assert-set"]
        raise DataError(
            f"{where} uses the assertion {kind!r}, which is not supported.{did_you_mean(name, known)}",
            f"Supported: {', '.join(sorted(known))}, each also with the prefix not-.",
        )
    read = (
        *_EVERY,
        *(("threshold",) if name in _THRESHOLD else ()),
        *(_JUDGE_SETTINGS if name in _JUDGES else ()),
    )
    only(assertion, read, what)
    given = {**{key: options[key] for key in _JUDGE_SETTINGS if key in options and name in _JUDGES}, **assertion}
    if "value" in given:
        given["value"] = _value(name, given["value"], variables, path, what)
    if "rubricPrompt" in given:
        given["rubricPrompt"] = _rubric_prompt(given["rubricPrompt"], path, what)
    try:
        spec = KINDS[name](given)
    except DataError as error:
        raise DataError(f"{what}: {error.message}", error.next_step) from error
    except KeyError as error:
        raise DataError(f"{what} needs {error.args[0]!r}.", "Add it.") from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what} has the value {given.get('value')!r}.", "Use a whole number, or min and max."
        ) from error
    given_scripts = (options.get("transform"), assertion.get("transform"))
    scripts = [read_transform(script, what) for script in given_scripts if script is not None]
    if scripts:
        spec["transform"] = scripts
    spec |= _name_and_weight(assertion, variables, what)
    return {**spec, "negate": True} if negated else spec


def short_assertion(text: str, where: str) -> Spec:
    """Parse `contains: Paris`, `levenshtein(3): Paris` or `grade: is polite`. A text without a known type is the
    expected answer.
    """
    if match := _SHORT.match(text.strip()):
        kind = {"grade": "llm-rubric", "fn": "javascript", "eval": "javascript"}.get(match["kind"], match["kind"])
        bare = kind.removeprefix("not-")
        if bare in _UNSUPPORTED or bare == "file" or (bare == "javascript" and text.startswith("file://")):
            raise DataError(f"{where} expects {text!r}, which is not supported here.", "Write another assertion.")
        if _ALIASES.get(bare, bare) in KINDS:
            spec: Spec = {"type": kind}
            if match["number"] is not None:
                spec["threshold"] = float(match["number"])
            elif bare in _SHORT_THRESHOLDS:
                spec["threshold"] = _SHORT_THRESHOLDS[bare]
            if (match["value"] or "").strip():
                spec["value"] = match["value"].strip()
            return spec
    return {"type": "equals", "value": text}


def read_transform(script: object, where: str) -> str:
    """Check a transform and return it. Raises `DataError` for a script in a file, or one with unsupported features."""
    if not isinstance(script, str):
        raise DataError(f"{where} has a transform that is not text.", "Write an expression over output.")
    if script.startswith(("file://", "package:")):
        raise DataError(
            f"{where} takes its transform from {script}, which is not supported here.", "Write the expression inline."
        )
    try:
        returns = read_script(script).returns
    except DataError as error:
        raise DataError(f"{where}: {error.message}", error.next_step) from error
    several_lines = "\n" in script.strip()
    if returns != several_lines:
        what = "needs a return in its last statement" if several_lines else "has a return, which promptfoo adds itself"
        raise DataError(f"{where}: the script {shortened(script)!r} {what}.", "Correct it.")
    return script


def read_model(provider: object, where: str) -> str:
    """The model for a promptfoo provider. Raises `DataError`."""
    if isinstance(provider, Mapping):
        only(provider, ("id", "label"), f"{where}: the provider")
        provider = provider.get("id")
    if isinstance(provider, str):
        kind, _, rest = provider.partition(":")
        endpoint, _, model = rest.partition(":")
        if kind == "openai" and rest and endpoint not in ("embedding", "embeddings", "assistant", "image", "moderation", "realtime", "transcription"):  # fmt: skip
            return f"openai/{model if endpoint in ('chat', 'responses', 'completion') and model else rest}"
        if kind == "anthropic" and rest:
            return f"anthropic/{model if endpoint in ('messages', 'completion') and model else rest}"
        if kind == "ollama" and rest and endpoint not in ("embeddings",):
            return f"ollama/{model if endpoint in ('chat', 'completion') and model else rest}"
        if kind == "openrouter" and rest:
            return f"openai_compatible/openrouter/{rest}"
        if kind == "huggingface" and endpoint in ("chat", "text-generation") and model:
            return f"hf_inference_providers/{model}"
        if provider == "echo":
            return "demo/echo?bare=1"
        if re.fullmatch(r"[a-z_]+/\S+", provider):
            return provider
    raise DataError(
        f"{where} asks the provider {provider!r}, which is not supported here.",
        "Pass models instead: models=[…]; for a judge, provider: openai:… or anthropic:….",
    )


def loaded(value: object, path: Path | None, where: str) -> object:
    """Resolve a `file://` value: the content of a YAML, JSON or text file; other values are returned unchanged, and
    without a path, all values."""
    if path is None or not (isinstance(value, str) and value.startswith("file://")):
        return value
    file = path.parent / value.removeprefix("file://")
    kind = ending(file)
    if kind in (".yaml", ".yml", ".json"):
        return load_yaml(file)
    if kind in (".txt", ".md", ".html", ".xml", ".csv", ".j2", ".sql"):
        return read_text(file).strip()
    raise DataError(
        f"{where} takes a value from {value}, which is not supported here.", "Use YAML, JSON or a text file."
    )


def only(given: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    """Raises `DataError` for a key that promptfoo supports but this module does not."""
    strange = [str(name) for name in given if name not in known]
    if strange:
        raise DataError(
            f"{where} uses {', '.join(map(repr, strange))}, which is not supported here.",
            f"Remove it if it is not needed. Supported keys: {', '.join(known)}.",
        )


def _set(
    assertion: Mapping[str, Json],
    variables: Mapping[str, object],
    options: Mapping[str, object],
    path: Path | None,
    where: str,
) -> Spec:
    only(assertion, ("type", "assert", "threshold", "weight", "metric"), f"{where}: the assertion 'assert-set'")
    inner = assertion.get("assert")
    if not isinstance(inner, list) or not inner:
        raise DataError(f"{where} has an assert-set without assertions.", "List them under `assert:`.")
    specs = [read_assertion(one, variables, options, path, where) for one in inner]
    return {
        "type": "assert_set", "assertions": specs, **_threshold(assertion), **_name_and_weight(assertion, variables, where),
    }  # fmt: skip


def _name_and_weight(assertion: Mapping[str, object], variables: Mapping[str, object], where: str) -> Spec:
    spec: Spec = {}
    weight = assertion.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise DataError(f"{where} has the weight {weight!r}.", "Use a number of at least 0.")
        spec["weight"] = float(weight)
    if assertion.get("metric") is not None:
        spec["name"] = render(str(assertion["metric"]), variables)
    return spec


def _value(name: str, value: object, variables: Mapping[str, object], path: Path | None, where: str) -> object:
    if name == "javascript":
        if isinstance(value, str) and value.startswith("file://"):
            raise DataError(f"{where} runs {value}, which is not supported here.", "Write the expression inline.")
        read = render(value, variables) if isinstance(value, str) else value
        read_transform(read, where)
        return read
    read = loaded(value, path, where)
    if read is value:
        read = render_all(value, variables)
    if isinstance(read, list) and name in _LISTS:
        return [as_text(loaded(one, path, where)) for one in read]
    if isinstance(read, str) and name in _LISTS:
        return [part.strip() for part in next(csv.reader([read], skipinitialspace=True), [])]
    if isinstance(read, str) and name in ("is-json", "contains-json"):
        return parsed_yaml(read, where)
    if isinstance(read, bool | int | float) and name in (*_TEXT, "equals", "levenshtein", "similar"):
        return as_text(read)
    if name in _TEXT and not isinstance(read, str):
        if name == "llm-rubric":
            return json.dumps(read, ensure_ascii=False)
        raise DataError(f"{where} has a value that is not text.", "Use a text.")
    return read


def _rubric_prompt(value: object, path: Path | None, where: str) -> str:
    read = loaded(value, path, where)
    if isinstance(read, list) and len(read) == 1 and isinstance(read[0], str):
        read = read[0]
    text = read if isinstance(read, str) else json.dumps(read, ensure_ascii=False)
    check_template(text)
    return text


def _judge(assertion: Mapping[str, Json]) -> Spec:
    spec: Spec = {}
    if (provider := assertion.get("provider")) is not None:
        spec["model"] = read_model(provider, "A judge")
    if (prompt := assertion.get("rubricPrompt")) is not None:
        spec["prompt"] = prompt
    return spec


def _threshold(assertion: Mapping[str, Json]) -> Spec:
    threshold = assertion.get("threshold")
    return {} if threshold is None else {"pass_at": threshold}


def _schema(value: Json) -> Json:
    """A schema as ajv reads it: of draft 7 unless it says otherwise, with OpenAPI's `nullable` and JavaScript's patterns."""
    if isinstance(value, Mapping):
        return {"$schema": "http://json-schema.org/draft-07/schema#", **object_of(_usual_schema(value))}
    return value or {}


def _usual_schema(schema: Json) -> Json:
    if isinstance(schema, list | tuple):
        return [_usual_schema(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Json] = {}
    for name, value in schema.items():
        if name == "pattern" and isinstance(value, str):
            made[name] = python_pattern(value)
        elif name == "patternProperties":
            made[name] = {python_pattern(key): _usual_schema(one) for key, one in object_of(value).items()}
        else:
            made[name] = value if name in ("const", "enum", "default", "examples") else _usual_schema(value)
    if made.get("nullable") is True and isinstance(kind := made.get("type"), str):
        made["type"] = [kind, "null"]
    return made


def _bounds(value: object, *, exact: bool = False) -> Spec:
    if isinstance(value, Mapping):
        return {
            ours: int(value[theirs]) for theirs, ours in (("min", "at_least"), ("max", "at_most")) if theirs in value
        }
    return {"at_most": int(str(value)), **({"at_least": int(str(value))} if exact else {})}
