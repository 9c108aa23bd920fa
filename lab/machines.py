# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian machines: each with its own systemd, sshd, disk, network namespace and cgroups, by systemd-nspawn."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import signal
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from lab import ca, netns, network, store
from lab.artefacts.debian import sources
from lab.model import APT_PROXY_PORT, HOSTS, MACHINES, OUTSIDE_DNS, Host, LabError, state_dir
from lab.process import Service, run, wait_until

_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_PARENT = "kubecozy-lab"
_BOOT_SECONDS = 60
_SHUTDOWN_SECONDS = 150
_KILL_SECONDS = 20

# nspawn mounts version 1 controllers read-only; the kubelet makes groups in them and wants shared mounts
_UNIT = """\
[Unit]
Description=Writable cgroup controllers and shared mounts
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for c in /sys/fs/cgroup /sys/fs/cgroup/*/; do \
if mountpoint -q "$c"; then mount -o remount,bind,rw "$c"; fi; done; mount --make-rshared /'
"""

# Ending a user's manager takes systemd two minutes in a container with version 1 cgroups, and a login meanwhile waits.
_LOGIND = """\
[Login]
UserStopDelaySec=infinity
"""


def _service(name: str) -> Service:
    return Service(f"machine-{name}")


def key_file() -> Path:
    """The private key that opens every machine; made on first use."""
    key = state_dir() / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", key)
    return key


def _prepare_base(root: Path) -> None:
    """Finish the base system as an installer would: trust, package proxy, login key."""
    (root / "usr/local/share/ca-certificates/lab.crt").write_bytes(ca.root().read_bytes())
    run("chroot", root, "update-ca-certificates")
    (root / "etc/apt/apt.conf.d/01proxy").write_text(f'Acquire::http::Proxy "http://{OUTSIDE_DNS}:{APT_PROXY_PORT}";\n')
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    (root / "etc/apt/sources.list.d/debian.sources").write_text(sources())
    logind = root / "etc/systemd/logind.conf.d/lab.conf"
    logind.parent.mkdir(exist_ok=True)
    logind.write_text(_LOGIND)
    keys = root / "root/.ssh/authorized_keys"
    keys.parent.mkdir(mode=0o700, exist_ok=True)
    keys.write_bytes(key_file().with_suffix(".pub").read_bytes())
    for host_key in root.glob("etc/ssh/ssh_host_*"):
        host_key.unlink()
    unit = root / "etc/systemd/system/lab-cgroups.service"
    unit.write_text(_UNIT)
    wants = root / "etc/systemd/system/sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")


def _base(source: Path) -> Path:
    made_by = (inspect.getsource(_prepare_base), _UNIT, _LOGIND, sources())
    parts = (str(source.resolve()), ca.root().read_text(), key_file().read_text(), *made_by)
    return store.base(source, hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12], _prepare_base)


def create(host: Host, source: Path) -> bool:
    """Give a machine its disk, made from the base system; False when it has one."""
    disk = store.disk(host.name)
    if disk.exists():
        return False
    partial = disk.with_name(f"{host.name}.new")
    if partial.exists():
        store.delete(partial)
    store.clone(_base(source), partial)
    (partial / "etc/hostname").write_text(f"{host.name}\n")
    (partial / "etc/hosts").write_text(f"127.0.0.1 localhost\n{host.address} {host.name}\n")
    resolv = partial / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text(f"nameserver {host.resolver}\n")
    (partial / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", partial / "etc/ssh/ssh_host_ed25519_key")
    partial.rename(disk)
    return True


def known_hosts() -> None:
    """Write down the machines' host keys, as a careful administrator would."""
    lines = []
    for host in MACHINES.values():
        public = store.disk(host.name) / "etc/ssh/ssh_host_ed25519_key.pub"
        if public.exists():
            lines.append(f"{host.name},{host.address} {public.read_text()}")
    (state_dir() / "known_hosts").write_text("".join(lines))


def _cgroup_folders(name: str) -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / _CGROUP_PARENT / name]
    controllers = (line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines())
    names = {part.removeprefix("name=") for group in controllers for part in group.split(",") if part}
    return [_CGROUPS / part / _CGROUP_PARENT / name for part in sorted(names) if (_CGROUPS / part).is_dir()]


def _make_cgroups(name: str) -> list[Path]:
    folders = _cgroup_folders(name)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for level in (folder.parent, folder):
            for limit in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty: nothing could run
                file, above = level / limit, level.parent / limit
                if file.exists() and above.exists() and not file.read_text().strip() and above.read_text().strip():
                    file.write_text(above.read_text())
            above = level.parent / "cgroup.subtree_control"
            if above.exists():
                controllers = (level.parent / "cgroup.controllers").read_text().split()
                above.write_text(" ".join(f"+{controller}" for controller in controllers))
    return folders


def _remove_cgroups(name: str) -> None:
    for folder in _cgroup_folders(name):
        if folder.exists():
            for inner, _, _ in os.walk(folder, topdown=False):
                wait_until(lambda inner=inner: _rmdir(Path(inner)), 2)  # type: ignore[misc]


def _processes(name: str) -> set[int]:
    """Every process in the machine's own cgroups, as the host numbers them."""
    found: set[int] = set()
    for folder in _cgroup_folders(name):
        for inner, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (Path(inner) / "cgroup.procs").read_text().split()}
    return found


def _end_processes(name: str) -> None:
    """Kill what is left of a machine: its init can outlive the nspawn that started it."""

    def none_left() -> bool:
        left = _processes(name)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    if not wait_until(none_left, _KILL_SECONDS):
        raise LabError(f"processes of {name} can't be ended: {sorted(_processes(name))}")


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def start(host: Host) -> None:
    """Switch a machine on; returns at once."""
    service = _service(host.name)
    if service.pid is not None:
        return
    power_cut(host)  # ends what is left of a life that was cut off
    network.up()
    folders = _make_cgroups(host.name)
    command: list[str | Path] = ["systemd-nspawn", "-q", "-D", store.disk(host.name), "-M", host.name]
    command += ["--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off"]
    command += ["--link-journal=no", f"--network-namespace-path=/run/netns/{host.namespace}"]
    command += ["--capability=all", "--bind=/dev/kmsg"]
    env = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes", "SYSTEMD_SECCOMP": "0"}
    if (_CGROUPS / "cgroup.controllers").exists():
        env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    else:
        legacy = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 systemd.unified_cgroup_hierarchy=0"
        command.append(f"--setenv=SYSTEMD_PROC_CMDLINE={legacy}")

    def enter_cgroups() -> None:
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    service.start([*command, "-b"], env=env, before_exec=enter_cgroups)


def running(name: str) -> bool:
    """Whether the machine is switched on."""
    return _service(name).pid is not None


def reachable(host: Host) -> bool:
    """Whether its sshd takes connections from the controller."""
    return netns.answers(HOSTS["controller"].namespace, host.address, 22)


def wait_booted(hosts: Iterable[Host]) -> float:
    """Wait until ssh answers on all of them; returns the seconds it took.

    Raises:
        LabError: one did not boot; with the end of its console.
    """
    begin = time.monotonic()
    for host in hosts:
        if not wait_until(lambda host=host: reachable(host) or not running(host.name), _BOOT_SECONDS):  # type: ignore[misc]
            raise LabError(f"{host.name} did not boot in {_BOOT_SECONDS} s: {_service(host.name).last_words()}")
        if not running(host.name):
            raise LabError(f"{host.name} went off while booting: {_service(host.name).last_words()}")
    return time.monotonic() - begin


def stop(host: Host) -> None:
    """Shut a machine down in order (SIGTERM makes nspawn ask its init to power off)."""
    _service(host.name).stop(signal.SIGTERM, _SHUTDOWN_SECONDS)
    power_cut(host)


def power_cut(host: Host) -> None:
    """Pull the plug: every process of the machine ends now."""
    _service(host.name).stop(signal.SIGKILL)
    _end_processes(host.name)
    _remove_cgroups(host.name)
    network.unplug(host)


def delete(host: Host) -> None:
    """Take a machine's disk away; it must be off."""
    if store.disk(host.name).exists():
        store.delete(store.disk(host.name))


def remove_leftovers() -> None:
    """Remove the cgroup folders that all machines shared as parent."""
    for folder in {folder.parent for name in MACHINES for folder in _cgroup_folders(name)}:
        if folder.exists():
            _rmdir(folder)


def ssh_command(host: Host) -> list[str]:
    """How to log in, from the controller's namespace."""
    return [
        *("ip", "netns", "exec", HOSTS["controller"].namespace, "ssh"),
        *("-i", str(key_file()), "-o", f"UserKnownHostsFile={state_dir() / 'known_hosts'}"),
        *("-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", f"root@{host.address}"),
    ]
