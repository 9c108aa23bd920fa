#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What instances a cozy-stack has."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_instance_info
short_description: List the instances of cozy-stack
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Lists all instances with what cozy-stack says of them, without anything secret.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
  - kubecozy.homelab._attributes.actiongroup_cozy
  - kubecozy.homelab._cozy_api
  - kubecozy.homelab._kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: kubecozy.homelab.cozy_instance
"""

EXAMPLES = r"""
---
- name: See which instances there are
  kubecozy.homelab.cozy_instance_info:
    kubeconfig: ~/.kube/kubecozy.yaml
  register: found

- name: Print their domains
  ansible.builtin.debug:
    msg: "{{ found.instances | map(attribute='domain') | list }}"
"""

RETURN = r"""
instances:
  description: The instances, by domain.
  returned: success
  type: list
  elements: dict
  contains:
    domain:
      description: Its domain.
      type: str
      sample: cozy.example.com
    domain_aliases:
      description: Its aliases, if it has some.
      type: list
      elements: str
    locale:
      description: Language.
      type: str
      sample: fr
    context:
      description: Its context, if it has one.
      type: str
    disk_quota:
      description: Room for files in bytes, as a text; not there if unlimited.
      type: str
      sample: "50000000000"
    blocked:
      description: Whether its pages are closed; not there if not.
      type: bool
    onboarding_finished:
      description: Whether its person has taken it over; not there if not.
      type: bool
    password_defined:
      description: Whether it has a passphrase.
      type: bool
    indexes_version:
      description: Version of its database indexes.
      type: int
    feature_sets:
      description: Its feature sets, if it has some.
      type: list
      elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import API_ARGUMENTS, API_TOGETHER, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import all_instances


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=API_ARGUMENTS, required_together=API_TOGETHER, supports_check_mode=True)
    try:
        stack = Stack.from_parameters(module.params)
        try:
            instances = [found.attributes for found in all_instances(stack)]
        finally:
            stack.close()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, instances=instances)


if __name__ == "__main__":
    main()
