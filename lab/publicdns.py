# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outside's name server: BIND with the root zone, and the household's public zones, which change while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
import dns.xfr
import dns.zone

from lab import credentials
from lab.doubles.cloudflare import Record
from lab.model import DOMAIN, OUTSIDE_DNS, OUTSIDE_EDGE, ROUTER_WAN, ZONES, LabError

HOUSE_KEY, PROVIDER_KEY = "acme", "provider"
"""TSIG keys: the house's may write TXT records, the provider's may do everything."""

_SOA = "SOA ns.outside. hostmaster.outside. 1 3600 600 86400 60"
_SECONDS = 5.0


def _zone(name: str, records: Iterable[tuple[str, str]]) -> str:
    lines = [f"$TTL 60\n{name} {_SOA}", f"{name} NS ns.outside.", *(f"{owner} {data}" for owner, data in records)]
    return "".join(f"{line}\n" for line in lines)


def configure(folder: Path, hosts: Mapping[str, str]) -> list[Path]:
    """Write BIND's configuration and the root zone; returns the files, named.conf first.

    Args:
        folder: where.
        hosts: addresses by host name.
    """
    addresses = [("ns.outside.", f"A {OUTSIDE_DNS}"), *((f"{name}.", f"A {hosts[name]}") for name in sorted(hosts))]
    delegations = [(f"{zone}.", "NS ns.outside.") for zone in ZONES]
    (folder / "root.zone").write_text(_zone(".", [*addresses, *delegations]))
    keys = folder / "keys.conf"
    keys.touch(mode=0o600)
    keys.write_text(
        "".join(
            f'key "{name}" {{ algorithm hmac-sha256; secret "{credentials.tsig(name)}"; }};\n'
            for name in (HOUSE_KEY, PROVIDER_KEY)
        )
    )
    zones = "".join(
        f"""zone "{zone}" {{
    type primary;
    file "{zone}.zone";
    allow-transfer {{ key "{PROVIDER_KEY}"; }};
    update-policy {{ grant {HOUSE_KEY} zonesub TXT; grant {PROVIDER_KEY} zonesub ANY; }};
}};
"""
        for zone in ZONES
    )
    configuration = folder / "named.conf"
    configuration.write_text(
        f"""include "{keys}";
options {{
    directory "{folder}";
    listen-on {{ {OUTSIDE_DNS}; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    allow-transfer {{ none; }};
    notify no;
    pid-file none;
    session-keyfile "{folder}/session.key";
}};
controls {{ }};
zone "." {{ type primary; file "root.zone"; }};
{zones}"""
    )
    return [configuration, keys, folder / "root.zone"]


def begin(folder: Path) -> None:
    """Put the public zones at their beginning, while no server runs: what is written to them ends with it."""
    for zone in ZONES:
        names = (DOMAIN, f"*.{DOMAIN}") if DOMAIN.endswith(f".{zone}") else ()
        (folder / f"{zone}.zone.jnl").unlink(missing_ok=True)
        (folder / f"{zone}.zone").write_text(_zone(f"{zone}.", [(f"{name}.", f"A {ROUTER_WAN}") for name in names]))


def _key() -> dns.tsig.Key:
    return dns.tsig.Key(PROVIDER_KEY, credentials.tsig(PROVIDER_KEY), dns.tsig.HMAC_SHA256)


def records(zone: str) -> list[Record]:
    """The records that the name server has below a zone, without SOA and NS."""
    found = dns.zone.Zone(zone)
    query, _ = dns.xfr.make_query(found, keyring=_key())
    dns.query.inbound_xfr(OUTSIDE_DNS, found, query, lifetime=_SECONDS)
    made = []
    for name, _ttl, data in found.iterate_rdatas():
        if data.rdtype not in (dns.rdatatype.SOA, dns.rdatatype.NS):
            owner = name.derelativize(dns.name.from_text(zone)).to_text(omit_final_dot=True)
            made.append(Record(owner, dns.rdatatype.to_text(data.rdtype), data.to_text().strip('"')))
    return made


def published(record: Record) -> list[tuple[str, str]]:
    """Type and data of what DNS answers for a record of the provider's."""
    if record.proxied:
        return [("A", OUTSIDE_EDGE), ("HTTPS", f"1 . alpn=h3,h2 ipv4hint={OUTSIDE_EDGE}")]
    if record.type == "CNAME":
        return [(record.type, f"{record.content}.")]
    if record.type == "TXT":
        text = record.content.strip('"').encode()
        pieces = [text[start : start + 255] for start in range(0, len(text), 255)]
        return [(record.type, " ".join('"' + piece.decode().replace('"', '\\"') + '"' for piece in pieces))]
    return [(record.type, record.content)]


def publish(zone: str, name: str, kind: str, wanted: Sequence[Record]) -> None:
    """Let the name server have these records of a name and a type and no others.

    Raises:
        LabError: it refuses.
    """
    owner = dns.name.from_text(name)
    update = dns.update.UpdateMessage(zone, keyring=_key())
    update.delete(owner, kind)
    if kind in ("A", "AAAA", "CNAME"):
        update.delete(owner, "HTTPS")
    for record in wanted:
        for shown, data in published(record):
            if shown != kind:
                update.delete(owner, shown)
            update.add(owner, record.seconds, shown, data)
    answer = dns.query.tcp(update, OUTSIDE_DNS, timeout=_SECONDS)
    if answer.rcode() != dns.rcode.NOERROR:
        raise LabError(f"the name server refuses {kind} records of {name}: {dns.rcode.to_text(answer.rcode())}")
