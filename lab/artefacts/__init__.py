# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""What the lab serves and runs in place of the internet's downloads, built from Go modules and Debian packages."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.model import cache_dir

from .catalog import HOST, IMAGES, PARTS, REGISTRY, WEB, WEB_FILES
from .go import GoPrograms
from .host import ensure_packages
from .images import registry_host
from .parts import ArtefactError, Builder, Part, Report, Store

__all__ = ["REGISTRY_HOSTS", "WEB_HOSTS", "ArtefactError", "Artefacts", "build", "ensure_packages"]

WEB_HOSTS = tuple(sorted({item.url.partition("/")[0] for item in WEB_FILES}))
"""Hosts that the web tree answers for, over https."""

REGISTRY_HOSTS = tuple(sorted({registry_host(image.name) for image in IMAGES}))
"""Hosts that the registry answers for."""

NEEDED_BYTES = 30_000_000_000
"""What a build from empty takes, Go's own caches included."""


@dataclass(frozen=True)
class Artefacts:
    """Where the finished artefacts lie. The first four are links that are moved to what was built last."""

    base_root: Path
    """Debian 13 for machines: a root tree."""
    web_root: Path
    """HOST/path, to be served as https://HOST/path."""
    registry_root: Path
    """The `rootdirectory` of a distribution registry, to be served read-only."""
    programs: Path
    """Programs for this machine: registry, helm, kubectl, pebble."""


def build(report: Report, only: Iterable[str] | None = None) -> Artefacts:
    """Build what is missing. An interrupted build goes on where it was; nothing is built twice.

    Args:
        report: called with each line of progress.
        only: names of parts, to build these (with what they need) and no more.

    Raises:
        ArtefactError: parts could not be built; the message names each with the end of its log.
    """
    store = Store(cache_dir() / "artefacts")
    chosen = [part.name for part in PARTS] if only is None else list(only)
    builder = Builder(store, PARTS, report)
    if builder.missing(chosen):
        free = shutil.disk_usage(store.root).free
        report(
            f"disk: {free / 1e9:.0f} GB free, finished artefacts take {store.size() / 1e9:.1f} GB, "
            f"a build from empty takes up to {NEEDED_BYTES / 1e9:.0f} GB with Go's caches"
        )
    ready = builder.build(chosen, _fetch)
    for name, folder in (("base", "root"), (REGISTRY.name, ""), (WEB.name, ""), (HOST.name, "")):
        if name in ready:
            store.point(name, ready[name] / folder)
    return Artefacts(*(store.root / name for name in ("base", WEB.name, REGISTRY.name, HOST.name)))


def _fetch(part: Part) -> None:
    if isinstance(part.recipe, GoPrograms):
        part.recipe.fetch()
