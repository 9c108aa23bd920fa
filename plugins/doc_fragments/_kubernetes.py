# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How modules reach Kubernetes. Private: not for use outside of this collection."""

from __future__ import annotations


class ModuleDocFragment:
    """Options shared by all modules that ask Kubernetes."""

    # Must be in sync with KUBERNETES_ARGUMENTS in plugins/module_utils/_port_forward.py.
    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of the kubeconfig file.
      - Without it, the environment variables E(K8S_AUTH_KUBECONFIG) and E(KUBECONFIG), then the Kubernetes client's own
        default.
    type: path
  kube_context:
    description:
      - Name of the context in the kubeconfig.
      - Without it, the environment variable E(K8S_AUTH_CONTEXT), then the current context.
    type: str
"""
