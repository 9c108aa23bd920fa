# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The little HTTP server both doubles stand on: one thread a connection, streamed bodies, a drain."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from typing import Any
from urllib.parse import parse_qsl, unquote

CHUNK = 256 * 1024

Json = Any


def go_json(value: Json) -> bytes:
    """JSON as Go's encoder writes it: no blanks, ``<``, ``>`` and ``&`` escaped, one newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign, escape in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e")):
        text = text.replace(sign, escape)
    return text.encode() + b"\n"


def log(text: str) -> None:
    """Write one line to standard error, where a container's log is read."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class BodyError(Exception):
    """The client sent a broken or cut body."""


@dataclass
class Request:
    """One request. ``path`` is raw (still percent-encoded), ``parts`` are its decoded segments."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Message
    stream: BufferedReader
    peer: str
    body_read: bool = field(default=False, init=False)

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.split("/")[1:]]

    @property
    def host(self) -> str:
        return self.header("Host")

    def header(self, name: str) -> str:
        return str(self.headers.get(name) or "")

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter, names compared to the letter."""
        return next((value for key, value in self.query if key == name), default)

    def has(self, name: str) -> bool:
        return any(key == name for key, _ in self.query)

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece. Raises BodyError when the client goes away in the middle."""
        self.body_read = True
        if "chunked" in self.header("Transfer-Encoding").lower():
            yield from self._chunked()
            return
        left = int(self.header("Content-Length") or "0")
        while left:
            piece = self.stream.read1(min(CHUNK, left))
            if not piece:
                raise BodyError("unexpected EOF")
            left -= len(piece)
            yield piece

    def _chunked(self) -> Iterator[bytes]:
        while True:
            line = self.stream.readline(1024)
            if not line.strip():
                raise BodyError("unexpected EOF")
            left = int(line.split(b";")[0], 16)
            if left == 0:
                while self.stream.readline(8192).strip():
                    pass
                return
            while left:
                piece = self.stream.read1(min(CHUNK, left))
                if not piece:
                    raise BodyError("unexpected EOF")
                left -= len(piece)
                yield piece
            self.stream.readline(16)

    def body(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Json:
        """The decoded body. Raises ValueError when it is not JSON."""
        return json.loads(self.body())


@dataclass
class Response:
    """One answer. An iterable body is sent chunked; ``takeover`` gets the connection after the headers."""

    status: int
    body: bytes | Iterable[bytes] = b""
    content_type: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    takeover: Callable[[socket.socket, BufferedReader], None] | None = None
    length: int | None = None


Handler = Callable[[Request], Response]


class Server(ThreadingHTTPServer):
    """HTTP server around one handler function.

    Raises OSError when the address cannot be bound.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Handler, banner: str = "") -> None:
        self.handle_request_with = handler
        self.banner = banner
        self.active = 0
        self.draining = False
        self.idle = threading.Condition()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    def server_bind(self) -> None:
        # the base class asks DNS for its own name here, which can take seconds in a pod
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(self.server_address[0] != "::"))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the base class's names
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            log(traceback.format_exc())

    def start(self) -> threading.Thread:
        """Serve in a thread of its own."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        return thread

    def drain(self, seconds: float) -> bool:
        """Refuse new connections at once, then wait for running requests. False when some are left."""
        self.draining = True
        self.shutdown()
        self.server_close()
        end = time.monotonic() + seconds
        with self.idle:
            while self.active:
                if not self.idle.wait(max(0.0, end - time.monotonic())):
                    return False
        return True


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """No access log: query strings carry passphrases."""

    def version_string(self) -> str:
        return self.server.banner

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        with self.server.idle:
            self.server.active += 1
        self.takeover: Callable[[socket.socket, BufferedReader], None] | None = None
        try:
            if self.parse_request():
                self._answer()
        except (ConnectionError, BodyError, TimeoutError):
            self.close_connection = True
        finally:
            with self.server.idle:
                self.server.active -= 1
                self.server.idle.notify_all()
        if self.takeover is not None:
            # a taken-over connection does not hold up a drain, as Go's hijacked ones do not
            self.close_connection = True
            self.takeover(self.connection, self.rfile)

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(
            self.command,
            path,
            parse_qsl(query, keep_blank_values=True),
            self.headers,
            self.rfile,  # type: ignore[arg-type]
            self.client_address[0],
        )
        response = self.server.handle_request_with(request)
        if not request.body_read:
            self._skip_body(request)
        self._send(response)

    def _skip_body(self, request: Request) -> None:
        """Read a small unread body away, so that the connection stays usable; drop it after a large one."""
        taken = 0
        for piece in request.chunks():
            taken += len(piece)
            if taken > CHUNK:
                self.close_connection = True
                return

    def _send(self, response: Response) -> None:
        self.send_response_only(response.status)
        if self.server.banner:
            self.send_header("Server", self.server.banner)
        if response.takeover is None:
            self.send_header("Date", self.date_time_string())
        for name, value in response.headers:
            self.send_header(name, value)
        if response.content_type:
            self.send_header("Content-Type", response.content_type)
        if self.server.draining:
            self.close_connection = True
        if self.close_connection and response.takeover is None:
            self.send_header("Connection", "close")
        bodyless = self.command == "HEAD" or response.status in (101, 204, 304)
        if response.takeover is not None:
            self.end_headers()
        elif isinstance(response.body, bytes):
            if response.status != 204:
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            if not bodyless:
                self.wfile.write(response.body)
        elif response.length is not None:
            self.send_header("Content-Length", str(response.length))
            self.end_headers()
            if not bodyless:
                for piece in response.body:
                    self.wfile.write(piece)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if not bodyless:
                for piece in response.body:
                    if piece:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        self.takeover = response.takeover
