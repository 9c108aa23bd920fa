# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a DNS server and what it must answer, from where a host of the lab stands.

python -m tests.site.dns_matrix ask FILE SERVER      each question of a YAML file; tells what was answered otherwise
python -m tests.site.dns_matrix watch SIGN SERVER    one question until the file SIGN is gone; tells the longest gap
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import yaml

from lab.model import DOMAIN, INGRESS

_SECONDS = 5.0
_TRIES = 2
_PAUSE = 0.02
_LONGEST_TTL = 300


def seen(name: str, kind: str, server: str) -> str:
    """What the server answers, in the words of the file: "NXDOMAIN", "NOERROR", or the data of the records."""
    question = dns.message.make_query(name, kind)
    for left in reversed(range(_TRIES)):
        try:
            answer = dns.query.udp_with_fallback(question, server, timeout=_SECONDS)[0]
            break
        except dns.exception.Timeout:
            if not left:
                return "no answer"
    if answer.rcode() != dns.rcode.NOERROR:
        return dns.rcode.to_text(answer.rcode())
    records = [
        record for records in answer.answer for record in records if records.rdtype == question.question[0].rdtype
    ]
    return " ".join(sorted(record.to_text() for record in records)) or "NOERROR"


def ask(file: str, server: str) -> list[str]:
    """What is answered otherwise than the file says."""
    questions: dict[str, dict[str, str]] = yaml.safe_load(Path(file).read_text())["questions"]
    faults = []
    for name, kinds in questions.items():
        for kind, wanted in kinds.items():
            answer = seen(name, kind, server)
            if answer != wanted:
                faults.append(f"{name} {kind}: {answer}; expected {wanted}")
    faults += ttl_faults(server)
    return faults


def ttl_faults(server: str) -> list[str]:
    """What is wrong with how long devices may remember the Cozy's address and that there is no other."""
    faults = []
    answer = dns.query.udp(dns.message.make_query(DOMAIN, "A"), server, timeout=_SECONDS)
    if not 60 <= answer.answer[0].ttl <= _LONGEST_TTL:
        faults.append(f"the address may be remembered for {answer.answer[0].ttl} s")
    nothing = dns.query.udp(dns.message.make_query(DOMAIN, "AAAA"), server, timeout=_SECONDS)
    kept = [
        min(records.ttl, records[0].minimum) for records in nothing.authority if records.rdtype == dns.rdatatype.SOA
    ]
    if max(kept, default=0) > _LONGEST_TTL:
        faults.append(f"that there is no AAAA may be remembered for {max(kept)} s")
    return faults


def watch(sign: str, server: str) -> float:
    """The longest time without an answer while the sign is there, seconds."""
    last, longest = time.monotonic(), 0.0
    question = dns.message.make_query(DOMAIN, "A")
    while Path(sign).exists():
        try:
            answer = dns.query.udp(question, server, timeout=0.2)
            good = [record.to_text() for records in answer.answer for record in records] == [INGRESS]
        except (dns.exception.DNSException, OSError):
            good = False
        now = time.monotonic()
        longest = max(longest, now - last)
        if good:
            last = now
        time.sleep(_PAUSE)
    return longest


def main() -> int:
    """Do what the command line says; 1 when an answer is wrong."""
    what, file, server = sys.argv[1:]
    if what == "watch":
        print(json.dumps({"gap": round(watch(file, server), 2)}))
        return 0
    faults = ask(file, server)
    print("\n".join(faults) or "every answer is right")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
