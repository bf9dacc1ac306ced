"""A page of the served app as a browser opens it, without a browser: the channel of the view on it."""

from __future__ import annotations

import re
from typing import Any

import httpx
from websockets.asyncio.client import connect


def websocket(url: str, path: str, token: str | None, **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(
        f"{url.replace('http', 'ws', 1)}{path}", additional_headers=headers, max_size=None, compression=None, open_timeout=60,
        ping_interval=None, **options,
    )  # fmt: skip


async def open_page(url: str, path: str, token: str) -> str:
    """The key of the page's view."""
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as client:
        answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
    html = answer.raise_for_status().text
    found = re.search(r'shell-view[^>]*data-key="([^"]+)"', html)
    assert found is not None, html[:2000]
    return found[1]
