"""What the router can reach."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from timestep_lab.app.api.schemas import ERRORS
from timestep_lab.app.labs import CurrentLab

router = APIRouter(prefix="/api/v1", tags=["models"], responses=ERRORS)


class ProviderView(BaseModel):
    prefix: str
    ready: bool
    detail: str
    next_step: str


class Providers(BaseModel):
    default_model: str
    providers: list[ProviderView]


@router.get("/providers", response_model=Providers)
async def list_providers(lab: CurrentLab) -> Providers:
    """Each provider and whether it is ready."""
    views = [
        ProviderView(prefix=p.prefix, ready=p.ready, detail=p.detail, next_step=p.next_step)
        for p in lab.router.providers()
    ]
    return Providers(default_model=lab.settings.default_model, providers=views)


@router.get("/providers/{prefix}/models", response_model=list[str])
async def list_models(prefix: Annotated[str, Path(max_length=100)], lab: CurrentLab) -> list[str]:
    """Asked of the provider now."""
    names: list[str] = await lab.router.list_models(prefix)
    return names
