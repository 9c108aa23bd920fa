# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module dns_view, against small DNS servers on loopback that bring about each cause it knows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils import _dns_view
from ansible_collections.kubecozy.homelab.plugins.modules import dns_view

from tests.site import dns_cases
from tests.site.dns_cases import AT_HOME, CASES, DOMAIN, HOME, HOUSE, OUT, Asked, Case
from tests.site.nameserver import Records
from tests.unit.plugins.module_helper import run_module

WELL = Case("all is well", (HOME, OUT), (DOMAIN, "A", "home"), "")


def view(case: Case, folder: Path, **more: Any) -> dict[str, Any]:
    """Bring a case about and run the module; `more` goes over its arguments."""
    with dns_cases.arranged(case, folder) as arguments:
        return run_module(dns_view.main, **arguments | more)


OUTCOMES: dict[str, dict[str, Any]] = {}


def outcome(case: Case) -> dict[str, Any]:
    """What the module says of a case, which takes seconds and is brought about once."""
    if case.title not in OUTCOMES:
        with tempfile.TemporaryDirectory() as folder:
            OUTCOMES[case.title] = view(case, Path(folder))
    return OUTCOMES[case.title]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_cause_is_named(case: Case) -> None:
    """The wrong answer has its cause, and no answer of another server is called wrong."""
    result = outcome(case)
    row = dns_cases.shown(case, result["rows"])
    assert not row["right"]
    assert row["cause"].startswith(case.says)
    if case.says.endswith("asks outside"):
        assert row["cause"] == case.says
    assert {other["server"] for other in result["rows"] if not other["right"]} == {row["server"]}
    assert f"{row['server']}: {row['cause']}" in result["causes"]
    assert not result["right"]
    assert not result["changed"]


def test_document_is_made_of_the_cases() -> None:
    """The table of the document is what the module says now."""
    document = dns_cases.DOCUMENT.read_text()
    made = dns_cases.table((case, dns_cases.shown(case, outcome(case)["rows"])) for case in CASES)
    assert document == dns_cases.with_table(document, made), f"write it: {dns_cases.__doc__}"


def test_every_cause_has_a_case() -> None:
    """No cause is untried."""
    said = [part[:20] for case in CASES for part in case.says.split("; ")]
    untried = [cause for cause, text in _dns_view.CAUSES.items() if not text.startswith(tuple(said))]
    assert untried == []


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls", "https"])
@pytest.mark.parametrize("check", [False, True])
def test_all_is_well(transport: str, check: bool, tmp_path: Path) -> None:
    """Right answers are right over every transport, in check mode too."""
    case = WELL._replace(servers=(HOME, OUT._replace(transport=transport)))
    result = view(case, tmp_path, check=check)
    assert result["right"]
    assert result["causes"] == []
    assert len(result["rows"]) == 30
    random = next(row for row in result["rows"] if row["name"].startswith("nobody-"))
    assert random == {
        "server": "pi (127.0.0.1, udp)",
        "name": random["name"],
        "type": "A",
        "expected": HOUSE,
        "seen": HOUSE,
        "ttl": 60,
        "right": True,
        "cause": "",
    }


def test_names_are_new_each_time(tmp_path: Path) -> None:
    """The name that proves the wildcard is another one in each run."""
    names = {row["name"] for _ in range(2) for row in view(WELL, tmp_path)["rows"]}
    assert len(names) == 3 + 2 * 2


def test_ipv6_is_judged_when_it_is_wanted(tmp_path: Path) -> None:
    """An IPv6 address is right only where it is expected."""
    six = "fd00::200"
    home = HOME._replace(answer=Records([*AT_HOME, f"{DOMAIN}. 60 AAAA {six}", f"*.{DOMAIN}. 60 AAAA {six}"]))
    case = WELL._replace(servers=(home, OUT))
    assert view(case, tmp_path, address6=six)["right"]
    wrong = [row for row in view(case, tmp_path)["rows"] if not row["right"]]
    assert {(row["type"], row["expected"], row["seen"]) for row in wrong} == {("AAAA", "nothing", six)}


def test_https_record_outside(tmp_path: Path) -> None:
    """A record of one's own is right outside, where nothing is proxied; in the house it is a leak."""
    more = f"{DOMAIN}. 60 HTTPS 1 . alpn=h2"
    public = OUT._replace(answer=Records([*dns_cases.OUTSIDE, more]))
    assert view(WELL._replace(servers=(HOME, public)), tmp_path)["right"]
    home = HOME._replace(answer=Records([*AT_HOME, more]))
    result = view(WELL._replace(servers=(home, public)), tmp_path)
    assert result["causes"] == [f"pi (127.0.0.1, udp): {_dns_view.CAUSES['leak']}"]


def test_untrusted_certificate(tmp_path: Path) -> None:
    """A server that can't prove its name gives no answer, and the reason is told."""
    case = WELL._replace(servers=(HOME, OUT._replace(transport="tls")))
    with dns_cases.arranged(case, tmp_path) as arguments:
        arguments["servers"][1]["tls_name"] = "other.example"
        result = run_module(dns_view.main, **arguments)
    assert all("certificate can't be trusted" in cause for cause in result["causes"])
    assert len(result["causes"]) == 1


def test_resolvers_of_this_machine(tmp_path: Path) -> None:
    """The servers of a resolv.conf are asked as this machine's."""
    file = tmp_path / "resolv.conf"
    file.write_text("# ours\nsearch example.com\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\noptions edns0\n")
    with mock.patch("platform.node", return_value="control1"):
        result = view(WELL, tmp_path, resolv_conf=str(file), timeout=0.2)
    asked = {row["server"] for row in result["rows"]}
    assert {"control1 (127.0.0.1, udp)", "control1 (fe80::1, udp)"} < asked


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"servers": [{"name": "pi", "kind": "home", "address": "pi"}]}, "The address of pi, pi, is no IP address."),
        ({"resolv_conf": "/nowhere/resolv.conf"}, "/nowhere/resolv.conf can't be read: No such file or directory"),
    ],
)
def test_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What can't be asked is refused with the reason."""
    result = view(WELL, tmp_path, **more)
    assert result["failed"]
    assert result["msg"] == message


def test_nobody_to_ask() -> None:
    """Without servers there is nothing to see."""
    result = run_module(dns_view.main, domain=DOMAIN, address=HOUSE)
    assert result["msg"] == "one of the following is required: servers, resolv_conf"


def test_library_is_missing(tmp_path: Path) -> None:
    """Without dnspython the message says so."""
    with mock.patch.object(dns_view, "IMPORT_ERROR", ImportError("no")):
        result = view(WELL, tmp_path)
    assert "dnspython" in result["msg"]


def test_silent_server_is_waited_for_once(tmp_path: Path) -> None:
    """A server that is off costs one wait, not one for each question."""
    asked: list[object] = []
    case = WELL._replace(servers=(HOME, OUT, Asked("router", "router", asked.append)))
    assert not view(case, tmp_path)["right"]
    assert len(asked) == 1
