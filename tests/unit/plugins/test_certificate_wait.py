# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module certificate_wait, with a cert-manager that is played: what it waits for, and why it ends."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils import _certificates
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, UnreachableError
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import RefusedError
from ansible_collections.kubecozy.homelab.plugins.module_utils._public_dns import Resolver
from ansible_collections.kubecozy.homelab.plugins.modules import certificate_wait
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.plugins.module_helper import run_module

NAMES = ["cozy.example.com", "*.cozy.example.com"]
CERTIFICATE = "/apis/cert-manager.io/v1/namespaces/cozy/certificates/cozy-tls"
ISSUER = "/apis/cert-manager.io/v1/clusterissuers/homelab-staging"
REQUESTS = "/apis/cert-manager.io/v1/namespaces/cozy/certificaterequests"
ORDERS = "/apis/acme.cert-manager.io/v1/namespaces/cozy/orders"
CHALLENGES = "/apis/acme.cert-manager.io/v1/namespaces/cozy/challenges"
SECRET = "/api/v1/namespaces/cozy/secrets/cozy-tls"
INGRESSES = "/apis/networking.k8s.io/v1/namespaces/cozy/ingresses"
REVOKED = 'while querying the Cloudflare API for GET "/zones?name=example.com" \n\t Error: 9109: Invalid access token'


def signed(common_name: str, names: list[str]) -> tuple[bytes, bytes]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
    )
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, private


LEAF, KEY = signed("Staging", NAMES)


def condition(kind: str, status: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": "Reason", "message": f"{kind} is {status}", **more}


class World:
    """The cluster's objects by path, the time, and what happens at which second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.patched: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[float, Callable[[], None]]] = []
        self.on_patch: Callable[[str], None] = lambda _path: None
        self.objects: dict[str, Any] = {
            CERTIFICATE: {
                "metadata": {"name": "cozy-tls", "namespace": "cozy", "uid": "c", "generation": 2},
                "spec": {"secretName": "cozy-tls", "dnsNames": NAMES, "issuerRef": {"name": "homelab-staging"}},
                "status": {"conditions": [condition("Ready", "False"), condition("Issuing", "True")]},
            },
            ISSUER: {"metadata": {"name": "homelab-staging"}, "status": {"conditions": [condition("Ready", "True")]}},
            REQUESTS: {"items": [self.item("request-1", "r", "c")]},
            ORDERS: {"items": [self.item("order-1", "o", "r", state="pending")]},
            CHALLENGES: {"items": []},
            INGRESSES: {"items": [{"spec": {}}, {"spec": {"tls": [{"secretName": "cozy-tls"}]}}]},
            SECRET: {"metadata": {}, "data": {"tls.crt": base64.b64encode(LEAF).decode()}},
        }

    @staticmethod
    def item(name: str, uid: str, owner: str, **status: Any) -> dict[str, Any]:
        owners = [{"uid": owner}]
        metadata = {"name": name, "uid": uid, "ownerReferences": owners, "creationTimestamp": "2026-11-22T20:00:00Z"}
        return {"metadata": metadata, "status": status}

    def challenge(self, **status: Any) -> dict[str, Any]:
        """Add a challenge for the wildcard."""
        item = self.item("challenge-1", "h", "o", **status)
        item["spec"] = {"dnsName": "cozy.example.com", "wildcard": True, "type": "DNS-01", "key": "digest"}
        self.objects[CHALLENGES]["items"].append(item)
        return item

    def issue(self, issuer: str = "homelab-staging", names: str = ",".join(NAMES), generation: int = 2) -> None:
        """Let the Secret hold what is wanted, as it says."""
        notes = {"cert-manager.io/issuer-name": issuer, "cert-manager.io/alt-names": names}
        self.objects[SECRET]["metadata"]["annotations"] = notes
        ready = condition("Ready", "True", observedGeneration=generation)
        self.objects[CERTIFICATE]["status"] = {"conditions": [ready]}

    def fail(self) -> None:
        """Let cert-manager give up."""
        failed = condition("Issuing", "False", message="The order failed")
        ready = condition("Ready", "False")
        self.objects[CERTIFICATE]["status"] = {"conditions": [ready, failed], "lastFailureTime": "2026-11-22T20:00:00Z"}

    def at(self, seconds: float, does: Callable[[], None]) -> None:
        self.events.append((seconds, does))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for event in [event for event in self.events if event[0] <= self.now]:
            self.events.remove(event)
            event[1]()

    def get(self, path: str, **_query: str) -> Any:
        if path not in self.objects:
            raise RefusedError("404 Not Found")
        return self.objects[path]

    def patch(self, path: str, changes: dict[str, Any]) -> None:
        self.patched.append((path, changes))
        if path == f"{CERTIFICATE}/status":
            self.objects[CERTIFICATE]["status"]["conditions"] = changes["status"]["conditions"]
        self.on_patch(path)


@pytest.fixture(name="world")
def fixture_world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(certificate_wait, "Kubernetes", lambda *_words: world)
    monkeypatch.setattr(time, "sleep", world.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: world.now)
    return world


def wait(**arguments: Any) -> dict[str, Any]:
    return run_module(certificate_wait.main, namespace="cozy", name="cozy-tls", **arguments)


def test_there_already(world: World) -> None:
    world.issue()
    result = wait()
    assert not result.get("failed")
    assert (result["changed"], result["shown"], result["trusted"]) == (False, False, None)
    assert result["certificate"]["names"] == NAMES
    assert (result["certificate"]["issuer"], result["certificate"]["chain"]) == ("Staging", ["Staging"])
    assert world.now == 0
    assert world.patched == []


def test_it_comes(world: World) -> None:
    challenge = world.challenge(presented=True, state="pending", reason="Waiting for DNS-01 challenge propagation: no")
    world.at(60, challenge["status"].clear)
    world.at(130, world.issue)
    result = wait()
    assert not result.get("failed")
    assert world.now == pytest.approx(130, abs=5)


@pytest.mark.parametrize(
    "older",
    [
        {"issuer": "homelab"},
        {"names": "cozy.example.com"},
        {"generation": 1},
    ],
)
def test_what_is_there_may_be_of_an_older_wish(world: World, older: dict[str, Any]) -> None:
    world.issue(**older)
    world.at(20, world.issue)
    assert not wait().get("failed")
    assert world.now >= 20


def test_a_refusal_is_told_soon_and_in_words(world: World) -> None:
    world.challenge(presented=False, state="pending", reason=REVOKED)
    result = wait()
    assert result["failed"]
    assert world.now < 60
    message = result["msg"]
    assert message.startswith("There is no certificate for cozy.example.com, *.cozy.example.com after ")
    assert "Cloudflare does not know this token: it is revoked, expired or mistyped." in message
    assert "Challenge challenge-1: *.cozy.example.com by DNS-01: pending: while querying" in message
    assert "Order order-1: pending" in message


def test_a_refusal_that_passes_is_none(world: World) -> None:
    challenge = world.challenge(presented=False, state="pending", reason=REVOKED)
    world.at(20, lambda: challenge["status"].update(presented=True, reason=""))
    world.at(100, world.issue)
    assert not wait().get("failed")


def test_what_was_refused_before_is_asked_for_at_once(world: World) -> None:
    """With a new token, say: cert-manager's own next try may be half an hour away."""
    world.challenge(presented=False, state="pending", reason=REVOKED)

    def patched(path: str) -> None:
        assert path == f"{CHALLENGES}/challenge-1"
        world.at(world.now + 5, world.issue)

    world.on_patch = patched
    result = wait()
    assert (result.get("failed"), result["changed"]) == (None, True)
    ((_path, changes),) = world.patched
    assert list(changes["metadata"]["annotations"]) == ["homelab.kubecozy.io/asked-again"]


def test_what_failed_before_is_asked_for_again(world: World) -> None:
    world.fail()
    world.at(30, world.issue)
    result = wait()
    assert (result.get("failed"), result["changed"]) == (None, True)
    path, changes = world.patched[0]
    assert path == f"{CERTIFICATE}/status"
    states = {one["type"]: one["status"] for one in changes["status"]["conditions"]}
    assert states == {"Ready": "False", "Issuing": "True"}


def test_what_fails_now_is_told_at_once(world: World) -> None:
    reason = "acme: authorization error: 403 urn:ietf:params:acme:error:caa: CAA record prevents issuance"
    world.challenge(presented=False, state="invalid", reason=reason)
    world.at(40, world.fail)
    result = wait()
    assert result["failed"]
    assert 40 <= world.now < 50
    assert "A CAA record of the domain keeps this ACME server from issuing." in result["msg"]
    assert "Certificate cozy-tls: Reason: The order failed" in result["msg"]


def test_an_issuer_that_is_not_ready_is_told(world: World) -> None:
    refused = condition("Ready", "False", reason="ErrRegisterACMEAccount", message="x509: unknown authority")
    world.objects[ISSUER]["status"] = {"conditions": [refused]}
    result = wait()
    assert "ClusterIssuer homelab-staging: ErrRegisterACMEAccount: x509: unknown authority" in result["msg"]
    assert world.now < 60


def left_over(world: World, *, presented: bool) -> None:
    """A challenge of another order, whose solver refuses to remove its record."""
    left = world.challenge(presented=presented, state="pending", reason="Error cleaning up challenge: Error: 9109: x")
    left["metadata"] |= {"deletionTimestamp": "2026-11-22T20:00:00Z", "ownerReferences": [{"uid": "gone"}]}


def test_what_is_left_of_another_order_holds_up(world: World) -> None:
    left_over(world, presented=True)
    assert "being deleted: Error cleaning up" in wait()["msg"]
    assert not [changes for _path, changes in world.patched if "finalizers" in changes.get("metadata", {})]


def test_what_is_left_without_a_record_is_let_go(world: World) -> None:
    left_over(world, presented=False)

    def gone(path: str) -> None:
        assert path == f"{CHALLENGES}/challenge-1"
        world.objects[CHALLENGES]["items"].clear()
        world.at(world.now + 5, world.issue)

    world.on_patch = gone
    result = wait()
    assert (result.get("failed"), result["changed"]) == (None, True)
    assert world.patched == [(f"{CHALLENGES}/challenge-1", {"metadata": {"finalizers": None}})]


def test_which_resolver_sees_what(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.challenge(presented=True, state="pending", reason="Waiting for DNS-01 challenge propagation: not yet")
    texts = {"192.0.2.1": [b"digest"], "192.0.2.2": [b"older"], "192.0.2.3": []}

    def ask(resolver: Any, name: str, kind: str) -> list[Any]:
        assert (name, kind) == ("_acme-challenge.cozy.example.com.", "TXT")
        if resolver.where not in texts:
            raise UnreachableError(f"{resolver.where} does not answer for {name}")
        return [mock.Mock(strings=[text]) for text in texts[resolver.where]]

    monkeypatch.setattr(Resolver, "ask", ask)
    result = wait(timeout=50, resolvers=[*texts, "192.0.2.4"])
    assert world.now == pytest.approx(52, abs=3)
    name = "_acme-challenge.cozy.example.com"
    for line in (
        f"192.0.2.1 sees the right TXT at {name}",
        f"192.0.2.2 sees 1 other TXT at {name}",
        f"192.0.2.3 sees no TXT at {name}",
        "192.0.2.4 does not answer",
        "the resolvers that cert-manager asks do not see it yet",
    ):
        assert line in result["msg"]


def test_a_check_only_looks(world: World) -> None:
    world.fail()
    result = run_module(certificate_wait.main, check=True, namespace="cozy", name="cozy-tls")
    assert not result.get("failed")
    assert result["changed"] is False
    assert "certificate" not in result
    assert (world.now, world.patched) == (0, [])


def test_no_such_certificate(world: World) -> None:
    del world.objects[CERTIFICATE]
    assert wait()["msg"] == f"Kubernetes does not give {CERTIFICATE}: 404 Not Found"


@pytest.fixture(name="door")
def fixture_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[bytes, bytes]], None]]:
    """A door on loopback that shows a certificate, or another one from then on."""
    contexts: list[ssl.SSLContext] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def show(pair: tuple[bytes, bytes]) -> None:
        file = tmp_path / f"{len(contexts)}.pem"
        file.write_bytes(b"".join(pair))
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        contexts[-1].load_cert_chain(file)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), contexts[-1].wrap_socket(client, server_side=True) as secured:
                secured.recv(1)

    connect = socket.create_connection
    port = listener.getsockname()[1]
    monkeypatch.setattr(socket, "create_connection", lambda _to, limit: connect(("127.0.0.1", port), limit))
    threading.Thread(target=serve, daemon=True).start()
    yield show
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_house_gets_it(world: World, door: Callable[[tuple[bytes, bytes]], None], tmp_path: Path) -> None:
    world.issue()
    door((LEAF, KEY))
    result = wait(address="192.0.2.200")
    assert (result["shown"], result["trusted"]) == (True, False)
    (tmp_path / "ca.pem").write_bytes(LEAF)
    assert wait(address="192.0.2.200", ca_path=str(tmp_path / "ca.pem"))["trusted"] is True


def test_the_house_gets_it_a_moment_later(world: World, door: Callable[[tuple[bytes, bytes]], None]) -> None:
    world.issue()
    door(signed("Older", NAMES))
    world.at(10, lambda: door((LEAF, KEY)))
    assert wait(address="192.0.2.200")["shown"] is True


def test_the_house_gets_another_one(world: World, door: Callable[[tuple[bytes, bytes]], None]) -> None:
    world.issue()
    door(signed("Older", NAMES))
    message = wait(address="192.0.2.200")["msg"]
    assert "192.0.2.200 shows for cozy.example.com another certificate than the Secret holds: by Older" in message
    assert world.now < 40


def test_the_door_still_has_what_nothing_uses_any_more(
    world: World, door: Callable[[tuple[bytes, bytes]], None]
) -> None:
    world.issue()
    world.objects[INGRESSES] = {"items": [{"spec": {"tls": [{"secretName": "other"}]}}]}
    door(signed("Older", NAMES))
    result = wait(address="192.0.2.200")
    assert (result["shown"], result["trusted"]) == (False, None)
    assert world.now == 0


def test_nothing_uses_it_yet(world: World, door: Callable[[tuple[bytes, bytes]], None]) -> None:
    world.issue()
    door(signed("Kubernetes Ingress Controller Fake Certificate", ["ingress.local"]))
    result = wait(address="192.0.2.200")
    assert (result["shown"], result["trusted"]) == (False, None)
    assert world.now == 0


def test_a_secret_without_a_certificate() -> None:
    with pytest.raises(CozyError, match="holds no certificate"):
        _certificates.leaf_of(b"nothing")
