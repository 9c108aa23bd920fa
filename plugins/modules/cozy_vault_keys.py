#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two vault key files of cozy-stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_vault_keys
short_description: Make or verify the pair of vault keys of cozy-stack
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - cozy-stack encrypts the credentials of konnector accounts with a pair of key files. This module makes such a pair as
    C(cozy-stack config gen-keys) does, or checks that an existing pair belongs together.
  - cozy-stack itself starts with a pair that does not belong together, and then stores what nobody can ever read.
  - An existing pair is never replaced unless O(regenerate=always) says so, because everything that was encrypted with
    it becomes unreadable.
  - Works on files with O(encryptor_path) and O(decryptor_path), or on texts with O(encryptor) and O(decryptor), for a
    Kubernetes Secret.
requirements:
  - cryptography (Python library)
extends_documentation_fragment:
  - kubecozy.homelab._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - Not with O(regenerate=always), which makes a new pair each time.
options:
  encryptor_path:
    description: The encryptor key's file. New files get mode V(0400).
    type: path
  decryptor_path:
    description: The decryptor key's file.
    type: path
  encryptor:
    description: Text of the existing encryptor key. Leave it out or empty if there is none yet.
    type: str
  decryptor:
    description: Text of the existing decryptor key.
    type: str
  regenerate:
    description:
      - V(never) keeps an existing pair, and fails if it is incomplete, damaged or does not belong together.
      - V(always) makes a new pair. Needs O(acknowledge_loss=true) if there is anything to replace.
    type: str
    choices: [never, always]
    default: never
  acknowledge_loss:
    description: Says that you know that stored credentials of konnector accounts become unreadable.
    type: bool
    default: false
  backup:
    description: Whether to keep copies of the files that are replaced.
    type: bool
    default: true
seealso:
  - module: kubecozy.homelab.cozy_admin_passphrase
"""

EXAMPLES = r"""
---
- name: Make the keys for a Secret, or check the ones that are there
  kubecozy.homelab.cozy_vault_keys:
    encryptor: "{{ existing_encryptor | default('') }}"
    decryptor: "{{ existing_decryptor | default('') }}"
  register: vault
  no_log: true

- name: Keep them as files
  kubecozy.homelab.cozy_vault_keys:
    encryptor_path: /etc/cozy/vault.enc
    decryptor_path: /etc/cozy/vault.dec
"""

RETURN = r"""
encryptor:
  description: The new encryptor key's text. A secret.
  returned: changed, and without O(encryptor_path)
  type: str
decryptor:
  description: The new decryptor key's text. A secret.
  returned: changed, and without O(decryptor_path)
  type: str
fingerprint:
  description: A short name of the pair, made of public halves only.
  returned: success
  type: str
  sample: sha256:4bd26e90ed54bd20
backup_files:
  description: Copies of the files that were replaced.
  returned: when files were replaced, and O(backup=true)
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError, KeyFormatError
from ansible_collections.kubecozy.homelab.plugins.module_utils._files import read_text, write_text
from ansible_collections.kubecozy.homelab.plugins.module_utils._keys import VaultKeys

HINT = (
    " If no konnector account was ever stored with it, make a new pair with regenerate=always and"
    " acknowledge_loss=true; otherwise bring the right files back from a backup."
)


def adopted(encryptor: str, decryptor: str) -> VaultKeys | None:
    """The existing pair, or None if there is neither key.

    :raises KeyFormatError: if it can't be what cozy-stack needs.
    """
    if not encryptor and not decryptor:
        return None
    if not encryptor or not decryptor:
        missing = "decryptor" if encryptor else "encryptor"
        raise KeyFormatError(f"The vault's {missing} key is missing, but the other one is there.{HINT}")
    try:
        keys = VaultKeys.parse(encryptor, decryptor)
    except KeyFormatError as exc:
        raise KeyFormatError(f"{exc}{HINT}") from exc
    if not keys.belong_together():
        raise KeyFormatError(
            "The vault's two keys do not belong together: cozy-stack would start, and store credentials that nobody"
            f" can read.{HINT}"
        )
    return keys


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "encryptor_path": {"type": "path"},
            "decryptor_path": {"type": "path"},
            "encryptor": {"type": "str", "no_log": True},
            "decryptor": {"type": "str", "no_log": True},
            "regenerate": {"type": "str", "choices": ["never", "always"], "default": "never", "no_log": False},
            "acknowledge_loss": {"type": "bool", "default": False},
            "backup": {"type": "bool", "default": True},
        },
        required_together=[("encryptor_path", "decryptor_path"), ("encryptor", "decryptor")],
        mutually_exclusive=[("encryptor_path", "encryptor")],
        supports_check_mode=True,
    )
    parameters = module.params
    paths = {"encryptor": parameters["encryptor_path"], "decryptor": parameters["decryptor_path"]}
    result: dict[str, t.Any] = {}
    try:
        if paths["encryptor"]:
            texts = {name: read_text(path) or "" for name, path in paths.items()}
        else:
            texts = {name: parameters[name] or "" for name in paths}
        keys: VaultKeys | None = None
        if parameters["regenerate"] == "never":
            keys = adopted(texts["encryptor"], texts["decryptor"])
        elif any(texts.values()) and not parameters["acknowledge_loss"]:
            raise InputError(
                "There are vault keys already. With new ones, stored credentials of konnector accounts become"
                " unreadable: set acknowledge_loss=true if that is wanted."
            )
        changed = keys is None
        before = "no pair" if not any(texts.values()) else "another pair"
        if keys is None:
            keys = VaultKeys.make()
            new = {"encryptor": keys.encryptor.pem(), "decryptor": keys.decryptor.pem()}
            if not paths["encryptor"]:
                result.update(new)
            elif not module.check_mode:
                if parameters["backup"] and any(texts.values()):
                    result["backup_files"] = [module.backup_local(paths[name]) for name in paths if texts[name]]
                for name, text in new.items():
                    write_text(module, paths[name], text)
                    module.set_mode_if_different(paths[name], 0o400, False)
            after = "a new pair"
        else:
            before = after = f"pair {keys.fingerprint()}"
        result["fingerprint"] = keys.fingerprint()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=changed, diff={"before": f"{before}\n", "after": f"{after}\n"}, **result)


if __name__ == "__main__":
    main()
