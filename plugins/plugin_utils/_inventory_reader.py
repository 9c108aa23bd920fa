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
from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _role_options

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
        options=_role_options.role_options(),
        ansible_core=str(ansible_core),
    )


def plain(value: object) -> object:
    """Return a copy of a value made of Python's own types only; vaulted text is decrypted by this."""
    if isinstance(value, c.Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    return "".join(str(value))


def _variables(view: c.Mapping[str, object]) -> dict[str, object]:
    """Return the variables of one host that the rules look at, and the names of those that may be misspelt ones."""
    options = _role_options.role_options()
    roles = tuple(f"{role}_" for role in _role_options.role_names())
    found: dict[str, object] = {}
    for name in map(str, view):
        option = options.get(name)
        if name.startswith("homelab_") or name == "ansible_host":
            found[name] = _value(view, name)
        elif option is not None:
            # A role's variable may be made of what only the run knows, and a secret is not looked at without need.
            value = rules.MISSING if option.get("no_log") else _value(view, name)
            found[name] = rules.MISSING if isinstance(value, rules.Unreadable) else value
        elif name.startswith(roles):
            found[name] = rules.MISSING
    return found


def _value(view: c.Mapping[str, object], name: str) -> object:
    try:
        return plain(view[name])
    except (AnsibleError, jinja2.UndefinedError) as error:
        return rules.Unreadable(" ".join(str(error.__cause__ or error).split()))
