# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a browser does, step by step."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
from typing import Any
from urllib.parse import urlencode

from tests.unit.doubles.replay import cookies
from tests.unit.doubles.world import Answer, Place

PIECE = 10**6


def browser_hash(passphrase: str, salt: str, iterations: int) -> str:
    """What the login page's script sends (the same two steps as in assets/scripts/password-helpers.js)."""
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt.encode(), iterations, 32)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1, 32)).decode()


def visit(place: Place, host: str, path: str, cookie: str = "", form: dict[str, str] | None = None) -> Answer:
    headers = {"Host": host, **({"Cookie": cookie} if cookie else {})}
    if form is None:
        return place.call(place.public_port, "GET", path, headers)
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return place.call(place.public_port, "POST", path, headers, urlencode(form).encode())


def attribute(page: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', page)
    assert found, f"{name} is not in the page"
    return found[1]


def cookie(answer: Answer, name: str) -> str:
    found = [value for value, attributes in cookies(answer.headers) if attributes.startswith(name)]
    return f"{name}={found[0]}"


def log_in(place: Place, host: str, passphrase: str) -> Answer:
    """As the login page does it."""
    page = visit(place, host, "/auth/login")
    text = page.body.decode()
    token = re.search(r'name="csrf_token" value="([^"]*)"', text)
    assert token
    proof = browser_hash(passphrase, attribute(text, "data-salt"), int(attribute(text, "data-iterations")))
    form = {"csrf_token": token[1], "passphrase": proof, "redirect": ""}
    return visit(place, host, "/auth/login", cookie(page, "_csrf"), form)


def upload(place: Place, host: str, token: str, size: int) -> dict[str, str]:
    """Send a file, a piece at a time; its id and MD5 as the stack says them."""
    connection = place.connection(place.public_port, 60)
    connection.putrequest("POST", "/files/io.cozy.files.root-dir?Type=file&Name=film.bin", skip_host=True)
    for name, value in {"Host": host, "Authorization": f"Bearer {token}", "Content-Length": str(size)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    for number in range(size // PIECE):
        connection.send(bytes([number % 256]) * PIECE)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 201, body
    return {"id": body["data"]["id"], "md5": body["data"]["attributes"]["md5sum"]}


def download(place: Place, host: str, token: str, file_id: str) -> tuple[int, str]:
    """Size and MD5 of what comes."""
    connection = place.connection(place.public_port, 60)
    connection.putrequest("GET", f"/files/download/{file_id}", skip_host=True)
    connection.putheader("Host", host)
    connection.putheader("Authorization", f"Bearer {token}")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 200
    digest, size = hashlib.md5(usedforsecurity=False), 0
    while piece := answer.read(PIECE):
        digest.update(piece)
        size += len(piece)
    connection.close()
    return size, base64.b64encode(digest.digest()).decode()


def handshake(place: Place, host: str, session: str) -> socket.socket:
    """An open websocket."""
    http = place.connection(place.public_port, 5)
    http.connect()
    connection: socket.socket = http.sock
    lines = [
        "GET /realtime/ HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Cookie: {session}",
    ]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def say(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message over a websocket."""
    data = json.dumps(message).encode()
    size = struct.pack(">BBH", 0x81, 0xFE, len(data))
    mask = os.urandom(4)
    connection.sendall(size + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data)))
