#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances of cozy-stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_instance
short_description: Create, change and remove instances of cozy-stack
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - An instance is one person's Cozy, with a domain of its own.
  - Reads first, and writes only what differs. An option that is left out leaves its setting as it is.
  - An instance whose creation was cut off before it got its folder is recognised, and made anew. Databases that were
    left behind without an instance are named in the error, and removed only with O(remove_leftovers=true).
extends_documentation_fragment:
  - kubecozy.homelab._attributes
  - kubecozy.homelab._attributes.actiongroup_cozy
  - kubecozy.homelab._cozy_api
  - kubecozy.homelab._kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  domain:
    description:
      - The instance's domain, such as V(cozy.example.com). It can't be changed later.
      - A name that is an alias of another instance is refused, because cozy-stack would change or remove that one.
    type: str
    required: true
  state:
    description: Whether the instance is there. V(absent) removes it with all its files and data.
    type: str
    choices: [present, absent]
    default: present
  aliases:
    description: Other domains that lead to this instance. V([]) removes all.
    type: list
    elements: str
  locale:
    description: Language of pages and mails.
    type: str
    choices: [en, fr]
  timezone:
    description: Time zone, such as V(Europe/Paris).
    type: str
  email:
    description: The person's mail address. Can be changed but not cleared.
    type: str
  public_name:
    description: The name others see. Can be changed but not cleared.
    type: str
  phone:
    description: The person's telephone number. Can be changed but not cleared.
    type: str
  quota:
    description: Room for files, such as V(5GB) (powers of 1000), V(5GiB) (powers of 1024) or V(unlimited).
    type: str
  context:
    description: Name of a context in C(cozy.yaml).
    type: str
  blocked:
    description: Whether the instance's pages are closed.
    type: bool
  passphrase:
    description:
      - The person's passphrase. Without it, the person sets one by the link in RV(onboarding_link).
      - Also given to an instance that still waits for its person.
    type: str
  update_passphrase:
    description:
      - V(on_create) leaves the passphrase of an instance that has one as it is, since people change theirs.
      - V(always) sets it whenever it is another one.
    type: str
    choices: [on_create, always]
    default: on_create
  feature_flags:
    description: Feature flags to set. V(null) removes a flag; flags that are not named stay.
    type: dict
  feature_sets:
    description: All feature sets of the instance.
    type: list
    elements: str
  onboarding_link:
    description: Whether to return the link by which a person sets the passphrase. Who has the link owns the instance.
    type: bool
    default: false
  wait:
    description: Seconds to wait for a creation that seems to run already, before taking it for one that was cut off.
    type: int
    default: 20
  remove_leftovers:
    description:
      - Whether to remove databases that a cut-off creation of this instance left behind, when no creation is running
        any more and there is no such instance. They never held anything of a person.
      - CouchDB is reached by a port-forward too, or by O(couchdb_url).
    type: bool
    default: false
  couchdb_label_selector:
    description: Labels of CouchDB's pod.
    type: str
    default: app.kubernetes.io/name=cozy-couchdb
  couchdb_secret:
    description: Secret with CouchDB's credentials, as the role C(couchdb) leaves it.
    type: str
    default: cozy-couchdb
  couchdb_url:
    description: URL of CouchDB with its credentials, if O(admin_url) is used.
    type: str
seealso:
  - module: kubecozy.homelab.cozy_app
"""

EXAMPLES = r"""
---
- name: Have an instance
  kubecozy.homelab.cozy_instance:
    admin_passphrase: "{{ admin_passphrase }}"
    kubeconfig: ~/.kube/kubecozy.yaml
    domain: cozy.example.com
    passphrase: "{{ passphrase }}"
    email: alice@example.com
    public_name: Alice
    locale: fr
    quota: 50GB

- name: Have one whose person sets the passphrase by a link
  kubecozy.homelab.cozy_instance:
    admin_passphrase: "{{ admin_passphrase }}"
    domain: bob.example.com
    onboarding_link: true
  register: bob

- name: Remove an instance with everything in it
  kubecozy.homelab.cozy_instance:
    admin_passphrase: "{{ admin_passphrase }}"
    admin_url: http://127.0.0.1:6060
    public_url: http://127.0.0.1:8080
    domain: old.example.com
    state: absent
"""

RETURN = r"""
instance:
  description: The instance afterwards, without anything secret.
  returned: when there is one
  type: dict
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
changes:
  description: What was changed, in words.
  returned: success
  type: list
  elements: str
  sample: [email, quota]
onboarding_link:
  description: Where the person sets the passphrase.
  returned: when asked for by O(onboarding_link=true), and there is no passphrase yet
  type: str
"""

import typing as t
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import API_ARGUMENTS, API_TOGETHER, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._couchdb import CouchDB
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import Instance, Wish


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **API_ARGUMENTS,
            "domain": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "aliases": {"type": "list", "elements": "str"},
            "locale": {"type": "str", "choices": ["en", "fr"]},
            "timezone": {"type": "str"},
            "email": {"type": "str"},
            "public_name": {"type": "str"},
            "phone": {"type": "str"},
            "quota": {"type": "str"},
            "context": {"type": "str"},
            "blocked": {"type": "bool"},
            "passphrase": {"type": "str", "no_log": True},
            "update_passphrase": {
                "type": "str",
                "choices": ["on_create", "always"],
                "default": "on_create",
                "no_log": False,
            },
            "feature_flags": {"type": "dict"},
            "feature_sets": {"type": "list", "elements": "str"},
            "onboarding_link": {"type": "bool", "default": False},
            "wait": {"type": "int", "default": 20},
            "remove_leftovers": {"type": "bool", "default": False},
            "couchdb_label_selector": {"type": "str", "default": "app.kubernetes.io/name=cozy-couchdb"},
            "couchdb_secret": {"type": "str", "default": "cozy-couchdb", "no_log": False},
            "couchdb_url": {"type": "str", "no_log": True},
        },
        required_together=API_TOGETHER,
        supports_check_mode=True,
    )
    result: dict[str, t.Any] = {}
    try:
        wish = Wish.from_parameters(module.params)
        stack = Stack.from_parameters(module.params)
        couchdb = partial(CouchDB.from_parameters, module.params) if module.params["remove_leftovers"] else None
        try:
            instance = Instance(stack, wish, module.check_mode, module.params["wait"], couchdb)
            if module.params["state"] == "absent":
                instance.absent()
            else:
                found = instance.present()
                if found:
                    result["instance"] = found.attributes
                    if module.params["onboarding_link"]:
                        result["onboarding_link"] = instance.onboarding_link()
        finally:
            stack.close()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=bool(instance.changes),
        changes=instance.changes,
        diff={"before": instance.before, "after": instance.after},
        **{name: value for name, value in result.items() if value is not None},
    )


if __name__ == "__main__":
    main()
