# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with names at home: small DNS servers that bring about each case, and what dns_view says to it.

PYTHONPATH=collections tools/run -m tests.site.dns_cases    write the table of docs/dns_view.md
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import dns.flags
import dns.message
import dns.rcode
from ansible_collections.kubecozy.homelab.plugins.modules import dns_view
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.site.nameserver import Answer, Records, serving
from tests.unit.plugins.module_helper import run_module

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dns_view.md"
BEGIN = "<!-- cases: begin -->"
END = "<!-- cases: end -->"

DOMAIN = "cozy.example.com"
HOUSE = "192.168.1.200"
PUBLIC = "127.0.0.77"
"""Stands for the router's address outside: a place where a door can be open or shut."""

_SOA = ". 60 SOA ns.invalid. nobody.invalid. 1 3600 600 86400 60"
AT_HOME = [_SOA, f"{DOMAIN}. 60 A {HOUSE}", f"*.{DOMAIN}. 60 A {HOUSE}", f'_acme-challenge.{DOMAIN}. 60 TXT "proof"']
OUTSIDE = [
    _SOA,
    f"{DOMAIN}. 300 A {PUBLIC}",
    f"*.{DOMAIN}. 300 A {PUBLIC}",
    f'{DOMAIN}. 300 CAA 0 issue "ca.example"',
    f'_acme-challenge.{DOMAIN}. 60 TXT "proof"',
]


class Asked(NamedTuple):
    """A server of a case: how it is told to dns_view, and what it says."""

    name: str
    kind: str
    answer: Answer
    transport: str = "udp"
    address: str = "127.0.0.1"


class Case(NamedTuple):
    """A case.

    Attributes:
        title: what is wrong, for the table.
        servers: who is asked.
        about: name, type and kind of server of the answer that shows it.
        says: how the cause begins.
        nowhere: what answers where no server is.
        door: whether the public address can be reached from the house.
        facts: facts of the site other than the usual.
    """

    title: str
    servers: tuple[Asked, ...]
    about: tuple[str, str, str]
    says: str
    nowhere: Answer | None = None
    door: bool = False
    facts: Mapping[str, str] = MappingProxyType({})


def silent(_question: dns.message.Message) -> None:
    """Say nothing."""


def with_lines(lines: list[str], *more: str, without: str = "\0") -> Records:
    """Records, some more, and none of those that begin in a way."""
    return Records([line for line in lines if not line.startswith(without)] + list(more))


def filtering(inner: Answer) -> Answer:
    """A router that drops answers that lead into the house, as dnsmasq does with stop-dns-rebind."""

    def answer(question: dns.message.Message) -> dns.message.Message | None:
        made = inner(question)
        if made is not None and any(HOUSE in records.to_text() for records in made.answer):
            made.answer, made.authority = [], []
        return made

    return answer


def denying(inner: Answer) -> Answer:
    """A server that says NXDOMAIN where it should say that there is no record of this type."""

    def answer(question: dns.message.Message) -> dns.message.Message | None:
        made = inner(question)
        if made is not None and not made.answer:
            made.set_rcode(dns.rcode.NXDOMAIN)
        return made

    return answer


def cut_off(inner: Answer) -> Answer:
    """A server that knows the Cozy, and gets no answers to other questions."""

    def answer(question: dns.message.Message) -> dns.message.Message | None:
        made = inner(question)
        if made is not None and question.question[0].name.labels[0] == b"_acme-challenge":
            made.answer = []
            made.set_rcode(dns.rcode.REFUSED)
        return made

    return answer


def ageing(inner: Answer, life: int) -> Answer:
    """A cache: what it says lives ever shorter."""
    begin = time.monotonic()

    def answer(question: dns.message.Message) -> dns.message.Message | None:
        made = inner(question)
        for records in [*made.answer, *made.authority] if made is not None else ():
            records.ttl = max(1, life - int(time.monotonic() - begin))
        return made

    return answer


def validating(inner: Answer) -> Answer:
    """A resolver that finds the house's answers forged, and says so unless it is told not to look (CD)."""

    def answer(question: dns.message.Message) -> dns.message.Message | None:
        if question.flags & dns.flags.CD:
            return inner(question)
        made = dns.message.make_response(question)
        made.set_rcode(dns.rcode.SERVFAIL)
        return made

    return answer


HOME = Asked("pi", "home", Records(AT_HOME))
WITHOUT_CHALLENGE = HOME._replace(answer=with_lines(AT_HOME, without="_acme"))
OUT = Asked("public", "public", Records(OUTSIDE))
SECRET = OUT._replace(transport="https")
STAR = f"*.{DOMAIN}."
ECH = "1 . alpn=h2 ipv4hint=198.18.0.99 ech=AAT+DQAA"

CASES = (
    Case(
        "The router drops addresses of the house",
        (HOME, OUT, Asked("router", "router", filtering(Records(AT_HOME)))),
        (DOMAIN, "A", "router"),
        "rebind filter",
    ),
    Case(
        "The router answers in the place of public servers",
        (HOME, Asked("public", "public", Records(AT_HOME)), SECRET),
        (DOMAIN, "A", "public"),
        "hijacked port 53",
        nowhere=Records(AT_HOME),
    ),
    Case(
        "A server remembers an address that the Cozy had before",
        (HOME, OUT, Asked("control1", "machine", ageing(Records([f"{DOMAIN}. 60 A 192.168.1.131"]), 240))),
        (DOMAIN, "A", "machine"),
        "stale cache: it remembers 192.168.1.131 for 2",
    ),
    Case(
        "A server remembers that there was no such name",
        (HOME, OUT, Asked("control1", "machine", ageing(Records([_SOA.replace("86400 60", "86400 900")]), 800))),
        (f"home.{DOMAIN}", "A", "machine"),
        "stale cache: it remembers that there is none for 7",
    ),
    Case(
        "A public server remembers the address that the provider gave before",
        (
            HOME,
            SECRET,
            Asked("public", "public", ageing(with_lines(OUTSIDE, f"{DOMAIN}. 300 A 198.18.0.9", without=DOMAIN), 90)),
        ),
        (DOMAIN, "A", "public"),
        "stale cache: it remembers 198.18.0.9 for ",
    ),
    Case(
        "The record outside is proxied by the provider, and the house's server passes its HTTPS record on",
        (Asked("pi", "home", with_lines(AT_HOME, f"{DOMAIN}. 300 HTTPS {ECH}")), OUT),
        (DOMAIN, "HTTPS", "home"),
        "proxied record with ECH",
    ),
    Case(
        "The record outside is proxied by the provider",
        (HOME, Asked("public", "public", with_lines(OUTSIDE, f"{DOMAIN}. 300 HTTPS {ECH}"))),
        (DOMAIN, "HTTPS", "public"),
        "proxied record with ECH",
    ),
    Case(
        "The house's server answers A itself and asks outside for the other types",
        (Asked("pi", "home", with_lines(AT_HOME, f"{DOMAIN}. 300 AAAA 3fff::3")), OUT),
        (DOMAIN, "AAAA", "home"),
        "leak",
    ),
    Case(
        "The house's server denies names for the types that it does not have",
        (Asked("pi", "home", denying(Records(AT_HOME))), OUT),
        (f"home.{DOMAIN}", "AAAA", "home"),
        "denied name",
    ),
    Case(
        "DHCP hands out a public server next to the house's",
        (HOME, OUT, Asked("control1", "machine", Records(AT_HOME)), Asked("control1", "machine", Records(OUTSIDE))),
        (DOMAIN, "A", "machine"),
        "second resolver",
        door=True,
    ),
    Case(
        "The router announces itself as resolver by IPv6",
        (HOME, OUT, Asked("router", "router", Records(OUTSIDE), address="::1")),
        (DOMAIN, "A", "router"),
        "IPv6 resolver",
        door=True,
    ),
    Case(
        "A resolver of the house checks signatures, and the parent domain is signed",
        (HOME, OUT, Asked("control1", "machine", validating(Records(AT_HOME)))),
        (DOMAIN, "A", "machine"),
        "DNSSEC bogus",
    ),
    Case(
        "The wildcard outside is a CNAME, and there is no record of its own for the challenge",
        (
            WITHOUT_CHALLENGE,
            Asked("public", "public", Records([_SOA, f"{DOMAIN}. 300 A {PUBLIC}", f"{STAR} 300 CNAME {DOMAIN}."])),
        ),
        (f"_acme-challenge.{DOMAIN}", "TXT", "public"),
        "wildcard CNAME",
    ),
    Case(
        "The router asks outside and does not lead its own public address back into the house",
        (HOME, OUT, Asked("router", "router", Records(OUTSIDE))),
        (f"home.{DOMAIN}", "A", "router"),
        "it does not know the domain and asks outside; hairpin NAT is missing",
    ),
    Case(
        "The router asks outside, and leads its own public address back",
        (HOME, OUT, Asked("router", "router", Records(OUTSIDE))),
        (f"home.{DOMAIN}", "A", "router"),
        "it does not know the domain and asks outside",
        door=True,
    ),
    Case(
        "The house's server answers the challenge's name itself",
        (WITHOUT_CHALLENGE, OUT),
        (f"_acme-challenge.{DOMAIN}", "TXT", "home"),
        "it answers this name itself",
    ),
    Case(
        "Outside there is no record",
        (HOME, Asked("public", "public", with_lines(OUTSIDE, without=DOMAIN))),
        (DOMAIN, "A", "public"),
        "there is no such record outside",
    ),
    Case(
        "Outside there is an old address that nothing keeps up to date",
        (HOME, Asked("public", "public", with_lines(OUTSIDE, f"{DOMAIN}. 300 A 198.51.100.9", without=DOMAIN))),
        (DOMAIN, "A", "public"),
        "outside there is another record",
    ),
    Case(
        "CAA records allow another authority only",
        (HOME, OUT),
        (DOMAIN, "CAA", "public"),
        "the CAA records do not allow letsencrypt.org",
        facts={"authority": "letsencrypt.org"},
    ),
    Case(
        "The house's server reaches nobody outside",
        (Asked("pi", "home", cut_off(Records(AT_HOME))), OUT),
        (f"_acme-challenge.{DOMAIN}", "TXT", "home"),
        "upstreams",
    ),
    Case(
        "A server is off",
        (HOME, OUT, Asked("router", "router", silent)),
        (DOMAIN, "A", "router"),
        "no answer",
    ),
)


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for dns.example that is its own authority: its file, and the context of a server that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dns.example")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("dns.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
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
    file = folder / "dns.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return file, context


@contextlib.contextmanager
def served(servers: tuple[Asked, ...], context: ssl.SSLContext) -> Iterator[list[dict[str, Any]]]:
    """Run the servers; yields them as dns_view takes them."""
    with contextlib.ExitStack() as stack:
        told = []
        for one in servers:
            secret = one.transport in ("tls", "https")
            port = stack.enter_context(
                serving(one.answer, one.address, tls=context if secret else None, https=one.transport == "https")
            )
            asked: dict[str, Any] = {
                "name": one.name,
                "kind": one.kind,
                "address": one.address,
                "transport": one.transport,
            }
            told.append(asked | {"port": port, "tls_name": "dns.example" if secret else ""})
        yield told


@contextlib.contextmanager
def arranged(case: Case, folder: Path) -> Iterator[dict[str, Any]]:
    """Bring a case about; yields the arguments of dns_view."""
    file, context = certificate(folder)
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(served(case.servers, context))
        nowhere = stack.enter_context(serving(case.nowhere or silent))
        with contextlib.ExitStack() as shut:
            door = (stack if case.door else shut).enter_context(serving(silent, PUBLIC))
        yield {
            "domain": DOMAIN,
            "address": HOUSE,
            "public_address": PUBLIC,
            "servers": told,
            "nowhere": "127.0.0.1",
            "nowhere_port": nowhere,
            "web_port": door,
            "ca_path": str(file),
            "timeout": 2.0,
            **case.facts,
        }


def shown(case: Case, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row that shows what a case is about: the first wrong one of its kind, or the first if none is wrong."""
    name, kind, whose = case.about
    names = {asked.name for asked in case.servers if asked.kind == whose}
    found = [
        row for row in rows if (row["name"], row["type"]) == (name, kind) and row["server"].split(" (")[0] in names
    ]
    return min(found, key=lambda row: bool(row["right"]))


def table(results: Iterable[tuple[Case, dict[str, Any]]]) -> str:
    """The table of the document."""
    lines = ["| What is wrong | Asked | Expected | Seen | The cause, as `dns_view` tells it |", "|---|---|---|---|---|"]
    for case, row in results:
        cause = re.sub(r"for \d+ more", "for 170 more", row["cause"])
        asked = f"{case.about[2]}: `{row['name']}` {row['type']}"
        lines.append(f"| {case.title} | {asked} | {row['expected']} | {row['seen']} | {cause} |")
    return "\n".join(lines).replace(PUBLIC, "203.0.113.7").replace("even at 127.0.0.1", "even at 192.0.2.1")


def with_table(document: str, content: str) -> str:
    """A document with the table between its marks."""
    head, _, rest = document.partition(BEGIN)
    return f"{head}{BEGIN}\n{content}\n{END}{rest.partition(END)[2]}"


def result(case: Case) -> dict[str, Any]:
    """Bring a case about and return the row that shows it."""
    with tempfile.TemporaryDirectory() as folder, arranged(case, Path(folder)) as arguments:
        return shown(case, run_module(dns_view.main, **arguments)["rows"])


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), table((case, result(case)) for case in CASES)))
