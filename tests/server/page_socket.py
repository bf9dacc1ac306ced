"""A page of the served app as a browser opens it, without a browser: Panel's session, and the channel of the view on it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect


def websocket(url: str, path: str, token: str | None, **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(
        f"{url.replace('http', 'ws', 1)}{path}", additional_headers=headers, max_size=None, compression=None, open_timeout=60,
        ping_interval=None, **options,
    )  # fmt: skip


async def open_page(url: str, path: str, token: str) -> tuple[ClientConnection, str]:
    """Panel's session, open, and the key of the page's view."""
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as client:
        answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
    html = answer.raise_for_status().text
    session = re.search(r'"token":\s*"([^"]+)"', html)
    assert session is not None, html[:2000]
    page = await websocket(url, f"{path.partition('?')[0]}/ws", token, subprotocols=["bokeh", session[1]])
    for part in ({"msgid": "m1", "msgtype": "PULL-DOC-REQ"}, {}, {}):
        await page.send(json.dumps(part))
    while (found := re.search(r'"channel":\s*"([^"]+)"', str(await page.recv()))) is None:
        pass
    return page, found[1]
