#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file `cozy-admin-passphrase` of cozy-stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_admin_passphrase
short_description: Make or verify the hash of the admin passphrase of cozy-stack
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - cozy-stack keeps its admin passphrase as one line of scrypt parameters, salt and key. This module makes such a line,
    or checks that an existing one matches the passphrase.
  - Works on a file with O(path), or on a text with O(line), for a Kubernetes Secret.
  - A new line has N=32768, r=8, p=1 and a random salt of 16 bytes, as C(cozy-stack config passwd) makes it.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  passphrase:
    description: The admin passphrase in clear text. Must not be empty.
    type: str
    required: true
  path:
    description: The file to make or verify. A new one gets mode V(0440), as cozy-stack's own command gives it.
    type: path
  line:
    description: The existing line, to be verified. Leave it out or empty if there is none yet.
    type: str
  renew_weak:
    description:
      - Whether to make a new line when the existing one matches but has weaker parameters than a new one would have.
      - Otherwise this is only reported, as a warning and in RV(weaknesses).
    type: bool
    default: false
seealso:
  - module: kubecozy.homelab.cozy_vault_keys
"""

EXAMPLES = r"""
---
- name: Make the line for a Secret, or keep the one that is there
  kubecozy.homelab.cozy_admin_passphrase:
    passphrase: "{{ admin_passphrase }}"
    line: "{{ existing_line | default('') }}"
  register: admin
  no_log: true

- name: Keep it as a file
  kubecozy.homelab.cozy_admin_passphrase:
    passphrase: "{{ admin_passphrase }}"
    path: /etc/cozy/cozy-admin-passphrase
"""

RETURN = r"""
line:
  description: The new line. Treat it as a secret.
  returned: changed, and without O(path)
  type: str
  sample: scrypt$32768$8$1$0123456789abcdef0123456789abcdef$ae10…1511
weaknesses:
  description: In what the line, if it is kept, is weaker than a new one.
  returned: success
  type: list
  elements: str
  sample: ["N=1024 r=8 p=1 instead of N=32768 r=8 p=1"]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, KeyFormatError
from ansible_collections.kubecozy.homelab.plugins.module_utils._files import read_text, write_text
from ansible_collections.kubecozy.homelab.plugins.module_utils._keys import ScryptLine


def judge(text: str, passphrase: str) -> tuple[ScryptLine | None, str]:
    """The line, if it matches the passphrase, and what to say about it."""
    if not text.strip():
        return None, "none"
    try:
        line = ScryptLine.parse(text)
    except KeyFormatError as exc:
        return None, str(exc)
    if not line.matches(passphrase):
        return None, f"{line.describe()}, of another passphrase"
    return line, f"{line.describe()}, matches"


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "passphrase": {"type": "str", "required": True, "no_log": True},
            "path": {"type": "path"},
            "line": {"type": "str", "no_log": True},
            "renew_weak": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("path", "line")],
        supports_check_mode=True,
    )
    path, passphrase = module.params["path"], module.params["passphrase"]
    result: dict[str, t.Any] = {}
    try:
        new = ScryptLine.make(passphrase)
        text = read_text(path) if path else module.params["line"]
        line, before = judge(text or "", passphrase)
        weaknesses = line.weaknesses() if line else []
        changed = line is None or bool(weaknesses and module.params["renew_weak"])
        if changed:
            weaknesses = []
            if not path:
                result["line"] = str(new)
            elif not module.check_mode:
                write_text(module, path, f"{new}\n")
                module.set_mode_if_different(path, 0o440, False)
        after = f"{new.describe()}, matches" if changed else before
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    for weakness in weaknesses:
        module.warn(
            f"The admin passphrase's line is weaker than a new one: {weakness}. renew_weak=true makes a new one."
        )
    diff = {"before": f"{before}\n", "after": f"{after}\n"}
    module.exit_json(changed=changed, weaknesses=weaknesses, diff=diff, **result)


if __name__ == "__main__":
    main()
