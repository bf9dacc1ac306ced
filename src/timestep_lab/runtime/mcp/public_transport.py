"""HTTP to public addresses only: `public_addresses.py` says why.

Names are looked up at each connection, and the address that was checked is the one that is connected to: a name may mean another address a
moment later.
"""

from __future__ import annotations

from typing import Any

import httpx2

from timestep_lab.runtime.mcp.public_addresses import public_address


class PublicTransport(httpx2.AsyncHTTPTransport):
    """Proxies named in the environment are not used: they would look the name up themselves."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        try:
            address = await public_address(host)
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError("its name is not known", request=request) from error
        if address is None:
            raise httpx2.ConnectError("it is at no public address", request=request)
        extensions: dict[str, Any] = {**request.extensions, "sni_hostname": host}
        # The headers name the host already; only the connection goes by number.
        by_number = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions=extensions,
        )
        return await super().handle_async_request(by_number)
