"""Agents of the caller."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from timestep_lab.app.api.schemas import ERRORS, AgentBody, AgentPatch
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread
from timestep_lab.types.records import AgentRecord

router = APIRouter(prefix="/api/v1/agents", tags=["agents"], responses=ERRORS)
AgentId = Annotated[str, Path(min_length=1, max_length=200)]


@router.get("", response_model=list[AgentRecord])
async def list_agents(lab: CurrentLab) -> list[AgentRecord]:
    """All agents, oldest first. The two built-in ones are made at a caller's first look."""
    agents: list[AgentRecord] = await in_thread(lab.agents.list)
    return agents


@router.post("", status_code=201, response_model=AgentRecord)
async def create_agent(body: AgentBody, lab: CurrentLab) -> AgentRecord:
    agent: AgentRecord = await in_thread(lab.agents.create, **body.model_dump())
    return agent


@router.get("/{agent_id}", response_model=AgentRecord)
async def get_agent(agent_id: AgentId, lab: CurrentLab) -> AgentRecord:
    agent: AgentRecord = await in_thread(lab.agents.get, agent_id)
    return agent


@router.put("/{agent_id}", response_model=AgentRecord)
async def update_agent(agent_id: AgentId, body: AgentPatch, lab: CurrentLab) -> AgentRecord:
    """Change the fields that are given; `model: null` goes back to the default model."""
    agent: AgentRecord = await in_thread(lab.agents.update, agent_id, **body.model_dump(exclude_unset=True))
    return agent


@router.delete("/{agent_id}", status_code=204)
async def delete_agent(agent_id: AgentId, lab: CurrentLab) -> None:
    """Its threads and traces stay."""
    await in_thread(lab.agents.delete, agent_id)
