# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the trials of the Cozy judge by: doors, Services, things that must be among those seen, secrets in files."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.site import cluster, cozy, knock
from tests.site.playbook import TrialError


class Locked(BaseHTTPRequestHandler):
    """A page that asks for a password."""

    def do_GET(self) -> None:
        """Refuse."""
        self.send_error(401)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture(name="locked")
def locked_page() -> Iterator[int]:
    """Its port."""
    with HTTPServer(("127.0.0.1", 0), Locked) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_doors_tell_how_they_answer(locked: int) -> None:
    assert knock.knock("127.0.0.1", locked, "/") == "401"
    assert knock.knock("127.0.0.1", locked, "") == "open"


def test_a_closed_door_is_not_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert knock.knock("127.0.0.1", bound.getsockname()[1], "/") == "refused"
        bound.listen(0)
        monkeypatch.setattr(knock, "SECONDS", 0.05)
        with socket.create_connection(bound.getsockname()), socket.socket() as other:
            other.setblocking(False)
            other.connect_ex(bound.getsockname())
            assert knock.knock("127.0.0.1", bound.getsockname()[1], "") == "silent"
    assert knock.knock("255.255.255.255", 1, "") == "no way"


def test_wrong_doors_are_named() -> None:
    table: cozy.Table = {("10.0.0.1", 6060, "/version"): ("refused",), ("10.0.0.2", 5984, "/_all_dbs"): ("401",)}
    assert cozy.wrong_doors("a pod", table, ["refused", "401"]) == []
    assert cozy.wrong_doors("a pod", table, ["401", "200"]) == [
        "from a pod: 10.0.0.1:6060/version is 401, not refused",
        "from a pod: 10.0.0.2:5984/_all_dbs is 200, not 401",
    ]


@pytest.mark.parametrize(
    ("service", "good"),
    [
        ({"type": "ClusterIP", "ports": [8080, "http"]}, True),
        ({"type": "ClusterIP", "ports": [80, 6060]}, False),
        ({"type": "NodePort", "ports": [5984, 30984]}, False),
    ],
)
def test_services_that_open_too_much_are_named(service: dict[str, Any], good: bool) -> None:
    assert (cozy.wrong_services({"cozy": service}) == []) is good


def test_what_must_be_seen_is_among_what_was_seen() -> None:
    cozy.must("login", {"status": 303, "more": 1}, {"status": 303})
    with pytest.raises(TrialError, match=r"login: \{'status': 401\}, expected \{'status': 303\}; error: none"):
        cozy.must("login", {"status": 401}, {"status": 303})


def test_variables_of_a_run_are_read_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECOZY_LAB", str(tmp_path))
    with cozy._variables({"cozy_stack_admin_passphrase": "new"}) as (option, path):
        file = Path(path.removeprefix("@"))
        assert option == "--extra-vars"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text()) == {"cozy_stack_admin_passphrase": "new"}
    assert list(tmp_path.iterdir()) == []


def test_pods_and_services_are_told_in_short() -> None:
    metadata = {"name": "cozy-stack-1", "uid": "7", "deletionTimestamp": "now"}
    status = {"podIP": "10.244.1.5", "containerStatuses": [{"restartCount": 1}, {"restartCount": 2}]}
    ports = [{"port": 25, "targetPort": "smtp"}, {"port": 80, "targetPort": 8080, "nodePort": 30080}]
    answers = {
        "/api/v1/namespaces/cozy/pods?labelSelector=a=b": [
            {"metadata": metadata, "spec": {"nodeName": "worker1"}, "status": status},
            {"metadata": {"name": "new", "uid": "8"}, "spec": {}, "status": {}},
        ],
        "/api/v1/namespaces/cozy/services": [
            {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": ports}}
        ],
    }
    assert cluster.pods(lambda path: {"items": answers[path]}, "cozy", "a=b") == {
        "cozy-stack-1": {"uid": "7", "machine": "worker1", "address": "10.244.1.5", "restarts": 3, "ending": True},
        "new": {"uid": "8", "machine": "", "address": "", "restarts": 0, "ending": False},
    }
    assert cluster.services(lambda path: {"items": answers[path]}, "cozy") == {
        "s": {"type": "NodePort", "address": "10.96.0.9", "ports": [25, "smtp", 80, 8080, 30080]}
    }
