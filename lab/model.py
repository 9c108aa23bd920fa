# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab consists of: names, addresses and folders, stated once.

Addresses are from 10.0.0.0/8 (the house) and 198.18.0.0/15 (RFC 2544, the outside) only, so that
nothing here can be mistaken for an address on the real internet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PREFIX = "kc-"
"""Namespaces are named so that they cannot clash with those of other programs."""

ROUTER_LAN = "10.77.0.1"
ROUTER_WAN = "198.18.0.10"
HOME_DNS = "10.77.0.5"
INGRESS = "10.77.0.200"
OUTSIDE_DNS = "198.18.0.2"
OUTSIDE_WEB = "198.18.0.3"
OUTSIDE_REGISTRY = "198.18.0.4"
OUTSIDE_APIS = "198.18.0.5"
OUTSIDE_EDGE = "198.18.0.6"
"""Where names lead whose traffic the DNS provider passes on; nothing answers there."""
APT_PROXY_PORT = 3142
DOMAIN = "cozy.example.com"
ELSEWHERE = "www.example.org"
"""A name of somebody else's, to see that other names still resolve."""
ZONES = ("example.com", "example.net")
"""The household's public zones, all kept by one DNS provider; the Cozy's domain is in the first."""
CLOUDFLARE_HOST = "api.cloudflare.com"
ACME_HOSTS = {"production": "acme-v02.api.letsencrypt.org", "staging": "acme-staging-v02.api.letsencrypt.org"}


@dataclass(frozen=True)
class Host:
    """A network namespace with one address; `machine` says that Debian boots in it."""

    name: str
    address: str
    bridge: str
    resolver: str
    machine: bool = False

    @property
    def namespace(self) -> str:
        """The name `ip netns` knows it by."""
        return PREFIX + self.name

    @property
    def gateway(self) -> str | None:
        """The default route's next hop; hosts outside have none."""
        return ROUTER_LAN if self.bridge == "lan" else None


HOSTS = {
    host.name: host
    for host in (
        Host("outside", OUTSIDE_DNS, "wan", OUTSIDE_DNS),
        Host("roamer", "198.18.0.100", "wan", OUTSIDE_DNS),
        Host("controller", "10.77.0.2", "lan", ROUTER_LAN),
        Host("client", "10.77.0.100", "lan", HOME_DNS),
        Host("pi", HOME_DNS, "lan", ROUTER_LAN, machine=True),
        Host("control1", "10.77.0.11", "lan", ROUTER_LAN, machine=True),
        Host("worker1", "10.77.0.12", "lan", ROUTER_LAN, machine=True),
        Host("worker2", "10.77.0.13", "lan", ROUTER_LAN, machine=True),
    )
}
MACHINES = {name: host for name, host in HOSTS.items() if host.machine}


class LabError(Exception):
    """Something the lab could not do; the message is for the person at the keyboard."""


def state_dir() -> Path:
    """Where this lab keeps its disks, keys, logs and records."""
    return Path(os.environ.get("KUBECOZY_LAB", "/var/lib/kubecozy-lab"))


def cache_dir() -> Path:
    """Where finished artefacts are kept for this and later labs."""
    return Path(os.environ.get("KUBECOZY_CACHE", str(Path.home() / ".cache" / "kubecozy")))
