"""What the router can reach."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from timestep_lab.server.api.schemas import ERRORS
from timestep_lab.server.labs import CurrentLab

router = APIRouter(prefix="/api/v1", tags=["models"], responses=ERRORS)


class ProviderView(BaseModel):
    prefix: str
    ready: bool
    detail: str
    next_step: str
    badge: str


class Providers(BaseModel):
    default_model: str
    providers: list[ProviderView]


class ModelName(BaseModel):
    prefix: str
    model: str


@router.get("/providers", response_model=Providers)
async def list_providers(lab: CurrentLab) -> Providers:
    """Each provider and whether it is ready."""
    views = [
        ProviderView(prefix=p.prefix, ready=p.ready, detail=p.detail, next_step=p.next_step, badge=p.badge)
        for p in lab.router.providers()
    ]
    return Providers(default_model=lab.settings.default_model, providers=views)


@router.get("/providers/{prefix}/models", response_model=list[str])
async def list_models(prefix: Annotated[str, Path(max_length=100)], lab: CurrentLab) -> list[str]:
    """Asked of the provider now."""
    names: list[str] = await lab.router.list_models(prefix)
    return names


@router.get("/models", response_model=list[str])
async def list_all_models(lab: CurrentLab) -> list[str]:
    """Of all providers that are ready and answer now, by their full names."""
    names: list[str] = await lab.router.list_models()
    return names


@router.get("/models/{name:path}", response_model=ModelName)
async def resolve_model(name: Annotated[str, Path(max_length=500)], lab: CurrentLab) -> ModelName:
    """What a model's name means here. Whether its provider has it is known when it is asked."""
    ref = lab.router.resolve(name)
    return ModelName(prefix=ref.prefix, model=ref.model)
