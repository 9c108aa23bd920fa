# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that an inventory must keep before any machine is looked at.

Private to this collection: names and behaviour may change at any time.

Nothing here does more than look: no connection, no file written. Values of secrets never get into a message.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import difflib
import functools
import ipaddress
import json
import typing as t

from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_values as values
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _role_options

CONTROLLER = "localhost"
#: The same as requires_ansible in meta/runtime.yml, which Ansible itself only warns about.
OLDEST_ANSIBLE_CORE = "2.19.0"
MACHINE_GROUPS = ("control_plane", "workers", "home_dns")
#: An inventory that has one of these groups, even an empty one, wants a cluster made on its own machines.
CLUSTER_GROUPS = ("cluster", "control_plane", "workers")

#: Facts of the site. Each is stated once, for all hosts.
SITE_VARIABLES = frozenset(
    {
        "homelab_acme_server",
        "homelab_address_pool",
        "homelab_ca_path",
        "homelab_cache_dir",
        "homelab_cozy_image",
        "homelab_domain",
        "homelab_ingress_address",
        "homelab_instances",
        "homelab_kubeconfig",
        "homelab_kubernetes_version",
        "homelab_lan_cidr",
        "homelab_pod_cidr",
        "homelab_public_resolvers",
        "homelab_service_cidr",
        "homelab_storage_node",
        "homelab_storage_path",
    }
)
#: These decide which image of cozy-stack is made, and both halves of the site name it after them.
IMAGE_VARIABLES = frozenset({"cozy_image_base", "cozy_image_checksums", "cozy_image_packages", "cozy_image_version"})
#: Site variables that carry secrets: their values are never shown.
SECRET_VARIABLES = frozenset({"homelab_instances", "cozy_instance_instances"})
SHORTEST_PASSPHRASE = 8

ACME_SERVERS = ("staging", "production")
#: What each solver of an ACME challenge cannot do without, by variable, in words.
SOLVER_NEEDS: c.Mapping[str, c.Mapping[str, str]] = {
    "cloudflare": {"cluster_issuer_cloudflare_token": "an API token of Cloudflare's for the zone, or another solver"},
    "rfc2136": {
        "cluster_issuer_rfc2136_nameserver": "the address of the zone's name server",
        "cluster_issuer_rfc2136_key_name": "the name of the TSIG key that may write TXT records",
        "cluster_issuer_rfc2136_secret": "the secret of that key, in base64",
    },
    "webhook": {
        "cluster_issuer_webhook": "a mapping with groupName and solverName, as the webhook's documentation has it"
    },
    "http01": {},
}

#: kube-controller-manager hands each machine a network of this prefix length for its pods.
POD_PREFIX_OF_A_MACHINE = 24
#: kubeadm takes service networks of at most 20 host bits; fewer than 256 addresses run out soon.
SERVICE_PREFIXES = (12, 24)
#: Seconds for which devices may remember the Cozy's address: often enough asked, and soon forgotten.
HOME_DNS_TTLS = (60, 300)
#: BIND forwards over TLS only from 9.20 on, dnsmasq never.
HOME_DNS_TLS_BACKEND = "unbound"
#: What has no meaning when home_dns installs nothing.
HOME_DNS_INSTALLED_ONLY = (
    "home_dns_dnssec",
    "home_dns_extra_config",
    "home_dns_hosts",
    "home_dns_ttl",
    "home_dns_upstreams",
    "home_dns_zones",
)
#: What the roles take when the site says nothing.
DEFAULTS: c.Mapping[str, str] = {
    "homelab_kubernetes_version": "1.36.3",
    "homelab_pod_cidr": "10.244.0.0/16",
    "homelab_service_cidr": "10.96.0.0/12",
}


class Missing:
    """The value of a variable that is not set."""


MISSING: t.Final = Missing()


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """The value of a variable whose template or vault cannot be resolved."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, how it is, and what it should be."""

    subject: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.subject} {self.found}: expected {self.expected}"


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What an inventory says, with all templates resolved.

    ``controller`` holds the variables as the controller sees them, ``machines`` those of every machine of the known
    groups, ``groups`` the members of every group. ``containerd_minimum`` maps each supported Kubernetes release
    ("1.36") to the oldest containerd that it works with. ``options`` are those of the
    collection's roles by variable, ``ansible_core`` is the version that runs.
    """

    controller: c.Mapping[str, object]
    machines: c.Mapping[str, c.Mapping[str, object]]
    groups: c.Mapping[str, c.Sequence[str]]
    containerd_minimum: c.Mapping[str, str]
    options: c.Mapping[str, _role_options.Option]
    ansible_core: str

    @property
    def makes_cluster(self) -> bool:
        """Say whether a cluster is to be made on machines of the inventory, rather than given by a kubeconfig."""
        return any(group in self.groups for group in CLUSTER_GROUPS)

    @property
    def takes_cluster(self) -> bool:
        """Say whether a kubeconfig gives a cluster that is there already."""
        return not self.makes_cluster and self.states("homelab_kubeconfig")

    def members(self, *groups: str) -> list[str]:
        """Return the machines of some groups, each once."""
        return list(dict.fromkeys(name for group in groups for name in self.groups.get(group, ())))

    def views(self) -> dict[str, c.Mapping[str, object]]:
        """Return the variables of the controller and of every machine."""
        return {CONTROLLER: self.controller, **self.machines}

    def site(self, name: str) -> object:
        """Return a fact of the site; one that cannot be read counts as missing (it is reported elsewhere)."""
        for view in self.views().values():
            value = view.get(name, MISSING)
            if not isinstance(value, Missing):
                return MISSING if isinstance(value, Unreadable) else value
        return DEFAULTS.get(name, MISSING)

    def states(self, name: str) -> bool:
        """Say whether a variable is set anywhere, be it unreadable."""
        return any(name in view for view in self.views().values())

    def spread(self, name: str) -> list[tuple[object, list[str]]]:
        """Return the different values of a variable, each with the hosts that see it."""
        found: list[tuple[object, list[str]]] = []
        for host, view in self.views().items():
            if name not in view:
                continue
            for value, hosts in found:
                if type(value) is type(view[name]) and value == view[name]:
                    hosts.append(host)
                    break
            else:
                found.append((view[name], [host]))
        return found

    @functools.cached_property
    def lan(self) -> ipaddress.IPv4Network | None:
        """Return the house's network when it is stated well."""
        return values.network(self.site("homelab_lan_cidr"))

    @functools.cached_property
    def addresses(self) -> dict[str, ipaddress.IPv4Address]:
        """Return the well-stated addresses of machines."""
        found = {name: values.address(view.get("ansible_host")) for name, view in self.machines.items()}
        return {name: address for name, address in found.items() if address is not None}

    @functools.cached_property
    def pool(self) -> list[values.Range]:
        """Return the well-stated entries of the address pool."""
        stated = self.site("homelab_address_pool")
        entries = [values.address_range(entry) for entry in stated] if isinstance(stated, list) else []
        return [entry for entry in entries if isinstance(entry, values.Range)]


Problems = c.Iterator[Problem]


def problems_of(inventory: Inventory) -> list[Problem]:
    """Return everything that is wrong with an inventory, in the order in which a reader would fix it."""
    rules: tuple[c.Callable[[Inventory], Problems], ...] = (
        _ansible,
        _groups,
        _unreadable,
        _known_names,
        _stated_once,
        _domain,
        _lan,
        _machines,
        _pool,
        _ingress,
        _cluster_networks,
        _control_plane,
        _versions,
        _role_variables,
        _home_dns,
        _upstreams,
        _resolvers,
        _acme,
        _paths,
        _storage,
        _mail,
        _mail_page,
        _cozy_image,
        _instances,
        _contexts,
        _nested_names,
        _flat_names,
    )
    return list(dict.fromkeys(problem for rule in rules for problem in rule(inventory)))


def is_value(value: object, expected: str, subject: str) -> Problem:
    """Make the problem of a value that is not what it should be."""
    if isinstance(value, Missing) or value is None:
        return Problem(subject, "is not set", expected)
    return Problem(subject, f"is {shown(value)}", expected)


def shown(value: object) -> str:
    """Return a value as people write it in YAML, cut when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def kind_of(value: object) -> str:
    """Return what kind of value something is, in place of a value that may hold secrets."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
    )
    kinds += ((dict, "a mapping"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "not set")


def listed(names: c.Iterable[str]) -> str:
    """Return names as a list for a sentence."""
    return ", ".join(names)


def nearest(name: str, known: c.Iterable[str]) -> str | None:
    """Return the known name that is meant by a misspelt one, if there is one."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)), None)


def _ansible(inventory: Inventory) -> Problems:
    if values.version_key(inventory.ansible_core) < values.version_key(OLDEST_ANSIBLE_CORE):
        yield is_value(inventory.ansible_core, f"{OLDEST_ANSIBLE_CORE} or newer", "version of ansible-core")


def _groups(inventory: Inventory) -> Problems:
    groups = inventory.groups
    misplaced: set[str] = set()
    for group in sorted(set(groups) - {"all", "ungrouped", *CLUSTER_GROUPS, *MACHINE_GROUPS}):
        meant = nearest(group.lower().replace("-", "_"), MACHINE_GROUPS)
        if meant and groups[group] and not groups.get(meant):
            misplaced.update(groups[group])
            yield Problem(f"group {group}", f"holds {listed(groups[group])}", f'the name "{meant}" for this group')
    if not inventory.makes_cluster:
        if not inventory.takes_cluster:
            yield Problem(
                "group control_plane",
                "is missing",
                "a group with one machine at least, or homelab_kubeconfig alone for a cluster that is there already",
            )
        return
    if "control_plane" not in groups:
        yield Problem("group control_plane", "is missing", "a group with one machine at least")
    elif not groups["control_plane"]:
        yield Problem("group control_plane", "is empty", "one machine at least")
    elif len(groups["control_plane"]) % 2 == 0:
        count = len(groups["control_plane"])
        yield Problem(
            "group control_plane",
            f"holds {count} machines ({listed(groups['control_plane'])})",
            f"an odd number, such as {count - 1} or {count + 1}: the last one adds work and no safety",
        )
    for name in inventory.members("control_plane"):
        if name in groups.get("workers", ()):
            yield Problem(
                f"machine {name}",
                "is in both control_plane and workers",
                "one of the two (a cluster without workers runs everything on its control plane)",
            )
    wanted = inventory.members("control_plane", "workers")
    if "cluster" not in groups:
        yield Problem("group cluster", "is missing", "a group with the children control_plane and workers")
        return
    for name in groups["cluster"]:
        if name not in wanted and name not in misplaced:
            yield Problem(f"machine {name}", "is in cluster only", "it to be in control_plane or in workers")
    left_out = [name for name in wanted if name not in groups["cluster"]]
    if left_out:
        yield Problem("group cluster", f"lacks {listed(left_out)}", "the children control_plane and workers in it")


def _unreadable(inventory: Inventory) -> Problems:
    for name in sorted({name for view in inventory.views().values() for name in view}):
        for value, hosts in inventory.spread(name):
            if isinstance(value, Unreadable):
                where = "" if CONTROLLER in hosts else f" of {listed(hosts)}"
                yield Problem(f"{name}{where}", f"cannot be read ({value.reason})", "a value whose parts are all there")


def _known_names(inventory: Inventory) -> Problems:
    names = {name for view in inventory.views().values() for name in view if name.startswith("homelab_")}
    for name in sorted(names - SITE_VARIABLES):
        meant = nearest(name, SITE_VARIABLES)
        value = inventory.site(name)
        # Without a near name nobody knows whether the value is a secret.
        hidden = meant is None or meant in SECRET_VARIABLES or isinstance(value, Missing)
        found = "is set" if hidden else f"is {shown(value)}"
        hint = f'the name "{meant}", or no such variable' if meant else "no such variable: nothing here reads it"
        yield Problem(name, found, hint)


def _stated_once(inventory: Inventory) -> Problems:
    for name in sorted(SITE_VARIABLES | IMAGE_VARIABLES):
        spread = inventory.spread(name)
        seen_by = [host for _value, hosts in spread for host in hosts]
        place = "one value for all hosts, in group_vars/all"
        if len(spread) > 1 and name not in SECRET_VARIABLES:
            parts = [
                f"{shown(value)} for {listed(hosts)}" for value, hosts in spread if not isinstance(value, Unreadable)
            ]
            yield Problem(name, f"is {'; '.join(parts)}", place)
        elif len(spread) > 1:
            yield Problem(name, "differs between hosts", place)
        elif seen_by and len(seen_by) < len(inventory.views()):
            yield Problem(name, f"is set for {listed(seen_by)} only", place)


def _domain(inventory: Inventory) -> Problems:
    value = inventory.site("homelab_domain")
    if isinstance(value, Missing) and inventory.states("homelab_domain"):
        return
    fault = values.domain_fault(value)
    if fault:
        yield is_value(value, fault, "homelab_domain")


def _lan(inventory: Inventory) -> Problems:
    value = inventory.site("homelab_lan_cidr")
    if isinstance(value, Missing) and (inventory.states("homelab_lan_cidr") or not inventory.makes_cluster):
        return
    fault = values.network_fault(value)
    if fault is None and inventory.lan is not None and not 8 <= inventory.lan.prefixlen <= 29:
        fault = "a prefix length from 8 to 29"
    if fault:
        yield is_value(value, fault, "homelab_lan_cidr")


def _address_fault(inventory: Inventory, value: object) -> str | None:
    """Judge an address that something in the house has."""
    address = values.address(value)
    lan = inventory.lan
    if address is None:
        return "an IPv4 address of the house" + (f" ({lan})" if lan else ', such as "192.168.1.11"')
    if lan is None:
        return None
    if address not in lan:
        return f"an address inside homelab_lan_cidr ({lan})"
    if address == lan.network_address:
        return f"an address of a machine; this is the network address of {lan}"
    if address == lan.broadcast_address:
        return f"an address of a machine; this is the broadcast address of {lan}"
    return None


def _machines(inventory: Inventory) -> Problems:
    for name, view in inventory.machines.items():
        fault = values.machine_name_fault(name)
        if fault:
            yield Problem(f"machine {name}", "has a name that cannot be used", fault)
        value = view.get("ansible_host", MISSING)
        if not isinstance(value, Unreadable):
            fault = _address_fault(inventory, value)
            if fault:
                yield is_value(value, fault, f"ansible_host of {name}")
    for address in dict.fromkeys(inventory.addresses.values()):
        names = [name for name, own in inventory.addresses.items() if own == address]
        if len(names) > 1:
            yield is_value(str(address), "a different address for each machine", f"ansible_host of {listed(names)}")


def _pool(inventory: Inventory) -> Problems:
    subject = "homelab_address_pool"
    value = inventory.site(subject)
    if isinstance(value, Missing) and (inventory.states(subject) or not inventory.makes_cluster):
        return
    if not isinstance(value, list) or not value:
        yield is_value(value, 'a list of ranges, such as ["192.168.1.200-192.168.1.209"]', subject)
        return
    good: list[values.Range] = []
    for entry in value:
        read = values.address_range(entry)
        if isinstance(read, str):
            yield is_value(entry, read, subject)
            continue
        for other in good:
            if read.overlaps(other):
                yield is_value(entry, f"ranges that do not overlap; this one overlaps {other}", subject)
        good.append(read)
        yield from _pool_range(inventory, entry, read)


def _pool_range(inventory: Inventory, entry: object, read: values.Range) -> Problems:
    subject = "homelab_address_pool"
    lan = inventory.lan
    if lan is not None:
        if read.first not in lan or read.last not in lan:
            yield is_value(entry, f"addresses inside homelab_lan_cidr ({lan})", subject)
        else:
            for special, what in ((lan.network_address, "network"), (lan.broadcast_address, "broadcast")):
                if special in read:
                    yield is_value(entry, f"a range without the {what} address {special}", subject)
    for name, address in inventory.addresses.items():
        if address in read:
            yield is_value(entry, f"a range without the address of {name} ({address})", subject)
    for name in ("homelab_pod_cidr", "homelab_service_cidr"):
        net = values.network(inventory.site(name))
        if net is not None and read.overlaps(values.Range(net[0], net[-1])):
            yield is_value(entry, f"addresses outside {name} ({net})", subject)


def _ingress(inventory: Inventory) -> Problems:
    subject = "homelab_ingress_address"
    value = inventory.site(subject)
    if isinstance(value, Missing) and (inventory.states(subject) or not inventory.makes_cluster):
        return
    fault = _address_fault(inventory, value)
    if fault:
        yield is_value(value, fault, subject)
        if values.address(value) is None:
            return
    address = values.address(value)
    for name, own in inventory.addresses.items():
        if own == address:
            yield is_value(value, f"an address that no machine has; {name} has it", subject)
    if inventory.pool and not any(address in entry for entry in inventory.pool):
        pool = listed(str(entry) for entry in inventory.pool)
        yield is_value(value, f"an address of homelab_address_pool ({pool})", subject)


def _cluster_networks(inventory: Inventory) -> Problems:
    nets: dict[str, ipaddress.IPv4Network] = {}
    for name in ("homelab_pod_cidr", "homelab_service_cidr"):
        value = inventory.site(name)
        if isinstance(value, Missing):
            continue
        fault = values.network_fault(value)
        if fault:
            yield is_value(value, fault, name)
            continue
        nets[name] = ipaddress.IPv4Network(t.cast(str, value))
        fault = _size_fault(inventory, name, nets[name])
        if fault:
            yield is_value(value, fault, name)
    pods, services = nets.get("homelab_pod_cidr"), nets.get("homelab_service_cidr")
    if pods is not None and services is not None and pods.overlaps(services):
        yield is_value(
            str(pods), f"a network that does not overlap homelab_service_cidr ({services})", "homelab_pod_cidr"
        )
    for name, net in nets.items():
        if inventory.lan is not None and net.overlaps(inventory.lan):
            yield is_value(str(net), f"a network that does not overlap homelab_lan_cidr ({inventory.lan})", name)


def _size_fault(inventory: Inventory, name: str, net: ipaddress.IPv4Network) -> str | None:
    if name == "homelab_service_cidr":
        low, high = SERVICE_PREFIXES
        return None if low <= net.prefixlen <= high else f"a prefix length from {low} to {high}"
    machines = max(1, len(inventory.members("control_plane", "workers")))
    room = 0 if net.prefixlen > POD_PREFIX_OF_A_MACHINE else 2 ** (POD_PREFIX_OF_A_MACHINE - net.prefixlen)
    if room < machines:
        needed = POD_PREFIX_OF_A_MACHINE - (machines - 1).bit_length()
        return f"a prefix length of at most {needed}, a /{POD_PREFIX_OF_A_MACHINE} for each of {machines} machine(s)"
    return None


def _control_plane(inventory: Inventory) -> Problems:
    subject = "kubernetes_control_plane_endpoint"
    count = len(inventory.groups.get("control_plane", ()))
    if count > 1 and not inventory.states(subject):
        wanted = f'a name or address that leads to all {count} machines, such as "cluster.example.com:6443"'
        yield Problem(subject, "is not set", wanted)
    for value, _hosts in inventory.spread(subject):
        if isinstance(value, Missing):
            continue
        fault = values.endpoint_fault(value)
        if fault:
            yield is_value(value, fault, subject)
            continue
        address = values.address(t.cast(str, value).partition(":")[0])
        if any(address in entry for entry in inventory.pool):
            wanted = "an address outside homelab_address_pool: the pool serves only once the cluster runs"
            yield is_value(value, wanted, subject)


def _versions(inventory: Inventory) -> Problems:
    supported = sorted(inventory.containerd_minimum, key=values.version_key)
    releases = dict.fromkeys(inventory.views(), DEFAULTS["homelab_kubernetes_version"].rpartition(".")[0])
    for name in ("homelab_kubernetes_version", "kubernetes_version"):
        for value, hosts in inventory.spread(name):
            if isinstance(value, (Missing, Unreadable)):
                continue
            fault = values.version_fault(value, DEFAULTS["homelab_kubernetes_version"])
            if fault is None:
                release = t.cast(str, value).rpartition(".")[0]
                if release not in inventory.containerd_minimum:
                    fault = f"one of the supported releases {listed(supported)}"
                releases.update(dict.fromkeys(hosts, release))
            if fault:
                yield is_value(value, fault, name)
    for value, hosts in inventory.spread("containerd_version"):
        if isinstance(value, Missing):
            continue
        fault = values.version_fault(value, "2.4.2")
        if fault:
            yield is_value(value, fault, "containerd_version")
            continue
        for release in sorted({releases[host] for host in hosts}):
            oldest = inventory.containerd_minimum.get(release)
            if oldest and values.version_key(t.cast(str, value)) < values.version_key(oldest):
                yield is_value(value, f"{oldest} or newer, which Kubernetes {release} needs", "containerd_version")


def _role_variables(inventory: Inventory) -> Problems:
    names = {name for view in inventory.views().values() for name in view}
    for name in sorted(names - SITE_VARIABLES - SECRET_VARIABLES):
        option = inventory.options.get(name)
        if option is None:
            meant = difflib.get_close_matches(name, inventory.options, n=1, cutoff=0.9)
            if meant and not name.startswith("homelab_"):
                yield Problem(name, "is set", f'the name "{meant[0]}": nothing here reads this one')
            continue
        for value, _hosts in inventory.spread(name):
            fault = None if isinstance(value, Missing) else _role_options.option_fault(name, option, value)
            if fault:
                yield is_value(value, fault, name)


def _home_dns(inventory: Inventory) -> Problems:
    for name, view in inventory.machines.items():
        if name in inventory.groups.get("home_dns", ()):
            yield from _home_dns_backend(view)
    ttls = [value for value, _hosts in inventory.spread("home_dns_ttl") if isinstance(value, int)]
    low, high = HOME_DNS_TTLS
    for ttl in ttls:
        if not low <= ttl <= high:
            yield is_value(ttl, f"from {low} to {high} seconds", "home_dns_ttl")
    for value, _hosts in inventory.spread("home_dns_address6"):
        if value and isinstance(value, str) and not values.is_address6(value):
            yield is_value(
                value, 'an IPv6 address of the house, such as "fd00::200", or no such variable', "home_dns_address6"
            )
    yield from _home_dns_hosts(inventory)
    yield from _home_dns_zones(inventory)


def _home_dns_backend(view: c.Mapping[str, object]) -> Problems:
    backend = view.get("home_dns_backend", "dnsmasq")
    if backend == "print":
        for name in HOME_DNS_INSTALLED_ONLY:
            if not isinstance(view.get(name, MISSING), Missing):
                wanted = "no such variable: the backend print installs nothing, and the router keeps its own settings"
                yield Problem(name, f"is {shown(view[name])}", wanted)
        return
    upstreams = view.get("home_dns_upstreams", MISSING)
    entries = upstreams if isinstance(upstreams, list) else []
    encrypted = [entry for entry in entries if isinstance(entry, str) and "#" in entry]
    if encrypted and backend != HOME_DNS_TLS_BACKEND:
        needed = f"encrypted questions (DNS over TLS) need the backend {HOME_DNS_TLS_BACKEND}, not {backend}"
        wanted = f"addresses alone; {needed}"
        yield is_value(encrypted[0], wanted, "home_dns_upstreams")
    elif encrypted and len(encrypted) < len(entries):
        wanted = "a name behind every address or behind none: questions go out encrypted or they do not"
        yield is_value(entries, wanted, "home_dns_upstreams")


def _home_dns_hosts(inventory: Inventory) -> Problems:
    subject = "home_dns_hosts"
    for value, _hosts in inventory.spread(subject):
        for name, address in value.items() if isinstance(value, dict) else ():
            fault = values.domain_fault(name)
            if fault is None and name == inventory.site("homelab_domain"):
                fault = "another name than homelab_domain, which leads to homelab_ingress_address"
            if fault:
                yield is_value(name, fault, subject)
            elif values.address(address) is None:
                yield is_value(address, "an IPv4 address", f"{subject}, {name}")


def _home_dns_zones(inventory: Inventory) -> Problems:
    subject = "home_dns_zones"
    domain = inventory.site("homelab_domain")
    servers = _home_dns_servers(inventory)
    for value, _hosts in inventory.spread(subject):
        for zone, asked in value.items() if isinstance(value, dict) else ():
            if not isinstance(zone, str) or any(values.label_fault(label) for label in zone.split(".")):
                yield is_value(zone, 'a domain such as "fritz.box"', subject)
            elif isinstance(domain, str) and f".{zone}".endswith(f".{domain}"):
                yield is_value(zone, f"a domain that is neither homelab_domain ({domain}) nor below it", subject)
            elif not isinstance(asked, list) or not asked:
                yield is_value(asked, 'a list of DNS servers, such as ["192.168.1.1"]', f"{subject}, {zone}")
            else:
                for entry in asked:
                    address = values.address(entry)
                    if address is None:
                        yield is_value(entry, "the IPv4 address of a DNS server", f"{subject}, {zone}")
                    elif address in servers:
                        yield is_value(
                            entry,
                            f"another server: this is {servers[address]}, the home DNS server itself",
                            f"{subject}, {zone}",
                        )


def _home_dns_servers(inventory: Inventory) -> dict[ipaddress.IPv4Address, str]:
    """Return the machines that are to answer the house, by address."""
    return {inventory.addresses[name]: name for name in inventory.members("home_dns") if name in inventory.addresses}


def _resolvers(inventory: Inventory) -> Problems:
    servers = {str(address): name for address, name in _home_dns_servers(inventory).items()}
    for name in ("homelab_public_resolvers", "cert_manager_dns01_resolvers", "cluster_issuer_resolvers"):
        value = inventory.site(name)
        if isinstance(value, Missing):
            continue
        for entry in value if isinstance(value, list) and value else [value]:
            host = entry.partition(":")[0] if isinstance(entry, str) else ""
            if host in servers:
                wanted = f"a resolver outside the house; this is {servers[host]}, which has the domain for itself"
                yield is_value(entry, wanted, name)
            elif not (isinstance(entry, str) and values.RESOLVER.fullmatch(entry)):
                wanted = 'a resolver: "9.9.9.9", "9.9.9.9:53" or "https://9.9.9.9/dns-query"'
                yield is_value(entry, wanted, name)


def _acme(inventory: Inventory) -> Problems:
    name = "cluster_issuer_server" if inventory.states("cluster_issuer_server") else "homelab_acme_server"
    server, kind = inventory.site(name), inventory.site("cluster_issuer_type")
    if kind != "acme" and not (isinstance(kind, Missing) and inventory.states("homelab_acme_server")):
        return
    known = isinstance(server, str) and (server in ACME_SERVERS or values.HTTPS.fullmatch(server))
    if not known and not isinstance(server, Missing):
        yield is_value(server, '"staging", "production" or the https URL of another server\'s directory', name)
    domain = inventory.site("homelab_domain")
    if server in (*ACME_SERVERS, MISSING) and isinstance(domain, str) and domain.endswith(values.HOUSE_ONLY):
        yield is_value(domain, f"a name that is yours in the public DNS, for {name} is set", "homelab_domain")
    solver = inventory.site("cluster_issuer_solver")
    solver = "cloudflare" if isinstance(solver, Missing) else solver
    for needed, what in SOLVER_NEEDS.get(str(solver), {}).items():
        # Secrets are not looked at: that they are set is what can be seen.
        if not inventory.states(needed) or inventory.site(needed) in ("", {}):
            yield Problem(needed, "is not set", f'{what}, for cluster_issuer_solver is "{solver}"')
    webhook = inventory.site("cluster_issuer_webhook")
    if solver == "webhook" and isinstance(webhook, dict) and webhook:
        for key in ("groupName", "solverName"):
            if not webhook.get(key):
                yield Problem(f"cluster_issuer_webhook, {key}", "is not set", "what the webhook's documentation says")
    wildcard = inventory.site("cluster_issuer_certificate_wildcard")
    if solver == "http01" and wildcard is not False:
        wanted = 'false, and every name in cluster_issuer_certificate_domains, for cluster_issuer_solver is "http01"'
        yield is_value(
            True if isinstance(wildcard, Missing) else wildcard, wanted, "cluster_issuer_certificate_wildcard"
        )


def _upstreams(inventory: Inventory) -> Problems:
    subject = "home_dns_upstreams"
    servers = _home_dns_servers(inventory)
    ingress = values.address(inventory.site("homelab_ingress_address"))
    for value, _hosts in inventory.spread(subject):
        if isinstance(value, Missing):
            continue
        if not isinstance(value, list):
            yield is_value(value, 'a list of DNS servers, such as ["9.9.9.9", "1.1.1.1"]', subject)
            continue
        for entry in value:
            text, sign, name = entry.partition("#") if isinstance(entry, str) else (entry, "", "")
            address = values.address(text)
            if address is None:
                yield is_value(entry, "the IPv4 address of a DNS server", subject)
            elif sign and values.domain_fault(name):
                yield is_value(entry, 'an address and the server\'s name, such as "9.9.9.9#dns.quad9.net"', subject)
            elif address in servers:
                yield is_value(
                    entry, f"another server: this is {servers[address]}, the home DNS server itself", subject
                )
            elif address == ingress or any(address in pool for pool in inventory.pool):
                yield is_value(
                    entry, "a DNS server outside the cluster, not an address of homelab_address_pool", subject
                )


def _paths(inventory: Inventory) -> Problems:
    kubeconfig = values.writable_file_fault if inventory.makes_cluster else values.readable_file_fault
    for name, judge in (
        ("homelab_kubeconfig", kubeconfig),
        ("homelab_cache_dir", values.writable_folder_fault),
        ("homelab_ca_path", values.readable_file_fault),
    ):
        value = inventory.site(name)
        if not isinstance(value, Missing) and not (name == "homelab_ca_path" and value == ""):
            fault = judge(value)
            if fault:
                yield is_value(value, fault, name)


def _storage(inventory: Inventory) -> Problems:
    members = inventory.members("control_plane", "workers")
    local = []
    for name in ("homelab_storage_node", "couchdb_volume_node", "cozy_stack_volume_node"):
        for value, _hosts in inventory.spread(name):
            if not isinstance(value, (Missing, Unreadable)) and inventory.makes_cluster and value not in members:
                yield is_value(value, f"a machine of the cluster: {listed(members)}", name)
    for role in ("couchdb", "cozy_stack"):
        kinds = [value for value, _hosts in inventory.spread(f"{role}_volume_kind")]
        if kinds in ([], ["local"]) and not inventory.states(f"{role}_volume_node"):
            local.append(f"{role}_volume_kind")
    if local and inventory.takes_cluster and not inventory.states("homelab_storage_node"):
        wanted = f'the name of the node that keeps the data, or the choice "class" for {" and ".join(local)}'
        yield Problem("homelab_storage_node", "is not set", wanted)
    path = inventory.site("homelab_storage_path")
    if not isinstance(path, Missing) and not (isinstance(path, str) and path.startswith("/") and path.strip("/")):
        yield is_value(path, "an absolute path of a folder on the machine that keeps the data", "homelab_storage_path")


def _mail(inventory: Inventory) -> Problems:
    kind, host = inventory.site("mail_kind"), inventory.site("mail_relay_host")
    if kind == "relay" and (isinstance(host, Missing) or not host):
        yield is_value(
            host, 'the name of the mail server, such as "smtp.example.com", for mail_kind is "relay"', "mail_relay_host"
        )
    elif host and not isinstance(host, Missing) and kind != "relay":
        yield is_value(
            kind,
            f'"relay", for mail_relay_host names a mail server ({shown(host)}), or no mail_relay_host',
            "mail_kind",
        )
    elif isinstance(host, str) and (":" in host or "/" in host):
        yield is_value(
            host,
            'the bare name of the mail server, such as "smtp.example.com"; the port is in mail_relay_port',
            "mail_relay_host",
        )
    tls, port = inventory.site("mail_relay_tls"), inventory.site("mail_relay_port")
    for other, only in ((465, "tls"), (587, "starttls")):
        meant = "starttls" if isinstance(tls, Missing) else tls
        if port == other and meant != only:
            yield is_value(
                tls, f'"{only}", which is what servers speak on port {other} (mail_relay_port)', "mail_relay_tls"
            )
    login = inventory.site("mail_relay_username")
    if isinstance(login, str) and login:
        if tls == "none":
            wanted = '"starttls" or "tls": with mail_relay_username, a password would travel in the open'
            yield is_value(tls, wanted, "mail_relay_tls")
        given = [name for name in ("mail_relay_password", "mail_relay_password_secret") if inventory.states(name)]
        if len(given) != 1:
            found = "is not set" if not given else "is set beside mail_relay_password_secret"
            wanted = "the password of mail_relay_username there, or the name of a Secret in mail_relay_password_secret"
            yield Problem("mail_relay_password", found, wanted)
    sender = inventory.site("mail_from")
    if (
        not isinstance(sender, Missing)
        and sender != ""
        and not (isinstance(sender, str) and values.MAIL.fullmatch(sender))
    ):
        yield is_value(sender, 'a mail address such as "cozy@example.com"', "mail_from")


def _mail_page(inventory: Inventory) -> Problems:
    name, kind = inventory.site("mail_ui_domain"), inventory.site("mail_kind")
    if isinstance(name, Missing) or name == "":
        return
    fault = values.domain_fault(name)
    if fault:
        yield is_value(name, fault, "mail_ui_domain")
        return
    if kind in ("relay", "none"):
        yield is_value(name, f'no such variable: with mail_kind "{kind}" there is no mailbox to show', "mail_ui_domain")
    domains = _instance_domains(inventory)
    site = inventory.site("homelab_domain")
    if name in domains or name == site:
        yield is_value(name, "a name of its own; this is the name of a Cozy", "mail_ui_domain")
    elif not inventory.states("mail_ui_tls_secret") and str(name).partition(".")[2] not in (*domains, site):
        wanted = f'a name one step below "{site}" (homelab_domain), or its certificate\'s Secret in mail_ui_tls_secret'
        yield is_value(name, wanted, "mail_ui_domain")


def _instance_entries(inventory: Inventory) -> c.Iterator[tuple[str, c.Mapping[str, object]]]:
    """Return the well-formed instances, each with the subject of its problems."""
    for name in sorted(SECRET_VARIABLES):
        for value, _hosts in inventory.spread(name):
            for number, entry in enumerate(value if isinstance(value, list) else [], start=1):
                if isinstance(entry, dict):
                    yield f"{name}, entry {number}", entry


def _instance_domains(inventory: Inventory) -> list[str]:
    return [str(entry.get("domain")) for _subject, entry in _instance_entries(inventory)]


def _contexts(inventory: Inventory) -> Problems:
    known = {"default"}
    for name in ("cozy_stack_contexts", "cozy_stack_config"):
        value = inventory.site(name)
        if name == "cozy_stack_config" and isinstance(value, dict):
            value = value.get("contexts")
        for context in value if isinstance(value, dict) else ():
            known.add(context)
            if context != context.lower():
                wanted = f'lower case, "{context.lower()}": cozy-stack reads all names in lower case'
                yield is_value(context, wanted, f"{name}, a context")
    for subject, entry in _instance_entries(inventory):
        context = entry.get("context")
        if isinstance(context, str) and context not in known:
            wanted = f"a context that cozy_stack_contexts has ({listed(sorted(known))})"
            yield is_value(context, wanted, f"{subject}, context")


def _nested_names(inventory: Inventory) -> Problems:
    if inventory.site("cozy_stack_subdomains") == "flat":
        return
    names = [(subject, key, name) for subject, entry in _instance_entries(inventory) for key, name in _names_of(entry)]
    taken = {name for _subject, _key, name in names}
    for subject, key, name in names:
        label, _dot, parent = name.partition(".")
        if parent in taken:
            wanted = f'a name that is not right below another Cozy: "{label}" is an application of {parent} there'
            yield is_value(name, wanted, f"{subject}, {key}")


def _names_of(entry: c.Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the names of an instance, each with the key that states it."""
    aliases = entry.get("aliases")
    stated = [
        ("domain", entry.get("domain")),
        *(("aliases", name) for name in (aliases if isinstance(aliases, list) else [])),
    ]
    return [(key, name) for key, name in stated if isinstance(name, str)]


def _flat_names(inventory: Inventory) -> Problems:
    if inventory.site("cozy_stack_subdomains") != "flat":
        return
    site = inventory.site("homelab_domain")
    for subject, entry in _instance_entries(inventory):
        domain = entry.get("domain")
        if domain == site:
            label = str(site).partition(".")[0]
            wanted = (
                f'a name below it, such as "alice.{site}": with flat names its applications would be at "{label}-home"'
                " beside it, where no certificate reaches"
            )
            yield is_value(domain, wanted, f"{subject}, domain")
        for key, name in _names_of(entry):
            if "-" in name.partition(".")[0]:
                wanted = "no hyphen in its first part: with flat names the application follows there (alice-home)"
                yield is_value(name, wanted, f"{subject}, {key}")


def _cozy_image(inventory: Inventory) -> Problems:
    subject = "homelab_cozy_image"
    value = inventory.site(subject)
    if isinstance(value, Missing) or value == "official":
        return
    if value != "own":
        yield is_value(value, 'one of "official", "own"', subject)
        return
    if not inventory.members("control_plane", "workers"):
        wanted = '"official", or cozy_stack_image for an image of yours: there are no machines here to put one on'
        yield is_value(value, wanted, subject)
    if inventory.states("cozy_stack_image"):
        yield Problem("cozy_stack_image", "is set", f'no such variable, for {subject} is "own"')


def _instances(inventory: Inventory) -> Problems:
    for name in sorted(SECRET_VARIABLES):
        for value, _hosts in inventory.spread(name):
            if isinstance(value, (Missing, Unreadable)):
                continue
            if not isinstance(value, list):
                yield Problem(name, f"is {kind_of(value)}", "a list of instances, each with its domain")
                continue
            domains: dict[str, int] = {}
            for number, entry in enumerate(value, start=1):
                subject = f"{name}, entry {number}"
                if not isinstance(entry, dict):
                    yield Problem(subject, f"is {kind_of(entry)}", "a mapping with its domain")
                    continue
                yield from _instance(inventory, subject, entry)
                domain = entry.get("domain")
                if isinstance(domain, str) and domain in domains:
                    yield is_value(
                        domain, f"a domain of its own; entry {domains[domain]} has this one", f"{subject}, domain"
                    )
                elif isinstance(domain, str):
                    domains[domain] = number


def _instance(inventory: Inventory, subject: str, entry: c.Mapping[str, object]) -> Problems:
    known = inventory.options.get("cozy_instance_instances", {}).get("options", {})
    for key in sorted(entry):
        if key not in known:
            meant = nearest(key, known)
            hint = f'the name "{meant}"' if meant else f"only {listed(sorted(known))}"
            yield Problem(f"{subject}, {key}", "is set", hint)
        elif key not in ("apps", "domain", "email", "passphrase"):
            fault = _role_options.option_fault(key, known[key], entry[key])
            if fault:
                yield is_value(entry[key], fault, f"{subject}, {key}")

    domain = entry.get("domain", MISSING)
    fault = values.domain_fault(domain) or _instance_domain_fault(inventory, t.cast(str, domain))
    if fault:
        yield is_value(domain, fault, f"{subject}, domain")
    if "passphrase" in entry:
        passphrase = entry["passphrase"]
        if passphrase is not None and not isinstance(passphrase, str):
            yield Problem(f"{subject}, passphrase", f"is {kind_of(passphrase)}", "text in quotes")
        elif not passphrase or not passphrase.strip():
            yield Problem(f"{subject}, passphrase", "is empty", f"at least {SHORTEST_PASSPHRASE} characters")
        elif len(passphrase) < SHORTEST_PASSPHRASE:
            yield Problem(f"{subject}, passphrase", "is too short", f"at least {SHORTEST_PASSPHRASE} characters")
    email = entry.get("email", MISSING)
    if not isinstance(email, Missing) and not (isinstance(email, str) and values.MAIL.fullmatch(email)):
        yield is_value(email, 'a mail address such as "alice@example.com"', f"{subject}, email")
    yield from _apps(f"{subject}, apps", entry.get("apps", MISSING))


def _instance_domain_fault(inventory: Inventory, domain: str) -> str | None:
    site = inventory.site("homelab_domain")
    if not isinstance(site, str) or values.domain_fault(site) or domain == site:
        return None
    label, _dot, rest = domain.partition(".")
    if rest == site and label:
        return None
    return f'"{site}" (homelab_domain) or a name one step below it: DNS and certificate reach no further'


def _apps(subject: str, value: object) -> Problems:
    if isinstance(value, Missing):
        return
    if not isinstance(value, list):
        yield is_value(value, 'a list of applications, such as ["home", "drive"]', subject)
        return
    for app in value:
        if not isinstance(app, str) or not values.SLUG.fullmatch(app):
            yield is_value(app, "the short name of an application: lower case letters, digits and hyphens", subject)
        elif value.count(app) > 1:
            yield is_value(app, "each application once", subject)
