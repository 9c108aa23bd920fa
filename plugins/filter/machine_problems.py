# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that judges machines by their facts."""

from __future__ import annotations

import collections.abc as c
import time

from ansible_collections.kubecozy.homelab.plugins.plugin_utils import _inventory_reader, _machine_rules

DOCUMENTATION = r"""
name: machine_problems
short_description: Everything about the machines of a home cluster that would stop it
version_added: 1.0.0
author:
  - the kubecozy authors (@kubecozy)
description:
  - Judges the facts that were gathered of all machines, system, size, addresses and clock, and compares the
    machines with each other.
  - A machine without facts counts as one that did not answer.
positional: _input
options:
  _input:
    description:
      - Ansible's C(hostvars), after facts were gathered.
    type: dict
    required: true
  groups:
    description:
      - Ansible's C(groups).
    type: dict
    required: true
  distributions:
    description:
      - The supported distributions, each with the list of its releases.
    type: dict
    required: true
  architectures:
    description:
      - The supported architectures as the kernel names them.
    type: list
    elements: str
    required: true
  kernel:
    description:
      - The oldest supported kernel.
    type: str
    required: true
  memory:
    description:
      - The least memory in MiB for each group.
    type: dict
    required: true
  disk:
    description:
      - The least free disk in MiB for each group.
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse machines that are too small
  vars:
    problems: >-
      {{ hostvars | kubecozy.homelab.machine_problems(
           groups=groups, distributions={'Debian': ['13']}, architectures=['x86_64'], kernel='5.10',
           memory={'control_plane': 1700}, disk={'control_plane': 4096}) }}
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('\n') }}"
"""

RETURN = r"""
_value:
  description:
    - One sentence for each problem, with the machine, what was found and what is expected. Empty when all is well.
  type: list
  elements: str
  sample:
    - "memory of control1 is 921 MiB: expected at least 1700 MiB for a machine in control_plane"
"""


def machine_problems(
    hostvars: _inventory_reader.HostVars,
    groups: c.Mapping[str, c.Sequence[str]],
    distributions: c.Mapping[str, c.Sequence[object]],
    architectures: c.Sequence[str],
    kernel: str,
    memory: c.Mapping[str, int],
    disk: c.Mapping[str, int],
) -> list[str]:
    """Return one sentence for each problem of the machines."""
    needed = _machine_rules.Requirements(
        distributions={str(name): [str(release) for release in releases] for name, releases in distributions.items()},
        architectures=[str(name) for name in architectures],
        kernel=str(kernel),
        memory={str(group): int(size) for group, size in memory.items()},
        disk={str(group): int(size) for group, size in disk.items()},
    )
    inventory = _inventory_reader.read(hostvars, groups, containerd_minimum={})
    facts = {name: _facts(hostvars[name]) for name in inventory.machines}
    return [str(problem) for problem in _machine_rules.problems_of(inventory, facts, needed, now=time.time())]


def _facts(view: c.Mapping[str, object]) -> _machine_rules.Facts:
    """Return the facts of a machine, or none."""
    facts = _inventory_reader.plain(view.get("ansible_facts", {}))
    return facts if isinstance(facts, dict) else {}


class FilterModule:
    """Makes the filter known to Ansible."""

    def filters(self) -> dict[str, c.Callable[..., list[str]]]:
        """Return the filters of this file."""
        return {"machine_problems": machine_problems}
