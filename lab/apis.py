# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside's APIs at one address, over TLS, told apart by their host names: Cloudflare and Let's Encrypt.

Behind Let's Encrypt's names are two Pebbles (staging, production), each with a root of its own that nobody trusts. As
the real one did while its root was young, production hands its root out cross-signed by an authority that everybody
trusts, here the lab's CA. It runs in the namespace of the outside.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from lab import ca, credentials, publicdns
from lab.doubles.cloudflare import Cloudflare
from lab.doubles.web import Handler, Request, Response, Server
from lab.model import ACME_HOSTS, CLOUDFLARE_HOST, ZONES

DIRECTORY = "/directory"
_PEBBLE_DIRECTORY = "/dir"
_PEBBLE_ROOT = "/roots/0"
_PEM_CHAIN = "application/pem-certificate-chain"
_SECONDS = 30
# Each connection is of its own kind on both sides.
_HOP = frozenset({"connection", "content-length", "date", "host", "keep-alive", "transfer-encoding"})


class TlsServer(Server):
    """The doubles' HTTP server behind TLS; the handshake is made in the request's own thread."""

    def __init__(self, address: tuple[str, int], handler: Handler, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Speak TLS with a client before it is listened to."""
        if not isinstance(request, socket.socket):
            raise TypeError(type(request))
        request.settimeout(_SECONDS)
        try:
            secured = self._context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return  # somebody who only looks whether the port is open, or does not trust us
        with secured:
            super().finish_request(secured, client_address)


class Pebble:
    """Passes requests on to a Pebble under the name by which it was asked.

    Args:
        host: its public host name.
        port: on 127.0.0.1, where it listens; the one after it is its management's.
        finish: makes what is handed out of an issued chain and Pebble's root, both PEM.
    """

    def __init__(self, host: str, port: int, finish: Callable[[bytes, bytes], bytes]) -> None:
        self._host, self._port, self._finish = host, port, finish
        self._context = ssl.create_default_context(cafile=str(ca.root()))

    def _ask(
        self, port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPSConnection(self._host, port, timeout=_SECONDS)
        try:
            raw = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
            connection.sock = self._context.wrap_socket(raw, server_hostname=self._host)
            connection.request(method, path, body, {**(headers or {}), "Host": self._host})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def __call__(self, request: Request) -> Response:
        """Answer a request as Pebble does."""
        path = _PEBBLE_DIRECTORY if request.path == DIRECTORY else request.path
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        body = request.body() or None
        answer, found = self._ask(self._port, request.method, path, body, headers)
        if answer.status == http.HTTPStatus.OK and answer.headers.get_content_type() == _PEM_CHAIN:
            _, root = self._ask(self._port + 1, "GET", _PEBBLE_ROOT)
            found = self._finish(found, root)
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        return Response(answer.status, found, None, kept)


def by_host(handlers: dict[str, Handler]) -> Handler:
    """A handler that hands each request to the one of its host."""

    def handle(request: Request) -> Response:
        handler = handlers.get(request.host.partition(":")[0].lower())
        return handler(request) if handler else Response(421, b"no such host here\n", "text/plain")

    return handle


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="ADDRESS:PORT")
    parser.add_argument("--certificate", required=True, type=Path)
    parser.add_argument("--key", required=True, type=Path)
    parser.add_argument("--production", required=True, type=int, help="port of the Pebble that is production")
    parser.add_argument("--staging", required=True, type=int, help="port of the Pebble that is staging")
    options = parser.parse_args()

    production = Pebble(ACME_HOSTS["production"], options.production, lambda chain, root: chain + ca.cross_signed(root))
    staging = Pebble(ACME_HOSTS["staging"], options.staging, lambda chain, _root: chain)
    zones = {zone: publicdns.records(zone) for zone in ZONES}
    cloudflare = Cloudflare(credentials.cloudflare(), zones, publicdns.publish)
    handlers: dict[str, Handler] = {
        ACME_HOSTS["production"]: production,
        ACME_HOSTS["staging"]: staging,
        CLOUDFLARE_HOST: cloudflare,
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    address, port = options.listen.split(":")
    TlsServer((address, int(port)), by_host(handlers), context).serve_forever()


if __name__ == "__main__":
    main()
