# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The ingress-nginx controller's files, fitted to Debian's nginx."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .parts import ArtefactError, Lane, Recipe

LUA = Path(__file__).parent / "lua"
"""Lua libraries that upstream's nginx brings and Debian does not package, in the extent the controller uses them."""


def fit_template(template: str) -> str:
    """Upstream's nginx.tmpl for an nginx with dynamic modules and without Lua in stream blocks.

    Raises ArtefactError when the template is not the one this was written for.
    """
    pid = "pid {{ .PID }};\n"
    found = re.fullmatch(r"(.*\n)stream \{\n.*?\n\}\n(.*)", template, re.DOTALL)
    if found is None or pid not in template:
        raise ArtefactError("nginx.tmpl has no pid line or no stream block where they were expected")
    before, after = found.groups()
    # The controller writes its TCP and UDP services to this port and reads no answer; without Lua nobody keeps them.
    stream = 'stream {\n    server {\n        listen 127.0.0.1:{{ .StreamPort }};\n        return "";\n    }\n}\n'
    return before.replace(pid, pid + "include /etc/nginx/modules-enabled/*.conf;\n", 1) + stream + after


@dataclass(frozen=True)
class IngressNginxFiles(Recipe):
    """`etc-nginx/`: what the image has in /etc/nginx besides Debian's own files."""

    lane: ClassVar[Lane] = "pack"

    def code(self) -> str:
        """The whole module."""
        return Path(__file__).read_text(encoding="utf-8")

    def files(self) -> Iterable[Path]:
        """The Lua libraries."""
        return (LUA,)

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Copy upstream's files, change the template, add the libraries."""
        upstream, home = parts["ingress-nginx"] / "src/nginx", target / "etc-nginx"
        shutil.copytree(upstream / "lua", home / "lua", ignore=shutil.ignore_patterns("test", "OWNERS"))
        shutil.copytree(LUA, home / "lua", dirs_exist_ok=True)
        # nginx must have run with a configuration of the controller's form before its first reload.
        shutil.copy(upstream / "nginx.conf", home / "nginx.conf")
        template = home / "template/nginx.tmpl"
        template.parent.mkdir()
        template.write_text(fit_template((upstream / "template/nginx.tmpl").read_text(encoding="utf-8")))
