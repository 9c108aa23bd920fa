# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same cluster by plain commands over ssh, without Ansible: what the machines themselves need at the least."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from lab import store
from lab.machines import ssh_command
from lab.model import MACHINES, state_dir
from tests.site import machines, playbook
from tests.site.playbook import TrialError

CONTROL = "control1"
WORKERS = ("worker1", "worker2")
_FILES = (
    "etc/containerd/config.toml",
    "etc/systemd/system/containerd.service",
    "etc/systemd/system/kubelet.service",
    "etc/sysctl.d/90-kubecozy.conf",
)
_INSTALL = """set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends {packages} curl nfs-common >/dev/null
sysctl -q -p /etc/sysctl.d/90-kubecozy.conf
mkdir -p /opt/cni/bin /etc/kubernetes/manifests
curl -fsSL {github}/containerd/containerd/releases/download/v{containerd}/containerd-{containerd}-linux-amd64.tar.gz | tar xz -C /usr/local
curl -fsSL {github}/containernetworking/plugins/releases/download/v{cni}/cni-plugins-linux-amd64-v{cni}.tgz | tar xz -C /opt/cni/bin
curl -fsSL -o /usr/local/sbin/runc {github}/opencontainers/runc/releases/download/v{runc}/runc.amd64
for program in kubeadm kubelet kubectl; do
  curl -fsSL -o /usr/local/bin/$program https://dl.k8s.io/release/v{kubernetes}/bin/linux/amd64/$program
done
chmod 755 /usr/local/sbin/runc /usr/local/bin/kube*
systemctl daemon-reload
systemctl -q enable --now containerd
systemctl -q enable kubelet
"""  # noqa: E501 - one command a line


def _settings(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((playbook.TOP / path).read_text())
    return loaded


def _files(machine: str) -> dict[str, str]:
    disk = store.disk(machine)
    return {name: (disk / name).read_text() for name in _FILES}


def _put(machine: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = store.disk(machine) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _do(machine: str, script: str) -> str:
    done = subprocess.run([*ssh_command(MACHINES[machine]), script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrialError(
            f"{machine}: the plain commands ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}"
        )
    return done.stdout


def _kubeadm(kind: str, address: str, name: str) -> dict[str, Any]:
    lab = _settings("inventories/lab/group_vars/cluster.yml")
    registration = {
        "name": name,
        "ignorePreflightErrors": lab.get("kubernetes_ignore_preflight_errors", []),
        "kubeletExtraArgs": [{"name": "node-ip", "value": address}],
    }
    return {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kind, "nodeRegistration": registration}


def _init_documents() -> str:
    site, lab = (_settings(f"inventories/lab/group_vars/{name}.yml") for name in ("all", "cluster"))
    address = MACHINES[CONTROL].address
    init = _kubeadm("InitConfiguration", address, CONTROL) | {"localAPIEndpoint": {"advertiseAddress": address}}
    cluster = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": f"v{site['homelab_kubernetes_version']}",
        "controlPlaneEndpoint": f"{address}:6443",
        "networking": {"podSubnet": site["homelab_pod_cidr"], "serviceSubnet": site["homelab_service_cidr"]},
    }
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
    proxy = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
    kubelet |= lab.get("kubernetes_kubelet_config", {})
    proxy |= lab.get("kubernetes_kube_proxy_config", {})
    return yaml.safe_dump_all([init, cluster, kubelet, proxy])


def _join(machine: str, words: list[str]) -> None:
    document = _kubeadm("JoinConfiguration", MACHINES[machine].address, machine)
    token = {"apiServerEndpoint": words[2], "token": words[4], "caCertHashes": [words[6]]}
    document["discovery"] = {"bootstrapToken": token}
    _do(machine, f"kubeadm join --config=/dev/stdin <<'END'\n{yaml.safe_dump(document)}END\n")


def _helm() -> list[str]:
    downloads = state_dir() / "downloads"
    try:
        (program,) = downloads.glob("helm-v*/helm")
        (chart,) = downloads.glob("*flannel*.tgz")
    except ValueError:
        raise TrialError(f"{downloads} should hold helm and the chart of flannel: run the site first") from None
    pods = _settings("inventories/lab/group_vars/all.yml")["homelab_pod_cidr"]
    command = [str(program), "upgrade", "--install", "flannel", str(chart), "--namespace", "kube-flannel"]
    return [*command, "--create-namespace", "--set", f"podCidr={pods}"]


def run() -> float:
    """Make the cluster on bare machines, with files taken over from a site; returns the seconds until all are Ready.

    Raises:
        TrialError: a command failed.
    """
    files = {machine: _files(machine) for machine in (CONTROL, *WORKERS)}
    containerd = _settings("roles/containerd/defaults/main.yml")
    install = _INSTALL.format(
        github="https://github.com",
        packages=" ".join(_settings("roles/node_base/defaults/main.yml")["node_base_packages"]),
        containerd=containerd["containerd_version"],
        cni=containerd["containerd_cni_version"],
        runc=containerd["containerd_runc_version"],
        kubernetes=_settings("inventories/lab/group_vars/all.yml")["homelab_kubernetes_version"],
    )
    helm = _helm()
    machines.bare((CONTROL, *WORKERS))
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for machine, texts in files.items():
            _put(machine, texts)
        list(pool.map(lambda machine: _do(machine, install), files))
        _do(CONTROL, f"kubeadm init --config=/dev/stdin --skip-token-print <<'END'\n{_init_documents()}END\n")
        words = _do(CONTROL, "kubeadm token create --print-join-command").split()
        config = Path(state_dir() / "floor.yaml")
        config.touch(mode=0o600)
        config.write_text(_do(CONTROL, "cat /etc/kubernetes/admin.conf"))
        joins = [pool.submit(_join, machine, words) for machine in WORKERS]
        flannel = playbook.run(helm, "floor-flannel", environment={"KUBECONFIG": os.fspath(config)})
        for join in joins:
            join.result()
    config.unlink()
    if flannel.code:
        raise TrialError(f"helm ended with {flannel.code}")
    kubectl = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
    _do(CONTROL, f"{kubectl} wait --for=condition=Ready --timeout=180s node {CONTROL} {' '.join(WORKERS)}")
    return time.monotonic() - begin
