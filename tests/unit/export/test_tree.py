# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The exported tree is whole, holds no secret, and touches no file of others. Molecule shows that kubectl takes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[3]
LIST = ".kubecozy-export"
SECRETS = {
    "couchdb_password": "secret-of-couchdb",
    "cozy_stack_admin_passphrase": "secret of the admin",
    "mail_relay_password": "secret at the mail server",
    "cluster_issuer_ca_certificate": "certificate of the house",
    "cluster_issuer_ca_key": "secret of the house",
}
RELAY = {
    "mail_kind": "relay",
    "mail_relay_host": "smtp.example.net",
    "mail_relay_tls": "starttls",
    "mail_relay_username": "cozy",
}
# A cluster's answer, as kubernetes.core would give it.
VERSIONS = {"cozy-couchdb": "4711", "cozy-mail": "4712"}
KNOWN = [{"metadata": {"name": name, "resourceVersion": version}} for name, version in VERSIONS.items()]


class Exports:
    """One run of the role for several folders at once: a host for each."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.foreign, self.checked = folder / "tree", folder / "foreign", folder / "checked"
        self.tree.mkdir()
        (self.tree / LIST).write_text("gone.yaml\nkustomization.yaml\n")
        for name in ("gone.yaml", "kustomization.yaml", "mine.yaml"):
            (self.tree / name).write_text("old: true\n")
        self.foreign.mkdir()
        (self.foreign / "README.md").write_text("# Mine\n")
        site = yaml.safe_load((TOP / "tests/inventories/good/three_machines/hosts.yml").read_text())["all"]["vars"]
        hosts = {name: {"export_path": str(folder / name)} for name in ("tree", "foreign", "checked")}
        given = {**site, **SECRETS, **RELAY, "homelab_storage_node": "worker1", "export_from_cluster": False}
        inventory = {"all": {"hosts": hosts, "vars": {**given, "ansible_connection": "local"}}}
        role = {"role": "kubecozy.homelab.export", "check_mode": "{{ inventory_hostname == 'checked' }}"}
        (folder / "hosts.yml").write_text(json.dumps(inventory))
        (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": [role]}]))
        # As if the cluster had been asked: an extra variable wins over what a task registers.
        extra = json.dumps({"__export_seen": {"resources": KNOWN}})
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", "hosts.yml", "play.yml", "--diff", "-e", extra]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(TOP / "collections"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
        }
        ended = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
        self.output = ended.stdout + ended.stderr

    def recap(self, host: str) -> dict[str, int]:
        """Return the counts of a host."""
        found = re.search(rf"^{host} +: (.*)$", self.output, re.MULTILINE)
        assert found, self.output
        return {key: int(value) for key, value in (pair.split("=") for pair in found[1].split())}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Run the role once for all tests."""
    return Exports(tmp_path_factory.mktemp("export"))


def objects(tree: Path) -> list[dict[str, Any]]:
    """Return the objects that the kustomization names."""
    names = yaml.safe_load((tree / "kustomization.yaml").read_text())["resources"]
    return [item for name in names for item in yaml.safe_load_all((tree / name).read_text())]


def test_every_file_is_named(exports: Exports) -> None:
    """What kubectl is told to read is there; what is there is told, or was the user's."""
    assert exports.recap("tree")["failed"] == 0
    kustomization = yaml.safe_load((exports.tree / "kustomization.yaml").read_text())
    generators = kustomization["configMapGenerator"]
    assert all(generator["options"]["disableNameSuffixHash"] for generator in generators)
    files = [*kustomization["resources"], *(name for generator in generators for name in generator["files"])]
    assert "cozy.yaml" in files
    assert len(files) == len(set(files))
    made = {*files, "README.md", "kustomization.yaml"}
    assert set((exports.tree / LIST).read_text().splitlines()) == made
    assert {path.name for path in exports.tree.iterdir()} == {*made, LIST, "mine.yaml"}
    assert (exports.tree / "mine.yaml").read_text() == "old: true\n"


def test_no_secret_is_in_the_tree(exports: Exports) -> None:
    """Neither those that were given, nor an object that would hold one; nor in what the run told."""
    text = "\n".join(path.read_text() for path in exports.tree.iterdir())
    assert len(text) > 10_000
    assert [name for name, value in SECRETS.items() if value in text or value in exports.output] == []
    assert {item["kind"] for item in objects(exports.tree)} & {"Secret", "ConfigMap"} == set()


def test_readme_names_every_secret(exports: Exports) -> None:
    """Whoever follows the README makes all that the pods and the Ingress ask for."""
    text = json.dumps(objects(exports.tree))
    wanted = set(re.findall(r'"secret(?:Name|KeyRef|)": (?:{"name": )?"([^"]+)"', text))
    assert {"cozy-couchdb", "cozy-mail", "cozy-admin-passphrase", "cozy-vault-keys", "cozy-tls"} == wanted
    readme = (exports.tree / "README.md").read_text()
    assert [name for name in sorted(wanted) if name not in readme] == []


def test_pods_carry_the_versions_of_live_secrets(exports: Exports) -> None:
    """Otherwise, an apply on a live Cozy would restart them."""
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]
        for item in objects(exports.tree)
        if "template" in item.get("spec", {})
    }
    carried = {name: set(pod["metadata"].get("annotations", {}).values()) for name, pod in pods.items()}
    assert VERSIONS["cozy-couchdb"] in carried["cozy-couchdb"]
    assert set(VERSIONS.values()) <= carried["cozy-stack"]


def test_objects_of_the_cluster_stay_out(exports: Exports) -> None:
    """The issuer serves others too; of its objects, the tree has the certificate only."""
    issued = [item for item in objects(exports.tree) if item["apiVersion"].startswith("cert-manager.io/")]
    assert [(item["kind"], item["metadata"]["namespace"]) for item in issued] == [("Certificate", "cozy")]


def test_other_peoples_files_are_refused(exports: Exports) -> None:
    """A README that nobody exported is not replaced."""
    assert exports.recap("foreign")["failed"] == 1
    assert "foreign has files that no export made and this one would replace: README.md." in exports.output
    assert [path.name for path in exports.foreign.iterdir()] == ["README.md"]


def test_a_check_tells_and_writes_nothing(exports: Exports) -> None:
    """A check of a first export reports changes and makes nothing."""
    counts = exports.recap("checked")
    assert counts["failed"] == 0
    assert counts["changed"] >= 5
    assert not exports.checked.exists()
