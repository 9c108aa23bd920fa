# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside's APIs: the right one by host name, over TLS; Pebble's answers under Let's Encrypt's names."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import apis, ca, credentials, publicdns
from lab.doubles.cloudflare import Record
from lab.doubles.web import Handler, Request, Response
from lab.model import ACME_HOSTS, OUTSIDE_EDGE, ZONES

HOST = ACME_HOSTS["production"]
CHAIN = b"-----BEGIN CERTIFICATE-----\nchain\n"


@pytest.fixture(autouse=True)
def _lab_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECOZY_LAB", str(tmp_path))


def serve(handler: Handler, port: int = 0) -> apis.TlsServer:
    """Start a server with a certificate for the ACME host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ca.server("test", [HOST]))
    server = apis.TlsServer(("127.0.0.1", port), handler, context)
    server.start()
    return server


def pebble(request: Request) -> Response:
    """Play Pebble, enough to see what comes through."""
    assert request.host == HOST
    if request.path.startswith("/certZ/"):
        return Response(200, CHAIN, "application/pem-certificate-chain; charset=utf-8")
    return Response(201, request.path.encode() + b" " + request.body(), "text/plain", [("Replay-Nonce", "n1")])


@pytest.fixture(name="port")
def fixture_port() -> Iterator[int]:
    """A Pebble, its management on the port after, and the server in front: its port."""
    ports = iter(range(20000, 32000, 2))
    while True:
        port = next(ports)
        try:
            behind = serve(pebble, port)
        except OSError:
            continue
        try:
            management = serve(lambda _request: Response(200, b"root"), port + 1)
        except OSError:
            behind.drain(0)
            continue
        break
    passing = apis.Pebble(HOST, port, lambda chain, root: chain + b"crossed " + root)
    front = serve(apis.by_host({HOST: passing}))
    yield front.server_port
    for server in (front, management, behind):
        server.drain(1)


def ask(port: int, method: str, path: str, body: bytes = b"", host: str = HOST) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPSConnection(HOST, port, timeout=5)
    context = ssl.create_default_context(cafile=str(ca.root()))
    connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname=HOST)
    connection.request(method, path, body, {"Host": host})
    answer = connection.getresponse()
    told = answer.status, answer.read(), answer.getheader("Replay-Nonce")
    connection.close()
    return told


def test_requests_reach_pebble(port: int) -> None:
    assert ask(port, "POST", "/order-plz", b"signed") == (201, b"/order-plz signed", "n1")


def test_the_directory_is_where_lets_encrypt_has_it(port: int) -> None:
    assert ask(port, "GET", "/directory")[1] == b"/dir "


def test_a_chain_is_finished(port: int) -> None:
    assert ask(port, "POST", "/certZ/1", b"signed")[:2] == (200, CHAIN + b"crossed root")


def test_another_host_is_misdirected(port: int) -> None:
    assert ask(port, "GET", "/directory", host="example.org")[0] == 421


def test_who_speaks_no_tls_harms_nobody(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            plain.recv(100)
    assert ask(port, "GET", "/directory")[0] == 201
    assert "Traceback" not in capfd.readouterr().err


def test_a_cross_signed_root_is_trusted_with_the_lab(tmp_path: Path) -> None:
    """An authority of its own, as Pebble makes one, and a server below it."""
    names = ["-subj", "/CN=Another Root", "-addext", "keyUsage=critical,keyCertSign"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *names]
    files = ["-keyout", str(tmp_path / "root.key"), "-out", str(tmp_path / "root.pem"), "-days", "30"]
    subprocess.run([*made, *files], check=True, capture_output=True)
    request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=leaf"]
    request += ["-keyout", str(tmp_path / "leaf.key"), "-out", str(tmp_path / "leaf.csr")]
    subprocess.run(request, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", str(tmp_path / "leaf.csr"), "-CA", str(tmp_path / "root.pem")]
    sign += ["-CAkey", str(tmp_path / "root.key"), "-CAcreateserial", "-out", str(tmp_path / "leaf.pem")]
    subprocess.run(sign, check=True, capture_output=True)

    (tmp_path / "crossed.pem").write_bytes(ca.cross_signed((tmp_path / "root.pem").read_bytes()))
    verify = ["openssl", "verify", "-CAfile", str(ca.root())]
    leaf = str(tmp_path / "leaf.pem")
    crossed = [*verify, "-untrusted", str(tmp_path / "crossed.pem"), leaf]
    assert subprocess.run(crossed, check=False, capture_output=True).returncode == 0
    alone = [*verify, "-untrusted", str(tmp_path / "root.pem"), leaf]
    assert subprocess.run(alone, check=False, capture_output=True).returncode != 0


def test_credentials_are_made_once_and_kept_to_oneself() -> None:
    tokens = credentials.cloudflare()
    assert len(tokens) == len(credentials.TOKENS)
    assert all(len(token) == 40 for token in tokens)
    assert credentials.cloudflare() == tokens
    assert credentials.tsig("acme") == credentials.tsig("acme") != credentials.tsig("provider")
    for file in credentials.folder().iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("record", "published"),
    [
        (Record("a.example.com", "A", "198.18.0.10"), [("A", "198.18.0.10")]),
        (Record("a.example.com", "CNAME", "b.example.org"), [("CNAME", "b.example.org.")]),
        (Record("a.example.com", "TXT", '"quoted"'), [("TXT", '"quoted"')]),
        (Record("a.example.com", "TXT", "x" * 256), [("TXT", f'"{"x" * 255}" "x"')]),
        (Record("a.example.com", "CAA", '0 issue "ca"'), [("CAA", '0 issue "ca"')]),
        (
            Record("a.example.com", "A", "198.18.0.10", proxied=True),
            [("A", OUTSIDE_EDGE), ("HTTPS", f"1 . alpn=h3,h2 ipv4hint={OUTSIDE_EDGE}")],
        ),
    ],
)
def test_what_dns_answers_for_a_record(record: Record, published: list[tuple[str, str]]) -> None:
    assert publicdns.published(record) == published


def test_the_name_server_takes_its_configuration(tmp_path: Path) -> None:
    configuration, *_ = publicdns.configure(tmp_path, {"dl.k8s.io": "198.18.0.3"})
    publicdns.begin(tmp_path)
    text = configuration.read_text()
    assert all(f'zone "{zone}"' in text and (tmp_path / f"{zone}.zone").is_file() for zone in ZONES)
    assert "198.18.0.3" in (tmp_path / "root.zone").read_text()
    secret = credentials.tsig(publicdns.HOUSE_KEY)
    assert secret not in text
    assert secret in (tmp_path / "keys.conf").read_text()
    assert (tmp_path / "keys.conf").stat().st_mode & 0o777 == 0o600
