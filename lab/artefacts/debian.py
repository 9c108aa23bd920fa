# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Debian root trees: one for the machines, one from which images take their packages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .host import mirrors
from .parts import Lane, Recipe, run

SUITE = "trixie"

# What a Debian installation with "SSH server" and "standard system utilities" has, as far as anybody here can notice.
MACHINE_PACKAGES = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "openssh-server", "python3", "python3-apt", "ca-certificates",
    "iproute2", "iputils-ping", "ifupdown", "netbase", "kmod", "procps", "udev", "sudo", "less", "nano", "vim-tiny",
    "cron", "logrotate", "tzdata", "apt-utils", "nftables", "bash-completion", "man-db",
)  # fmt: skip

# All that any image is made of; each image takes some packages (with what they depend on) out of this tree.
IMAGE_PACKAGES = (
    "busybox-static", "ca-certificates", "conntrack", "dumb-init", "iptables", "libnginx-mod-http-headers-more-filter",
    "libnginx-mod-http-lua", "libnginx-mod-http-ndk", "libnginx-mod-http-set-misc", "libnginx-mod-http-subs-filter",
    "libnginx-mod-stream", "lua-cjson", "lua-nginx-cookie", "lua-nginx-dns", "lua-nginx-string", "lua-resty-core",
    "lua-resty-lrucache", "netbase", "nftables", "nginx", "openssl", "python3", "python3-yaml", "tzdata",
)  # fmt: skip

_SOURCES = """\
Types: deb
URIs: {packages}
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {security}
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def sources() -> str:
    """apt's `debian.sources` with the mirrors of this machine, as they are asked for through the package proxy."""
    known = mirrors()
    # The package proxy reads https mirrors itself when they are named so.
    packages, security = (url.replace("https://", "http://HTTPS///") for url in (known.packages, known.security))
    return _SOURCES.format(packages=packages, security=security, suite=SUITE)


@dataclass(frozen=True)
class DebianRoot(Recipe):
    """A root tree by debootstrap: `root/` in the part's folder."""

    lane: ClassVar[Lane] = "debian"
    packages: tuple[str, ...]
    machine: bool
    suite: str = SUITE

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Needs root, debootstrap and the machine's Debian mirror."""
        del parts
        root, mirror = target / "root", mirrors().packages
        # Its own namespaces: debootstrap's mounts and processes end with it, however it ends.
        run(
            ["env", "-u", "TMPDIR", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "debootstrap", "--variant=minbase", f"--include={','.join(self.packages)}", self.suite, root, mirror],
            env={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev"):
            for item in list((root / folder).iterdir()):
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"):
            (root / folder).mkdir(parents=True)
        if not self.machine:
            return
        # Every machine makes or is given its own.
        for key in (root / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        (root / "etc/machine-id").write_text("")
        (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
        (root / "etc/hostname").unlink(missing_ok=True)
        (root / "etc/resolv.conf").unlink(missing_ok=True)


# What Debian's small image for containers leaves out, of itself and of packages that are installed in it.
SLIM_LACKS = tuple(f"/usr/share/{name}" for name in ("doc", "groff", "info", "linda", "lintian", "locale", "man"))


@dataclass(frozen=True)
class SlimRoot(DebianRoot):
    """A root tree without documentation and translations, for an image that packages are installed in."""

    lacks: tuple[str, ...] = SLIM_LACKS

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """As for any root tree, and then less."""
        super().build(target, parts)
        root = target / "root"
        for path in self.lacks:
            shutil.rmtree(root / path[1:], ignore_errors=True)
        (root / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(f"path-exclude {path}/*\n" for path in self.lacks))
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        (root / "etc/apt/sources.list.d/debian.sources").write_text(sources())
