"""Which names a served lab answers to.

A page of another site whose name its owner points at 127.0.0.1 (DNS rebinding) would be a page of the lab's own for the browser: same
host, same origin. Only the name gives it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

ANY = "*"


def answers_to(named: Sequence[str], *, loopback: bool) -> Callable[[str], bool]:
    """Takes a `Host` header. `named` are the names of `TIMESTEP_LAB_HOSTS`; without any, a server that others reach answers to all."""
    if ANY in named or not (named or loopback):
        return lambda host: True
    known = {_name(host) for host in named} - {""}
    return lambda host: _name(host) in known or is_loopback(_name(host))


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Without port and brackets; empty for what is no host."""
    if set(host) & set("/\\@?#"):
        return ""
    try:
        return (urlsplit(f"//{host.strip()}").hostname or "").rstrip(".")
    except ValueError:
        return ""
