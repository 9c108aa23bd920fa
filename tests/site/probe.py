# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look from where a host of the lab stands, and tell what was seen as one line of JSON.

    python -m lab exec HOST -- python -m tests.site.probe dns NAME TYPE [SERVER]
    python -m lab exec HOST -- python -m tests.site.probe http URL [ADDRESS]

Without SERVER the host's own resolver is asked; with ADDRESS the name in the URL is not looked up.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Callable
from typing import Any

import dns.exception
import dns.rcode
import dns.resolver

from lab import ca

_SECONDS = 5.0


def dns_answer(name: str, kind: str, server: str | None = None) -> dict[str, Any]:
    """What the resolver answers: `status` (NOERROR, NXDOMAIN …) and `answers`, or `error`."""
    resolver = dns.resolver.Resolver()
    if server:
        resolver.nameservers = [server]
    resolver.lifetime = _SECONDS
    resolver.search = []
    try:
        answer = resolver.resolve(f"{name.rstrip('.')}.", kind, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return {"status": "NXDOMAIN", "answers": []}
    except dns.exception.DNSException as error:
        return {"error": f"{resolver.nameservers[0]}: {error}"}
    return {
        "status": dns.rcode.to_text(answer.response.rcode()),
        "answers": sorted(record.to_text() for record in answer.rrset or ()),
    }


def http_answer(url: str, address: str | None = None) -> dict[str, Any]:
    """What one request gets, redirects not followed: `status`, `location`, `address`, `body` (its start), or `error`.

    Over https the certificate is verified by the lab's CA alone; `issuer` and `names` are those of the certificate.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    seen: dict[str, Any] = {}
    try:
        sock = socket.create_connection((address or host, port), timeout=_SECONDS)
        seen["address"] = sock.getpeername()[0]
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(ca.root()))
            secure = context.wrap_socket(sock, server_hostname=host)
            certificate: dict[str, Any] = secure.getpeercert() or {}
            seen["issuer"] = dict(pair for group in certificate["issuer"] for pair in group).get("commonName", "")
            seen["names"] = sorted(value for _, value in certificate.get("subjectAltName", ()))
            sock = secure
        connection.sock = sock
        try:
            connection.request("GET", parts.path or "/", headers={"Host": parts.netloc})
            answer = connection.getresponse()
            seen["status"] = answer.status
            seen["location"] = answer.getheader("location", "")
            seen["body"] = answer.read(2000).decode(errors="replace")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    return seen


def main() -> None:
    """Do what the command line says and print what was seen."""
    what, *rest = sys.argv[1:]
    asked: dict[str, Callable[..., dict[str, Any]]] = {"dns": dns_answer, "http": http_answer}
    print(json.dumps(asked[what](*rest)))


if __name__ == "__main__":
    main()
