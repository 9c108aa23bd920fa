# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The websocket of /realtime/: the handshake, AUTH, and silence after it, as recorded."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
from collections.abc import Callable
from io import BufferedReader
from typing import Any

from ..web import Request, Response

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT_FRAME, CLOSE, PING, PONG = 1, 8, 9, 10
# the server's ping; a proxy's read time-out must be longer
PING_SECONDS = 54.0


def read_frame(stream: BufferedReader) -> tuple[int, bytes] | None:
    """One frame of a client, None at the end."""
    head = stream.read(2)
    if len(head) < 2 or not head[1] & 0x80:
        return None
    size = head[1] & 0x7F
    if size > 125:
        width = 2 if size == 126 else 8
        size = int.from_bytes(stream.read(width), "big")
    if size > 65536:
        return None
    mask, data = stream.read(4), stream.read(size)
    return head[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def frame(kind: int, data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    return bytes([0x80 | kind]) + size + data


def refusal(method: str, payload: Any) -> bytes:
    error = {
        "status": "401 Unauthorized",
        "code": "unauthorized",
        "title": "The authentication has failed",
        "source": {"method": method, "payload": payload},
    }
    return json.dumps({"event": "error", "payload": error}, separators=(",", ":")).encode() + b"\n"


def upgrade(request: Request, good_token: Callable[[str], bool]) -> Response:
    """Answer the handshake; the connection then belongs to ``talk``."""
    key = request.header("Sec-WebSocket-Key")
    if request.header("Upgrade").lower() != "websocket" or not key:
        headers = [("Sec-Websocket-Version", "13")]
        return Response(400, b"Bad Request\n", "text/plain; charset=utf-8", headers)
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]

    def talk(connection: socket.socket, stream: BufferedReader) -> None:
        connection.settimeout(PING_SECONDS)
        while True:
            try:
                received = read_frame(stream)
            except TimeoutError:
                connection.sendall(frame(PING, b""))
                continue
            except OSError:
                return
            if received is None or received[0] == CLOSE:
                connection.sendall(frame(CLOSE, b""))
                return
            if received[0] == PING:
                connection.sendall(frame(PONG, received[1]))
            elif received[0] == TEXT_FRAME and not accepted(received[1]):
                connection.sendall(frame(TEXT_FRAME, refusal(*last_message)) + frame(CLOSE, b""))
                return

    last_message: tuple[str, Any] = ("", "")

    def accepted(raw: bytes) -> bool:
        nonlocal last_message
        try:
            message = json.loads(raw)
            last_message = (str(message["method"]), message.get("payload"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return last_message[0] != "AUTH" or good_token(str(last_message[1]))

    return Response(101, headers=headers, takeover=talk)
