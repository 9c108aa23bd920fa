# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of a machine's files, taken from outside: the machine does not notice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lab import store

# What a running machine writes by itself, and Ansible's own working folder.
_MOVING = (
    "dev", "proc", "run", "sys", "tmp", "var/tmp", "var/log", "var/lib/systemd", "root/.ansible", "var/cache/ldconfig",
    "var/lib/containerd", "var/lib/etcd", "var/lib/kubelet", "var/lib/cni", "var/lib/kubecozy/volumes",
)  # fmt: skip


def _walk(root: Path, moving: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                name = os.path.relpath(entry.path, root)
                if name in moving:
                    continue
                state = entry.stat(follow_symlinks=False)
                yield name, state
                if stat.S_ISDIR(state.st_mode):
                    waiting.append(Path(entry.path))


def picture(root: Path, moving: tuple[str, ...] = _MOVING) -> dict[str, tuple[int, ...]]:
    """Mode, owner, size and time of change of every file below a folder: any writing changes one of them.

    Folders by mode and owner only: what comes or goes in one is seen by its own name, or is left out on purpose.

    Args:
        root: the folder.
        moving: paths below it that are left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, state in _walk(root, frozenset(moving)):
        owned = (state.st_mode, state.st_uid, state.st_gid)
        found[name] = owned if stat.S_ISDIR(state.st_mode) else (*owned, state.st_size, state.st_mtime_ns)
    return found


def machine(name: str) -> dict[str, tuple[int, ...]]:
    """The picture of a machine's disk."""
    return {f"{name}:/{path}": state for path, state in picture(store.disk(name)).items()}
