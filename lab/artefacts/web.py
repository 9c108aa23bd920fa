# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The file tree that stands in for the download hosts: HOST/path, as https://HOST/path is asked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from .parts import ArtefactError, Lane, Recipe

Sums = Literal["openssl", "sha256", "sha256sum"]
"""How a checksum file is written: the sum alone, or as a program prints it (`openssl dgst -sha256`, sha256sum)."""
_SUMS: Mapping[Sums, str] = {
    "openssl": "SHA2-256({name})= {digest}\n",
    "sha256": "{digest}",
    "sha256sum": "{digest}  {name}\n",
}


def tar(members: Iterable[tuple[str, bytes, int]]) -> bytes:
    """A tar file of (name, content, mode), its bytes a function of these alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content, mode in members:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), mode
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def stored_gzip(data: bytes) -> bytes:
    """Gzip without compression, the same bytes whichever zlib is installed: their checksum can be written down."""
    chunks = [data[start : start + 65535] for start in range(0, len(data), 65535)] or [b""]
    blocks = b"".join(
        struct.pack("<BHH", number == len(chunks), len(chunk), len(chunk) ^ 0xFFFF) + chunk
        for number, chunk in enumerate(chunks, 1)
    )
    trailer = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + blocks + trailer


def chart_archive(folder: Path, name: str, version: str, app_version: str) -> bytes:
    """What `helm package` makes of a chart's folder, with both versions set.

    Raises ArtefactError when the folder's Chart.yaml has not exactly one line for each.
    """
    members = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") and part != ".helmignore" for part in inner.parts):
            continue
        content = path.read_bytes()
        if str(inner) == "Chart.yaml":
            text = content.decode()
            for key, value in (("version", version), ("appVersion", app_version)):
                text, count = re.subn(rf"(?m)^{key}:.*$", f"{key}: {value}", text)
                if count != 1:
                    raise ArtefactError(f"{path}: {count} lines {key}, expected one")
            content = text.encode()
        members.append((f"{name}/{inner}", content, 0o644))
    members.sort(key=lambda member: member[0] != f"{name}/Chart.yaml")
    return stored_gzip(tar(members))


@dataclass(frozen=True)
class Plain:
    """A file of a part (`source` is PART/PATH) served as it is."""

    url: str
    source: str
    sums: tuple[tuple[str, Sums], ...] = ()
    """Checksum files beside it: their name and form."""


@dataclass(frozen=True)
class Archive:
    """A .tar.gz of files of parts: (name in the archive, PART/PATH)."""

    url: str
    members: tuple[tuple[str, str], ...]
    sums: tuple[tuple[str, Sums], ...] = ()


@dataclass(frozen=True)
class Chart:
    """A packaged Helm chart made from a chart's folder (`source` is PART/PATH)."""

    url: str
    source: str
    name: str
    version: str
    app_version: str
    sums: tuple[tuple[str, Sums], ...] = ()


@dataclass(frozen=True)
class WebTree(Recipe):
    """The tree; urls are HOST/path."""

    lane: ClassVar[Lane] = "pack"
    items: tuple[Plain | Archive | Chart, ...]

    def code(self) -> str:
        """Everything here decides about the bytes."""
        return Path(__file__).read_text(encoding="utf-8")

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Link files, write archives and checksums."""

        def find(source: str) -> Path:
            part, _, rest = source.partition("/")
            return parts[part] / rest

        for item in self.items:
            path = target / item.url
            path.parent.mkdir(parents=True, exist_ok=True)
            match item:
                case Plain():
                    path.hardlink_to(find(item.source))
                case Archive():
                    members = [(name, find(source).read_bytes(), 0o755) for name, source in item.members]
                    path.write_bytes(gzip.compress(tar(members), compresslevel=1, mtime=0))
                case Chart():
                    path.write_bytes(chart_archive(find(item.source), item.name, item.version, item.app_version))
            for name, form in item.sums:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                (path.parent / name).write_text(_SUMS[form].format(name=path.name, digest=digest))


@dataclass(frozen=True)
class Programs(Recipe):
    """Programs for this machine in one folder: (name, PART/PATH)."""

    lane: ClassVar[Lane] = "pack"
    items: tuple[tuple[str, str], ...]

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Link them."""
        for name, source in self.items:
            part, _, rest = source.partition("/")
            (target / name).hardlink_to(parts[part] / rest)
