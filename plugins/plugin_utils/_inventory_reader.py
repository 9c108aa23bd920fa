# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads Ansible's ``hostvars`` and ``groups`` into the plain data that the rules work on.

Private to this collection: names and behaviour may change at any time.
"""

from __future__ import annotations

import collections.abc as c

import jinja2
from ansible.errors import AnsibleError
from ansible.release import __version__ as ansible_core
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_rules as rules

HostVars = c.Mapping[str, c.Mapping[str, object]]


def read(
    hostvars: HostVars, groups: c.Mapping[str, c.Sequence[str]], containerd_minimum: c.Mapping[str, str]
) -> rules.Inventory:
    """Return what an inventory says about the site and its machines."""
    plain_groups = {str(group): [str(host) for host in hosts] for group, hosts in groups.items()}
    in_groups = (*rules.CLUSTER_GROUPS, *rules.MACHINE_GROUPS)
    machines = dict.fromkeys(host for group in in_groups for host in plain_groups.get(group, ()))
    return rules.Inventory(
        controller=_variables(hostvars[rules.CONTROLLER]),
        machines={host: _variables(hostvars[host]) for host in machines},
        groups=plain_groups,
        containerd_minimum={str(release): str(oldest) for release, oldest in containerd_minimum.items()},
        ansible_core=str(ansible_core),
    )


def plain(value: object) -> object:
    """Return a copy of a value made of Python's own types only; vaulted text is decrypted by this."""
    if isinstance(value, c.Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return "".join(str(value))


def _variables(view: c.Mapping[str, object]) -> dict[str, object]:
    """Return the variables of one host that the rules look at."""
    names = [
        name for name in view if name.startswith("homelab_") or name in rules.ROLE_VARIABLES or name == "ansible_host"
    ]
    return {str(name): _value(view, name) for name in names}


def _value(view: c.Mapping[str, object], name: str) -> object:
    try:
        return plain(view[name])
    except (AnsibleError, jinja2.UndefinedError) as error:
        return rules.Unreadable(" ".join(str(error.__cause__ or error).split()))
