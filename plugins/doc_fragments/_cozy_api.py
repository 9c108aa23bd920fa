# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How modules reach cozy-stack. Private: not for use outside of this collection."""

from __future__ import annotations


class ModuleDocFragment:
    """Options shared by all modules that ask cozy-stack."""

    # Must be in sync with API_ARGUMENTS in plugins/module_utils/_admin_api.py.
    DOCUMENTATION = r"""
description:
  - cozy-stack's admin port listens on its pod's localhost only. By default it is reached by a port-forward through the
    Kubernetes API, to the newest running pod with the labels in O(label_selector). With O(admin_url) and O(public_url)
    no Kubernetes is needed.
requirements:
  - kubernetes (Python library), unless O(admin_url) is used
options:
  admin_passphrase:
    description:
      - The admin passphrase of cozy-stack, in clear text.
      - Without it, it is read from the key C(passphrase) of the Secret O(admin_secret), so that it need not pass
        through a playbook. Required with O(admin_url).
    type: str
  admin_secret:
    description: Secret in O(namespace) with the admin passphrase, as the role C(cozy_stack) leaves it.
    type: str
    default: cozy-operator
  admin_url:
    description:
      - URL of the admin port, such as V(http://127.0.0.1:6060). Instance passphrases go through it in requests' query
        strings, so it must be local or encrypted.
      - Needs O(public_url).
    type: str
  public_url:
    description: URL of the public port, such as V(http://127.0.0.1:8080). The instance is named by the C(Host) header.
    type: str
  namespace:
    description: Namespace cozy-stack's pod runs in.
    type: str
    default: cozy
  label_selector:
    description: Labels of cozy-stack's pod.
    type: str
    default: app.kubernetes.io/name=cozy-stack
  timeout:
    description: Seconds to wait for an answer. Creating an instance takes long on slow disks.
    type: int
    default: 300
"""
