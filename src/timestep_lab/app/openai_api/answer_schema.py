"""A caller's JSON schema as the Agents SDK hands one to a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agents import AgentOutputSchemaBase

from timestep_lab.types.records import Json


class AnswerSchema(AgentOutputSchemaBase):
    def __init__(self, schema: Mapping[str, Json], strict: bool) -> None:
        self._schema, self._strict = dict(schema), strict

    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return "answer"

    def json_schema(self) -> dict[str, Any]:
        return self._schema

    def is_strict_json_schema(self) -> bool:
        return self._strict

    def validate_json(self, json_str: str) -> Any:
        return json.loads(json_str)
