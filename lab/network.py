# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The house's LAN, the outside's network and the router between them, all in namespaces of their own.

Even the bridges lie in a namespace: the machine that carries the lab gets no interface, address or route from it.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lab import ca
from lab.model import (
    HOSTS,
    INGRESS,
    PREFIX,
    ROUTER_LAN,
    ROUTER_WAN,
    Host,
    LabError,
    state_dir,
)
from lab.process import run

SWITCH = PREFIX + "switch"
ROUTER = PREFIX + "router"
_MODULES = ("br_netfilter", "overlay", "vxlan", "nf_conntrack")
_NAMESPACES = Path("/run/netns")
_OVERLAYS = Path("/etc/netns")

_ROUTER_RULES = f"""
table ip lab {{
    chain forwarded_ports {{
        type nat hook prerouting priority dstnat
        iifname "wan" tcp dport 443 dnat to {INGRESS}
    }}
    chain leave_as_router {{
        type nat hook postrouting priority srcnat
        oifname "wan" masquerade
    }}
    chain no_hairpin {{
        type filter hook input priority filter
        iifname "lan" ip daddr {ROUTER_WAN} drop
    }}
    chain only_what_was_asked_for {{
        type filter hook forward priority filter; policy drop
        iifname "lan" accept
        ct state established,related accept
        ct status dnat accept
    }}
}}
"""


def _record() -> Path:
    return state_dir() / "run" / "namespaces.json"


def _recorded() -> dict[str, tuple[int, bool]]:
    """Inode of each namespace made here, and whether it was finished."""
    try:
        return {
            str(name): (int(inode), bool(done)) for name, (inode, done) in json.loads(_record().read_text()).items()
        }
    except (OSError, ValueError):
        return {}


def _save(name: str, inode: int, done: bool) -> None:
    _record().parent.mkdir(parents=True, exist_ok=True)
    partial = _record().with_suffix(".new")
    partial.write_text(json.dumps({**_recorded(), name: (inode, done)}))
    partial.rename(_record())


def _inode(name: str) -> int | None:
    try:
        return (_NAMESPACES / name).stat().st_ino
    except OSError:
        return None


def namespaces() -> list[str]:
    """The namespaces of this lab that exist now."""
    return [name for name, (inode, _) in _recorded().items() if _inode(name) == inode]


def _namespace(name: str, configure: Callable[[], None]) -> None:
    """Make a namespace, unless it is there and finished."""
    inode, recorded = _inode(name), _recorded().get(name)
    if recorded == (inode, True):
        return
    if inode is not None:
        if recorded != (inode, False):
            raise LabError(f"the network namespace {name} is there but not of this lab; remove it: ip netns del {name}")
        run("ip", "netns", "del", name)
    run("ip", "netns", "add", name)
    inode = (_NAMESPACES / name).stat().st_ino
    _save(name, inode, done=False)
    run("ip", "-n", name, "link", "set", "lo", "up")
    configure()
    _save(name, inode, done=True)


def _plug(namespace: str, bridge: str, interface: str, address: str, port: str) -> None:
    """A cable: an interface with an address on one side, a port of the bridge on the other.

    The interface keeps its hardware address over power cuts, as a real one does: neighbours remember it.
    """
    run("ip", "-n", SWITCH, "link", "del", port, check=False)  # of a namespace that the kernel has not taken down yet
    hardware = "02:00:" + ":".join(f"{int(byte):02x}" for byte in address.split("."))
    made = ("ip", "link", "add", interface, "netns", namespace, "address", hardware)
    run(*made, "type", "veth", "peer", "name", port, "netns", SWITCH)
    run("ip", "-n", SWITCH, "link", "set", port, "master", bridge, "up")
    run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
    run("ip", "-n", namespace, "link", "set", interface, "up")


def _overlay(namespace: str, resolver: str) -> None:
    """What `ip netns exec` lays over /etc: the resolver, and the trust in the lab's CA."""
    folder = _OVERLAYS / namespace
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolv.conf").write_text(f"nameserver {resolver}\n")
    trusted = folder / "ssl"
    shutil.rmtree(trusted, ignore_errors=True)
    shutil.copytree("/etc/ssl", trusted, symlinks=True, ignore=shutil.ignore_patterns("private"))
    with (trusted / "certs" / "ca-certificates.crt").open("ab") as bundle:
        bundle.write(ca.root().read_bytes())


def _bridges() -> None:
    for bridge in ("lan", "wan"):
        run("ip", "-n", SWITCH, "link", "add", bridge, "type", "bridge")
        run("ip", "-n", SWITCH, "link", "set", bridge, "up")


def _routing() -> None:
    _plug(ROUTER, "lan", "lan", ROUTER_LAN, "router-lan")
    _plug(ROUTER, "wan", "wan", ROUTER_WAN, "router-wan")
    run("ip", "netns", "exec", ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run("ip", "netns", "exec", ROUTER, "nft", "-f", "-", stdin=_ROUTER_RULES)


def _connect(host: Host) -> None:
    _plug(host.namespace, host.bridge, "eth0", host.address, host.name)
    if host.gateway:
        run("ip", "-n", host.namespace, "route", "add", "default", "via", host.gateway)
    if not host.machine:
        _overlay(host.namespace, host.resolver)


def _load_modules() -> None:
    """Load what the machines need of their common kernel: they have no modules of their own to load."""
    missing = [name for name in _MODULES if not Path("/sys/module", name).exists()]
    if missing and shutil.which("modprobe"):
        run("modprobe", "--all", *missing, check=False)  # built in without a trace, or missed by a role that says so


def up() -> None:
    """Make what is missing of the networks."""
    _load_modules()
    _namespace(SWITCH, _bridges)
    _namespace(ROUTER, _routing)
    for host in HOSTS.values():
        _namespace(host.namespace, functools.partial(_connect, host))


def unplug(host: Host) -> None:
    """Take a host's namespace away: a machine that goes off leaves no interface of its own making behind."""
    if host.namespace in namespaces():
        run("ip", "netns", "del", host.namespace)


def down() -> None:
    """Remove every namespace that was made here, and with it its interfaces."""
    for name in namespaces():
        run("ip", "netns", "del", name)
        shutil.rmtree(_OVERLAYS / name, ignore_errors=True)
    _record().unlink(missing_ok=True)
