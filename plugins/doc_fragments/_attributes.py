# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes shared by the modules. Private: not for use outside of this collection."""

from __future__ import annotations


class ModuleDocFragment:
    """Texts for `attributes`."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and foretell its changed status without modifying the target.
  diff_mode:
    description: Says in diff mode what has changed, or would change in C(check_mode).
  idempotent:
    description: Run a second time with the same arguments, outside check mode, it reports no change.
"""

    ACTIONGROUP_COZY = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/kubecozy.homelab.cozy) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - kubecozy.homelab.cozy
"""
