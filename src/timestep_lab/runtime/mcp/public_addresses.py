"""Addresses on the open internet.

Users of a served lab name MCP servers by URL, and the lab calls them from where it stands: inside a machine and a network that those
users do not reach, and whose services often ask nobody who they are. So their servers must be at public addresses. The lab's own user
reaches this machine anyway, and may name any.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """`address` is an IP address. False for this machine, its networks, link-local ones (with clouds' metadata) and multicast."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (inner := _inside(ip)) is not None:
        ip = inner
    return ip.is_global and not ip.is_multicast


def _inside(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one stands for, by one of the ways from IPv6 to IPv4."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def is_plainly_private(host: str) -> bool:
    """Without looking a name up: an address written as a number in any form (`127.1`, `0x7f000001`), or a name of this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = socket.getaddrinfo(name, None, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return not all(is_public(str(place[0])) for *_, place in found)


async def public_address(host: str) -> str | None:
    """An address of `host` that may be connected to; None when all of its addresses are private. Raises `OSError` for an unknown name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return next((str(place[0]) for *_, place in found if is_public(str(place[0]))), None)
