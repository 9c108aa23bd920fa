# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that the machines themselves must keep before anything on them is changed.

Private to this collection: names and behaviour may change at any time.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses

from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_values as values
from ansible_collections.kubecozy.homelab.plugins.plugin_utils._inventory_rules import (
    MACHINE_GROUPS,
    Inventory,
    Problem,
    Problems,
    is_value,
    listed,
)

#: kubeadm refuses a control plane with fewer.
CONTROL_PLANE_PROCESSORS = 2
#: Seconds. Certificates made on one machine are "not yet valid" on another when clocks differ by more.
CLOCK_TOLERANCE = 300
#: Where images, pods and the cluster's data are kept.
DATA_FOLDER = "/var/lib"
#: Where volumes are kept when the site says nothing.
STORAGE_FOLDER = "/var/lib/kubecozy/volumes"

Facts = c.Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What a machine needs.

    ``distributions`` maps a distribution to its releases, ``memory`` and ``disk`` map a group to mebibytes (the whole
    memory, the free part of the disk), ``kernel`` is the oldest kernel.
    """

    distributions: c.Mapping[str, c.Sequence[str]]
    architectures: c.Sequence[str]
    kernel: str
    memory: c.Mapping[str, int]
    disk: c.Mapping[str, int]


def problems_of(inventory: Inventory, facts: c.Mapping[str, Facts], needed: Requirements, now: float) -> list[Problem]:
    """Return everything that is wrong with the machines.

    ``facts`` holds the gathered facts of each machine, empty for one that did not answer; ``now`` is the controller's
    clock in seconds since 1970, read when the facts were gathered.
    """
    found: list[Problem] = []
    for name, view in inventory.machines.items():
        own = facts.get(name, {})
        if name not in inventory.groups.get("cluster", ()) and view.get("home_dns_backend") == "print":
            continue  # a router, which is not logged in to
        if "architecture" not in own:
            found.append(
                Problem(
                    f"machine {name}",
                    "gave no facts",
                    "an answer over ssh to a user that may use sudo; the reason is in the output above",
                )
            )
            continue
        groups = [group for group in MACHINE_GROUPS if name in inventory.groups.get(group, ())]
        found += _system(name, own, needed)
        found += _size(name, groups, own, needed)
        found += _place(inventory, name, own)
        found += _database(inventory, name, own)
        found += _clock(name, own, now)
    found += _official_image(inventory, facts)
    found += _twins(facts)
    return list(dict.fromkeys(found))


def _system(name: str, facts: Facts, needed: Requirements) -> Problems:
    distribution, release = str(facts.get("distribution", "")), str(facts.get("distribution_version", ""))
    releases = needed.distributions.get(distribution, ())
    if not any(release == good or release.startswith(f"{good}.") for good in releases):
        choices = listed(f"{one} {' or '.join(several)}" for one, several in needed.distributions.items())
        yield is_value(f"{distribution} {release}", choices, f"distribution of {name}")
    if facts.get("architecture") not in needed.architectures:
        yield is_value(facts.get("architecture"), f"one of {listed(needed.architectures)}", f"architecture of {name}")
    elif str(facts.get("userspace_bits", "64")) != "64":
        yield is_value(
            facts.get("userspace_bits"), "64, a 64-bit system and not only a 64-bit kernel", f"userspace_bits of {name}"
        )
    kernel = str(facts.get("kernel", ""))
    if values.version_key(kernel) < values.version_key(needed.kernel):
        yield is_value(kernel, f"{needed.kernel} or newer", f"kernel of {name}")


def _size(name: str, groups: c.Sequence[str], facts: Facts, needed: Requirements) -> Problems:
    for group in groups:
        memory = _number(facts.get("memtotal_mb"))
        if memory is not None and memory < needed.memory.get(group, 0):
            yield Problem(
                f"memory of {name}", f"is {memory} MiB", f"at least {needed.memory[group]} MiB for a machine in {group}"
            )
        free = _free_disk(facts)
        if free is not None and free < needed.disk.get(group, 0):
            yield Problem(
                f"free disk of {name} ({DATA_FOLDER})",
                f"is {free} MiB",
                f"at least {needed.disk[group]} MiB for a machine in {group}",
            )
    processors = _number(facts.get("processor_vcpus"))
    if "control_plane" in groups and processors is not None and processors < CONTROL_PLANE_PROCESSORS:
        yield Problem(
            f"processors of {name}",
            f"are {processors}",
            f"at least {CONTROL_PLANE_PROCESSORS} for a machine in control_plane",
        )


def _place(inventory: Inventory, name: str, facts: Facts) -> Problems:
    address = inventory.addresses.get(name)
    own = facts.get("all_ipv4_addresses")
    if address is not None and isinstance(own, list) and own and str(address) not in own:
        yield is_value(
            str(address),
            f"an address that is on the machine; it has {listed(map(str, own))}",
            f"ansible_host of {name}",
        )
    default = facts.get("default_ipv4")
    router = values.address(default.get("gateway")) if isinstance(default, dict) else None
    if router is None:
        return
    if values.address(inventory.site("homelab_ingress_address")) == router:
        yield is_value(str(router), "an address that nobody has; it is the router", "homelab_ingress_address")
    for entry in inventory.pool:
        if router in entry:
            yield is_value(str(entry), f"a range without the router ({router})", "homelab_address_pool")


def _database(inventory: Inventory, name: str, facts: Facts) -> Problems:
    """Judge where CouchDB keeps its files: it may lose data on NFS."""
    stated = (inventory.site("couchdb_volume_node"), inventory.site("homelab_storage_node"))
    machines = [value for value in stated if isinstance(value, str)] + inventory.members("workers", "control_plane")
    if machines[:1] != [name] or inventory.site("couchdb_volume_kind") == "class":
        return
    path, folder = inventory.site("couchdb_volume_path"), inventory.site("homelab_storage_path")
    if not isinstance(path, str):
        path = f"{folder if isinstance(folder, str) else STORAGE_FOLDER}/couchdb"
    kind = str(_mount_of(facts, path).get("fstype", ""))
    if kind.startswith("nfs") and inventory.site("couchdb_volume_allow_nfs") is not True:
        yield Problem(
            f"{path} of {name}, where CouchDB keeps its data,",
            f"is on {kind}",
            "a disk of the machine: CouchDB may lose data on NFS (couchdb_volume_allow_nfs: true if you know better)",
        )


def _clock(name: str, facts: Facts, now: float) -> Problems:
    date_time = facts.get("date_time")
    epoch = _number(date_time.get("epoch")) if isinstance(date_time, dict) else None
    if epoch is not None and abs(epoch - now) > CLOCK_TOLERANCE:
        off = round(abs(epoch - now))
        direction = "behind" if epoch < now else "ahead of"
        yield Problem(
            f"clock of {name}",
            f"is {off} seconds {direction} this machine's",
            f"at most {CLOCK_TOLERANCE}: certificates and downloads fail otherwise (set it with timedatectl)",
        )


def _official_image(inventory: Inventory, facts: c.Mapping[str, Facts]) -> Problems:
    """Judge the machines that may run cozy-stack, if they are to use the image that upstream makes."""
    if inventory.site("homelab_cozy_image") == "own" or inventory.states("cozy_stack_image"):
        return
    able = inventory.groups.get("workers") or inventory.groups.get("control_plane", ())
    stated = [inventory.site(name) for name in ("cozy_stack_volume_node", "homelab_storage_node")]
    holders = [*(name for name in stated if isinstance(name, str)), *able][:1]
    for name in holders if inventory.site("cozy_stack_volume_kind") != "class" else able:
        if facts.get(name, {}).get("architecture") == "aarch64":
            wanted = 'x86_64 for the official image of cozy-stack, or homelab_cozy_image "own", which makes one'
            yield is_value("aarch64", wanted, f"architecture of {name}")


def _twins(facts: c.Mapping[str, Facts]) -> Problems:
    seen: dict[str, list[str]] = {}
    for name, own in facts.items():
        if own.get("machine_id"):
            seen.setdefault(str(own["machine_id"]), []).append(name)
    for value, names in seen.items():
        if len(names) > 1:
            cure = "one of its own for each; after copying a disk make a new one (systemd-machine-id-setup)"
            yield is_value(value, cure, f"machine-id of {listed(names)}")


def _number(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _free_disk(facts: Facts) -> int | None:
    """Return the free mebibytes where the cluster keeps its data, or None when the facts do not tell."""
    size = _number(_mount_of(facts, DATA_FOLDER).get("size_available"))
    return None if size is None else size // 2**20


def _mount_of(facts: Facts, folder: str) -> c.Mapping[str, object]:
    """Return the mount that a folder lies on, as the facts tell it; an empty one when they do not."""
    mounts = facts.get("mounts")
    best: c.Mapping[str, object] = {}
    for mount in mounts if isinstance(mounts, list) else ():
        if not isinstance(mount, dict):
            continue
        place = str(mount.get("mount", ""))
        inside = place == "/" or f"{folder}/".startswith(f"{place.rstrip('/')}/")
        if inside and len(place) > len(str(best.get("mount", ""))):
            best = mount
    return best
