"""Messages on a socket: eight bytes of length, then that many bytes. Sent whole, without delay."""

from __future__ import annotations

import socket
import struct

LENGTH = struct.Struct("!Q")
MAX_BYTES = 1 << 30


class FrameError(OSError):
    """The other side does not speak this protocol."""


def prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, max_bytes: int = MAX_BYTES) -> bytes | None:
    """The next message; None when the other side ended in good order between two messages."""
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > max_bytes:
        raise FrameError(f"a message of {length} bytes, where at most {max_bytes} are taken")
    body = _exactly(connection, length)
    if body is None and length:
        raise ConnectionResetError("the connection ended within a message")
    return bytes(body or b"")


def _exactly(connection: socket.socket, count: int) -> bytearray | None:
    buffer = bytearray(count)
    view, got = memoryview(buffer), 0
    while got < count:
        read = connection.recv_into(view[got:])
        if read == 0:
            if got == 0:
                return None
            raise ConnectionResetError("the connection ended within a message")
        got += read
    return buffer
