#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof that web pages answer."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: web_probe
short_description: Wait until web pages answer as they should
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Asks for pages by their names, TLS verified unless told otherwise, and waits until all answer as they should.
  - With O(address) it goes to that address whatever DNS says, so that a site can be proved before its name is known.
  - When time is over, it says of each page what was wrong with it.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  checks:
    description: The pages, and what counts as right.
    type: list
    elements: dict
    required: true
    suboptions:
      url:
        description: The page, asked for by GET. Redirects are not followed.
        type: str
        required: true
      status:
        description: Accepted HTTP status codes.
        type: list
        elements: int
        default: [200]
      location:
        description: Where the answer must redirect to.
        type: str
      contains:
        description: What the page must contain.
        type: str
  address:
    description: Address to connect to instead of what the names resolve to.
    type: str
  ca_path:
    description: PEM file with the authorities to trust instead of the system's.
    type: path
  validate_certs:
    description: Whether the certificate must be one that is trusted. Without, O(ca_path) means nothing.
    type: bool
    default: true
  timeout:
    description: Seconds to wait until all pages are right.
    type: int
    default: 120
  hint:
    description: What to look at when a page is wrong, for the message.
    type: str
    default: ""
"""

EXAMPLES = r"""
---
- name: Prove that the login page is served at the ingress address
  kubecozy.homelab.web_probe:
    address: 192.168.1.200
    checks:
      - url: https://cozy.example.com/
        status: [303]
        location: https://cozy.example.com/auth/login
      - url: http://cozy.example.com/
        status: [301, 308]
"""

RETURN = r"""
results:
  description: What was seen last, one item for each check.
  returned: always
  type: list
  elements: dict
  contains:
    url:
      description: The page.
      type: str
    status:
      description: HTTP status; null if there was no answer.
      type: int
    location:
      description: Where it redirects to, or empty.
      type: str
    problem:
      description: What is wrong with it, or empty.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._web import Check, Prober


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "checks": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "url": {"type": "str", "required": True},
                    "status": {"type": "list", "elements": "int", "default": [200]},
                    "location": {"type": "str"},
                    "contains": {"type": "str"},
                },
            },
            "address": {"type": "str"},
            "ca_path": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 120},
            "hint": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    seconds = module.params["timeout"]
    try:
        trust = (module.params["ca_path"], module.params["validate_certs"])
        prober = Prober(module.params["address"], *trust)
        outcomes = prober.until_right([Check(**check) for check in module.params["checks"]], seconds)
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    results = [outcome._asdict() for outcome in outcomes]
    wrong = [f"{outcome.url} {outcome.problem}" for outcome in outcomes if outcome.problem]
    if wrong:
        message = f"After {seconds} s: {'; '.join(wrong)}. {module.params['hint']}".strip()
        module.fail_json(msg=message, results=results)
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
