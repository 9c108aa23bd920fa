# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to public resolvers, past the house's own. Private: not for use outside of this collection."""

from __future__ import annotations

import typing as t

from ansible.module_utils import urls
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError, UnreachableError

try:
    import dns.exception
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdatatype
except ImportError as exc:
    IMPORT_ERROR: ImportError | None = exc
else:
    IMPORT_ERROR = None

SECONDS = 4.0
DNS_PORT = 53
MEDIA_TYPE = "application/dns-message"


class Caa(t.NamedTuple):
    """A CAA record (RFC 8659)."""

    tag: str
    value: str


class Resolver:
    """One resolver: `192.0.2.1`, `192.0.2.1:53` or, over HTTPS (RFC 8484), `https://192.0.2.1/dns-query`.

    :raises InputError: if it is none of these.
    """

    def __init__(self, where: str) -> None:
        if IMPORT_ERROR is not None:
            raise CozyError(
                "The Python library 'dnspython' is needed where this module runs, and can't be imported:"
                f" {IMPORT_ERROR}"
            )
        self.where = where
        self._host, _colon, port = where.partition(":")
        self._port = int(port) if port.isdigit() else DNS_PORT
        if not where.startswith("https://") and port and not port.isdigit():
            raise InputError(f"{where} is no resolver: an address, an address with its port, or an https URL is.")

    def ask(self, name: str, kind: str) -> list[t.Any]:
        """The records of a name, CNAMEs followed; none if there are none, or no such name.

        :raises UnreachableError: if the resolver gives no answer, or says that it can't tell.
        """
        query = dns.message.make_query(name, kind)
        try:
            response = self._exchange(query)
            chain = response.resolve_chaining() if response.rcode() == dns.rcode.NOERROR else None
        except (dns.exception.DNSException, urls.ConnectionError, OSError, ValueError) as exc:
            raise UnreachableError(f"{self.where} does not answer for {name}: {exc}") from exc
        if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise UnreachableError(f"{self.where} answers {dns.rcode.to_text(response.rcode())} for {name}")
        return list(chain.answer or ()) if chain else []

    def _exchange(self, query: t.Any) -> t.Any:
        if not self.where.startswith("https://"):
            return dns.query.udp_with_fallback(query, self._host, SECONDS, self._port)[0]
        headers = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
        query.id = 0
        answer = urls.open_url(self.where, query.to_wire(), headers, "POST", timeout=SECONDS)
        return dns.message.from_wire(answer.read())


def first_answer(resolvers: t.Sequence[Resolver], name: str, kind: str) -> list[t.Any]:
    """The records of a name from the first resolver that gives an answer.

    :raises UnreachableError: if none does, with what each said.
    """
    said = []
    for resolver in resolvers:
        try:
            return resolver.ask(name, kind)
        except UnreachableError as exc:
            said.append(str(exc))
    raise UnreachableError("; ".join(said) or "no resolver is given")


def closest_caa(resolvers: t.Sequence[Resolver], domain: str) -> tuple[str, list[Caa]]:
    """The CAA records that count for a domain: its own, else those of the closest name above it (RFC 8659, section 3).

    :returns: the name that has them, and the records; "" and none if there are none up to the top.
    :raises UnreachableError: if no resolver answers.
    """
    name = domain.rstrip(".")
    while name:
        found = first_answer(resolvers, f"{name}.", "CAA")
        if found:
            return name, sorted(Caa(record.tag.decode().lower(), record.value.decode()) for record in found)
        name = name.partition(".")[2]
    return "", []


def forbids(records: t.Sequence[Caa], identities: t.Sequence[str], *, wildcard: bool) -> str | None:
    """The property (`issue` or `issuewild`) that keeps an authority from issuing, or None (RFC 8659, 4.2 and 4.3).

    :param identities: names that the authority answers to, such as letsencrypt.org.
    :param wildcard: whether it is for a wildcard name.
    """
    tag = "issuewild" if wildcard and any(record.tag == "issuewild" for record in records) else "issue"
    values = [record.value.partition(";")[0].strip().lower() for record in records if record.tag == tag]
    return tag if values and not set(values) & set(identities) else None


__all__ = ("Caa", "Resolver", "closest_caa", "first_answer", "forbids")
