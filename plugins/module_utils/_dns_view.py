# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What DNS servers should say about the Cozy's domain, and why they say something else.

Private: not for use outside of this collection.
"""

from __future__ import annotations

import collections.abc as c
import concurrent.futures
import functools
import ipaddress
import time
import typing as t

from ansible_collections.kubecozy.homelab.plugins.module_utils._resolver import Resolver, Seen, Server, reachable

#: Servers of the house answer with its own address; those outside with the one that the internet knows.
OUTSIDE = "public"
#: A pause after which what a cache has left of an answer's life is seen to be less.
PAUSE = 1.2
CHALLENGE = "_acme-challenge"
#: That there is no such name is an answer.
ANSWERED = ("NOERROR", "NXDOMAIN")


#: Why an answer is wrong, in plain words.
CAUSES = {
    "silent": "no answer ({why}): it is off, or something on the way keeps its port shut",
    "upstreams": (
        "upstreams: it answers for the house, but gets no answer from the servers that it asks for other names. Look at"
        " its upstreams"
    ),
    "bogus": (
        "DNSSEC bogus: it takes the answer for forged, because the parent domain is signed and the house's answer is"
        " not. Exempt the domain where signatures are checked"
    ),
    "hijacked": (
        "hijacked port 53: something on the way, mostly the router, answers in its place, even at {nowhere}, where no"
        " server is. Ask by DNS over TLS or HTTPS"
    ),
    "led away": (
        "wildcard CNAME: it leads the check of {name} for the certificate away to {to}. Make the wildcard an address"
        " record, or give this name a record of its own"
    ),
    "proxied": (
        "proxied record with ECH: the provider stands before the Cozy, and in the house browsers fail by it. Turn the"
        " proxy off (grey cloud), and answer HTTPS in the house with nothing"
    ),
    "leak": (
        "leak: it passes records of this type on from outside, where they lead past the house's address. In the house"
        " the answer has to be nothing"
    ),
    "denied": (
        "denied name: it says that there is no such name, though the name has an address, and some systems then do not"
        " ask for that. The answer has to be nothing (NODATA, not NXDOMAIN)"
    ),
    "caa": "the CAA records do not allow {authority} to issue the certificate with its wildcard",
    "stale": "stale cache: it remembers {what} for {left} more seconds",
    "none outside": "there is no such record outside: make it at the provider of the domain",
    "other outside": "outside there is another record: change it at the domain's provider, or run the DynDNS client",
    "shadowed": "it answers this name itself and hides the proof for the certificate: let it ask outside for this name",
    "rebind": (
        "rebind filter: it drops answers that lead into the house (DNS rebind protection). Name the domain as an"
        " exception there"
    ),
    "second": (
        "second resolver: it is handed out by DHCP next to the house's own, and asked at random. Hand out the house's"
        " alone"
    ),
    "ipv6": (
        "IPv6 resolver: it is announced by IPv6 beside the house's own and does not know the domain. Announce the"
        " house's or none"
    ),
    "asks outside": "it does not know the domain and asks outside",
    "hairpin": "hairpin NAT is missing: the router does not lead {address} back into the house",
}


class Site(t.NamedTuple):
    """What is known of the domain.

    :param app: first label of an application's name.
    :param label: first label of a name that nobody has asked for yet.
    :param address6: "" if the Cozy has none in the house.
    :param public_address: "" if it may be any.
    :param authority: domain by which the certificate authority is named in CAA records; "" if it may be any.
    :param nowhere: address at which there is no DNS server.
    :param nowhere_port: port at which it is asked.
    :param web_port: port at which the Cozy answers.
    """

    domain: str
    app: str
    label: str
    address: str
    address6: str
    public_address: str
    authority: str
    nowhere: str
    nowhere_port: int
    web_port: int

    def questions(self) -> list[tuple[str, str]]:
        """Names and types, in the order in which they are told."""
        names = [
            self.domain,
            *(f"{below}.{self.domain}" for below in (self.app, self.label, f"{self.label}.{self.app}")),
        ]
        asked = [(name, kind) for name in names for kind in ("A", "AAAA", "HTTPS")]
        return [*asked, (self.domain, "CAA"), (self.domain, "NS"), (f"{CHALLENGE}.{self.domain}", "TXT")]


class Row(t.NamedTuple):
    """One question to one server; `cause` is "" if the answer is right."""

    server: Server
    name: str
    type: str
    expected: str
    seen: Seen
    right: bool
    cause: str


def private(value: str) -> bool:
    """Whether an address is of somebody's home."""
    try:
        return ipaddress.ip_address(value).is_private
    except ValueError:
        return False


class View:
    """Asks all servers, and explains what is wrong.

    :param ca_path: PEM file with the authorities to trust instead of the system's.
    :param timeout: seconds for a question.
    :raises InputError: if a server can't be asked as it is described.
    """

    def __init__(self, site: Site, servers: t.Sequence[Server], ca_path: str | None, timeout: float) -> None:
        self._site = site
        self._servers = list(servers)
        self._timeout = timeout
        self._resolvers = {server: Resolver(server, ca_path, timeout) for server in self._servers}
        self._nowhere = Server("nobody", OUTSIDE, site.nowhere, port=site.nowhere_port)
        self._answers: dict[tuple[Server, str, str], Seen] = {}

    def rows(self) -> list[Row]:
        """Ask, judge and explain; one row for each question to each server."""
        questions = self._site.questions()
        with concurrent.futures.ThreadPoolExecutor(max(1, len(self._servers))) as pool:
            for server, answers in zip(self._servers, pool.map(self._asked, self._servers), strict=True):
                for (name, kind), answer in zip(questions, answers, strict=True):
                    self._answers[server, name, kind] = answer
        wrong = [cell for cell in self._answers if not self._right(*cell)]
        left = self._left(wrong)
        return [
            Row(
                *cell,
                self._expected(*cell),
                seen,
                cell not in wrong,
                self._cause(*cell, left.get(cell)) if cell in wrong else "",
            )
            for cell, seen in self._answers.items()
        ]

    def _asked(self, server: Server) -> list[Seen]:
        """All answers of a server; one that is silent once is not waited for again."""
        seen: list[Seen] = []
        for name, kind in self._site.questions():
            silent = bool(seen) and not seen[-1].status
            seen.append(seen[-1] if silent else self._resolvers[server].ask(name, kind))
        return seen

    def _outside(self, name: str, kind: str) -> Seen | None:
        """What the internet says: the answer of a public server, best of one in whose place nobody can answer."""
        answers = [
            (not server.secret, seen)
            for (server, *question), seen in self._answers.items()
            if server.kind == OUTSIDE and question == [name, kind] and seen.status
        ]
        return min(answers, key=lambda answer: answer[0])[1] if answers else None

    def _wanted(self, server: Server, kind: str) -> set[str] | None:
        """The exact data that are right; None if that is not all there is to say."""
        site = self._site
        if server.kind == OUTSIDE:
            return {site.public_address} if kind == "A" and site.public_address else None
        return {"A": {site.address}, "AAAA": {site.address6} - {""}, "HTTPS": set()}.get(kind)

    def _expected(self, server: Server, name: str, kind: str) -> str:
        wanted = self._wanted(server, kind)
        if wanted is not None:
            return " ".join(sorted(wanted)) or "nothing"
        if kind == "A":
            return "an address of the internet"
        if kind == "AAAA":
            return "nothing, or addresses of the internet"
        if kind == "HTTPS":
            return "nothing with ECH"
        if kind == "CAA" and server.kind == OUTSIDE and self._site.authority:
            return f"nothing, or {self._site.authority} (issue, and issuewild if there is one)"
        if kind == "TXT" and server.kind == OUTSIDE:
            return "the domain's own"
        if kind == "TXT":
            outside = self._outside(name, kind)
            return f"as outside: {outside}" if outside else "anything"
        return "anything"

    def _right(self, server: Server, name: str, kind: str) -> bool:
        seen = self._answers[server, name, kind]
        if not seen.status:
            return False
        wanted = self._wanted(server, kind)
        if wanted is not None:
            # A name that is said not to exist has no address either, and some systems do not ask for it.
            return set(seen.values) == wanted and seen.status == "NOERROR"
        if kind in ("A", "AAAA"):
            needed = kind == "A"
            return seen.status == "NOERROR" and bool(seen.values or not needed) and not any(map(private, seen.values))
        if kind == "HTTPS":
            return not _encrypted_hello(seen)
        if kind == "CAA" and server.kind == OUTSIDE and self._site.authority:
            return self._may_issue(seen)
        if kind == "TXT" and server.kind == OUTSIDE:
            return not self._led_away(server)
        if kind == "TXT":
            outside = self._outside(name, kind)
            return seen.status in ANSWERED and (outside is None or seen.values == outside.values)
        return seen.status in ANSWERED

    def _may_issue(self, seen: Seen) -> bool:
        """Whether the authority may issue for the domain and for its wildcard (RFC 8659)."""
        issue = [value for value in seen.values if value.split()[1] == "issue"]
        star = [value for value in seen.values if value.split()[1] == "issuewild"] or issue
        allowed = f'"{self._site.authority}'
        return all(not group or any(allowed in value for value in group) for group in (issue, star))

    def _led_away(self, server: Server) -> bool:
        """Whether the wildcard is a CNAME that stands for the challenge's name too."""
        led = self._answers[server, f"{CHALLENGE}.{self._site.domain}", "TXT"].aliases
        return bool(led) and led == self._answers[server, f"{self._site.label}.{self._site.domain}", "A"].aliases

    def _left(self, cells: t.Sequence[tuple[Server, str, str]]) -> dict[tuple[Server, str, str], int]:
        """Seconds that are left of those answers that come out of a cache: asked again, there are fewer."""
        suspects = [cell for cell in cells if self._answers[cell].ttl]
        if not suspects:
            return {}
        time.sleep(PAUSE)
        left = {}
        for cell in suspects:
            before, now = self._answers[cell], self._resolvers[cell[0]].ask(*cell[1:])
            if now.values == before.values and now.ttl is not None and before.ttl is not None and now.ttl < before.ttl:
                left[cell] = now.ttl
        return left

    @functools.cached_property
    def _hijacked(self) -> bool:
        """Whether somebody answers where no server is."""
        return bool(Resolver(self._nowhere, None, self._timeout).ask(self._site.domain, "A").status)

    @functools.cached_property
    def _leads_back(self) -> c.Callable[[str], bool]:
        """Whether an address takes connections to the Cozy from here; each is tried once."""
        return functools.cache(functools.partial(reachable, port=self._site.web_port, timeout=self._timeout))

    def _cause(self, server: Server, name: str, kind: str, left: int | None) -> str:
        seen = self._answers[server, name, kind]
        forwarded = kind == "TXT" and server.kind != OUTSIDE and self._right(server, self._site.domain, "A")
        if not seen.status:
            return CAUSES["upstreams"] if forwarded else CAUSES["silent"].format(why=seen.failure)
        if seen.status == "SERVFAIL" and (seen.bogus or self._found_unchecked(server, name, kind)):
            return CAUSES["bogus"]
        if forwarded and seen.status not in ANSWERED:
            return CAUSES["upstreams"]
        if server.kind == OUTSIDE and not server.secret and self._hijacked:
            return CAUSES["hijacked"].format(nowhere=self._site.nowhere)
        if kind == "HTTPS" and _encrypted_hello(seen):
            return CAUSES["proxied"]
        if server.kind == OUTSIDE:
            return self._cause_outside(server, name, kind, left)
        return self._cause_at_home(server, name, kind, left)

    def _found_unchecked(self, server: Server, name: str, kind: str) -> bool:
        return self._resolvers[server].ask(name, kind, unchecked=True).status in ANSWERED

    def _cause_outside(self, server: Server, name: str, kind: str, left: int | None) -> str:
        seen = self._answers[server, name, kind]
        if kind == "TXT":
            return CAUSES["led away"].format(name=name, to=seen.aliases[-1])
        if kind == "CAA":
            return CAUSES["caa"].format(authority=self._site.authority)
        if left is not None and self._others_right(server, name, kind):
            return _stale(seen, left)
        return CAUSES["other outside" if seen.values else "none outside"]

    def _cause_at_home(self, server: Server, name: str, kind: str, left: int | None) -> str:
        seen = self._answers[server, name, kind]
        outside = self._outside(name, kind)
        as_outside = outside is not None and (seen.values, seen.status) == (outside.values, outside.status)
        if kind == "TXT":
            return CAUSES["shadowed"]
        if kind in ("AAAA", "HTTPS") and self._right(server, name, "A"):
            return CAUSES["leak" if seen.values else "denied"]
        if left is not None and not as_outside:
            return _stale(seen, left)
        if kind == "A" and not seen.values and not as_outside:
            return CAUSES["rebind"]
        causes = [CAUSES[self._beside(server, name, kind)]]
        far = [value for value in seen.values if value == self._site.public_address or not private(value)]
        if kind == "A" and far and not self._leads_back(far[0]):
            causes.append(CAUSES["hairpin"].format(address=far[0]))
        return "; ".join(causes)

    def _beside(self, server: Server, name: str, kind: str) -> str:
        """Why a device of the house gets the answer that outside gives."""
        if server.ipv6:
            return "ipv6"
        same = [other for other in self._servers if other.name == server.name and other != server]
        if server.kind == "machine" and any(self._right(other, name, kind) for other in same):
            return "second"
        return "asks outside"

    def _others_right(self, server: Server, name: str, kind: str) -> bool:
        return any(
            self._right(other, name, kind) for other in self._servers if other.kind == server.kind and other != server
        )


def _encrypted_hello(seen: Seen) -> bool:
    """Whether browsers are told to hide the name that they ask for (ECH), as a provider's proxy does."""
    return any(" ech=" in value for value in seen.values)


def _stale(seen: Seen, left: int) -> str:
    what = " ".join(seen.values) or "that there is none"
    return CAUSES["stale"].format(what=what, left=left)


__all__ = ("CAUSES", "OUTSIDE", "Row", "Site", "View", "private")
