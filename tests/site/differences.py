# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say in words how two pictures of the same thing differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def differences(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[str]:
    """What was made, removed or changed, one line each; the values themselves are not told: they may be secret."""
    made = [f"made: {name}" for name in sorted(after.keys() - before.keys())]
    gone = [f"gone: {name}" for name in sorted(before.keys() - after.keys())]
    changed = [f"changed: {name}" for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]
    return made + gone + changed
