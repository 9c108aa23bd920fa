# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""This machine: the Debian packages it needs to build and run the lab, and where it has them from."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .parts import ArtefactError, Report, run

LIST = Path(__file__).parents[1] / "packages.txt"
"""One package a line; `#` begins a comment."""


@dataclass(frozen=True)
class Mirrors:
    """Where this machine has Debian's packages from.

    Attributes:
        packages: base URL of the archive `Debian`.
        security: base URL of the archive `Debian-Security`.
    """

    packages: str
    security: str


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


def _mirrors() -> dict[str, str]:
    """The first URL of each archive in apt's lists, by the archive's label. Source: apt-get(8), indextargets."""
    found: dict[str, str] = {}
    for line in run(["apt-get", "indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages"]).splitlines():
        label, _, url = line.partition(" ")
        if url.startswith("mirror+file:"):
            urls = Path(url.removeprefix("mirror+file:")).read_text(encoding="utf-8").split()
            url = next((word for word in urls if "://" in word), "")
        if url.startswith(("http://", "https://")):
            found.setdefault(label, url.rstrip("/"))
    return found


@cache
def mirrors() -> Mirrors:
    """What apt is set up with here. Debian's lists are fetched when there are none yet.

    Raises ArtefactError when apt knows no mirror of Debian or of its security updates, reached by http or https.
    """
    found = _mirrors()
    if {"Debian", "Debian-Security"} - set(found):
        run(["apt-get", "update", "-q"])
        found = _mirrors()
    if missing := sorted({"Debian", "Debian-Security"} - set(found)):
        names = " and ".join(missing)
        raise ArtefactError(f"apt's sources hold no http(s) mirror of {names}: complete /etc/apt/sources.list.d")
    return Mirrors(found["Debian"], found["Debian-Security"])
