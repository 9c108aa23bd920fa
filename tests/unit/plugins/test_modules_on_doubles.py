# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on the lab's doubles, over real sockets: what a real stack can't be asked for (tests/unit/contract)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils._couchdb import CouchDB
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.modules import (
    cozy_admin_passphrase,
    cozy_app,
    cozy_instance,
    cozy_vault_keys,
    web_probe,
)

from tests.unit.plugins.module_helper import four_steps, run_module

TOP = Path(__file__).parents[3]
PASSPHRASE = "a long admin passphrase"
DOMAIN = "alice.cozy.test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World:
    """CouchDB and cozy-stack as two processes, with secrets made by the modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.couch_port, self.admin_port, self.public_port = free_port(), free_port(), free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("couch/etc/local.d", "couch/data", "etc/.cozy", "files"):
            (folder / name).mkdir(parents=True)
        (folder / "couch/etc/local.d/docker.ini").write_text(
            f"[chttpd]\nbind_address = 127.0.0.1\nport = {self.couch_port}\n[admins]\ncozy = couch-secret\n"
        )
        keys = {f"{name}cryptor_path": str(folder / f"etc/vault.{name}") for name in ("en", "de")}
        assert run_module(cozy_vault_keys.main, False, **keys)["changed"]
        self.secret = folder / "etc/.cozy/cozy-admin-passphrase"
        assert run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, path=str(self.secret))["changed"]
        (folder / "etc/cozy.yaml").write_text(
            f"host: 127.0.0.1\nport: {self.public_port}\nadmin: {{host: 127.0.0.1, port: {self.admin_port}}}\n"
            f"couchdb: {{url: 'http://cozy:{{{{urlquery .Env.PASSWORD}}}}@127.0.0.1:{self.couch_port}/'}}\n"
            f"fs: {{url: 'file://{folder}/files'}}\n"
            f"vault: {{credentials_encryptor_key: {keys['encryptor_path']},"
            f" credentials_decryptor_key: {keys['decryptor_path']}}}\n"
        )

    def start(self) -> None:
        """Start what does not run, and wait until the stack answers."""
        env = {**os.environ, "PYTHONPATH": str(TOP), "HOME": str(self.folder / "etc"), "PASSWORD": "couch-secret"}
        commands = {
            "couch": ["lab.doubles.couchdb", "--root", str(self.folder / "couch")],
            "stack": ["lab.doubles.cozy_stack", "serve", "--allow-root", "-c", str(self.folder / "etc/cozy.yaml")],
        }
        for name, command in commands.items():
            if name not in self.processes:
                with (self.folder / f"{name}.log").open("ab") as log:
                    self.processes[name] = subprocess.Popen(
                        [sys.executable, "-m", *command], env=env, cwd=self.folder / "etc", stdout=log, stderr=log
                    )
        check = {"url": f"http://127.0.0.1:{self.public_port}/status"}
        result = run_module(web_probe.main, checks=[check], timeout=30)
        assert not result.get("failed"), (result["msg"], (self.folder / "stack.log").read_text())

    def stop(self, *names: str) -> None:
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            process.terminate()
            process.wait(20)

    def wait_end(self, name: str) -> None:
        """Wait until a process that ends by itself has ended."""
        self.processes.pop(name).wait(20)

    @property
    def urls(self) -> dict[str, Any]:
        return {
            "admin_passphrase": PASSPHRASE,
            "admin_url": f"http://127.0.0.1:{self.admin_port}",
            "public_url": f"http://127.0.0.1:{self.public_port}",
        }

    def instance(self, check: bool = False, **arguments: Any) -> dict[str, Any]:
        return run_module(cozy_instance.main, check, **{"domain": DOMAIN, **self.urls, **arguments})

    def app(self, check: bool = False, **arguments: Any) -> dict[str, Any]:
        return run_module(cozy_app.main, check, **{"domain": DOMAIN, **self.urls, **arguments})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both doubles, running."""
    made = World(tmp_path_factory.mktemp("world"))
    made.start()
    yield made
    made.stop()


def test_applications_and_the_probe(world: World) -> None:
    world.instance(passphrase="alice-Passphrase-1")
    four_steps(world.app, name=["home", "drive", "photos", "settings", "store"])
    four_steps(world.app, name=["photos"], state="absent")
    failed = world.app(name=["home", "no-such-app"])
    assert failed["failures"] == {"no-such-app": "Application manifest is not reachable"}
    checks = [
        {
            "url": f"http://{DOMAIN}:{world.public_port}/version",
            "contains": '"build_mode":"production"',
        }
    ]
    assert not run_module(web_probe.main, checks=checks, address="127.0.0.1", timeout=5).get("failed")
    assert world.instance(state="absent")["changed"]


@pytest.mark.parametrize("moment", ["document", "databases"])
def test_stack_that_dies_during_a_creation(world: World, moment: str) -> None:
    domain = f"{moment}.cozy.test"
    (world.folder / "files" / "double-halt").write_text(moment)
    died = world.instance(domain=domain, passphrase="some-Passphrase-1")
    assert "no answer from cozy-stack's admin port" in died["msg"]
    world.wait_end("stack")
    assert "no answer from cozy-stack's admin port" in world.instance(domain=domain)["msg"]
    world.start()
    again = world.instance(domain=domain, passphrase="some-Passphrase-1", wait=1)
    if moment == "document":
        assert again["changes"] == ["half-created instance removed", "created"]
        assert not world.instance(domain=domain)["changed"]
        world.instance(domain=domain, state="absent")
    else:
        assert "left databases behind" in again["msg"]
        url = f"http://cozy:couch-secret@127.0.0.1:{world.couch_port}"
        wish: dict[str, Any] = {"domain": domain, "wait": 1, "remove_leftovers": True, "couchdb_url": url}
        assert world.instance(**wish)["changes"] == ["leftover databases removed", "created"]
        assert not world.instance(**wish)["changed"]
        world.instance(domain=domain, state="absent")


def test_couchdb_that_refuses_is_asked_once(world: World) -> None:
    couchdb = CouchDB(lambda: HTTPConnection("127.0.0.1", world.couch_port), "cozy", "wrong")
    with pytest.raises(CozyError, match="refuses the credentials"):
        couchdb.databases("cozy00")
    couchdb = CouchDB(lambda: HTTPConnection("127.0.0.1", free_port()), "cozy", "wrong")
    with pytest.raises(CozyError, match="CouchDB does not answer"):
        couchdb.databases("cozy00")


def test_each_trouble_has_its_own_message(world: World) -> None:
    line = world.secret.read_text()
    assert "refuses the admin passphrase" in world.instance(admin_passphrase="wrong")["msg"]
    world.secret.unlink()
    assert "has no file cozy-admin-passphrase" in world.instance()["msg"]
    world.secret.write_text(line)
    world.stop("couch")
    deadline = time.monotonic() + 20
    message = world.instance()["msg"]
    assert time.monotonic() < deadline
    assert "can't reach CouchDB" in message
    world.start()
    assert world.instance(state="absent")["changed"] is False


def test_rotation_needs_no_restart(world: World) -> None:
    arguments: dict[str, Any] = {"passphrase": "another long passphrase", "path": str(world.secret)}
    assert run_module(cozy_admin_passphrase.main, **arguments)["changed"]
    assert "refuses" in world.instance(state="absent")["msg"]
    assert not world.instance(state="absent", admin_passphrase="another long passphrase").get("failed")
    arguments["passphrase"] = PASSPHRASE
    assert run_module(cozy_admin_passphrase.main, **arguments)["changed"]
