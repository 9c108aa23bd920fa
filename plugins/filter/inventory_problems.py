# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that judges an inventory."""

from __future__ import annotations

import collections.abc as c

from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_reader, _inventory_rules

DOCUMENTATION = r"""
name: inventory_problems
short_description: Everything that is wrong with the inventory of a home cluster
version_added: 1.0.0
author:
  - the kubecozy authors (@kubecozy)
description:
  - Judges the groups, the machines' names and addresses, and the variables of the site.
  - Looks at the inventory and at paths of the controller only. No machine is connected to and nothing is written.
  - Values of secrets are never part of the answer.
positional: _input
options:
  _input:
    description:
      - Ansible's C(hostvars).
    type: dict
    required: true
  groups:
    description:
      - Ansible's C(groups).
    type: dict
    required: true
  containerd_minimum:
    description:
      - The supported releases of Kubernetes, each with the oldest containerd that it works with.
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse an inventory that cannot work
  vars:
    releases: {"1.36": "2.2.0"}
    problems: "{{ hostvars | kubecozy.homelab.inventory_problems(groups=groups, containerd_minimum=releases) }}"
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('\n') }}"
"""

RETURN = r"""
_value:
  description:
    - One sentence for each problem, with the variable, its value and what is expected. Empty when all is well.
  type: list
  elements: str
  sample:
    - 'homelab_domain is "cozy": expected a name of at least two parts such as "cozy.example.com"'
"""


def inventory_problems(
    hostvars: _inventory_reader.HostVars,
    groups: c.Mapping[str, c.Sequence[str]],
    containerd_minimum: c.Mapping[str, str],
) -> list[str]:
    """Return one sentence for each problem of an inventory."""
    inventory = _inventory_reader.read(hostvars, groups, containerd_minimum)
    return [str(problem) for problem in _inventory_rules.problems_of(inventory)]


class FilterModule:
    """Makes the filter known to Ansible."""

    def filters(self) -> dict[str, c.Callable[..., list[str]]]:
        """Return the filters of this file."""
        return {"inventory_problems": inventory_problems}
