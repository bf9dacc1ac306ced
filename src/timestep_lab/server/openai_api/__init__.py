"""The OpenAI-compatible API under `/openai/v1`, for use with the official `openai` client.

    client = openai.AsyncOpenAI(base_url="http://127.0.0.1:8765/openai/v1", api_key=<the lab's token>)

Models are those of the router (`prefix/name`); files, uploads and vector stores are those of the calling user.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends

from timestep_lab.server.api.operations import ERRORS
from timestep_lab.server.openai_api import (
    calling,
    chat,
    conversations,
    files,
    models,
    responses,
    vector_stores,
)

router = APIRouter(prefix="/openai/v1", tags=["openai"], responses=ERRORS, dependencies=[Depends(calling.known_query)])
for module in (models, chat, responses, conversations, files, vector_stores):
    router.include_router(module.router)
