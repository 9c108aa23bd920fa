# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module web_probe, against a small server on loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.kubecozy.homelab.plugins.modules import web_probe
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.plugins.module_helper import run_module


class Pages(BaseHTTPRequestHandler):
    """Answers by path; counts the calls of each."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:  # the name the base class calls
        self.seen.append((self.headers["Host"], self.path))
        if self.path == "/later" and len(self.seen) < 3:
            self.send_response(503)
        elif self.path == "/login":
            self.send_response(303)
            self.send_header("Location", "https://cozy.example.com/auth/login")
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"build_mode":"production"}')

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for cozy.example.com that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cozy.example.com")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("cozy.example.com"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.key").write_bytes(private)
    return folder


class Server:
    """A server, and how it is asked."""

    def __init__(self, tls: Path | None) -> None:
        self.seen: list[tuple[str, str]] = []
        handler = type("Handler", (Pages,), {"seen": self.seen})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "ca.crt", tls / "ca.key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def url(self, path: str, host: str = "cozy.example.com") -> str:
        scheme = "https" if isinstance(self.server.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://{host}:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def plain() -> Iterator[Server]:
    """A server without TLS."""
    server = Server(None)
    yield server
    server.close()


@pytest.fixture
def secure(authority: Path) -> Iterator[Server]:
    """A server with TLS."""
    server = Server(authority)
    yield server
    server.close()


def probe(*checks: dict[str, Any], timeout: int = 1, **arguments: Any) -> dict[str, Any]:
    """Run the module against loopback."""
    return run_module(web_probe.main, checks=list(checks), address="127.0.0.1", timeout=timeout, **arguments)


def test_pages_are_asked_for_by_name(plain: Server) -> None:
    result = probe(
        {"url": plain.url("/version"), "contains": '"build_mode":"production"'},
        {"url": plain.url("/login"), "status": [303], "location": "https://cozy.example.com/auth/login"},
    )
    assert not result.get("failed")
    assert not result["changed"]
    host = f"cozy.example.com:{plain.server.server_port}"
    assert plain.seen == [(host, "/version"), (host, "/login")]


def test_host_has_a_port_only_if_the_url_has_one(secure: Server, authority: Path) -> None:
    real, here = socket.create_connection, ("127.0.0.1", secure.server.server_port)
    with mock.patch("socket.create_connection", lambda _to, seconds: real(here, seconds)):
        check = {"url": "https://cozy.example.com/"}
        assert not probe(check, ca_path=str(authority / "ca.crt")).get("failed")
    assert secure.seen == [("cozy.example.com", "/")]


def test_waits_and_asks_only_for_what_was_wrong(plain: Server) -> None:
    result = probe({"url": plain.url("/")}, {"url": plain.url("/later")}, timeout=20)
    assert not result.get("failed")
    assert [path for _host, path in plain.seen] == ["/", "/later", "/later"]


def test_what_is_wrong_is_said_of_each_page(plain: Server) -> None:
    result = probe(
        {"url": plain.url("/"), "status": [303]},
        {"url": plain.url("/"), "contains": "login"},
        {"url": plain.url("/login"), "status": [303], "location": "https://elsewhere.example.com/"},
        {"url": plain.url("/")},
        hint="Look there.",
    )
    assert result["failed"]
    assert "answered 200 instead of 303" in result["msg"]
    assert "has no 'login' in its answer" in result["msg"]
    assert "instead of 'https://elsewhere.example.com/'" in result["msg"]
    assert result["msg"].endswith("Look there.")
    assert [bool(item["problem"]) for item in result["results"]] == [True, True, True, False]


def test_tls_is_verified_by_name(secure: Server, authority: Path) -> None:
    ca = str(authority / "ca.crt")
    assert not probe({"url": secure.url("/")}, ca_path=ca).get("failed")
    other = probe({"url": secure.url("/", "other.example.com")}, ca_path=ca)
    assert "can't be trusted: Hostname mismatch" in other["msg"]
    unknown = probe({"url": secure.url("/")})
    assert "can't be trusted: self-signed certificate" in unknown["msg"]
    assert not probe({"url": secure.url("/")}, validate_certs=False).get("failed")


def test_reasons_for_no_answer(plain: Server) -> None:
    tls = probe({"url": plain.url("/").replace("http", "https", 1)})
    assert "does not speak TLS" in tls["msg"]
    port = plain.server.server_port
    plain.close()
    assert "can't be reached at 127.0.0.1" in probe({"url": f"http://cozy.example.com:{port}/"})["msg"]
    checks = [{"url": "http://no-such-host.invalid/"}]
    assert "does not resolve" in run_module(web_probe.main, checks=checks, timeout=1)["msg"]


@pytest.mark.parametrize("url", ["ftp://cozy.example.com/", "cozy.example.com"])
def test_what_is_no_url_is_refused(url: str) -> None:
    assert "no http or https URL" in probe({"url": url})["msg"]


def test_authority_that_is_not_there_is_refused() -> None:
    assert "ca_path" in probe({"url": "https://cozy.example.com/"}, ca_path="/nonexistent")["msg"]
