# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A day in a browser, on the doubles: log in by passphrase, open an app, send and fetch a large file, listen."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.unit.doubles.replay import cookies
from tests.unit.doubles.test_contract_process import say
from tests.unit.doubles.world import Answer, World

DOMAIN = "alice.cozy.test"
PASSPHRASE = "Alice's long Passphrase, é"
SIZE = 300 * 10**6
PIECE = 10**6
# What a program may grow by while it passes on a file that is a hundred times larger.
ROOM_KB = 3000


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Iterator[World]:
    release = {"version": "1.0.0", "permissions": {}}
    drive = release | {"name": "Drive", "permissions": {"files": {"type": "io.cozy.files"}}}
    with World(tmp_path / "world", registry="https://apps-registry.cozycloud.cc/") as world:
        world.set_registry({"home": {"stable": release | {"name": "Home"}}, "drive": {"stable": drive}})
        yield world


def browser_hash(passphrase: str, salt: str, iterations: int) -> str:
    """What the login page's script sends (the same two steps as in assets/scripts/password-helpers.js)."""
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt.encode(), iterations, 32)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1, 32)).decode()


def visit(world: World, host: str, path: str, cookie: str = "", form: dict[str, str] | None = None) -> Answer:
    headers = {"Host": host, **({"Cookie": cookie} if cookie else {})}
    if form is None:
        return world.call(world.public_port, "GET", path, headers)
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    return world.call(world.public_port, "POST", path, headers, urlencode(form).encode())


def attribute(page: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', page)
    assert found, f"{name} is not in the page"
    return found[1]


def cookie(answer: Answer, name: str) -> str:
    found = [value for value, attributes in cookies(answer.headers) if attributes.startswith(name)]
    return f"{name}={found[0]}"


def log_in(world: World, host: str, passphrase: str) -> Answer:
    """As the login page does it."""
    page = visit(world, host, "/auth/login")
    text = page.body.decode()
    token = re.search(r'name="csrf_token" value="([^"]*)"', text)
    assert token
    proof = browser_hash(passphrase, attribute(text, "data-salt"), int(attribute(text, "data-iterations")))
    form = {"csrf_token": token[1], "passphrase": proof, "redirect": ""}
    return visit(world, host, "/auth/login", cookie(page, "_csrf"), form)


def peak_kb(pid: int) -> int:
    """The most memory a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def upload(world: World, host: str, token: str) -> dict[str, str]:
    connection = HTTPConnection("127.0.0.1", world.public_port, timeout=60)
    connection.putrequest("POST", "/files/io.cozy.files.root-dir?Type=file&Name=film.bin", skip_host=True)
    for name, value in {"Host": host, "Authorization": f"Bearer {token}", "Content-Length": str(SIZE)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    for number in range(SIZE // PIECE):
        connection.send(bytes([number % 256]) * PIECE)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert answer.status == 201, body
    return {"id": body["data"]["id"], "md5": body["data"]["attributes"]["md5sum"]}


def download(world: World, host: str, token: str, file_id: str) -> str:
    """The MD5 of what comes."""
    connection = HTTPConnection("127.0.0.1", world.public_port, timeout=60)
    connection.putrequest("GET", f"/files/download/{file_id}", skip_host=True)
    connection.putheader("Host", host)
    connection.putheader("Authorization", f"Bearer {token}")
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(SIZE))
    digest = hashlib.md5(usedforsecurity=False)
    while piece := answer.read(PIECE):
        digest.update(piece)
    connection.close()
    return base64.b64encode(digest.digest()).decode()


def handshake(world: World, host: str, session: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", world.public_port), timeout=5)
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


def test_a_day_in_a_browser(world: World) -> None:
    world.start()
    assert world.stack is not None
    query = urlencode({"Domain": DOMAIN, "Passphrase": PASSPHRASE, "Apps": "home,drive"})
    assert world.admin("POST", f"/instances?{query}").status == 201
    assert log_in(world, DOMAIN, "another").status == 401
    welcome = log_in(world, DOMAIN, PASSPHRASE)
    assert (welcome.status, welcome.header("Location")) == (303, f"https://home.{DOMAIN}/")
    session = cookie(welcome, "cozysessid")
    assert visit(world, f"drive.{DOMAIN}", "/").status == 302
    page = visit(world, f"drive.{DOMAIN}", "/", session)
    assert page.status == 200
    token = attribute(page.body.decode(), "data-cozy-token")
    before = peak_kb(world.stack.pid)
    sent = upload(world, DOMAIN, token)
    assert download(world, DOMAIN, token, sent["id"]) == sent["md5"]
    assert peak_kb(world.stack.pid) - before < ROOM_KB
    with handshake(world, DOMAIN, session) as connection:
        say(connection, {"method": "AUTH", "payload": token})
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    # the page of an app that has no right to files
    token = attribute(visit(world, f"home.{DOMAIN}", "/", session).body.decode(), "data-cozy-token")
    headers = {"Host": DOMAIN, "Authorization": f"Bearer {token}"}
    assert world.call(world.public_port, "GET", f"/files/{sent['id']}", headers).status == 403


def test_flat_subdomains(tmp_path: Path) -> None:
    """The session's cookie lies one level higher, so that apps get it, under a name of the instance."""
    with World(tmp_path / "world", subdomains="flat") as world:
        world.start()
        assert (
            world.admin("POST", f"/instances?{urlencode({'Domain': DOMAIN, 'Passphrase': PASSPHRASE})}").status == 201
        )
        prefix = json.loads(world.admin("GET", f"/instances/{DOMAIN}/prefix").body)
        welcome = log_in(world, DOMAIN, PASSPHRASE)
        assert welcome.header("Location") == "https://alice-home.cozy.test/"
        attributes = [attributes for _, attributes in cookies(welcome.headers) if attributes.startswith("sess-")]
        assert attributes[0].startswith(f"sess-{prefix}; Path=/; Domain=cozy.test; ")
        session = cookie(welcome, f"sess-{prefix}")
        assert visit(world, DOMAIN, "/", session).header("Location") == "https://alice-home.cozy.test/"


def test_international_name(world: World) -> None:
    """It is kept in letters, and browsers ask for it in punycode."""
    world.start()
    assert (
        world.admin("POST", f"/instances?{urlencode({'Domain': 'xn--caf-dma.cozy.test', 'Passphrase': 'x'})}").status
        == 201
    )
    shown = json.loads(world.admin("GET", "/instances/caf%C3%A9.cozy.test").body)
    assert shown["data"]["attributes"]["domain"] == "café.cozy.test"
    assert visit(world, "xn--caf-dma.cozy.test", "/").status == 303
    assert visit(world, "home.xn--caf-dma.cozy.test", "/").body == b"Application is not installed"
