# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""What the roles apply is what Kubernetes takes, in its oldest and its newest supported release.

The objects come from the roles' own entry points (`objects`), run by Ansible with the variables of good inventories
and the choices that a household has. A live cluster's admission proves the rest.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

TOP = Path(__file__).parents[3]
ROLES = ("couchdb", "mail", "cozy_stack", "cluster_issuer")
RELEASES: list[str] = sorted(
    yaml.safe_load((TOP / "roles/plan/defaults/main.yml").read_text())["plan_containerd_minimum"],
    key=lambda release: [int(part) for part in release.split(".")],
)
# Custom kinds, which are not Kubernetes' own to judge.
CUSTOM = "cert-manager.io/"

# Good inventories, each with other choices: volumes, mailbox, mail server, namespace.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "three_machines": {"homelab_storage_node": "worker1", "mail_ui_domain": "mailbox.cozy.example.com"},
    "given_cluster": {
        "couchdb_volume_kind": "class",
        "cozy_stack_volume_kind": "class",
        "mail_kind": "mailhog",
        "cozy_stack_ingress_class": "traefik",
    },
    "three_control_planes": {
        "couchdb_volume_kind": "class",
        "couchdb_volume_storage_class": "fast",
        "cozy_stack_volume_kind": "class",
        "cozy_stack_volume_storage_class": "big",
        "mail_kind": "relay",
        "mail_relay_host": "smtp.example.net",
        "mail_relay_port": 587,
        "mail_relay_tls": "starttls",
        "mail_relay_username": "cozy",
        "mail_relay_password": "made up",
    },
    "single_machine": {
        "homelab_storage_node": "cellar",
        "mail_kind": "none",
        "cozy_stack_config": {"log": {"level": "debug"}},
        "couchdb_namespace": "cloud",
        "cozy_stack_namespace": "cloud",
        "mail_namespace": "cloud",
        "cluster_issuer_certificate_namespace": "cloud",
    },
}

Manifest = dict[str, Any]


def hosts() -> dict[str, dict[str, Any]]:
    """Return the variants as hosts of one inventory: one start of Ansible serves all."""
    good = {path.name: path / "hosts.yml" for path in (TOP / "tests/inventories/good").iterdir()}
    return {
        name: {**yaml.safe_load(good[name].read_text())["all"]["vars"], **choices, "ansible_connection": "local"}
        for name, choices in VARIANTS.items()
    }


def play(target: Path) -> list[Mapping[str, Any]]:
    """Return a playbook that leaves the objects of all variants in a file."""
    given: Mapping[str, Any] = {
        **{f"{role}_known_secrets": [] for role in ROLES[:3]},
        "cozy_stack_mail_way": "{{ mail_way }}",
    }
    tasks: list[Mapping[str, Any]] = [
        {
            "ansible.builtin.include_role": {"name": f"kubecozy.homelab.{role}", "tasks_from": "objects"},
            "vars": {key: value for key, value in given.items() if key.startswith(role)},
        }
        for role in ROLES
    ]
    together = " + ".join(f"item.{role}_objects" for role in ROLES)
    content = f"{{% for item in hostvars.values() %}}{{{{ {{item.inventory_hostname: {together}}} | to_json }}}}\n"
    keep = {"content": content + "{% endfor %}", "dest": str(target), "mode": "0600"}
    tasks.append({"ansible.builtin.copy": keep, "run_once": True})
    return [{"hosts": "all", "gather_facts": False, "tasks": tasks}]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Render the objects of all variants."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts()}}))
    (folder / "play.yml").write_text(json.dumps(play(folder / "objects.json")))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(TOP / "collections"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
    }
    ended = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, list[Manifest]] = {}
    for line in (folder / "objects.json").read_text().splitlines():
        found.update(json.loads(line))
    assert found.keys() == VARIANTS.keys()
    return found


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the name and the pod of each workload."""
    for item in objects:
        if "template" in item.get("spec", {}):
            yield f"{item['kind']} {item['metadata']['name']}", item["spec"]["template"]["spec"]


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
"""The kinds of volumes a restricted pod may have."""


def container_faults(container: Manifest, pod: Manifest) -> Iterator[str]:
    """Yield what the rule `restricted` forbids in a container, given its pod's own security context."""
    own = container.get("securityContext", {})
    both = {**pod, **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if both.get("runAsUser", 1) == 0:
        yield "runAsUser"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    hooks = [container.get(name, {}) for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    hooks += container.get("lifecycle", {}).values()
    if any("host" in hook.get(kind, {}) for hook in hooks for kind in ("httpGet", "tcpSocket")):
        yield "host of a probe"


def pod_faults(pod: Manifest) -> Iterator[str]:
    """Yield what the rule `restricted` forbids in a pod.

    The rules: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    context = pod.get("securityContext", {})
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    if context.get("sysctls"):
        yield "sysctls"
    if {"seLinuxOptions", "windowsOptions"} & context.keys():
        yield "seLinuxOptions or windowsOptions"
    for volume in pod.get("volumes", []):
        if kinds := volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {', '.join(kinds)}"
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(kind, []):
            yield from (f"{container['name']}: {fault}" for fault in container_faults(container, context))


@pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_knows_every_field(rendered: dict[str, list[Manifest]], variant: str, release: str) -> None:
    """Strict: a misspelt field, which the API would drop in silence, is a fault."""
    own = [item for item in rendered[variant] if not item["apiVersion"].startswith(CUSTOM)]
    assert len(own) >= 10
    # The package takes the schema of the nearest older release when it lacks one.
    assert {kubernetes_validate.validate(item, release, strict=True) for item in own} == {release}


def test_a_misspelt_field_is_found(rendered: dict[str, list[Manifest]]) -> None:
    """The test above is no test when everything passes."""
    service = copy.deepcopy(next(item for item in rendered["three_machines"] if item["kind"] == "Service"))
    service["spec"]["selektor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(service, RELEASES[-1], strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_are_restricted(rendered: dict[str, list[Manifest]], variant: str) -> None:
    """Every pod is one that a namespace with `enforce: restricted` lets in, and every namespace is such a one."""
    found = dict(pods(rendered[variant]))
    assert len(found) == (2 if VARIANTS[variant].get("mail_kind") in ("none", "relay") else 3)
    assert {name: list(pod_faults(pod)) for name, pod in found.items()} == {name: [] for name in found}
    labels = [item["metadata"]["labels"] for item in rendered[variant] if item["kind"] == "Namespace"]
    assert {label["pod-security.kubernetes.io/enforce"] for label in labels} == {"restricted"}


LOOSENED: Mapping[str, Callable[[Manifest], object]] = {
    "hostNetwork": lambda pod: pod.update(hostNetwork=True),
    "sysctls": lambda pod: pod["securityContext"].update(sysctls=[{"name": "a", "value": "b"}]),
    "seLinuxOptions or windowsOptions": lambda pod: pod["securityContext"].update(seLinuxOptions={"user": "x"}),
    "volume host: hostPath": lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "runAsNonRoot": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "runAsUser": lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0),
    "seccompProfile": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "privileged": lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
    "allowPrivilegeEscalation": lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities": lambda pod: pod["containers"][0]["securityContext"].update(capabilities={"drop": ["NET_RAW"]}),
    "procMount": lambda pod: pod["containers"][0]["securityContext"].update(procMount="Unmasked"),
    "hostPort": lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80),
    "host of a probe": lambda pod: pod["containers"][0]["readinessProbe"]["httpGet"].update(host="10.0.0.1"),
}


@pytest.mark.parametrize("fault", LOOSENED)
def test_each_loosened_rule_is_found(rendered: dict[str, list[Manifest]], fault: str) -> None:
    """A pod that is loosened on purpose is named as what it is."""
    pod = copy.deepcopy(dict(pods(rendered["three_machines"]))["Deployment cozy-stack"])
    LOOSENED[fault](pod)
    found = list(pod_faults(pod))
    assert found
    assert all(one.endswith(fault) for one in found)
