"""What a candidate is asked: the case as it is, or its own prompt filled from the case."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.template import render, render_all
from timestep_lab.model.comparison import CandidateRecord
from timestep_lab.model.errors import DataError

_ROLES = ("system", "developer", "user", "assistant")
_JSON = re.compile(r"\s*(?:\[|\{(?![{%#]))")
_DUMPED = re.compile(r"\s*\{\{-?\s*\w+\s*\|\s*dump\s*-?\}\}\s*")


def asked_of(candidate: CandidateRecord, case: Case) -> str | list[Any]:
    """Text, or Responses input items. Raises `DataError` when the prompt names what the case lacks, or there is nothing to ask.

    A prompt that is a JSON list of messages (`[{"role": "system", "content": …}, …]`), or YAML that begins with `- role:`, is a conversation.
    """
    if candidate.prompt is not None:
        return filled(candidate.prompt, case)
    if case.messages:
        return [dict(message) for message in case.messages]
    if not case.input.strip():
        named = ", ".join(case.own_vars())
        raise DataError(
            f"Case {case.id} has no question, only variables ({named}).",
            'Give a prompt that uses them: prompts=["… {{name}} …"].',
        )
    return f"{case.vars.get('__prefix', '')}{case.input}{case.vars.get('__suffix', '')}"


def filled(prompt: str, case: Case) -> str | list[Any]:
    """The prompt of a candidate, filled from a case. Raises `DataError`."""
    template = f"{case.vars.get('__prefix', '')}{prompt}{case.vars.get('__suffix', '')}"
    variables = case.template_vars()
    if _JSON.match(template) and '"role"' in template:
        try:
            # Variables go into the texts of valid JSON: their quotes and line ends need no escaping.
            value = render_all(json.loads(template), variables)
        except ValueError:
            value = _json(render(template, variables))
    elif template.lstrip().startswith("- role:"):
        import yaml  # type: ignore[import-untyped]

        value = render_all(yaml.safe_load(template), variables) if "{%" not in template else None
    elif _DUMPED.fullmatch(template):
        value = _json(render(template, variables))
    else:
        return render(template, variables)
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, list) or not messages or not all(_is_message(m) for m in messages):
        return render(template, variables)
    return [_message(message) for message in messages]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message["role"], message["content"]
    strange = sorted(set(message) - {"role", "content", "name"})
    if role not in _ROLES or strange:
        raise DataError(
            f"A message of a prompt has {f'the role {role!r}' if role not in _ROLES else ', '.join(strange)}, which is not supported here.",
            f"Its role is one of {', '.join(_ROLES)}; besides it has content.",
        )
    if isinstance(content, list):
        content = [_part(part, role) for part in content]
    elif not isinstance(content, str):
        content = "" if content is None else json.dumps(content, ensure_ascii=False)
    return {"role": role, "content": content}


def _part(part: Any, role: str) -> dict[str, Any]:
    """A part of Chat Completions as the Responses API has it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text"):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": str(part.get("text", ""))}
    if kind == "input_image":
        return dict(part)
    if kind == "image_url":
        image = part["image_url"] if isinstance(part.get("image_url"), Mapping) else {"url": part.get("image_url")}
        return {"type": "input_image", "image_url": str(image.get("url")), "detail": image.get("detail", "auto")}
    raise DataError(f"A message of a prompt holds a part of the type {kind!r}, which is not supported here.", "Use text.")  # fmt: skip
