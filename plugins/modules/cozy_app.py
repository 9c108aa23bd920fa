#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications of cozy-stack's instances."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cozy_app
short_description: Install, upgrade and remove applications of a Cozy instance
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Takes a list of applications of one instance, reads the list of what is there once, and touches only what differs.
  - Waits for the end of each installation, and names every application that failed with cozy-stack's own reason.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
  - kubecozy.homelab._attributes.actiongroup_cozy
  - kubecozy.homelab._cozy_api
  - kubecozy.homelab._kubernetes
attributes:
  check_mode:
    support: partial
    details:
      - With O(state=latest), upgrades can't be foretold, because cozy-stack looks for them only while it upgrades.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  domain:
    description: The instance's domain.
    type: str
    required: true
  name:
    description: Short names (slugs) of the applications, such as V(home) or V(drive).
    type: list
    elements: str
    required: true
  kind:
    description: Web applications, or konnectors.
    type: str
    choices: [webapp, konnector]
    default: webapp
  state:
    description:
      - V(present) installs what is missing.
      - V(latest) also upgrades applications that come from a registry.
      - V(absent) removes.
    type: str
    choices: [present, latest, absent]
    default: present
  sources:
    description:
      - Where applications come from, by short name. Others come from the registry, channel C(stable).
      - Forms are V(registry://drive/stable), V(https://host/app.tar.gz#sha256), V(git+https://host/repository.git#branch)
        and V(file:///folder), a folder on cozy-stack's own disk.
      - An archive needs its checksum. cozy-stack fetches it only while it has no files of that application and version.
    type: dict
    default: {}
  accept_permissions:
    description:
      - Whether an upgrade may take permissions that the installed version does not have.
      - Otherwise such a version waits until the person accepts it, and is named in RV(waiting).
    type: bool
    default: false
seealso:
  - module: kubecozy.homelab.cozy_instance
"""

EXAMPLES = r"""
---
- name: Have the usual applications
  kubecozy.homelab.cozy_app:
    admin_passphrase: "{{ admin_passphrase }}"
    kubeconfig: ~/.kube/kubecozy.yaml
    domain: cozy.example.com
    name: [home, store, drive, photos, settings]

- name: Have one of our own
  kubecozy.homelab.cozy_app:
    admin_passphrase: "{{ admin_passphrase }}"
    domain: cozy.example.com
    name: [probe]
    sources:
      probe: file:///var/lib/cozy/apps/probe
"""

RETURN = r"""
apps:
  description: All applications of that kind afterwards, by short name.
  returned: success, or when some failed
  type: dict
  sample:
    home:
      slug: home
      version: 1.60.0
      source: registry://home/stable
      state: ready
changes:
  description: Short names of those that were installed, upgraded or removed.
  returned: success, or when some failed
  type: list
  elements: str
waiting:
  description: Versions that wait until the person accepts the permissions they ask for, by short name.
  returned: success, or when some failed
  type: dict
  sample:
    bank: 2.0.0
failures:
  description: Reasons by short name.
  returned: when some failed
  type: dict
  sample:
    drive: Application manifest is not reachable
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import API_ARGUMENTS, API_TOGETHER, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._apps import App, Apps, check_names
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import normal_domain


def versions(apps: dict[str, App]) -> dict[str, str]:
    """What a diff shows."""
    return {slug: f"{app.version} from {app.source}" for slug, app in sorted(apps.items())}


def foretold(before: dict[str, str], changed: list[str], absent: bool) -> dict[str, str]:
    """What a diff shows afterwards, in check mode."""
    if absent:
        return {slug: text for slug, text in before.items() if slug not in changed}
    return dict(sorted({**before, **dict.fromkeys(changed, "to be installed")}.items()))


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **API_ARGUMENTS,
            "domain": {"type": "str", "required": True},
            "name": {"type": "list", "elements": "str", "required": True},
            "kind": {"type": "str", "choices": ["webapp", "konnector"], "default": "webapp"},
            "state": {"type": "str", "choices": ["present", "latest", "absent"], "default": "present"},
            "sources": {"type": "dict", "default": {}},
            "accept_permissions": {"type": "bool", "default": False},
        },
        required_together=API_TOGETHER,
        supports_check_mode=True,
    )
    slugs, sources, state = list(dict.fromkeys(module.params["name"])), module.params["sources"], module.params["state"]
    try:
        check_names(slugs, sources)
        strangers = sorted(set(sources) - set(slugs))
        if strangers:
            raise InputError(f"sources names {', '.join(strangers)}, which name does not.")
        stack = Stack.from_parameters(module.params)
        try:
            apps = Apps(
                stack,
                normal_domain(module.params["domain"]),
                module.params["kind"] == "konnector",
                module.check_mode,
                module.params["timeout"],
            )
            before = apps.listed()
            if state == "absent":
                apps.absent(before, slugs)
            else:
                apps.present(before, slugs, sources, state == "latest", module.params["accept_permissions"])
            after = before
            if apps.changed and not module.check_mode:
                after = apps.listed()
                if state != "absent":
                    apps.verify(after)
        finally:
            stack.close()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    diff = {"before": versions(before), "after": versions(after)}
    if module.check_mode:
        diff["after"] = foretold(diff["before"], apps.changed, state == "absent")
    result = {
        "changed": bool(apps.changed),
        "changes": apps.changed,
        "apps": {slug: app.shown() for slug, app in after.items()},
        "waiting": apps.waiting,
        "diff": diff,
    }
    if apps.failed:
        reasons = "; ".join(f"{slug}: {reason}" for slug, reason in apps.failed.items())
        module.fail_json(msg=f"Applications that failed: {reasons}", failures=apps.failed, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
