"""What went wrong with a server, in words that name it, say the next step, and hold none of its secrets."""

from __future__ import annotations

from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT
from pydantic import ValidationError

from timestep_lab.runtime.mcp.server_records import redact, where_it_is
from timestep_lab.types.errors import LabError, ToolError
from timestep_lab.types.records import McpServerRecord


def is_closed(error: BaseException) -> bool:
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED


def connect_error(record: McpServerRecord, error: BaseException, *, said: str, http_status: int | None) -> ToolError:
    """`said` is what a child process wrote to its standard error."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, LabError):
        return ToolError(cause.message, cause.next_step, server=record.name)
    if isinstance(cause, TimeoutError) or _timed_out(cause):
        what = f"did not answer within {record.timeout_s:g} s"
        step = "Is it an MCP server? A slow first start may need a longer timeout_s."
    elif http_status in (401, 403):
        what, step = f"answered HTTP {http_status}", "It wants other credentials: set its headers again."
    elif record.url:
        what = (
            f"answered HTTP {http_status}"
            if http_status and http_status >= 400
            else f"gave no answer ({_short(cause)})"
        )
        step = "Check that the URL is that of its MCP endpoint and that the server runs."
    else:
        last_line = said.splitlines()[-1][:300] if said else ""
        what = f"ended at its start and said: {last_line}" if last_line else f"did not start ({_short(cause)})"
        step = "Run the command by hand to see what it needs."
    message = f"The MCP server {record.name!r} ({where_it_is(record)}) {what}."
    return ToolError(redact(message, record), step, server=record.name)


def call_error(record: McpServerRecord, what: str, error: BaseException, *, broken: bool) -> ToolError:
    """`what` is the tool's name, or `tools/list`."""
    if _timed_out(error):
        happened = f"did not answer {what} within {record.timeout_s:g} s"
        step = "Try again, or give the server a longer timeout_s."
    elif broken:
        happened = f"went away during {what}, and whether the call took effect is not known"
        step = "Look before calling again; the connection opens anew with the next call."
    elif isinstance(error, ValidationError):
        happened = f"answered {what} with what is not of the protocol ({_first_fault(error)})"
        step = "The server has to be mended; until then its tools are left out, and those of other servers work."
        if what != "tools/list":
            step = "The server has to be mended; its other tools work."
    elif not isinstance(error, MCPError | RuntimeError):
        happened = f"answered {what} with what cannot be read ({type(error).__name__}: {_short(error)})"
        step = "The server has to be mended; the others work."
    else:
        happened = f"refused {what}: {_short(error)}"
        step = "Compare the tool's name and arguments with the catalogue."
    message = f"The MCP server {record.name!r} {happened}."
    return ToolError(redact(message, record), step, server=record.name, tool=what)


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or (isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT)


def _first_fault(error: ValidationError) -> str:
    """`tools.0.inputSchema.type: Input should be 'object'`."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}"[:300]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
