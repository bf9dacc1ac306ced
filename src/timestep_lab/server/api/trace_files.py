"""Trace files (upload, download, shared pages) and comparison files (download)."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse, Response

from timestep_lab.model.errors import DataError, NotFoundError
from timestep_lab.runtime.files.files import safe_name
from timestep_lab.server.api.operations import ERRORS, Strict
from timestep_lab.server.fair_reads import FairReads, in_turn
from timestep_lab.server.labs import CurrentLab, Labs, UserLab
from timestep_lab.service import sharing
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.files import Imported

router = APIRouter(prefix="/api/v1/traces", tags=["traces"], responses=ERRORS)
comparisons = APIRouter(prefix="/api/v1/compare", tags=["compare"], responses=ERRORS)
ComparisonId = Annotated[str, PathParameter(min_length=1, max_length=200)]
GridFormat = Literal["csv", "jsonl", "html", "parquet", "xml"]
mine = APIRouter(prefix="/api/v1/my-data", tags=["my_data"], responses=ERRORS)
BINARY: dict[str, object] = {"schema": {"type": "string", "format": "binary"}}
IMPORT_S = 60.0
DUCKDB = b"DUCK"
"""Bytes 8 to 12 of a DuckDB file."""


class ExportBody(Strict):
    trace_ids: list[str] = Field(min_length=1, max_length=10_000)
    format: Literal["json", "jsonl", "parquet", "duckdb"]


class ImportedView(BaseModel):
    """Result of an import: `spans` were read, `added` of them were new, `rejected` could not be read (see `problem`)."""

    traces: int
    spans: int
    added: int
    rejected: int
    problem: str


@router.post(
    "/upload",
    response_model=ImportedView,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}},
)
async def upload_traces(
    request: Request, lab: CurrentLab, name: Annotated[str, Query(max_length=1000)] = "upload"
) -> ImportedView:
    """Upload a trace file as the request body, at most 50 MB: OTLP, Jaeger, Zipkin, Agents SDK, Phoenix, the lab's own JSONL
    and Parquet. `name` is what errors call it.

    DuckDB files are rejected: their views are queries, which would run on the server.
    """
    body = await request.body()
    if body[8:12] == DUCKDB:
        raise DataError(
            "A served lab does not accept .duckdb files.",
            'Convert the file first: Lab(":memory:"), import_traces, export("traces.parquet").',
        )
    if lab.store.quota:
        lab.store.quota.take_sent(len(body))
    imports: FairReads = request.app.state.imports
    imported = await imports.for_request(request, lab.store.user_id, lambda: _import(body, safe_name(name), lab))
    return ImportedView(**{name: getattr(imported, name) for name in ImportedView.model_fields})


@router.post(
    "/export",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": BINARY}, "description": "The file."}},
)
async def export_traces(request: Request, body: ExportBody, lab: CurrentLab) -> FileResponse:
    """Download traces: `json` is OTLP, `jsonl` the lab's own format, `duckdb` contains the documented views as tables."""
    from timestep_lab.runtime.interchange.export import export_file

    folder = tempfile.TemporaryDirectory(prefix="timestep-lab-")
    path = Path(folder.name) / f"traces.{body.format}"
    await in_thread(lab.flush)
    try:
        await in_turn(request, lab, lambda: export_file(path, lab.store, body.trace_ids))
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path, media_type="application/octet-stream", filename=path.name, background=BackgroundTask(folder.cleanup)
    )


@mine.get(
    "/export",
    response_class=FileResponse,
    responses={200: {"content": {"application/zip": BINARY}, "description": "The file."}},
)
async def export_everything(request: Request, lab: CurrentLab) -> FileResponse:
    """Download all data of the caller as a .zip file, without credentials of MCP servers."""
    folder = tempfile.TemporaryDirectory(prefix="timestep-lab-")
    path = Path(folder.name) / "my-data.zip"
    try:
        await in_turn(request, lab, lambda: lab.my_data.export(path))
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path, media_type="application/zip", filename=path.name, background=BackgroundTask(folder.cleanup)
    )


# --- Shared traces: a single HTML file with the trace, for anyone who has the link
#
# The page contains its data and sends no requests. It is sandboxed into its own origin, so that nothing in it, whatever
# the trace contains, can access the lab as the reader, who may be signed in there.


shared = APIRouter(include_in_schema=False)
SHARED_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
    ),
    "Cache-Control": "private, no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow",
    "X-Frame-Options": "DENY",
}  # fmt: skip


@shared.get(sharing.PATHS[0] + "{token}")
@shared.get(sharing.PATHS[1] + "{token}")
async def shared_trace(token: Annotated[str, PathParameter(max_length=200)], request: Request) -> Response:
    """The page of a shared trace. For a link that is invalid, revoked or expired, a page that says so without giving
    the reason.
    """
    from timestep_lab.server.server import no_shared_trace
    from timestep_lab.ui.html_export import trace_page

    labs: Labs = request.app.state.labs
    secret: str = request.app.state.secret
    record = await in_thread(sharing.opened, labs.root.store.db, secret, token)
    page: str | None = None
    if record is not None:
        with labs.held(record.user_id) as lab, suppress(NotFoundError):  # Deleted concurrently.
            page = await in_turn(request, lab, lambda: trace_page(lab.trace_source, record.trace_id))
    if page is None:
        return HTMLResponse(no_shared_trace(), 404, headers=SHARED_HEADERS)
    return HTMLResponse(page, headers=SHARED_HEADERS)


def _import(body: bytes, name: str, lab: UserLab) -> Imported:
    from timestep_lab.runtime.interchange.files import import_file

    with tempfile.TemporaryDirectory(prefix="timestep-lab-") as folder:
        path = Path(folder) / name
        path.write_bytes(body)
        return import_file(path, lab.store, time_limit_s=IMPORT_S)


@comparisons.get(
    "/{comparison_id}/export",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": BINARY}, "description": "The file."}},
)
async def export_comparison(
    request: Request, comparison_id: ComparisonId, lab: CurrentLab, format: Annotated[GridFormat, Query()] = "csv"
) -> FileResponse:
    """Download all answers with their scores; `html` is a self-contained page, `xml` is JUnit."""
    from timestep_lab.evals.exports import save

    folder = tempfile.TemporaryDirectory(prefix="timestep-lab-")
    path = Path(folder.name) / f"{comparison_id}.{format}"
    try:
        await in_turn(request, lab, lambda: save(lab.comparisons.rows(comparison_id).grid(), path))
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path, media_type="application/octet-stream", filename=path.name, background=BackgroundTask(folder.cleanup)
    )
