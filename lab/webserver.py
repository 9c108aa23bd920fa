# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside's web server: one folder a host name, over TLS; and a relay for the package proxy.

It runs in the machine's own network namespace and only its listening sockets lie in the lab, so that the relay can
hand requests over without any route between the two.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import socket
import ssl
import threading
from pathlib import Path

from lab import netns


class _Site(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        host = (self.headers.get("Host") or "unknown").partition(":")[0]
        within = super().translate_path(path)
        return str(Path(self.directory) / Path(host).name / Path(within).relative_to(self.directory))

    def list_directory(self, path: object) -> None:
        """Folders have no listing outside."""
        self.send_error(404, f"no page {path}")


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, sock: socket.socket, root: Path, context: ssl.SSLContext) -> None:
        handler = functools.partial(_Site, directory=str(root))
        super().__init__(sock.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self._context = context

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Make the TLS handshake in the request's own thread: a silent client must not hold up the others."""
        if not isinstance(request, socket.socket):
            raise TypeError(type(request))
        request.settimeout(60)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        with source.makefile("rb", buffering=0) as reader, sink.makefile("wb", buffering=0) as writer:
            shutil.copyfileobj(reader, writer, 1 << 16)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            end.close()


def _relay(front: socket.socket, port: int) -> None:
    while True:
        client, _ = front.accept()
        try:
            proxy = socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            client.close()
            continue
        proxy.settimeout(None)
        for source, sink in ((client, proxy), (proxy, client)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", required=True, help="network namespace of the listening sockets")
    parser.add_argument("--site", required=True, help="ADDRESS:PORT of the web server")
    parser.add_argument("--root", required=True, type=Path, help="folder with one folder a host name")
    parser.add_argument("--certificate", required=True, type=Path)
    parser.add_argument("--key", required=True, type=Path)
    parser.add_argument("--relay", required=True, help="ADDRESS:PORT:LOCAL_PORT, relayed to 127.0.0.1:LOCAL_PORT")
    options = parser.parse_args()

    address, port, local_port = options.relay.split(":")
    front = netns.listener(options.namespace, address, int(port))
    threading.Thread(target=_relay, args=(front, int(local_port)), daemon=True).start()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    address, port = options.site.split(":")
    with _Server(netns.listener(options.namespace, address, int(port)), options.root, context) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
