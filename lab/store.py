# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines' disks: subvolumes of one btrfs file system in a sparse file.

A machine is made, and a set of machines saved or brought back, in milliseconds, and containerd finds a file system
of its own under /var/lib (it can't work on an overlay).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lab.model import LabError, state_dir
from lab.process import run

_SIZE_GIB = 60
_NEEDED_FREE_GIB = 8


def root() -> Path:
    """Where the file system is mounted."""
    return state_dir() / "store"


def disk(machine: str) -> Path:
    """The root file system of a machine."""
    return root() / "machines" / machine


def mount() -> None:
    """Mount the store, made on first use.

    Barriers are off: what a power cut takes from these machines is their processes, never the page cache.
    """
    if root().is_mount():
        return
    image = state_dir() / "store.img"
    root().mkdir(parents=True, exist_ok=True)
    if not image.exists():
        free = shutil.disk_usage(state_dir()).free >> 30
        if free < _NEEDED_FREE_GIB:
            raise LabError(f"{state_dir()} has {free} GiB free; the machines' disks need {_NEEDED_FREE_GIB}")
        partial = image.with_suffix(".new")
        partial.unlink(missing_ok=True)
        run("truncate", "-s", f"{_SIZE_GIB}G", partial)
        run("mkfs.btrfs", "-q", "-m", "single", partial)
        partial.rename(image)
    run("mount", "-o", "loop,noatime,nobarrier", image, root())
    for folder in ("machines", "snapshots"):
        (root() / folder).mkdir(exist_ok=True)


def unmount() -> None:
    """Unmount the store; the disks stay."""
    if root().is_mount():
        run("umount", root())


def delete(path: Path) -> None:
    """Delete a subvolume with those that systemd made inside it."""
    listed = run("btrfs", "subvolume", "list", "-o", path).stdout.splitlines()
    for inner in sorted((line.rpartition(" path ")[2] for line in listed), key=len, reverse=True):
        run("btrfs", "subvolume", "delete", root() / inner)
    run("btrfs", "subvolume", "delete", path)


def base(source: Path, key: str, prepare: Callable[[Path], None]) -> Path:
    """The subvolume all machines are made from: a copy of `source` that `prepare` has finished.

    Args:
        source: a root file system.
        key: names source and preparation; another key makes another base.
        prepare: is given the copy's path.
    """
    finished = root() / f"base-{key}"
    if not finished.exists():
        for old in root().glob("base-*"):
            delete(old)
        partial = root() / "base-new"
        run("btrfs", "subvolume", "create", partial)
        run("cp", "-a", f"{source}/.", partial)
        prepare(partial)
        partial.rename(finished)
    return finished


def clone(source: Path, target: Path) -> None:
    """An independent copy of a subvolume, at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run("btrfs", "subvolume", "snapshot", source, target)


def save(name: str, machines: Iterable[str]) -> None:
    """Keep the machines' disks as they are now under a name; an older set of that name goes."""
    run("sync", "-f", root())
    forget(name)
    for machine in machines:
        clone(disk(machine), root() / "snapshots" / f"{name}.new" / machine)
    (root() / "snapshots" / f"{name}.new").rename(root() / "snapshots" / name)


def forget(name: str) -> None:
    """Delete a saved set and an unfinished one of that name."""
    for folder in (root() / "snapshots" / name, root() / "snapshots" / f"{name}.new"):
        if folder.exists():
            for saved in folder.iterdir():
                delete(saved)
            folder.rmdir()


def saved(name: str) -> dict[str, Path]:
    """The disks of a saved set by machine.

    Raises:
        LabError: there is no set of that name.
    """
    folder = root() / "snapshots" / name
    if not folder.is_dir():
        raise LabError(f"no snapshot {name}; there are: {', '.join(snapshots()) or 'none'}")
    return {path.name: path for path in folder.iterdir()}


def snapshots() -> list[str]:
    """The names of the saved sets."""
    folder = root() / "snapshots"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".new") if folder.is_dir() else []
