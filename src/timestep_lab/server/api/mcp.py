"""MCP servers of the caller, by address only: a served lab starts no commands for its callers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel

from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
from timestep_lab.server.api.schemas import ERRORS, ErrorObject, McpServerBody, McpServerView
from timestep_lab.server.errors import error_object
from timestep_lab.server.labs import CurrentLab
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/api/v1/mcp", tags=["mcp"], responses=ERRORS)
ServerId = Annotated[str, Path(min_length=1, max_length=200)]


class ToolView(BaseModel):
    id: str
    server: str
    name: str
    description: str | None
    input_schema: dict[str, Any]


class Survey(BaseModel):
    tools: list[ToolInfo]
    problems: list[ErrorObject]


def view(record: McpServerRecord) -> McpServerView:
    return McpServerView(
        id=record.id, name=record.name, url=record.url, command=list(record.command),
        header_names=sorted(record.headers), require_approval=dict(record.require_approval),
        allowed_tools=None if record.allowed_tools is None else list(record.allowed_tools), timeout_s=record.timeout_s, created_at=record.created_at,
    )  # fmt: skip


@router.get("", response_model=list[McpServerView])
async def list_servers(lab: CurrentLab) -> list[McpServerView]:
    return [view(record) for record in await in_thread(lab.mcp.list)]


@router.post("", status_code=201, response_model=McpServerView)
async def add_server(body: McpServerBody, lab: CurrentLab) -> McpServerView:
    return view(await in_thread(lab.mcp.add, **body.model_dump()))


@router.delete("/{server_id}", status_code=204)
async def remove_server(server_id: ServerId, lab: CurrentLab) -> None:
    await in_thread(lab.mcp.remove, server_id)


@router.get("/tools", response_model=list[ToolView])
async def list_tools(lab: CurrentLab) -> list[ToolView]:
    """Asked of the servers now."""
    return [
        ToolView(
            id=f"{t.server_id}.{t.name}",
            server=t.server,
            name=t.name,
            description=t.description,
            input_schema=t.input_schema,
        )
        for t in await lab.toolbox.catalogue()
    ]


@router.get("/survey", response_model=Survey)
async def survey(lab: CurrentLab) -> Survey:
    """Every tool of every server that answers now, and what is wrong with the others."""
    tools, problems = await lab.toolbox.survey()
    return Survey(tools=tools, problems=[ErrorObject(**error_object(problem)["error"]) for problem in problems])
