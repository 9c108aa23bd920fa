# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What single values of an inventory must look like.

Private to this collection: names and behaviour may change at any time.

Every ``*_fault`` function answers ``None`` for a good value and otherwise the sentence that completes
"expected ..." in a message to the user.
"""

from __future__ import annotations

import ipaddress
import os
import pathlib
import re
import typing as t

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
MAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
VERSION = re.compile(r"\d+\.\d+\.\d+")
HTTPS = re.compile(r"https://[^/\s]+(/\S*)?")
RESOLVER = re.compile(r"(\d{1,3}(\.\d{1,3}){3})(:\d{1,5})?|https://[^/\s]+/\S*")
SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")

#: Names that no public authority may certify: everybody's house may have them.
HOUSE_ONLY = ("home.arpa", ".internal", ".lan", ".home", ".test", ".example")

#: Leaves room for the label of an application and its dot: no name may have more than 253 characters.
LONGEST_DOMAIN = 189

#: Top-level names that can never be the public name of a household's cloud, with the reason.
RESERVED_TOP_LEVELS = {
    "local": "mDNS owns .local, so phones and computers would not ask the DNS server",
    "localhost": "it always means the own machine",
    "invalid": "it never resolves",
    "onion": "it is reserved for Tor",
    "arpa": "it is reserved for infrastructure; home.arpa is the exception",
}

#: Address ranges that are at home nowhere.
UNUSABLE_RANGES = tuple(
    ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)


class Range(t.NamedTuple):
    """A range of IPv4 addresses, both ends included."""

    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address

    def __contains__(self, address: object) -> bool:
        return isinstance(address, ipaddress.IPv4Address) and self.first <= address <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: Range) -> bool:
        """Say whether both ranges share an address."""
        return self.first <= other.last and other.first <= self.last


def address(value: object) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a value spells, or None."""
    if not isinstance(value, str):
        return None
    try:
        return ipaddress.IPv4Address(value)
    except ValueError:
        return None


def is_address6(value: str) -> bool:
    """Say whether a text spells an IPv6 address."""
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True


def network(value: object) -> ipaddress.IPv4Network | None:
    """Return the IPv4 network that a value spells with its prefix length, or None (also when host bits are set)."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9.]+/\d+", value):
        return None
    try:
        return ipaddress.IPv4Network(value)
    except ValueError:
        return None


def network_fault(value: object) -> str | None:
    """Judge an IPv4 network in CIDR notation."""
    net = network(value)
    if net is not None:
        for unusable in UNUSABLE_RANGES:
            if net.overlaps(unusable):
                return f"a network that may be used at home, not one that touches {unusable}"
        return None
    if isinstance(value, str):
        try:
            loose = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return 'an IPv4 network such as "192.168.1.0/24"'
        if loose.version == 6:
            return 'an IPv4 network such as "192.168.1.0/24", not an IPv6 one'
        if "/" not in value:
            return f'a network with its prefix length, such as "{value}/24"'
        return f'the address of the network itself: "{loose}"'
    return 'an IPv4 network such as "192.168.1.0/24", as text'


def address_range(value: object) -> Range | str:
    """Read ``first-last`` or a CIDR network; return the range, or the sentence for the user."""
    wanted = 'a range such as "192.168.1.200-192.168.1.209" or a network such as "192.168.1.192/28"'
    if not isinstance(value, str):
        return f"{wanted}, as text"
    net = network(value)
    if net is not None:
        return Range(net[0], net[-1])
    ends = [address(part.strip()) for part in value.split("-")]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return wanted
    if ends[0] > ends[1]:
        return f'the lower address first: "{ends[1]}-{ends[0]}"'
    return Range(ends[0], ends[1])


def label_fault(label: str) -> str | None:
    """Judge one label of a host name (RFC 1123, lower case)."""
    if not label:
        return "no empty part between two dots"
    if len(label) > 63:
        return f'parts of at most 63 characters ("{label}" has {len(label)})'
    if not label.isascii():
        return f'letters a to z, digits and hyphens only; write "{label}" as "{punycode(label)}"'
    if not LABEL.fullmatch(label):
        return f'lower case letters, digits and inner hyphens only (look at "{label}")'
    return None


def punycode(label: str) -> str:
    """Return the ASCII form of an international label."""
    try:
        return label.encode("idna").decode("ascii")
    except UnicodeError:
        return "xn--..."


def domain_fault(value: object) -> str | None:
    """Judge a domain under which a Cozy may live."""
    example = 'such as "cozy.example.com"'
    if not isinstance(value, str) or not value:
        return f"a domain name {example}"
    if "://" in value or "/" in value or ":" in value or "@" in value:
        return f"the bare name {example}, without scheme, port, path or user"
    if address(value) is not None:
        return f"a name {example}, not an address: a certificate and the applications' names need a domain"
    if value.startswith("*."):
        return f'the name without the star, "{value[2:]}": names below it are always included'
    if value.endswith("."):
        return f'no dot at the end: "{value.rstrip(".")}"'
    if value != value.lower():
        return f'lower case only: "{value.lower()}"'
    labels = value.split(".")
    if len(labels) < 2:
        return f"a name of at least two parts {example}"
    for label in labels:
        fault = label_fault(label)
        if fault:
            return fault
    if labels[-1].isdigit():
        return f"a last part that is not a number, {example}"
    if len(value) > LONGEST_DOMAIN:
        return f"at most {LONGEST_DOMAIN} characters, for applications have names below it (it has {len(value)})"
    reason = RESERVED_TOP_LEVELS.get(labels[-1])
    if reason and value != "home.arpa" and not value.endswith(".home.arpa"):
        return f"a name not below .{labels[-1]}: {reason}"
    return None


def machine_name_fault(value: str) -> str | None:
    """Judge the inventory name of a machine, which becomes its name in the cluster."""
    if value == "localhost":
        return 'a name other than "localhost", which is the machine that Ansible runs on'
    if address(value) is not None:
        return 'a name such as "control1", with the address in ansible_host'
    if len(value) > 253:
        return "at most 253 characters"
    for label in value.split("."):
        fault = label_fault(label)
        if fault:
            return fault
    return None


def endpoint_fault(value: object) -> str | None:
    """Judge ``host`` or ``host:port`` of a control-plane endpoint."""
    wanted = 'a name or IPv4 address with an optional port, such as "cluster.example.com:6443"'
    if not isinstance(value, str) or not value:
        return wanted
    host, colon, port = value.partition(":")
    if colon and not (port.isdigit() and 0 < int(port) < 65536):
        return wanted
    if address(host) is not None:
        return None
    if host.replace(".", "").isdigit() or any(label_fault(label) for label in host.split(".")):
        return wanted
    return None


def version_fault(value: object, example: str) -> str | None:
    """Judge an exact version of three numbers, kept as text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'text in quotes, such as "{example}": without quotes YAML reads a number'
    if not isinstance(value, str):
        return f'an exact version in quotes, such as "{example}"'
    if VERSION.fullmatch(value):
        return None
    if VERSION.fullmatch(value.removeprefix("v")):
        return f'no letter in front: "{value.removeprefix("v")}"'
    return f'an exact version of three numbers, such as "{example}"'


def version_key(value: str) -> tuple[int, ...]:
    """Return a version as numbers, for comparisons; anything after the leading numbers is left out."""
    found = re.match(r"\d+(\.\d+)*", value)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def writable_file_fault(value: object) -> str | None:
    """Judge a path on the controller where a file will be written; missing folders are made."""
    fault = path_fault(value)
    if fault:
        return fault
    path = _expanded(value)
    if path.is_dir():
        return "the path of a file; this is a folder"
    return _folder_fault(path.parent)


def writable_folder_fault(value: object) -> str | None:
    """Judge a path on the controller where a folder will be used or made."""
    fault = path_fault(value)
    if fault:
        return fault
    path = _expanded(value)
    return _folder_fault(path)


def readable_file_fault(value: object) -> str | None:
    """Judge a path on the controller of a file that must be there."""
    fault = path_fault(value)
    if fault:
        return fault
    path = _expanded(value)
    if not path.is_file():
        return "a file that is there on this machine"
    return None if os.access(path, os.R_OK) else "a file that you may read on this machine"


def path_fault(value: object) -> str | None:
    """Judge the form of a path on the controller."""
    if not isinstance(value, str) or not value:
        return 'a path such as "~/.kube/kubecozy.yaml"'
    if not value.startswith(("/", "~")):
        return 'an absolute path or one that begins with "~/": a relative one depends on where Ansible is started'
    if not _expanded(value).is_absolute():
        return "the home folder of a user of this machine"
    return None


def _expanded(value: object) -> pathlib.Path:
    """Return a path with ``~`` replaced; an unknown user's stays as it is."""
    try:
        return pathlib.Path(str(value)).expanduser()
    except RuntimeError:
        return pathlib.Path(str(value))


def _nearest(path: pathlib.Path) -> pathlib.Path:
    """Return the closest part of a path that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _folder_fault(folder: pathlib.Path) -> str | None:
    """Judge whether files can be put into a folder, or the folder be made."""
    nearest = _nearest(folder)
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return None
    return f"a place on this machine that you can write to; {nearest} is not"
