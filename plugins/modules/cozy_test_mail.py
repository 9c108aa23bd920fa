#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A test mail by cozy-stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_test_mail
short_description: Let cozy-stack send a test mail
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Lets cozy-stack send one mail to the person of an instance, by the way that all its mails go, and waits until the
    mail server has taken it. If it does not, the message says what the mail server, or the network, answered.
  - That a mail was taken does not prove that it is delivered; look into the mailbox.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
  - kubecozy.homelab._attributes.actiongroup_cozy
  - kubecozy.homelab._cozy_api
  - kubecozy.homelab._kubernetes
attributes:
  check_mode:
    support: full
    details:
      - Sends nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Every run sends a mail.
options:
  domain:
    description: Domain of the instance. The mail goes to the mail address of its person.
    type: str
    required: true
  subject:
    description: The mail's subject.
    type: str
    default: Test mail from your Cozy
seealso:
  - module: kubecozy.homelab.cozy_instance
"""

EXAMPLES = r"""
---
- name: See whether mails leave the Cozy
  kubecozy.homelab.cozy_test_mail:
    kubeconfig: ~/.kube/kubecozy.yaml
    domain: cozy.example.com
"""

RETURN = r"""
job:
  description: Id of cozy-stack's job.
  returned: success, not in check mode
  type: str
  sample: 07ace8cd44a627ea0fa5c0b5ba006591
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import API_ARGUMENTS, API_TOGETHER, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import normal_domain
from ansible_collections.kubecozy.homelab.plugins.module_utils._mail import send_test

TEXT = "This mail was sent by a test of your Cozy. It arrived, so nothing need be done."


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **API_ARGUMENTS,
            "domain": {"type": "str", "required": True},
            "subject": {"type": "str", "default": "Test mail from your Cozy"},
        },
        required_together=API_TOGETHER,
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        stack = Stack.from_parameters(module.params)
        try:
            job = send_test(stack, normal_domain(module.params["domain"]), module.params["subject"], TEXT)
        finally:
            stack.close()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=True, job=job)


if __name__ == "__main__":
    main()
