# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a certificate of cert-manager comes about, and why it does not. Private: not for use outside of this collection.

Objects and their fields: https://cert-manager.io/docs/reference/api-docs/, its two groups in version 1.
"""

from __future__ import annotations

import base64
import datetime as dt
import socket
import ssl
import time
import typing as t
from urllib.parse import quote

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, UnreachableError
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import Kubernetes, RefusedError
from ansible_collections.kubecozy.homelab.plugins.module_utils._public_dns import Resolver

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
except ImportError as exc:
    IMPORT_ERROR: ImportError | None = exc
else:
    IMPORT_ERROR = None

CORE = "/api/v1"
NETWORKING = "/apis/networking.k8s.io/v1"
CERTS = "/apis/cert-manager.io/v1"
ACME = "/apis/acme.cert-manager.io/v1"
RETRY = "homelab.kubecozy.io/asked-again"
PAUSE = 2.0
SECONDS = 5.0
#: For how long an ingress controller may go on to show what it had.
RELOAD_SECONDS = 30.0
FINAL = ("valid", "invalid", "errored", "expired")

#: What a refusal means, by words that are in it. Sources: cert-manager's solvers, Cloudflare's and BIND's answers.
CAUSES: t.Sequence[tuple[str, str]] = (
    ("zone.list", "The Cloudflare token may not find the zone: it needs Zone / Zone / Read for this zone."),
    ("Found no Zones", "The Cloudflare token does not reach the zone of this name: it needs Zone / Zone / Read there."),
    ("Error: 10000:", "The Cloudflare token may not change records: it needs Zone / DNS / Edit for this zone."),
    ("Error: 9109:", "Cloudflare does not know this token: it is revoked, expired or mistyped."),
    ("Error: 1000:", "Cloudflare does not know this token: it is revoked, expired or mistyped."),
    ("Error: 6003:", "This is no Cloudflare token: is it a key, or cut off?"),
    ("Error: 971:", "Cloudflare was asked too often: wait five minutes."),
    ("bad authentication", "The name server does not take this TSIG key: look at its name, secret and algorithm."),
    ("REFUSED", "The name server does not let this TSIG key write the record."),
    ("rateLimited", "The ACME server issues no more for now: its limits say when again. Try with staging meanwhile."),
    ("acme:error:caa", "A CAA record of the domain keeps this ACME server from issuing."),
    ("propagation", "The record is written, but the resolvers that cert-manager asks do not see it yet."),
)


class Object(t.NamedTuple):
    """One object that has to do with a certificate, and what it says of its state; `refused` if it can't go on."""

    kind: str
    name: str
    says: str
    refused: bool


class Served(t.NamedTuple):
    """What an address shows for a name."""

    problem: str
    shown: bool


class Leaf(t.NamedTuple):
    """What matters of a certificate."""

    fingerprint: str
    issuer: str
    names: list[str]
    not_after: dt.datetime
    chain: list[str]


def leaf_of(pem: bytes) -> Leaf:
    """Read a chain, leaf first.

    :raises CozyError: if it is none, or the library to read it is missing.
    """
    if IMPORT_ERROR is not None:
        raise CozyError(
            f"The Python library 'cryptography' is needed where this module runs, and can't be imported: {IMPORT_ERROR}"
        )
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise CozyError(f"The Secret holds no certificate: {exc}") from exc
    first = chain[0]
    try:
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns_names = [str(name) for name in names.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        dns_names = []
    return Leaf(
        first.fingerprint(hashes.SHA256()).hex(),
        _common_name(first.issuer),
        dns_names,
        first.not_valid_after_utc,
        [_common_name(one.subject) for one in chain],
    )


def _common_name(name: t.Any) -> str:
    values = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()


def conditions(item: t.Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """The conditions of an object by type."""
    return {one["type"]: one for one in item.get("status", {}).get("conditions") or ()}


class Watch:
    """One Certificate and all that is made for it.

    :param kubernetes: where it is.
    :param namespace: of the Certificate.
    :param name: of the Certificate.
    """

    def __init__(self, kubernetes: Kubernetes, namespace: str, name: str) -> None:
        self._kubernetes = kubernetes
        self._namespace = quote(namespace, safe="")
        self._name = quote(name, safe="")
        self.certificate: dict[str, t.Any] = {}
        self._requests: list[dict[str, t.Any]] = []
        self._orders: list[dict[str, t.Any]] = []
        self._challenges: list[dict[str, t.Any]] = []
        self._issuer: dict[str, t.Any] = {}

    def _of(self, group: str, plural: str) -> str:
        return f"{group}/namespaces/{self._namespace}/{plural}"

    def _get(self, path: str) -> dict[str, t.Any]:
        try:
            return self._kubernetes.get(path)
        except RefusedError as exc:
            raise CozyError(f"Kubernetes does not give {path}: {exc}") from exc

    @property
    def spec(self) -> dict[str, t.Any]:
        """What is wanted."""
        return t.cast("dict[str, t.Any]", self.certificate["spec"])

    def look(self) -> bytes | None:
        """Look once.

        :returns: the chain (PEM) when the Secret holds what is wanted, else None.
        :raises CozyError: if Kubernetes can't be asked.
        """
        self.certificate = self._get(self._of(CERTS, "certificates") + f"/{self._name}")
        ready = conditions(self.certificate).get("Ready", {})
        current = ready.get("observedGeneration") == self.certificate["metadata"]["generation"]
        if not (current and ready.get("status") == "True"):
            return None
        secret = self._get(self._of(CORE, "secrets") + f"/{quote(self.spec['secretName'], safe='')}")
        # cert-manager notes there who issued it and for what. Ready alone may still speak of an older wish.
        notes = secret["metadata"].get("annotations") or {}
        names = notes.get("cert-manager.io/alt-names", "").split(",")
        issued = notes.get("cert-manager.io/issuer-name") == self.spec["issuerRef"]["name"]
        if not issued or set(self.spec["dnsNames"]) - set(names):
            return None
        return base64.b64decode(secret["data"]["tls.crt"])

    def used(self) -> bool:
        """Whether an Ingress shows the certificate.

        :raises CozyError: if Kubernetes can't be asked.
        """
        blocks = [one["spec"].get("tls") or [] for one in self._get(self._of(NETWORKING, "ingresses"))["items"]]
        return any(tls.get("secretName") == self.spec["secretName"] for block in blocks for tls in block)

    def look_deeper(self) -> None:
        """Look at what is under way."""
        self._issuer = self._get(f"{CERTS}/clusterissuers/{quote(self.spec['issuerRef']['name'], safe='')}")
        me = self.certificate["metadata"]["uid"]
        self._requests = self._newest(self._owned(self._of(CERTS, "certificaterequests"), {me}))
        self._orders = self._owned(self._of(ACME, "orders"), {one["metadata"]["uid"] for one in self._requests})
        orders = {one["metadata"]["uid"] for one in self._orders}
        # One that is being deleted belongs to an order that is gone, and can hold up its successor.
        self._challenges = [
            one
            for one in self._get(self._of(ACME, "challenges"))["items"]
            if orders & self._owners(one) or "deletionTimestamp" in one["metadata"]
        ]

    @staticmethod
    def _owners(item: t.Mapping[str, t.Any]) -> set[str]:
        return {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}

    def _owned(self, path: str, owners: set[str]) -> list[dict[str, t.Any]]:
        return [one for one in self._get(path)["items"] if owners & self._owners(one)]

    @staticmethod
    def _newest(requests: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
        def revision(one: dict[str, t.Any]) -> tuple[int, str]:
            notes = one["metadata"].get("annotations") or {}
            number = notes.get("cert-manager.io/certificate-revision", "0")
            return int(number) if number.isdigit() else 0, one["metadata"]["creationTimestamp"]

        return sorted(requests, key=revision)[-1:]

    @property
    def failed(self) -> bool:
        """Whether cert-manager has given up, for an hour or more."""
        issuing = conditions(self.certificate).get("Issuing", {})
        return issuing.get("status") != "True" and "lastFailureTime" in self.certificate.get("status", {})

    def ask_again(self) -> bool:
        """Let cert-manager try at once what it would only try after a pause, up to hours, since it failed before.

        :returns: whether there was such a thing.
        """
        asked = False
        if self.failed:
            # What `cmctl renew` does.
            now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            others = [one for kind, one in conditions(self.certificate).items() if kind != "Issuing"]
            wish = {
                "type": "Issuing",
                "status": "True",
                "reason": "ManuallyTriggered",
                "message": "Asked for again",
                "lastTransitionTime": now,
                "observedGeneration": self.certificate["metadata"]["generation"],
            }
            path = self._of(CERTS, "certificates") + f"/{self._name}/status"
            asked = self._patch(path, {"status": {"conditions": [*others, wish]}})
        for plural, items in (("orders", self._orders), ("challenges", self._challenges)):
            for item in items:
                status = item.get("status", {})
                leaving = "deletionTimestamp" in item["metadata"]
                if status.get("reason") and status.get("state") not in FINAL and not leaving:
                    path = f"{self._of(ACME, plural)}/{item['metadata']['name']}"
                    asked |= self._patch(path, {"metadata": {"annotations": {RETRY: str(int(time.time()))}}})
        return asked

    def let_go(self) -> bool:
        """Let challenges end that belong to nothing any more, and never got as far as to leave a record behind.

        cert-manager would go on to ask a solver that refuses to remove it, and let no other one begin meanwhile.

        :returns: whether there was one.
        """
        gone = False
        for item in self._challenges:
            status = item.get("status", {})
            if "deletionTimestamp" in item["metadata"] and status.get("reason") and not status.get("presented"):
                path = f"{self._of(ACME, 'challenges')}/{item['metadata']['name']}"
                gone |= self._patch(path, {"metadata": {"finalizers": None}})
        return gone

    def _patch(self, path: str, changes: dict[str, t.Any]) -> bool:
        try:
            self._kubernetes.patch(path, changes)
        except RefusedError:
            return False  # it is gone meanwhile, or was changed: cert-manager is at it
        return True

    def objects(self) -> list[Object]:
        """What is not as it should be, from the issuer down to the challenges."""
        found = []
        issuer = conditions(self._issuer).get("Ready", {})
        if issuer.get("status") != "True":
            refused = bool(issuer)
            found.append(Object("ClusterIssuer", self._issuer["metadata"]["name"], _words(issuer), refused))
        given_up = self.failed
        for kind in ("Issuing", "Ready"):
            condition = conditions(self.certificate).get(kind, {})
            if condition and condition["status"] != "True" and (kind == "Ready" or given_up):
                found.append(Object("Certificate", self.certificate["metadata"]["name"], _words(condition), given_up))
                break
        for request in self._requests:
            condition = conditions(request).get("Ready", {})
            if condition and condition["status"] != "True":
                found.append(Object("CertificateRequest", request["metadata"]["name"], _words(condition), False))
        for order in self._orders:
            status = order.get("status", {})
            if status.get("state") != "valid":
                says = ": ".join(filter(None, (status.get("state", "new"), status.get("reason"))))
                found.append(Object("Order", order["metadata"]["name"], says, False))
        found += [self._challenge(one) for one in self._challenges]
        return found

    @staticmethod
    def _challenge(item: dict[str, t.Any]) -> Object:
        status, spec = item.get("status", {}), item["spec"]
        leaving = "deletionTimestamp" in item["metadata"]
        reason = status.get("reason", "")
        unpresented = not status.get("presented") and status.get("state") not in FINAL
        name = ("*." if spec.get("wildcard") else "") + spec["dnsName"]
        state = "being deleted" if leaving else status.get("state") or "waits for its turn"
        says = f"{name} by {spec['type']}: {state}{': ' if reason else ''}{' '.join(reason.split())}"
        return Object("Challenge", item["metadata"]["name"], says, bool(reason) and (leaving or unpresented))

    def seen_by(self, resolvers: t.Sequence[Resolver]) -> list[str]:
        """Which resolver sees which of the TXT records that are waited for, in words."""
        found = []
        for item in self._challenges:
            spec, status = item["spec"], item.get("status", {})
            if spec["type"] != "DNS-01" or not status.get("presented") or status.get("state") in FINAL:
                continue
            name = f"_acme-challenge.{spec['dnsName']}"
            for resolver in resolvers:
                try:
                    texts = [b"".join(one.strings).decode() for one in resolver.ask(f"{name}.", "TXT")]
                except UnreachableError as exc:
                    found.append(str(exc))
                    continue
                there = "the right TXT" if spec["key"] in texts else f"{len(texts)} other TXT" if texts else "no TXT"
                found.append(f"{resolver.where} sees {there} at {name}")
        return list(dict.fromkeys(found))


def _words(condition: t.Mapping[str, t.Any]) -> str:
    words = (condition.get("reason"), condition.get("message"))
    return ": ".join(" ".join(word.split()) for word in words if word) or "no state yet"


def causes(objects: t.Sequence[Object]) -> list[str]:
    """What the objects' words mean for a person, each once."""
    said = " ".join(one.says for one in objects)
    return list(dict.fromkeys(meaning for words, meaning in CAUSES if words in said))


def served(address: str, name: str, wanted: Leaf) -> Served:
    """Look at the certificate that an address shows for a name.

    :returns: `shown` if it is the wanted one; a problem only if it is another one for this name.
    """
    host = name.replace("*", "any-app")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # which one it is, is the question; who trusts it, another
    try:
        with (
            socket.create_connection((address, 443), SECONDS) as sock,
            context.wrap_socket(sock, server_hostname=host) as secured,
        ):
            der = secured.getpeercert(binary_form=True) or b""
    except OSError:
        return Served("", shown=False)
    found = leaf_of(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM))
    if found.fingerprint == wanted.fingerprint:
        return Served("", shown=True)
    if not {host, f"*.{host.partition('.')[2]}"} & set(found.names):
        return Served("", shown=False)  # nothing behind this door has asked for the Secret yet
    ends = found.not_after.strftime("%Y-%m-%d %H:%M UTC")
    return Served(
        f"{address} shows for {host} another certificate than the Secret holds: by {found.issuer}, till {ends}", False
    )


def until_served(address: str, names: t.Sequence[str], wanted: Leaf, used: bool) -> bool:
    """Wait until an address shows the wanted certificate, if it shows one for these names at all.

    :param used: whether something is to show it; without, one look is enough, and an older one may still be shown.
    :returns: whether it shows it.
    :raises CozyError: if it goes on to show another one.
    """
    deadline = time.monotonic() + RELOAD_SECONDS
    while True:
        seen = [served(address, name, wanted) for name in names]
        problems = [one.problem for one in seen if one.problem]
        if not (used and problems):
            return all(one.shown for one in seen)
        if time.monotonic() > deadline:
            raise CozyError(f"After {RELOAD_SECONDS:.0f} s {'; '.join(problems)}.")
        time.sleep(PAUSE)


def trusted(address: str, name: str, ca_path: str | None) -> bool:
    """Whether the chain that an address shows for a name leads to an authority that is trusted here.

    :param ca_path: trust the authorities in this file instead of the system's.
    :raises CozyError: if it can't be looked at.
    """
    host = name.replace("*", "any-app")
    try:
        context = ssl.create_default_context(cafile=ca_path)
        with socket.create_connection((address, 443), SECONDS) as sock, context.wrap_socket(sock, server_hostname=host):
            return True
    except ssl.SSLCertVerificationError:
        return False
    except OSError as exc:
        raise CozyError(f"{address} can't be asked for {host}: {exc}") from exc


__all__ = ("Leaf", "Object", "Watch", "causes", "leaf_of", "trusted", "until_served")
