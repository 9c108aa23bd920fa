# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module caa_check, against a name server and an ACME server on loopback."""

from __future__ import annotations

import http.server
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from ansible.module_utils import urls
from ansible_collections.kubecozy.homelab.plugins.module_utils import _public_dns
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import InputError, UnreachableError
from ansible_collections.kubecozy.homelab.plugins.module_utils._public_dns import Caa, Resolver, forbids
from ansible_collections.kubecozy.homelab.plugins.modules import caa_check

from tests.unit.plugins.module_helper import run_module

SERVER = "https://acme.example.org/directory"
NAMES = ["cozy.example.com", "*.cozy.example.com"]


def answered(wire: bytes, records: dict[str, list[str]]) -> bytes:
    """What the name server says to a question."""
    query = dns.message.from_wire(wire)
    (question,) = query.question
    name = question.name.to_text(omit_final_dot=True)
    response = dns.message.make_response(query)
    if name.startswith("broken"):
        response.set_rcode(dns.rcode.SERVFAIL)
    elif name in records:
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CAA", *records[name]))
    elif name == "nowhere.example.com":
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response.to_wire()


class NameServer:
    """Answers with CAA records by name, over UDP."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.where = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                wire, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if not wire:
                return
            self.socket.sendto(answered(wire, self.records), peer)


@pytest.fixture(name="server")
def fixture_server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"", server.socket.getsockname())
    server.socket.close()


@pytest.fixture(autouse=True)
def _acme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caa_check, "identities", lambda _server, _ca_path: ["letsencrypt.org"])


def check(server: NameServer, names: list[str] = NAMES) -> dict[str, Any]:
    return run_module(caa_check.main, names=names, server=SERVER, resolvers=[server.where])


def test_no_records_forbid_nothing(server: NameServer) -> None:
    result = check(server)
    assert (result.get("failed"), result["changed"], result["records"]) == (None, False, {"cozy.example.com": ""})


def test_the_closest_records_count(server: NameServer) -> None:
    server.records = {"example.com": ['0 issue "other.example"'], "cozy.example.com": ['0 issue "letsencrypt.org"']}
    assert check(server)["records"] == {"cozy.example.com": "cozy.example.com"}
    assert check(server, ["nowhere.example.com"])["failed"]


def test_what_forbids_is_named(server: NameServer) -> None:
    server.records = {"example.com": ['0 issue "letsencrypt.org"', '0 issuewild ";"']}
    result = check(server)
    assert result["msg"] == (
        f"CAA records keep {SERVER} from issuing. *.cozy.example.com: example.com has"
        ' issue "letsencrypt.org", issuewild ";"; it lacks CAA 0 issuewild "letsencrypt.org".'
        " Add what is missing, or remove them all."
    )


@pytest.mark.parametrize(
    ("records", "wildcard", "tag"),
    [
        ([], False, None),
        ([Caa("iodef", "mailto:a@example.com")], True, None),
        ([Caa("issue", "letsencrypt.org")], True, None),
        ([Caa("issue", "LetsEncrypt.org; validationmethods=dns-01")], False, None),
        ([Caa("issue", ";")], False, "issue"),
        ([Caa("issue", "other.example")], True, "issue"),
        ([Caa("issue", "other.example"), Caa("issuewild", "letsencrypt.org")], True, None),
        ([Caa("issue", "other.example"), Caa("issuewild", "letsencrypt.org")], False, "issue"),
        ([Caa("issue", "letsencrypt.org"), Caa("issuewild", ";")], True, "issuewild"),
    ],
)
def test_who_may_issue(records: list[Caa], wildcard: bool, tag: str | None) -> None:
    assert forbids(records, ["letsencrypt.org"], wildcard=wildcard) == tag


def test_the_next_resolver_is_asked(server: NameServer) -> None:
    broken = mock.Mock(spec=Resolver)
    broken.ask.side_effect = UnreachableError("192.0.2.1 does not answer")
    server.records = {"example.com": ['0 issue "x"']}
    assert _public_dns.closest_caa([broken, Resolver(server.where)], "cozy.example.com")[0] == "example.com"


def test_what_cannot_be_looked_up_is_warned_about(server: NameServer) -> None:
    result = check(server, ["broken.example.com"])
    assert not result.get("failed")
    # A process keeps all its warnings; other tests may have given some.
    warning = result["warnings"][-1]
    text = warning["event"]["msg"] if isinstance(warning, dict) else warning
    assert f"{server.where} answers SERVFAIL for broken.example.com." in text


def test_dns_over_https(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question and its answer as RFC 8484 has them, without the way."""

    def open_url(url: str, data: bytes, headers: dict[str, str], method: str, timeout: float) -> Any:
        assert (url, method) == ("https://192.0.2.1/dns-query", "POST")
        assert headers["Content-Type"] == "application/dns-message"
        assert timeout > 0
        return io.BytesIO(answered(data, {"example.com": ['0 issue "x"']}))

    monkeypatch.setattr(urls, "open_url", open_url)
    (record,) = Resolver("https://192.0.2.1/dns-query").ask("example.com.", "CAA")
    assert record.value == b"x"


def test_no_resolver() -> None:
    with pytest.raises(InputError, match="is no resolver"):
        Resolver("192.0.2.1:dns")


def test_identities_are_the_servers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Directory(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name the base class calls
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"newOrder": "x", "meta": {"caaIdentities": ["LetsEncrypt.org"]}}')

        def log_message(self, *_words: Any) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Directory)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = urls.open_url
    plain = f"http://127.0.0.1:{server.server_port}/directory"

    def open_url(url: str, timeout: float, ca_path: str | None) -> Any:
        assert (url, ca_path) == (SERVER, None)
        return opened(plain, timeout=timeout)

    with mock.patch.object(urls, "open_url", open_url):
        assert caa_check.identities(SERVER, None) == ["letsencrypt.org"]
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="no https URL"):
        caa_check.identities(plain, None)
    with pytest.raises(UnreachableError, match="can't be asked"):
        caa_check.identities("https://127.0.0.1:1/directory", None)
