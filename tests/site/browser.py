# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Use a Cozy as a browser does, from where a host of the lab stands; what was seen is one line of JSON.

    python -m lab exec client -- python -m tests.site.browser login DOMAIN
    python -m lab exec client -- python -m tests.site.browser upload DOMAIN NAME BYTES [held]
    python -m lab exec client -- python -m tests.site.browser download DOMAIN ID
    python -m lab exec client -- python -m tests.site.browser remove DOMAIN ID
    python -m lab exec client -- python -m tests.site.browser websocket DOMAIN

The first line of standard input is JSON with what is secret: the `passphrase` to log in with, after which the page of
the app drive gives the token for the rest, or a `token` in its place.

A held upload says `under way` when its first piece has gone, and trickles until the next line of standard input.
"""

from __future__ import annotations

import base64
import hashlib
import html.parser
import http.client
import http.cookiejar
import json
import os
import re
import secrets
import select
import ssl
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

from lab import ca

_SECONDS = 60.0
_PIECE = 1 << 20
_TRICKLE_BYTES = 1 << 10
_TRICKLE_SECONDS = 0.2
_FILES = "io.cozy.files"
# From RFC 6455: a constant, and kinds of frames.
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10

Connect = Callable[..., http.client.HTTPConnection]
"""Makes a connection to a host; takes `timeout` (seconds) as well."""


def secure() -> Connect:
    """Connections over TLS that only the lab's authority can vouch for, to the address the host's resolver gives."""
    return partial(http.client.HTTPSConnection, context=ssl.create_default_context(cafile=str(ca.root())))


def proof(passphrase: str, salt: str, iterations: int) -> str:
    """What a browser sends in place of a passphrase: PBKDF2 of it, and of that again (as recorded: login-post-ok-json).

    Args:
        passphrase: as typed.
        salt: from the page, `me@` and the domain.
        iterations: from the page.
    """
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt.encode(), iterations)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1)).decode()


class Form(html.parser.HTMLParser):
    """The login form of a page: its hidden `fields`, and what the page's script reads from its `data`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.data: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from `form` and `input`."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.data |= {name.removeprefix("data-"): given[name] for name in given if name.startswith("data-")}
        elif tag == "input" and given.get("type") == "hidden":
            self.fields[given["name"]] = given.get("value", "")


def content(size: int, seed: bytes) -> Iterator[bytes]:
    """Bytes that no part of the way can guess or shorten, in pieces: the same for the same seed.

    Args:
        size: how many.
        seed: at most 32 bytes.
    """
    block = hashlib.shake_256(seed).digest(_PIECE)
    for number in range(0, size, _PIECE):
        yield (struct.pack(">Q", number) + block[8:])[: size - number]


def held(pieces: Iterator[bytes], go_on: Callable[[float], bool], begun: Callable[[], None]) -> Iterator[bytes]:
    """Pass pieces on; the first one in drops, until it is told to go on or nothing is left of it.

    Args:
        pieces: the whole.
        go_on: waits that many seconds for the word, and says whether it came.
        begun: is called when the first drop has gone.
    """
    first = next(pieces)
    gone = 0
    while gone < len(first):
        yield first[gone : gone + _TRICKLE_BYTES]
        gone += _TRICKLE_BYTES
        if gone == _TRICKLE_BYTES:
            begun()
        if go_on(_TRICKLE_SECONDS):
            break
    yield first[gone:]
    yield from pieces


def masked(kind: int, data: bytes, mask: bytes) -> bytes:
    """A frame as a client sends it (RFC 6455, section 5.2), of less than 65536 bytes."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    return bytes([0x80 | kind]) + size + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def read_frame(stream: BinaryIO) -> tuple[int, bytes]:
    """A server's frame: its kind and data.

    Raises:
        EOFError: the connection ended.
    """
    head = stream.read(2)
    if len(head) < 2:
        raise EOFError("the connection ended without a close frame")
    size = head[1] & 0x7F
    if size > 125:
        width = 2 if size == 126 else 8
        size = int.from_bytes(stream.read(width), "big")
    return head[0] & 0x0F, stream.read(size)


class _Plain(urllib.request.HTTPRedirectHandler):
    """Redirects are what a trial wants to see."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


class _Way(urllib.request.HTTPSHandler):
    def __init__(self, connect: Connect) -> None:
        super().__init__()
        self._connect = connect

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


class Browser:
    """One browser with its cookies.

    Args:
        connect: makes its connections.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            _Way(connect), _Plain, urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.ProxyHandler({})
        )

    def _open(self, request: urllib.request.Request | str) -> Any:
        try:
            return self._opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as answer:
            return answer

    def login(self, domain: str, passphrase: str) -> dict[str, Any]:
        """Log in: `salt` and `iterations` of the page, `status` and `location`, and `home`, the status of that page."""
        url = f"https://{domain}/auth/login"
        with self._open(url) as page:
            form = Form(page.read().decode())
        iterations, salt = int(form.data.get("iterations", 0)), form.data.get("salt", "")
        seen: dict[str, Any] = {"iterations": iterations, "salt": salt, "status": page.status}
        if page.status != 200 or not iterations:
            return {**seen, "error": "no login form"}
        fields = {**form.fields, "passphrase": proof(passphrase, salt, iterations)}
        with self._open(urllib.request.Request(url, urllib.parse.urlencode(fields).encode())) as answer:
            seen |= {"status": answer.status, "location": answer.headers.get("Location", "")}
        if answer.status == 303:
            with self._open(seen["location"]) as home:
                seen["home"] = home.status
        return seen

    def token(self, domain: str) -> str:
        """The token that the page of the app drive holds for its script, once somebody is logged in.

        Raises:
            LookupError: there is no such page, or nobody is logged in.
        """
        with self._open(f"https://drive.{domain}/") as page:
            found = re.search(r'data-cozy-token="([^"]+)"', page.read().decode())
        if page.status != 200 or not found:
            raise LookupError(f"https://drive.{domain}/ gives {page.status} and no token")
        return found[1]

    def upload(self, domain: str, token: str, name: str, size: int, pieces: Iterator[bytes]) -> dict[str, Any]:
        """Upload a file, streamed: `status`, `id`, `sha256` of what was sent, `seconds`."""
        digest = hashlib.sha256()

        def counted() -> Iterator[bytes]:
            for piece in pieces:
                digest.update(piece)
                yield piece

        query = urllib.parse.urlencode({"Type": "file", "Name": name})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        url = f"https://{domain}/files/{_FILES}.root-dir?{query}"
        request = urllib.request.Request(url, counted(), {**headers, **_bearer(token)}, method="POST")
        begin = time.monotonic()
        with self._open(request) as answer:
            body = answer.read()
        seen = {"status": answer.status, "sha256": digest.hexdigest(), "seconds": time.monotonic() - begin}
        if answer.status != 201:
            return {**seen, "error": body[:300].decode(errors="replace")}
        return {**seen, "id": json.loads(body)["data"]["id"]}

    def download(self, domain: str, token: str, file_id: str) -> dict[str, Any]:
        """Download a file, streamed: `status`, `size`, `sha256`, `seconds`."""
        digest, size, begin = hashlib.sha256(), 0, time.monotonic()
        request = urllib.request.Request(f"https://{domain}/files/download/{file_id}", headers=_bearer(token))
        with self._open(request) as answer:
            while piece := answer.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        seconds = time.monotonic() - begin
        return {"status": answer.status, "size": size, "sha256": digest.hexdigest(), "seconds": seconds}

    def remove(self, domain: str, token: str, file_id: str) -> dict[str, Any]:
        """Put a file into the trash, then destroy it: the status of `trash` and `destroy`."""
        seen = {}
        for what, path in (("trash", f"files/{file_id}"), ("destroy", f"files/trash/{file_id}")):
            request = urllib.request.Request(f"https://{domain}/{path}", headers=_bearer(token), method="DELETE")
            with self._open(request) as answer:
                seen[what] = answer.status
        return seen

    def websocket(self, domain: str, token: str) -> dict[str, Any]:
        """Open the websocket of events, say who we are and subscribe to files.

        The Cozy answers neither of the two when all is well: `error` is what it said against it, and `alive` whether
        it answers a ping after both.
        """
        connection = self._connect(domain, timeout=_SECONDS)
        try:
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            headers = {"Host": domain, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            connection.request("GET", "/realtime/", headers={**headers, "Sec-WebSocket-Key": key})
            answer = connection.getresponse()
            seen: dict[str, Any] = {"status": answer.status}
            if answer.status != 101:
                return seen
            accept = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
            seen["accepted"] = answer.headers.get("Sec-WebSocket-Accept") == base64.b64encode(accept).decode()
            messages = (
                (_TEXT, json.dumps({"method": "AUTH", "payload": token})),
                (_TEXT, json.dumps({"method": "SUBSCRIBE", "payload": {"type": _FILES}})),
                (_PING, "alive"),
            )
            # At once: after a refusal nothing more would be taken.
            frames = [masked(kind, text.encode(), secrets.token_bytes(4)) for kind, text in messages]
            connection.sock.sendall(b"".join(frames))
            with connection.sock.makefile("rb") as stream:
                return {**seen, **_heard(stream)}
        finally:
            connection.close()


def _heard(stream: BinaryIO) -> dict[str, Any]:
    """What the Cozy says until it answers the ping or closes."""
    seen: dict[str, Any] = {"alive": False, "error": ""}
    while True:
        try:
            kind, data = read_frame(stream)
        except (EOFError, OSError):
            return seen
        if kind == _TEXT:
            event = json.loads(data)
            seen["error"] = event["payload"].get("title", "") if event.get("event") == "error" else ""
        if kind in (_PONG, _CLOSE):
            return {**seen, "alive": (kind, data) == (_PONG, b"alive")}


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _begun() -> None:
    print("under way", flush=True)


def main() -> None:
    """Do what the command line says and print what was seen."""
    what, domain, *rest = sys.argv[1:]
    # Unbuffered: what comes after the first line must stay where `select` sees it.
    with os.fdopen(0, "rb", buffering=0) as stdin:
        given = json.loads(stdin.readline())
        browser = Browser(secure())
        seen = browser.login(domain, given["passphrase"]) if "passphrase" in given else {}
        if what == "login":
            seen["refused"] = Browser(secure()).login(domain, f"not {given['passphrase']}")["status"]
        else:
            token = given["token"] if "token" in given else browser.token(domain)
            if what == "upload":
                pieces = content(int(rest[1]), rest[0].encode()[:32])
                if rest[2:] == ["held"]:
                    pieces = held(pieces, lambda seconds: bool(select.select([stdin], [], [], seconds)[0]), _begun)
                seen = browser.upload(domain, token, rest[0], int(rest[1]), pieces)
            else:
                actions: dict[str, Callable[..., dict[str, Any]]] = {
                    "download": browser.download,
                    "remove": browser.remove,
                    "websocket": browser.websocket,
                }
                seen = actions[what](domain, token, *rest)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
