# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking one DNS server, over any transport. Private: not for use outside of this collection."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import typing as t
from pathlib import Path

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import InputError

try:
    import dns.edns
    import dns.exception
    import dns.flags
    import dns.message
    import dns.query
    import dns.rcode
    import dns.rdatatype
except ImportError as exc:
    IMPORT_ERROR: ImportError | None = exc
else:
    IMPORT_ERROR = None

PORTS = {"udp": 53, "tcp": 53, "tls": 853, "https": 443}
#: Extended DNS errors that say that an answer was found forged (RFC 8914).
BOGUS = (5, 6, 7, 8, 9, 10, 11, 12)


class Server(t.NamedTuple):
    """A DNS server and how to ask it.

    :param name: what people call it.
    :param kind: whose it is: home, router, machine, cluster or public.
    :param address: IP address.
    :param transport: udp, tcp, tls (RFC 7858) or https (RFC 8484, at /dns-query).
    :param port: None for the transport's own.
    :param tls_name: the name that its certificate must have; "" for the address.
    """

    name: str
    kind: str
    address: str
    transport: str = "udp"
    port: int | None = None
    tls_name: str = ""

    @property
    def secret(self) -> bool:
        """Whether nobody on the way can answer in its place."""
        return self.transport in ("tls", "https")

    @property
    def ipv6(self) -> bool:
        """Whether it is asked by IPv6."""
        return ":" in self.address

    def __str__(self) -> str:
        return f"{self.name} ({self.address}, {self.transport})"


class Seen(t.NamedTuple):
    """What a server answered.

    :param status: NOERROR, NXDOMAIN, SERVFAIL …, or "" if there was no answer.
    :param values: the data of the records of the type that was asked for, sorted.
    :param ttl: seconds for which the answer, or that there is none, may be remembered; None if it does not say.
    :param aliases: the names that CNAME records led to.
    :param bogus: whether it says that signatures are wrong.
    :param failure: why there was no answer.
    """

    status: str
    values: tuple[str, ...] = ()
    ttl: int | None = None
    aliases: tuple[str, ...] = ()
    bogus: bool = False
    failure: str = ""

    def __str__(self) -> str:
        if not self.status:
            return "no answer"
        if self.values:
            return " ".join(self.values)
        return "nothing" if self.status == "NOERROR" else self.status


class Resolver:
    """Asks one server.

    :param ca_path: PEM file with the authorities to trust instead of the system's, for tls and https.
    :param timeout: seconds for a question.
    :raises InputError: if the server can't be asked as it is described.
    """

    def __init__(self, server: Server, ca_path: str | None, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._port = server.port or PORTS[server.transport]
        try:
            ipaddress.ip_address(server.address)
        except ValueError as exc:
            raise InputError(f"The address of {server.name}, {server.address}, is no IP address.") from exc
        self._context: ssl.SSLContext | None = None
        if server.secret:
            try:
                self._context = ssl.create_default_context(cafile=ca_path)
            except (OSError, ssl.SSLError) as exc:
                raise InputError(f"ca_path {ca_path} can't be used: {exc}") from exc

    def ask(self, name: str, kind: str, *, unchecked: bool = False) -> Seen:
        """Ask one question.

        :param kind: type of record, as text.
        :param unchecked: ask for the answer even if its signatures are wrong (CD, RFC 4035).
        """
        question = dns.message.make_query(name, kind, use_edns=0)
        if unchecked:
            question.flags |= dns.flags.CD
        try:
            return _seen(self._exchanged(question))
        except dns.exception.Timeout:
            return Seen("", failure=f"none in {self._timeout:g} s")
        except ssl.SSLCertVerificationError as exc:
            return Seen("", failure=f"its certificate can't be trusted: {exc.verify_message}")
        except (OSError, EOFError, dns.exception.DNSException, http.client.HTTPException) as exc:
            return Seen("", failure=str(exc) or type(exc).__name__)

    def _exchanged(self, question: dns.message.Message) -> dns.message.Message:
        where, port, timeout = self._server.address, self._port, self._timeout
        if self._server.transport == "tcp":
            return dns.query.tcp(question, where, timeout, port)
        if self._server.transport == "tls":
            name = self._server.tls_name or where
            return dns.query.tls(question, where, timeout, port, ssl_context=self._context, server_hostname=name)
        if self._server.transport == "https":
            return self._over_https(question)
        return dns.query.udp_with_fallback(question, where, timeout, port)[0]

    def _over_https(self, question: dns.message.Message) -> dns.message.Message:
        """Ask by POST. dnspython can do it too, with a library more."""
        name = self._server.tls_name or self._server.address
        sock: socket.socket = socket.create_connection((self._server.address, self._port), self._timeout)
        connection = http.client.HTTPConnection(name, self._port, timeout=self._timeout)
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=name)
            connection.sock = sock
            kind = "application/dns-message"
            connection.request("POST", "/dns-query", question.to_wire(), {"Content-Type": kind, "Accept": kind})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
            sock.close()
        if response.status != 200:
            raise http.client.HTTPException(f"HTTP status {response.status}")
        return dns.message.from_wire(body)


def _seen(answer: dns.message.Message) -> Seen:
    wanted = answer.question[0].rdtype
    values, aliases, ttls = [], [], []
    for records in answer.answer:
        if records.rdtype == wanted:
            values += [record.to_text() for record in records]
            ttls.append(records.ttl)
        elif records.rdtype == dns.rdatatype.CNAME:
            aliases += [record.to_text().rstrip(".").lower() for record in records]
    if not values:
        # RFC 2308: the lesser of both.
        ttls = [min(soa.ttl, soa[0].minimum) for soa in answer.authority if soa.rdtype == dns.rdatatype.SOA]
    bogus = any(option.code in BOGUS for option in answer.options if isinstance(option, dns.edns.EDEOption))
    status = dns.rcode.to_text(answer.rcode())
    return Seen(status, tuple(sorted(values)), min(ttls, default=None), tuple(aliases), bogus)


def nameservers(resolv_conf: str) -> list[str]:
    """The addresses of the servers in a file like /etc/resolv.conf (resolv.conf(5)).

    :raises InputError: if it can't be read.
    """
    try:
        lines = Path(resolv_conf).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as exc:
        raise InputError(f"{resolv_conf} can't be read: {exc.strerror}") from exc
    words = [line.split() for line in lines]
    return [parts[1].partition("%")[0] for parts in words if len(parts) > 1 and parts[0] == "nameserver"]


def reachable(address: str, port: int, timeout: float) -> bool:
    """Whether something takes TCP connections there."""
    try:
        with socket.create_connection((address, port), timeout):
            return True
    except OSError:
        return False


__all__ = ("BOGUS", "IMPORT_ERROR", "PORTS", "Resolver", "Seen", "Server", "nameservers", "reachable")
