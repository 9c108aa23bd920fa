# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small name servers over UDP and TCP (or TLS, or HTTPS), which say what a test wants them to say.

python -m tests.site.nameserver FILE SIGN    for each address in a YAML file its records, until the file SIGN is gone
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
import yaml

Answer = Callable[[dns.message.Message], dns.message.Message | None]
"""Makes the answer to a question; None for silence."""

_LONGEST_CHAIN = 8


class Records:
    """Answers as an authoritative server of the whole tree that has these records.

    Args:
        lines: records as "name ttl type data"; a star as first label is a wildcard (RFC 4592).
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._sets: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], tuple[int, list[dns.rdata.Rdata]]] = {}
        self._names: set[dns.name.Name] = {dns.name.root}
        for line in lines:
            owner, ttl, kind, data = line.split(maxsplit=3)
            name, rdtype = dns.name.from_text(owner), dns.rdatatype.from_text(kind)
            self._sets.setdefault((name, rdtype), (int(ttl), []))[1].append(dns.rdata.from_text("IN", rdtype, data))
            while name not in self._names:
                self._names.add(name)
                name = name.parent()

    def __call__(self, question: dns.message.Message) -> dns.message.Message:
        """Answer one question."""
        answer = dns.message.make_response(question, recursion_available=True)
        name, kind = question.question[0].name, question.question[0].rdtype
        for _ in range(_LONGEST_CHAIN):
            owner = self._owner(name)
            if owner is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                break
            if (owner, kind) in self._sets:
                answer.answer.append(self._records(owner, kind, name))
                return answer
            if (owner, dns.rdatatype.CNAME) not in self._sets:
                break
            answer.answer.append(self._records(owner, dns.rdatatype.CNAME, name))
            name = dns.name.from_text(answer.answer[-1][0].to_text())
        if (dns.name.root, dns.rdatatype.SOA) in self._sets:
            answer.authority.append(self._records(dns.name.root, dns.rdatatype.SOA, dns.name.root))
        return answer

    def _records(self, owner: dns.name.Name, kind: dns.rdatatype.RdataType, name: dns.name.Name) -> dns.rrset.RRset:
        ttl, records = self._sets[owner, kind]
        return dns.rrset.from_rdata_list(name, ttl, records)

    def _owner(self, name: dns.name.Name) -> dns.name.Name | None:
        if name in self._names:
            return name
        above = name.parent()
        while above not in self._names:
            above = above.parent()
        star = dns.name.Name((b"*", *above.labels))
        return star if star in self._names else None


def _parsed(wire: bytes, answer: Answer) -> dns.message.Message | None:
    return answer(dns.message.from_wire(wire))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        made = _parsed(wire, self.server.answer)  # type: ignore[attr-defined]
        if made is not None:
            sock.sendto(made.to_wire(), self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        if self.server.https:  # type: ignore[attr-defined]
            self._http()
            return
        while len(head := self.rfile.read(2)) == 2:
            made = _parsed(self.rfile.read(struct.unpack("!H", head)[0]), self.server.answer)  # type: ignore[attr-defined]
            if made is None:
                return
            wire = made.to_wire()
            self.wfile.write(struct.pack("!H", len(wire)) + wire)

    def _http(self) -> None:
        """DNS over HTTPS by POST (RFC 8484), one question a connection."""
        length = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        made = _parsed(self.rfile.read(length), self.server.answer)  # type: ignore[attr-defined]
        wire = made.to_wire() if made else b""
        head = f"HTTP/1.1 {200 if made else 503} -\r\nContent-Type: application/dns-message\r\n"
        self.wfile.write(f"{head}Content-Length: {len(wire)}\r\n\r\n".encode() + wire)


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True

    def __init__(self, where: tuple[str, int], answer: Answer) -> None:
        self.answer = answer
        self.address_family = _family(where[0])
        super().__init__(where, _Udp)


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, where: tuple[str, int], answer: Answer, tls: ssl.SSLContext | None, https: bool) -> None:
        self.answer = answer
        self.https = https
        self._tls = tls
        self.address_family = _family(where[0])
        super().__init__(where, _Tcp)

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection, and greet it by TLS if that is spoken here."""
        sock, address = super().get_request()
        if self._tls is not None:
            sock.settimeout(_Tcp.timeout)
            sock = self._tls.wrap_socket(sock, server_side=True)
        return sock, address


@contextlib.contextmanager
def serving(
    answer: Answer,
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ssl.SSLContext | None = None,
    https: bool = False,
) -> Iterator[int]:
    """Serve while the context lasts, over UDP and TCP or, with `tls`, over TLS alone; yields the port.

    Args:
        port: 0 for any that is free.
        https: speak DNS over HTTPS instead of DNS over TLS.
    """
    stream = _TcpServer((address, port), answer, tls, https)
    servers: list[socketserver.BaseServer] = [stream]
    if tls is None:
        servers.append(_UdpServer((address, stream.server_address[1]), answer))
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield stream.server_address[1]
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def main() -> None:
    """Serve what the file says."""
    file, sign = map(Path, sys.argv[1:])
    with contextlib.ExitStack() as stack:
        for address, lines in yaml.safe_load(file.read_text())["outside"].items():
            stack.enter_context(serving(Records(lines), address, 53))
        sign.touch()
        while sign.exists():
            time.sleep(0.5)


if __name__ == "__main__":
    main()
