# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Debian packages this machine needs to build and run the lab."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .parts import ArtefactError, Report, run

LIST = Path(__file__).parents[1] / "packages.txt"
"""One package a line; `#` begins a comment."""


def wanted() -> list[str]:
    """The listed packages."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def ensure_packages(report: Report) -> None:
    """Install the listed packages that are missing, starting none of their services.

    Raises ArtefactError when packages are missing and apt can't install them, or this is not root.
    """
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *wanted()]
    shown = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted() if name not in installed]
    if not missing:
        return
    if os.geteuid():
        raise ArtefactError(f"packages are missing and only root can install them: {' '.join(missing)}")
    report(f"installing {' '.join(missing)}")
    # Services of the lab run in its own namespaces; Debian's must not start here and take this machine's ports.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(["apt-get", "update", "-q"], env=environment)
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], env=environment)
    finally:
        if ours:
            policy.unlink(missing_ok=True)
