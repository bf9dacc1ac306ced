"""Validation of `McpServerRecord`s, and removal of their secrets from messages."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from timestep_lab.model.errors import ForbiddenError, SettingsError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.approvals import validate_rules

# --- Public addresses
#
# Users of a served lab add MCP servers by URL, and the lab connects to them from its own machine and network, which those users cannot
# reach and whose services often have no authentication. Their servers must therefore have public addresses. The lab's own user has
# access to this machine anyway, and can use any address.


_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Returns whether an IP address is public: not of this machine or its networks, link-local (cloud metadata) or multicast."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and (inner := _inside(ip)) is not None:
        ip = inner
    return ip.is_global and not ip.is_multicast


def _inside(ip: IPv6Address) -> IPv4Address | None:
    """Returns the IPv4 address embedded in an IPv6 address by one of the transition mechanisms."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def is_plainly_private(host: str) -> bool:
    """Returns whether a host is private without resolving it: a numeric address in any form (`127.1`, `0x7f000001`), or this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        addresses = socket.getaddrinfo(name, None, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return not all(is_public(str(place[0])) for *_, place in addresses)


async def public_address(host: str) -> str | None:
    """Resolves `host` to a public address; None when all of its addresses are private. Raises `OSError` for an unknown name."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return next((str(place[0]) for *_, place in addresses if is_public(str(place[0]))), None)


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, section 5.6.2."""


def check_record(record: McpServerRecord) -> McpServerRecord:
    """Validates a record and returns it. Raises `SettingsError`, and `ForbiddenError` for an address that this user may not use. Starts
    nothing and makes no request."""
    name = record.name
    if not name.strip():
        raise SettingsError("An MCP server needs a name.", 'Set one, such as "time".', param="name")
    if bool(record.command) == bool(record.url):
        has = "both a command and a URL" if record.command else "neither a command nor a URL"
        raise SettingsError(
            f"The MCP server {name!r} has {has}.",
            'Set exactly one: command=["mcp-server-time"] or url="https://example.org/mcp".',
            param="command",
        )
    if record.timeout_s <= 0:
        raise SettingsError(f"The MCP server {name!r} has a timeout of {record.timeout_s} s.", "Set a positive number.")
    if record.command:
        _check_command(record)
    else:
        _check_url(record)
    validate_rules(record.require_approval)
    return record


def split_tool_id(tool_id: str, servers: Iterable[McpServerRecord]) -> tuple[McpServerRecord, str] | None:
    """Splits `server.tool`, with the server's id or name, into server and tool name; None when there is no such server.

    Names of servers and tools may contain dots: the longest matching server name is used.
    """
    fitting = [
        (prefix, server)
        for server in servers
        for prefix in (server.id, server.name)
        if tool_id.startswith(f"{prefix}.")
    ]
    if not fitting:
        return None
    prefix, server = max(fitting, key=lambda one: len(one[0]))
    return server, tool_id[len(prefix) + 1 :]


def find_command(record: McpServerRecord) -> str | None:
    """Returns the path of the program in `record.command`, searched on the server's PATH; None if it does not exist."""
    path = record.env.get("PATH", os.environ.get("PATH"))
    return shutil.which(str(Path(record.command[0]).expanduser()), path=path)


def command_not_found(record: McpServerRecord) -> SettingsError:
    return SettingsError(
        f"The MCP server {record.name!r} runs {record.command[0]!r}, but there is no such program on the PATH.",
        f"Install it (for a Python server: pip install {Path(record.command[0]).name}), or use its full path.",
        param="command",
    )


def must_be_public(record: McpServerRecord) -> bool:
    """Returns whether the server belongs to a guest of a served lab and must have a public address."""
    return record.user_id != LOCAL_USER


def not_public(record: McpServerRecord) -> ForbiddenError:
    return ForbiddenError(
        f"The MCP server {record.name!r} ({where_it_is(record)}) has no public address, and only the lab's own user may use others.",
        "Use a public address, or sign in with the link that `timestep-lab serve` prints.",
    )


def redact(text: str, record: McpServerRecord) -> str:
    """Returns `text` without the record's secrets: values of headers and environment, and credentials in the URL."""
    for secret in _secrets(record):
        text = text.replace(secret, "***")
    return text


def public_url(url: str) -> str:
    """Returns `url` without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def where_it_is(record: McpServerRecord) -> str:
    """Returns the command or URL without secrets."""
    return public_url(record.url) if record.url else redact(" ".join(record.command), record)


def _secrets(record: McpServerRecord) -> list[str]:
    values: list[str] = [*record.env.values()]
    for value in record.headers.values():
        # "Bearer abc": the token alone is a secret too.
        values += [value, *value.split()[1:]]
    if record.url:
        parts = urlsplit(record.url)
        values += [parts.username or "", parts.password or "", parts.query, parts.fragment]
        values += [piece.partition("=")[2] for piece in parts.query.split("&")]
    # Longest first, so that no part of a secret remains; values below four characters are no secrets and would damage words.
    return sorted(_long(values), key=len, reverse=True)


def _long(values: Iterable[str]) -> set[str]:
    return {value for value in values if len(value) >= 4}


def _check_command(record: McpServerRecord) -> None:
    if record.headers:
        raise SettingsError(
            f"The MCP server {record.name!r} is started by a command, so it has no headers.",
            "Pass its secrets with env={...}.",
            param="headers",
        )
    if any("\0" in part for part in record.command) or not record.command[0].strip():
        raise SettingsError(
            f"The command of the MCP server {record.name!r} is not valid.", "Start it with a program's name."
        )
    if find_command(record) is None:
        raise command_not_found(record)


def _check_url(record: McpServerRecord) -> None:
    assert record.url is not None
    if record.env:
        raise SettingsError(
            f"The MCP server {record.name!r} is reached by URL, so it has no env.",
            "Pass its secrets with headers={...}.",
            param="env",
        )
    try:
        parts = urlsplit(record.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise SettingsError(
            f"The MCP server {record.name!r} has a URL that is not one of http or https: {public_url_or_text(record.url)}.",
            'Use the streamable HTTP URL, such as "https://example.org/mcp".',
            param="url",
        )
    if must_be_public(record) and is_plainly_private(host):
        raise not_public(record)
    for header, value in record.headers.items():
        if not _HEADER_NAME.fullmatch(header) or "\n" in value or "\r" in value or not value.isascii():
            raise SettingsError(
                f"The header {header!r} of the MCP server {record.name!r} cannot be sent.",
                "A name has letters, digits and dashes; a value is one line of ASCII.",
                param="headers",
            )


def public_url_or_text(url: str) -> str:
    try:
        return repr(public_url(url))
    except ValueError:
        return "it cannot be read"
