# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Rules whose input no inventory of the tests can bring about: facts of other machines, an old Ansible, odd values."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_rules as rules
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_values as values
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _machine_rules as machine_rules
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _role_options as role_options

TOP = pathlib.Path(__file__).parents[3]
NOW = 1_800_000_000.0
SITE: dict[str, object] = {
    "homelab_domain": "cozy.example.com",
    "homelab_lan_cidr": "192.168.1.0/24",
    "homelab_address_pool": ["192.168.1.200-192.168.1.209"],
    "homelab_ingress_address": "192.168.1.200",
}
NEEDED = machine_rules.Requirements(
    distributions={"Debian": ["12", "13"], "Ubuntu": ["24.04"]},
    architectures=["x86_64", "aarch64"],
    kernel="5.10",
    memory={"control_plane": 1700, "workers": 900},
    disk={"control_plane": 3072},
)


def inventory(ansible_core: str = "2.21.5", site: dict[str, object] | None = None) -> rules.Inventory:
    """Make an inventory of a control plane and a worker."""
    variables = {**SITE, **(site or {})}
    return rules.Inventory(
        controller=variables,
        machines={
            "control1": {**variables, "ansible_host": "192.168.1.11"},
            "worker1": {**variables, "ansible_host": "192.168.1.12"},
        },
        groups={"cluster": ["control1", "worker1"], "control_plane": ["control1"], "workers": ["worker1"]},
        containerd_minimum={"1.36": "2.2.0"},
        options={},
        ansible_core=ansible_core,
    )


def facts(address: str) -> dict[str, object]:
    """Make the facts of a fit machine."""
    return {
        "all_ipv4_addresses": [address, "10.244.0.1"],
        "architecture": "x86_64",
        "date_time": {"epoch": str(int(NOW))},
        "default_ipv4": {"address": address, "gateway": "192.168.1.1"},
        "distribution": "Debian",
        "distribution_version": "13.2",
        "kernel": "6.12.57+deb13-amd64",
        "machine_id": f"id of {address}",
        "memtotal_mb": 1850,
        "mounts": [
            {"mount": "/", "size_available": 9000 * 2**20},
            {"mount": "/variety", "size_available": 1},
        ],
        "processor_vcpus": 2,
        "userspace_bits": "64",
    }


def judge(changed: dict[str, object] | None = None, site: dict[str, object] | None = None) -> list[str]:
    """Return the problems of a fit worker and a control plane whose facts were changed."""
    all_facts = {"control1": {**facts("192.168.1.11"), **(changed or {})}, "worker1": facts("192.168.1.12")}
    return [str(problem) for problem in machine_rules.problems_of(inventory(site=site), all_facts, NEEDED, NOW)]


def test_fit_machines_pass() -> None:
    assert judge() == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"memtotal_mb": 921},
            "memory of control1 is 921 MiB: expected at least 1700 MiB for a machine in control_plane",
        ),
        ({"processor_vcpus": 1}, "processors of control1 are 1: expected at least 2 for a machine in control_plane"),
        ({"architecture": "armv7l"}, 'architecture of control1 is "armv7l": expected one of x86_64, aarch64'),
        (
            {"architecture": "aarch64", "userspace_bits": "32"},
            'userspace_bits of control1 is "32": expected 64, a 64-bit system and not only a 64-bit kernel',
        ),
        (
            {"distribution": "Fedora", "distribution_version": "43"},
            'distribution of control1 is "Fedora 43": expected Debian 12 or 13, Ubuntu 24.04',
        ),
        (
            {"distribution_version": "11.9"},
            'distribution of control1 is "Debian 11.9": expected Debian 12 or 13, Ubuntu 24.04',
        ),
        ({"kernel": "5.9.0-rpi"}, 'kernel of control1 is "5.9.0-rpi": expected 5.10 or newer'),
        (
            {"all_ipv4_addresses": ["10.0.0.7"]},
            'ansible_host of control1 is "192.168.1.11": expected an address that is on the machine; it has 10.0.0.7',
        ),
        (
            {"date_time": {"epoch": str(int(NOW) - 86400)}},
            (
                "clock of control1 is 86400 seconds behind this machine's: "
                "expected at most 300: certificates and downloads fail otherwise (set it with timedatectl)"
            ),
        ),
        (
            {"machine_id": "id of 192.168.1.12"},
            (
                'machine-id of control1, worker1 is "id of 192.168.1.12": expected one of its own for each; '
                "after copying a disk make a new one (systemd-machine-id-setup)"
            ),
        ),
        (
            {"mounts": [{"mount": "/", "size_available": 2**40}, {"mount": "/var", "size_available": 2**30}]},
            "free disk of control1 (/var/lib) is 1024 MiB: expected at least 3072 MiB for a machine in control_plane",
        ),
        (
            {"default_ipv4": {"gateway": "192.168.1.205"}},
            (
                'homelab_address_pool is "192.168.1.200-192.168.1.209": '
                "expected a range without the router (192.168.1.205)"
            ),
        ),
    ],
)
def test_unfit_machine_is_named(changed: dict[str, object], problem: str) -> None:
    assert judge(changed) == [problem]


@pytest.mark.parametrize(
    ("site", "named"),
    [
        ({}, ["worker1"]),
        ({"homelab_cozy_image": "official"}, ["worker1"]),
        ({"homelab_storage_node": "control1"}, ["control1"]),
        ({"cozy_stack_volume_kind": "class", "homelab_storage_node": "control1"}, ["worker1"]),
        ({"homelab_cozy_image": "own"}, []),
        ({"cozy_stack_image": "registry.example.com/cozy-stack:1"}, []),
    ],
)
def test_official_image_wants_its_architecture_where_it_will_run(site: dict[str, object], named: list[str]) -> None:
    arm = {
        "control1": {**facts("192.168.1.11"), "architecture": "aarch64"},
        "worker1": {**facts("192.168.1.12"), "architecture": "aarch64"},
    }
    found = machine_rules.problems_of(inventory(site=site), arm, NEEDED, NOW)
    assert [str(problem) for problem in found] == [
        (
            f'architecture of {name} is "aarch64": expected x86_64 for the official image of cozy-stack, '
            'or homelab_cozy_image "own", which makes one'
        )
        for name in named
    ]


def test_ingress_address_of_the_router() -> None:
    site: dict[str, object] = {"homelab_ingress_address": "192.168.1.1", "homelab_address_pool": []}
    assert judge(site=site) == [
        'homelab_ingress_address is "192.168.1.1": expected an address that nobody has; it is the router'
    ]


ON_NFS: dict[str, object] = {
    "mounts": [
        {"mount": "/", "size_available": 2**40, "fstype": "ext4"},
        {"mount": "/var/lib/kubecozy", "size_available": 2**40, "fstype": "nfs4"},
    ]
}


def test_database_on_nfs() -> None:
    site: dict[str, object] = {"homelab_storage_node": "control1"}
    assert judge(ON_NFS, site) == [
        (
            "/var/lib/kubecozy/volumes/couchdb of control1, where CouchDB keeps its data, is on nfs4: expected a disk"
            " of the machine: CouchDB may lose data on NFS (couchdb_volume_allow_nfs: true if you know better)"
        )
    ]


@pytest.mark.parametrize(
    "site",
    [
        {},
        {"homelab_storage_node": "control1", "couchdb_volume_allow_nfs": True},
        {"homelab_storage_node": "control1", "couchdb_volume_kind": "class"},
        {"homelab_storage_node": "control1", "couchdb_volume_path": "/srv/couchdb"},
        {"homelab_storage_node": "control1", "couchdb_volume_node": "worker1"},
    ],
)
def test_database_elsewhere(site: dict[str, object]) -> None:
    assert judge(ON_NFS, site) == []


def test_machine_without_facts() -> None:
    found = machine_rules.problems_of(inventory(), {"worker1": facts("192.168.1.12")}, NEEDED, NOW)
    assert [str(problem) for problem in found] == [
        (
            "machine control1 gave no facts: expected an answer over ssh to a user that may use sudo; "
            "the reason is in the output above"
        )
    ]


def test_unknown_facts_are_no_problem() -> None:
    unknown: dict[str, object] = {"all_ipv4_addresses": [], "date_time": {}, "default_ipv4": {}, "mounts": []}
    assert judge({**unknown, "machine_id": "", "memtotal_mb": None}) == []


def test_old_ansible() -> None:
    assert [str(problem) for problem in rules.problems_of(inventory(ansible_core="2.18.9"))] == [
        'version of ansible-core is "2.18.9": expected 2.19.0 or newer'
    ]
    assert rules.problems_of(inventory()) == []


def test_oldest_ansible_is_the_collections() -> None:
    runtime = yaml.safe_load((TOP / "meta" / "runtime.yml").read_text())
    assert runtime["requires_ansible"] == f">={rules.OLDEST_ANSIBLE_CORE}"


def test_defaults_are_those_of_the_role() -> None:
    text = (TOP / "roles" / "kubernetes" / "defaults" / "main.yml").read_text()
    found = dict(re.findall(r"(homelab_\w+) \| default\('([^']+)'\)", text))
    assert {name: found[name] for name in rules.DEFAULTS} == rules.DEFAULTS
    supported = yaml.safe_load((TOP / "roles" / "plan" / "defaults" / "main.yml").read_text())[
        "plan_containerd_minimum"
    ]
    assert rules.DEFAULTS["homelab_kubernetes_version"].rpartition(".")[0] in supported


def test_every_site_variable_is_known_and_read() -> None:
    """What roles, playbooks and samples name is what the plan knows."""
    named: set[str] = set()
    for folder in ("roles", "playbooks", "inventories"):
        for path in (TOP / folder).rglob("*"):
            if path.suffix in (".yml", ".j2"):
                named.update(re.findall(r"\bhomelab_[a-z_]+", path.read_text()))
    assert named == rules.SITE_VARIABLES


def test_roles_have_options() -> None:
    """An instance's fields are judged by the role's own specs."""
    option = role_options.role_options()["cozy_instance_instances"]
    assert {"domain", "passphrase", "apps", "email"} <= option["options"].keys()


@pytest.mark.parametrize("value", ["cozy.example.com", "home.arpa", "a.home.arpa", "xn--mller-kva.de", "1.example.com"])
def test_good_domains(value: str) -> None:
    assert values.domain_fault(value) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", 'a domain name such as "cozy.example.com"'),
        (5, 'a domain name such as "cozy.example.com"'),
        ("a..b", "no empty part between two dots"),
        ("cozy.example.1", 'a last part that is not a number, such as "cozy.example.com"'),
        ("-a.example.com", 'lower case letters, digits and inner hyphens only (look at "-a")'),
        ("a.onion", "a name not below .onion: it is reserved for Tor"),
        ("4.3.in-addr.arpa", "a name not below .arpa: it is reserved for infrastructure; home.arpa is the exception"),
        (
            f"{'.'.join(['a' * 60] * 3)}.example.com",
            "at most 189 characters, for applications have names below it (it has 194)",
        ),
    ],
)
def test_bad_domains(value: object, fault: str) -> None:
    assert values.domain_fault(value) == fault


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("cluster.example.com", True),
        ("cluster.example.com:6443", True),
        ("192.168.1.50:6443", True),
        ("192.168.1.500", False),
        ("https://cluster:6443", False),
        ("cluster:99999", False),
        ("", False),
        (None, False),
    ],
)
def test_endpoints(value: object, *, good: bool) -> None:
    assert (values.endpoint_fault(value) is None) == good


@pytest.mark.parametrize("value", ["127.0.0.0/8", "0.0.0.0/0", "169.254.0.0/16", "239.0.0.0/8"])
def test_networks_that_are_no_home(value: str) -> None:
    assert str(values.network_fault(value)).startswith("a network that may be used at home")


def test_paths(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    assert values.writable_file_fault(str(tmp_path / "new" / "folder" / "file")) is None
    assert values.writable_file_fault(str(tmp_path)) == "the path of a file; this is a folder"
    assert values.writable_folder_fault(str(tmp_path / "file")) == (
        f"a place on this machine that you can write to; {tmp_path / 'file'} is not"
    )
    assert values.readable_file_fault(str(tmp_path / "file")) is None
    assert values.readable_file_fault("~nobody-of-this-name/x") == "the home folder of a user of this machine"
