#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proof that a certificate is there and shown."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: certificate_wait
short_description: Wait for a certificate of cert-manager, and say why it does not come
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Waits until the Secret of a Certificate, issued by a ClusterIssuer, holds what the Certificate asks for now.
  - What failed before is tried again at once; cert-manager would let up to hours pass. Challenges that are left of
    another order and can't be removed, because their solver refuses, are let go. Nothing else is changed.
  - It ends early, with the last reasons of ClusterIssuer, Order and Challenge and what they mean, when a DNS provider
    or the ACME server refuses for longer than O(patience).
extends_documentation_fragment:
  - kubecozy.homelab._attributes
  - kubecozy.homelab._attributes.actiongroup_cozy
  - kubecozy.homelab._kubernetes
attributes:
  check_mode:
    support: partial
    details: It looks once, changes nothing and does not fail when there is no certificate yet.
  diff_mode:
    support: none
  idempotent:
    support: full
requirements:
  - kubernetes
  - cryptography
  - dnspython
options:
  namespace:
    description: Namespace of the Certificate.
    type: str
    required: true
  name:
    description: Name of the Certificate.
    type: str
    required: true
  timeout:
    description: Seconds to wait for the certificate. A wildcard and its domain over DNS take more than two minutes.
    type: int
    default: 600
  patience:
    description: Seconds for which a refusal may last until it counts.
    type: int
    default: 30
  address:
    description:
      - Address that shows the certificate to the house. If it shows one for the certificate's names, the module ends
        only when that is the one in the Secret.
    type: str
  ca_path:
    description: PEM file with the authorities to trust instead of the system's, for RV(trusted).
    type: path
  resolvers:
    description: Resolvers that cert-manager asks for its records; in a failure, the message says what each sees.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Wait for the certificate, and see that the house gets it
  kubecozy.homelab.certificate_wait:
    kubeconfig: ~/.kube/kubecozy.yaml
    namespace: cozy
    name: cozy-tls
    address: 192.168.1.200
"""

RETURN = r"""
certificate:
  description: What is in the Secret. Not there if there is none, in check mode.
  returned: when there is a certificate
  type: dict
  contains:
    chain:
      description: Names of the certificates in the Secret, the leaf first.
      type: list
      elements: str
    fingerprint:
      description: SHA-256 of the leaf, in hexadecimal digits.
      type: str
    issuer:
      description: Name of the authority that signed it.
      type: str
    names:
      description: What it is for.
      type: list
      elements: str
    not_after:
      description: When it ends.
      type: str
      sample: "2026-11-22T20:15:00+00:00"
shown:
  description: Whether O(address) shows it.
  returned: when there is a certificate
  type: bool
trusted:
  description: Whether what is shown leads to an authority that is trusted here; null if nothing is shown.
  returned: when there is a certificate
  type: bool
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubecozy.homelab.plugins.module_utils._certificates import (
    PAUSE,
    Object,
    Watch,
    causes,
    leaf_of,
    trusted,
    until_served,
)
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import KUBERNETES_ARGUMENTS, Kubernetes
from ansible_collections.kubecozy.homelab.plugins.module_utils._public_dns import Resolver


class NoCertificateError(CozyError):
    """It did not come; the message says why."""


def wait(watch: Watch, timeout: int, patience: int, resolvers: list[Resolver]) -> tuple[bytes, bool]:
    """Wait for the certificate.

    :returns: the chain (PEM), and whether something was changed for it to come.
    :raises NoCertificateError: if it does not come.
    """
    begin = time.monotonic()
    refused_since: float | None = None
    first, changed = True, False
    while True:
        chain = watch.look()
        if chain is not None:
            return chain, changed
        watch.look_deeper()
        changed |= watch.let_go()
        objects = watch.objects()
        now = time.monotonic()
        if first:
            changed |= watch.ask_again()
            first = False
        elif watch.failed:
            raise NoCertificateError(_why(watch, objects, now - begin, resolvers))
        refused = any(one.refused for one in objects)
        refused_since = (refused_since or now) if refused else None
        over = now - begin > timeout or (refused_since is not None and now - refused_since > patience)
        if over:
            raise NoCertificateError(_why(watch, objects, now - begin, resolvers))
        time.sleep(PAUSE)


def _why(watch: Watch, objects: list[Object], seconds: float, resolvers: list[Resolver]) -> str:
    spec, metadata = watch.spec, watch.certificate["metadata"]
    first = f"There is no certificate for {', '.join(spec['dnsNames'])} after {seconds:.0f} s."
    lines = [first, *causes(objects), *(f"{one.kind} {one.name}: {one.says}" for one in objects)]
    lines += watch.seen_by(resolvers)
    look = f"kubectl -n {metadata['namespace']} describe certificate,order,challenge"
    return "\n".join([*lines, f'Next: "{look}" and the log of deployment/cert-manager.'])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **KUBERNETES_ARGUMENTS,
            "namespace": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 600},
            "patience": {"type": "int", "default": 30},
            "address": {"type": "str"},
            "ca_path": {"type": "path"},
            "resolvers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    changed = False
    try:
        resolvers = [Resolver(one) for one in params["resolvers"]]
        watch = Watch(Kubernetes(params["kubeconfig"], params["kube_context"]), params["namespace"], params["name"])
        if module.check_mode:
            found = watch.look()
        else:
            found, changed = wait(watch, params["timeout"], params["patience"], resolvers)
        if found is None:
            module.exit_json(changed=False)
            return
        leaf = leaf_of(found)
        names, address = watch.spec["dnsNames"], params["address"]
        shown = bool(address) and until_served(address, names, leaf, watch.used())
        trust = trusted(address, names[0], params["ca_path"]) if shown else None
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    certificate = {**leaf._asdict(), "not_after": leaf.not_after.isoformat()}
    module.exit_json(changed=changed, certificate=certificate, shown=shown, trusted=trust)


if __name__ == "__main__":
    main()
