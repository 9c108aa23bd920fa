# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A day in a browser, on the doubles: log in by passphrase, open an app, send and fetch a large file, listen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.unit.doubles.browser import attribute, cookie, download, handshake, log_in, say, upload, visit
from tests.unit.doubles.replay import cookies
from tests.unit.doubles.world import World

DOMAIN = "alice.cozy.test"
PASSPHRASE = "Alice's long Passphrase, é"
SIZE = 300 * 10**6
# What a program may grow by while it passes on a file that is a hundred times larger.
ROOM_KB = 3000


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Iterator[World]:
    release = {"version": "1.0.0", "permissions": {}}
    drive = release | {"name": "Drive", "permissions": {"files": {"type": "io.cozy.files"}}}
    with World(tmp_path / "world", registry="https://apps-registry.cozycloud.cc/") as world:
        world.set_registry({"home": {"stable": release | {"name": "Home"}}, "drive": {"stable": drive}})
        yield world


def peak_kb(pid: int) -> int:
    """The most memory a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


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
    sent = upload(world, DOMAIN, token, SIZE)
    assert download(world, DOMAIN, token, sent["id"]) == (SIZE, sent["md5"])
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
        assert attributes == [f"sess-{prefix}; Path=/; Domain=cozy.test; HttpOnly; Secure; SameSite=Lax"]
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
