"""MCP tools as Agents SDK function tools, with unique names and approval rules."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import mimetypes
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents import (
    FunctionTool,
    RunContextWrapper,
    SpanError,
    ToolOrigin,
    ToolOriginType,
    ToolOutputImage,
    ToolOutputText,
    get_current_span,
)
from agents.tool_context import ToolContext
from agents.tracing import FunctionSpanData
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    Prompt,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from mcp.types import Tool as McpTool

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ToolError
from timestep_lab.model.records import AgentRecord, FileRecord, McpServerRecord
from timestep_lab.model.spans import GenAI
from timestep_lab.runtime.approvals import Rule, reason_to_ask
from timestep_lab.runtime.tracing import note
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from agents import Tool
    from agents.mcp import MCPServer


# --- Results of the toolbox: tools as in the catalogue, and the tools of one agent


class FailedOutput(str):
    """Output sent to the model when a tool failed: `{"error": "…"}`. The type distinguishes it from a regular output that looks the
    same."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """One tool of one server, as described by the server."""

    server_id: str
    """Empty for a client tool."""
    server: str
    """The server's name; empty for a client tool."""
    name: str
    title: str = ""
    description: str = ""
    input_schema: Mapping[str, Json] = field(default_factory=dict)
    """JSON Schema of the arguments."""
    output_schema: Mapping[str, Json] | None = None
    """JSON Schema of the structured result; None if not declared."""
    read_only: bool = False
    """The server declares that calling it has no side effects."""

    id: str = field(init=False, default="")
    """Id for `AgentRecord.tool_ids`: `<server id>.<tool>`, or a client tool's bare name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.server_id}.{self.name}" if self.server_id else self.name)

    @classmethod
    def of(cls, server: McpServerRecord, declared: McpTool) -> ToolInfo:
        """Converts the protocol's `Tool`."""
        hints = declared.annotations
        return cls(
            server_id=server.id, server=server.name, name=declared.name, title=declared.title or (hints.title if hints and hints.title else ""),
            description=declared.description or "", input_schema=declared.input_schema, output_schema=declared.output_schema,
            read_only=bool(hints and hints.read_only_hint),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceInfo:
    """A resource of an MCP server; with `is_template`, a URI template such as `note://{name}`."""

    server: str
    uri: str
    name: str
    title: str = ""
    description: str = ""
    mime_type: str | None = None
    size: int | None = None
    """In bytes, if declared."""
    is_template: bool = False

    @classmethod
    def of(cls, server: str, declared: Resource | ResourceTemplate) -> ResourceInfo:
        """Converts the protocol's resource."""
        form = getattr(declared, "uri_template", None)
        return cls(
            server=server, uri=str(form or getattr(declared, "uri", "")), name=declared.name, title=declared.title or "",
            description=declared.description or "", mime_type=declared.mime_type, size=getattr(declared, "size", None), is_template=form is not None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceContent:
    """Contents of a resource: `text`, or `data` in base64."""

    uri: str
    mime_type: str | None
    text: str | None = None
    data: str | None = None

    @classmethod
    def of(cls, declared: TextResourceContents | BlobResourceContents) -> ResourceContent:
        """Converts the protocol's contents."""
        text, data = getattr(declared, "text", None), getattr(declared, "blob", None)
        return cls(uri=str(declared.uri), mime_type=declared.mime_type, text=text, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInfo:
    """A prompt of an MCP server; `arguments` are the names of its arguments, `required` those that must be given."""

    server: str
    name: str
    title: str = ""
    description: str = ""
    arguments: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @classmethod
    def of(cls, server: str, declared: Prompt) -> PromptInfo:
        """Converts the protocol's prompt."""
        arguments = declared.arguments or ()
        return cls(
            server=server, name=declared.name, title=declared.title or "", description=declared.description or "",
            arguments=tuple(one.name for one in arguments), required=tuple(one.name for one in arguments if one.required),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSet:
    """The tools of one agent, for `agents.Agent(tools=toolset.tools, mcp_servers=toolset.mcp_servers)`.

    MCP tools are `FunctionTool`s: only those receive a call's arguments when deciding whether it needs approval, and a paused run finds
    them again by name. `mcp_servers` is therefore empty; it exists for servers that the SDK must manage itself.
    """

    mcp_servers: list[MCPServer] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    missing: list[ToolError] = field(default_factory=list)
    """One error per tool or server of the agent that is unavailable. The run continues without it."""
    infos: Mapping[str, ToolInfo] = field(default_factory=dict)
    """Maps the name shown to the model to the tool."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """Maps the name shown to the model to the approval rule."""

    def server_of(self, tool_name: str) -> str | None:
        """Returns the MCP server's name for a name shown to the model; None for a client tool or an unknown name."""
        info = self.infos.get(tool_name)
        return info.server or None if info else None

    def reason_to_ask(self, tool_name: str, arguments: Mapping[str, object] | str | None) -> str:
        """Returns why a call needs approval, e.g. `location contains "berkeley"`; empty if it does not."""
        return reason_to_ask(self.rules.get(tool_name, "never"), arguments) or ""


Call = Callable[[dict[str, Json]], Awaitable[CallToolResult]]
Keep = Callable[[str, bytes], FileRecord]
"""Stores a file in the lab by name and bytes; returns its record."""
Parts = list[ToolOutputText | ToolOutputImage]
MOST_TEXT = 200_000
"""Maximum number of characters of a result sent to the model; the full text is stored as a file."""

_NAME_LENGTH = 64
"""Maximum length of OpenAI's function names: ^[a-zA-Z0-9_-]{1,64}$."""


def public_names(infos: Sequence[ToolInfo], taken: Sequence[str] = ()) -> list[str]:
    """Returns the names of the tools for the model, in order. Tools with the same name get their server's name as a prefix.

    Depends only on `infos` and `taken`, so that a paused run finds its tools again.
    """
    bare = [_safe(info.name) for info in infos]
    count = Counter([*bare, *taken])
    names = [
        name if count[name] == 1 else f"{_safe(info.server)}__{name}" for name, info in zip(bare, infos, strict=True)
    ]
    count = Counter([*names, *taken])
    return [_fit(name, info.id, unique=count[name] == 1) for name, info in zip(names, infos, strict=True)]


def function_tool(
    info: ToolInfo,
    name: str,
    rule: Rule,
    call: Call,
    redact: Callable[[str], str] = str,
    keep: Keep | None = None,
) -> FunctionTool:
    """Returns a function tool. `call` sends the arguments to the server. A failure is sent to the model as a `FailedOutput` and marked on
    the span, after `redact` has removed the server's secrets."""

    async def needs_approval(_context: RunContextWrapper, arguments: dict[str, Json], _call_id: str) -> bool:
        return reason_to_ask(rule, arguments) is not None

    async def invoke(_context: ToolContext, arguments_json: str) -> str | Parts:
        _mark_span(info)
        try:
            result = await call(_object(arguments_json, name))
        except ToolError as error:
            _note_class(error)
            return _failed(info, redact(str(error)))
        output = await in_thread(output_of, result, keep, name)
        if result.is_error:
            return _failed(info, redact(output if isinstance(output, str) and output else text_of(result)))
        return output

    schema = {"type": "object", "properties": {}, **info.input_schema}
    return FunctionTool(
        _mcp_annotations=ToolAnnotations(read_only_hint=info.read_only),
        name=name,
        description=info.description or info.title,
        params_json_schema=schema,
        on_invoke_tool=invoke,
        strict_json_schema=False,  # the server's schema is sent unchanged; strict mode supports only a subset
        needs_approval=needs_approval if rule != "never" else False,
        custom_data_extractor=lambda done: (
            {"error": str(done.output)} if isinstance(done.output, FailedOutput) else None
        ),
        # The SDK sets these two only on MCP tools. The first names the server in each item; the second prevents that a call approved for
        # one server is executed by another one with the same name.
        _tool_origin=ToolOrigin(type=ToolOriginType.MCP, mcp_server_name=info.server),
        _mcp_tool_binding=(info.server, info.name, None),
    )


def output_of(result: CallToolResult, keep: Keep | None = None, tool: str = "tool") -> str | Parts:
    """Returns the output for the model: text if everything is text (JSON if there is only structured content), else a list of parts.

    Audio, other data and long texts are stored as files of the lab, and the model gets a reference. Blocks.
    """
    if not result.content and result.structured_content is not None:
        return _bounded(json.dumps(result.structured_content, ensure_ascii=False), keep, tool)
    parts = [_part(block, keep, tool) for block in result.content]
    if any(isinstance(part, ToolOutputImage) for part in parts):
        return parts
    return _bounded("\n".join(part.text for part in parts if isinstance(part, ToolOutputText)), keep, tool)


def text_of(result: CallToolResult) -> str:
    """Returns the message of a result that is an error."""
    parts = [_part(block, None, "") for block in result.content]
    text = "\n".join(part.text if isinstance(part, ToolOutputText) else "(an image)" for part in parts)
    return text or "the tool reported an error without a message"


def _part(block: ContentBlock, keep: Keep | None, tool: str) -> ToolOutputText | ToolOutputImage:
    if isinstance(block, TextContent):
        return ToolOutputText(text=block.text)
    resource = block.resource if isinstance(block, EmbeddedResource) else None
    if isinstance(resource, TextResourceContents):
        return ToolOutputText(text=resource.text)
    data = resource.blob if isinstance(resource, BlobResourceContents) else getattr(block, "data", None)
    if data is None:
        return ToolOutputText(text=block.model_dump_json(by_alias=True, exclude_none=True))
    kind = getattr(resource or block, "mime_type", None) or "application/octet-stream"
    name = str(resource.uri).rstrip("/").rpartition("/")[2] if resource else ""
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        return ToolOutputText(text=f"({kind}, which is not valid base64)")
    if kind in _SEEN:
        return ToolOutputImage(image_url=f"data:{kind};base64,{data}")
    return ToolOutputText(text=_kept(name or f"{tool}{_ending(kind)}", content, kind, keep))


def _ending(kind: str) -> str:
    subtype = kind.partition("/")[2]
    return mimetypes.guess_extension(kind) or (f".{subtype}" if subtype.isalnum() else ".bin")


_SEEN = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""Image types that models support."""


def _kept(name: str, content: bytes, kind: str, keep: Keep | None) -> str:
    if keep is None:
        return f"({kind}, {len(content):,} bytes, not stored)"
    record = keep(name, content)
    description = {"file_id": record.id, "filename": record.filename, "content_type": kind, "bytes": len(content)}
    return f"The result was stored as a file in the lab: {json.dumps(description, ensure_ascii=False)}"


def _bounded(text: str, keep: Keep | None, tool: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    whole = _kept(f"{tool}.txt", text.encode(), "text/plain", keep)
    return f"{text[:MOST_TEXT]}\n\n[Cut after {MOST_TEXT:,} of {len(text):,} characters. Request less from the tool. {whole}]"


def _object(arguments_json: str, tool: str) -> dict[str, Json]:
    try:
        arguments = json.loads(arguments_json or "{}")
    except json.JSONDecodeError as error:
        raise ToolError(
            f"The arguments of {tool} are not JSON ({error}).", "Send one JSON object.", tool=tool
        ) from None
    if not isinstance(arguments, dict):
        raise ToolError(f"The arguments of {tool} are not a JSON object.", "Send one JSON object.", tool=tool)
    return arguments


def _mark_span(info: ToolInfo) -> None:
    span = get_current_span()
    if span is not None and isinstance(span.span_data, FunctionSpanData):
        span.span_data.mcp_data = {"server": info.server, "server_id": info.server_id, "tool": info.name}


def _note_class(error: Exception) -> None:
    if (span := get_current_span()) is not None:
        note(span, {GenAI.ERROR_TYPE: type(error).__name__})


def _failed(info: ToolInfo, message: str) -> FailedOutput:
    span = get_current_span()
    if span is not None:
        data = {"server": info.server, "tool": info.name}
        span.set_error(SpanError(message=message, data=data))
    return FailedOutput(json.dumps({"error": message}, ensure_ascii=False))


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_") or "tool"


def _fit(name: str, seed: str, *, unique: bool) -> str:
    if unique and len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 9]}_{hashlib.sha256(seed.encode()).hexdigest()[:8]}"


def rule_of(agent: AgentRecord, server: McpServerRecord, info: ToolInfo) -> Rule:
    """Returns the agent's rule for a tool, or else the server's. The most specific key wins: tool, then server, then all."""
    keys = (info.id, f"{server.name}.{info.name}", f"{info.server_id}.*", f"{server.name}.*", "*")
    for rules, names in ((agent.approvals, keys), (server.require_approval, (info.name, "*"))):
        for name in names:
            if name in rules:
                return rules[name]
    return "never"


def as_text(result: CallToolResult) -> str:
    output = output_of(result)
    text = output if isinstance(output, str) else "\n".join(part.model_dump_json() for part in output)
    return text or (text_of(result) if result.is_error else "")


def recorded_tool(definition: Mapping[str, Any]) -> McpTool:
    """Returns a tool of a server as recorded in a trace."""
    return McpTool(
        name=definition["server_tool"],
        description=definition.get("description"),
        input_schema=definition["parameters"],
        annotations=ToolAnnotations(read_only_hint=bool(definition.get("read_only"))),
    )
