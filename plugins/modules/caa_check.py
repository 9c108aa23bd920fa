#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof that an ACME server may issue for domains."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: caa_check
short_description: See whether CAA records let an ACME server issue for domains
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Looks up the CAA records that count for each domain and compares them with the names that the ACME server says it
    goes by. An order that they forbid would fail, and count against the server's limits.
  - It asks public resolvers, because the one at home may know the domain by its address in the house only.
  - What cannot be looked up is warned about and forbids nothing.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
requirements:
  - dnspython
options:
  names:
    description: What is to be in the certificate, wildcards included.
    type: list
    elements: str
    required: true
  server:
    description: URL of the ACME server's directory.
    type: str
    required: true
  resolvers:
    description:
      - Resolvers to ask, the first that answers counts. Addresses, with a port if it is not 53, or URLs for DNS over
        HTTPS.
    type: list
    elements: str
    required: true
  ca_path:
    description: PEM file with the authorities to trust instead of the system's, to reach the ACME server.
    type: path
"""

EXAMPLES = r"""
---
- name: See whether Let's Encrypt may issue
  kubecozy.homelab.caa_check:
    names: [cozy.example.com, "*.cozy.example.com"]
    server: https://acme-v02.api.letsencrypt.org/directory
    resolvers: [9.9.9.9, https://1.1.1.1/dns-query]
"""

RETURN = r"""
identities:
  description: Names that the ACME server goes by in CAA records.
  returned: success
  type: list
  elements: str
  sample: [letsencrypt.org]
records:
  description: For each domain the name whose CAA records count for it; empty if there are none.
  returned: success
  type: dict
  sample: {cozy.example.com: example.com}
"""

import json

from ansible.module_utils import urls
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError, UnreachableError
from ansible_collections.kubecozy.homelab.plugins.module_utils._public_dns import Resolver, closest_caa, forbids

SECONDS = 10


def identities(server: str, ca_path: str | None) -> list[str]:
    """The names that an ACME server says it goes by (RFC 8555, 7.1.1); none if it says nothing of it.

    :raises InputError: if the URL is no https URL.
    :raises UnreachableError: if it can't be asked.
    """
    if not server.startswith("https://"):
        raise InputError(f"{server} is no https URL.")
    try:
        answer = urls.open_url(server, timeout=SECONDS, ca_path=ca_path)
        return [str(name).lower() for name in json.load(answer).get("meta", {}).get("caaIdentities", [])]
    except (urls.ConnectionError, OSError, ValueError, AttributeError) as exc:
        raise UnreachableError(f"{server} can't be asked: {getattr(exc, 'reason', exc)}") from exc


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "server": {"type": "str", "required": True},
            "resolvers": {"type": "list", "elements": "str", "required": True},
            "ca_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    known: list[str] = []
    where: dict[str, str] = {}
    wrong: list[str] = []
    try:
        resolvers = [Resolver(one) for one in module.params["resolvers"]]
        known = identities(module.params["server"], module.params["ca_path"])
        for name in module.params["names"] if known else []:
            domain = name.removeprefix("*.")
            where[domain], records = closest_caa(resolvers, domain)
            tag = forbids(records, known, wildcard=name.startswith("*."))
            if tag:
                has = ", ".join(f'{record.tag} "{record.value}"' for record in records)
                wrong.append(f'{name}: {where[domain]} has {has}; it lacks CAA 0 {tag} "{known[0]}"')
    except UnreachableError as exc:
        module.warn(f"CAA records could not be compared: {exc}")
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    if wrong:
        message = f"CAA records keep {module.params['server']} from issuing. {'. '.join(wrong)}."
        module.fail_json(msg=f"{message} Add what is missing, or remove them all.", identities=known, records=where)
    module.exit_json(changed=False, identities=known, records=where)


if __name__ == "__main__":
    main()
