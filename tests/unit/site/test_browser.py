# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The browser of the trials: its proof and frames against the recordings, all of it against the doubles."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.site import browser
from tests.unit.doubles.world import World

RECORDED = Path(__file__).parents[2] / "fixtures" / "contract"
DOMAIN = "alice.cozy.test"


def recorded(name: str) -> dict[str, Any]:
    """A recorded exchange."""
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def test_the_proof_is_the_recorded_one() -> None:
    parameters = json.loads(recorded("settings-passphrase-params")["response"]["body"])["data"]["attributes"]
    sent = urllib.parse.parse_qs(recorded("login-post-ok-json")["request"]["body"])["passphrase"]
    assert [browser.proof("alice-Passphrase-1", parameters["salt"], parameters["iterations"])] == sent
    assert [browser.proof("alice-Passphrase-2", parameters["salt"], parameters["iterations"])] != sent


def test_a_form_gives_its_hidden_fields_and_what_the_script_reads() -> None:
    form = browser.Form(
        '<form id=a data-salt="me@a" data-iterations=7><input type=hidden name=t value=1><input name=p>'
    )
    assert (form.fields, form.data) == ({"t": "1"}, {"salt": "me@a", "iterations": "7"})


def test_content_is_whole_and_no_piece_is_like_another() -> None:
    pieces = list(browser.content((3 << 20) + 5, b"seed"))
    assert sum(map(len, pieces)) == (3 << 20) + 5
    assert len(set(pieces)) == len(pieces) == 4
    assert pieces == list(browser.content((3 << 20) + 5, b"seed"))
    assert pieces != list(browser.content((3 << 20) + 5, b"other"))


@pytest.mark.parametrize("words", [[True], [False, False, True], [False] * 2000])
def test_a_held_upload_sends_all_the_same_and_says_once_that_it_began(words: list[bool]) -> None:
    whole, said, answers = b"".join(browser.content(3 << 20, b"")), [], iter(words)
    sent = list(browser.held(browser.content(3 << 20, b""), lambda _: next(answers), lambda: said.append(1)))
    assert b"".join(sent) == whole
    assert said == [1]
    assert len(sent) == min(len(words), 1024) + 3


@pytest.mark.parametrize("size", [0, 5, 125, 126, 3000])
def test_frames(size: int) -> None:
    data = bytes(range(256)) * 12
    frame = browser.masked(1, data[:size], b"\x01\x02\x03\x04")
    head = 6 if size < 126 else 8
    assert bytes(byte ^ (at % 4 + 1) for at, byte in enumerate(frame[head:])) == data[:size]
    plain = frame[:1] + bytes([frame[1] & 0x7F]) + frame[2 : head - 4] + data[:size]
    assert browser.read_frame(io.BytesIO(plain)) == (1, data[:size])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both doubles with an instance."""
    with World(tmp_path_factory.mktemp("browser"), "https://apps-registry.cozycloud.cc/selfhosted") as made:
        drive = {"name": "Drive", "version": "1.0.0", "permissions": {"files": {"type": "io.cozy.files"}}}
        home = {"name": "Home", "version": "1.0.0", "permissions": {}}
        made.set_registry({"home": {"stable": home}, "drive": {"stable": drive}})
        query = urllib.parse.urlencode({"Domain": DOMAIN, "Passphrase": "alice-Passphrase-1", "Apps": "home,drive"})
        assert made.start().admin("POST", f"/instances?{query}").status == 201
        yield made


@pytest.fixture(scope="module")
def visitor(world: World) -> browser.Browser:
    """A browser whose every connection ends at the double."""

    def connect(_host: str, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", world.public_port, timeout=timeout)

    return browser.Browser(connect)


@pytest.fixture(scope="module")
def token(visitor: browser.Browser) -> str:
    """What the page of drive gives to the person."""
    assert visitor.login(DOMAIN, "alice-Passphrase-1")["status"] == 303
    return visitor.token(DOMAIN)


def test_login(visitor: browser.Browser) -> None:
    seen = visitor.login(DOMAIN, "alice-Passphrase-1")
    assert seen == {
        "iterations": 650000,
        "salt": f"me@{DOMAIN}",
        "status": 303,
        "location": f"https://home.{DOMAIN}/",
        "home": 200,
    }


def test_a_wrong_passphrase_logs_nobody_in(visitor: browser.Browser) -> None:
    visitor.cookies.clear()
    seen = visitor.login(DOMAIN, "alice-Passphrase-2")
    assert (seen["status"], "home" in seen) == (401, False)
    with pytest.raises(LookupError, match=f"https://drive.{DOMAIN}/ gives 302"):
        visitor.token(DOMAIN)


def test_what_comes_back_is_what_was_sent(visitor: browser.Browser, token: str) -> None:
    size = (5 << 20) + 7
    up = visitor.upload(DOMAIN, token, "big.bin", size, browser.content(size, b"big"))
    down = visitor.download(DOMAIN, token, up["id"])
    assert (up["status"], down["status"], down["size"], down["sha256"]) == (201, 200, size, up["sha256"])
    assert up["sha256"] == hashlib.sha256(b"".join(browser.content(size, b"big"))).hexdigest()
    assert visitor.upload(DOMAIN, token, "big.bin", 3, iter([b"abc"]))["status"] == 409
    assert visitor.remove(DOMAIN, token, up["id"]) == {"trash": 200, "destroy": 204}
    assert visitor.download(DOMAIN, token, up["id"])["status"] == 404


def test_a_held_upload_waits_for_the_word(visitor: browser.Browser, token: str) -> None:
    word = threading.Event()
    begun = threading.Timer(0.5, word.set)
    pieces = browser.held(browser.content(2 << 20, b""), word.wait, begun.start)
    seen = visitor.upload(DOMAIN, token, "held.bin", 2 << 20, pieces)
    assert seen["status"] == 201
    assert seen["seconds"] >= 0.5


def test_the_websocket_tells_who_may_listen(visitor: browser.Browser, token: str) -> None:
    assert visitor.websocket(DOMAIN, token) == {"status": 101, "accepted": True, "alive": True, "error": ""}
    refused = visitor.websocket(DOMAIN, "no token")
    assert (refused["alive"], refused["error"]) == (False, "The authentication has failed")
    assert visitor.websocket("nobody.cozy.test", token) == {"status": 404}
