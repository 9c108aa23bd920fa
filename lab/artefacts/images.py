# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Container images without an engine: layers as plain tar files, images as entries of a registry's storage folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar

from .parts import ArtefactError, Lane, Recipe

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@cache
def _this_module() -> str:
    return Path(__file__).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class Owner:
    """Numeric user and group."""

    uid: int = 0
    gid: int = 0


ROOT = Owner()


@dataclass(frozen=True)
class File:
    """A file taken from a part: `source` is PART/PATH."""

    path: str
    source: str
    mode: int = 0o755
    owner: Owner = ROOT


@dataclass(frozen=True)
class Text:
    """A file with the given content."""

    path: str
    content: str
    mode: int = 0o644
    owner: Owner = ROOT


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True)
class Folder:
    """A folder; parents of other entries come by themselves, as root's with mode 0755."""

    path: str
    mode: int = 0o755
    owner: Owner = ROOT


@dataclass(frozen=True)
class Tree:
    """A folder of a part with all that is in it; modes are kept, the owner is one for all."""

    path: str
    source: str
    owner: Owner = ROOT


@dataclass(frozen=True)
class Packages:
    """Debian packages, with what they depend on, out of a part that holds a Debian root in `root/`.

    Left out are documentation and what only serves the installing of packages.
    """

    names: tuple[str, ...]
    root: str = "image-packages/root"


@dataclass(frozen=True)
class Project:
    """A file or folder of this project (`source` is relative to its top)."""

    path: str
    source: str


Entry = File | Text | Link | Folder | Tree | Packages | Project

TOP = Path(__file__).parents[2]

_SYSTEM_FOLDERS = {
    "/dev": 0o755,
    "/etc/alternatives": 0o755,
    "/proc": 0o555,
    "/root": 0o700,
    "/run": 0o755,
    "/sys": 0o555,
    "/tmp": 0o1777,  # noqa: S108  # a folder inside images
    "/var/tmp": 0o1777,  # noqa: S108
}
_ONLY_FOR_INSTALLING = frozenset({"debconf", "dpkg", "init-system-helpers", "perl-base", "tar"})
_NOT_NEEDED = re.compile(
    r"/usr/share/(bug|doc|doc-base|info|lintian|locale|man|menu)/|/usr/lib/x86_64-linux-gnu/gconv/"
)
_MERGED = re.compile(r"^/(bin|sbin|lib|lib64)(?=/|$)")


def package_closure(status: str, names: Iterable[str]) -> list[str]:
    """The packages and all they depend on, sorted; `status` is the text of /var/lib/dpkg/status.

    Raises ArtefactError for a named package that is not installed there.
    """
    fields = {}
    provided: dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        found = dict(re.findall(r"^(Package|Depends|Pre-Depends|Provides): (.*)$", paragraph, re.MULTILINE))
        if "Package" in found:
            fields[found["Package"]] = found
            for virtual in re.findall(r"[a-z0-9][a-z0-9+.-]+", re.sub(r"\(.*?\)", "", found.get("Provides", ""))):
                provided.setdefault(virtual, found["Package"])
    todo, chosen = list(names), set[str]()
    if missing := [name for name in todo if name not in fields]:
        raise ArtefactError(f"packages not in the tree for images: {', '.join(missing)}")
    while todo:
        name = todo.pop()
        if name in chosen or name in _ONLY_FOR_INSTALLING:
            continue
        chosen.add(name)
        for group in f"{fields[name].get('Pre-Depends', '')},{fields[name].get('Depends', '')}".split(","):
            choices = [re.split(r"[ :(]", choice.strip())[0] for choice in group.split("|")]
            installed = [choice if choice in fields else provided.get(choice, "") for choice in choices]
            todo.extend(next(([choice] for choice in installed if choice), []))
    return sorted(chosen)


@dataclass
class _Content:
    """One member of a layer: its header, and where its bytes come from."""

    header: tarfile.TarInfo
    source: Path | bytes | None = None


class LayerWriter:
    """Collects entries and writes them as a tar file whose bytes depend on nothing else."""

    def __init__(self, parts: Mapping[str, Path]) -> None:
        self._parts = parts
        self._members: dict[str, _Content] = {}

    def add(self, entry: Entry) -> None:
        """Add an entry; a later one replaces an earlier one of the same path."""
        match entry:
            case File():
                source = self._part_path(entry.source)
                self._put(entry.path, tarfile.REGTYPE, entry.mode, entry.owner, source, source.stat().st_size)
            case Text():
                content = entry.content.encode()
                self._put(entry.path, tarfile.REGTYPE, entry.mode, entry.owner, content, len(content))
            case Link():
                self._put(entry.path, tarfile.SYMTYPE, 0o777, ROOT, None, link=entry.target)
            case Folder():
                self._put(entry.path, tarfile.DIRTYPE, entry.mode, entry.owner, None)
            case Tree():
                top = self._part_path(entry.source)
                for item in sorted(top.rglob("*")):
                    if "__pycache__" not in item.parts:
                        self._add_from_disk(item, f"{entry.path}/{item.relative_to(top)}", entry.owner)
            case Packages():
                self._add_packages(entry)
            case Project():
                self._add_project(TOP / entry.source, entry.path)

    def write(self, path: Path) -> str:
        """Write the layer; return its sha256 (hex)."""
        for name in list(self._members):
            for parent in PurePosixPath(name).parents:
                if str(parent) != "/" and str(parent) not in self._members:
                    self._put(str(parent), tarfile.DIRTYPE, 0o755, ROOT, None)
        with path.open("wb") as raw:
            sink = _Hashing(raw)
            with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
                for name in sorted(self._members):
                    member = self._members[name]
                    match member.source:
                        case Path() as source:
                            with source.open("rb") as handle:
                                archive.addfile(member.header, handle)
                        case bytes() as content:
                            archive.addfile(member.header, io.BytesIO(content))
                        case None:
                            archive.addfile(member.header)
        return sink.digest.hexdigest()

    def _part_path(self, source: str) -> Path:
        part, _, rest = source.partition("/")
        return self._parts[part] / rest

    def _put(
        self, path: str, kind: bytes, mode: int, owner: Owner, source: Path | bytes | None,
        size: int = 0, link: str = "", mtime: int = 0,
    ) -> None:  # fmt: skip
        header = tarfile.TarInfo(path.lstrip("/"))
        header.type, header.mode, header.size, header.linkname, header.mtime = kind, mode, size, link, mtime
        header.uid, header.gid = owner.uid, owner.gid
        self._members["/" + path.strip("/")] = _Content(header, source)

    def _add_from_disk(self, item: Path, path: str, owner: Owner, *, mtime: int = 0) -> None:
        status = item.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if item.is_symlink():
            self._put(path, tarfile.SYMTYPE, 0o777, owner, None, link=str(item.readlink()))
        elif item.is_dir():
            self._put(path, tarfile.DIRTYPE, mode, owner, None)
        elif item.is_file():
            self._put(path, tarfile.REGTYPE, mode, owner, item, status.st_size, mtime=mtime)

    def _add_project(self, top: Path, path: str) -> None:
        for item in [top] if top.is_file() else sorted(top.rglob("*.py")):
            inner = "" if item == top else f"/{item.relative_to(top)}"
            self._put(path + inner, tarfile.REGTYPE, 0o644, ROOT, item, item.stat().st_size)

    def _add_packages(self, packages: Packages) -> None:
        root = self._part_path(packages.root)
        for name in ("bin", "lib", "lib64", "sbin"):
            self.add(Link(f"/{name}", f"usr/{name}"))
        for path, mode in _SYSTEM_FOLDERS.items():
            self.add(Folder(path, mode))
        for path in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/debian_version", "/etc/os-release"):
            if (root / path[1:]).exists():
                self.add(File(path, packages.root + path, 0o644))
        info = root / "var/lib/dpkg/info"
        for package in package_closure((root / "var/lib/dpkg/status").read_text(encoding="utf-8"), packages.names):
            listing = next(path for path in (info / f"{package}.list", info / f"{package}:amd64.list") if path.exists())
            for line in listing.read_text(encoding="utf-8").splitlines():
                path = _MERGED.sub(r"/usr/\1", line)
                if path in {"/.", "/usr/bin", "/usr/sbin"} or _NOT_NEEDED.match(path + "/") or path in self._members:
                    continue
                self._add_package_file(root, path)
        alternatives = root / "etc/alternatives"
        for link in sorted(path for path in alternatives.iterdir() if path.is_symlink()):
            target = str(link.readlink())
            if _MERGED.sub(r"/usr/\1", target) in self._members:
                self.add(Link(f"/etc/alternatives/{link.name}", target))
        for folder in ("usr/bin", "usr/sbin"):
            for link in sorted((root / folder).iterdir()):
                alternative = f"/etc/alternatives/{link.name}"
                if link.is_symlink() and str(link.readlink()) == alternative and alternative in self._members:
                    self.add(Link(f"/{folder}/{link.name}", alternative))

    def _add_package_file(self, root: Path, path: str) -> None:
        item = root / path[1:]
        if not item.is_symlink() and not item.exists():
            return
        mtime = int(item.lstat().st_mtime)
        self._add_from_disk(item, path, ROOT, mtime=mtime)
        # Python refuses compiled files whose recorded time is not the source's: both keep it.
        if path.endswith(".py"):
            for compiled in item.parent.glob(f"__pycache__/{item.stem}.cpython-*.pyc"):
                self._add_from_disk(
                    compiled, f"{PurePosixPath(path).parent}/__pycache__/{compiled.name}", ROOT, mtime=mtime
                )


class _Hashing:
    """A writable file that keeps the sha256 of what passes through."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write and digest."""
        self.digest.update(data)
        return self._raw.write(data)


@dataclass(frozen=True)
class Layer(Recipe):
    """`layer.tar`, and its sha256 (hex) in `digest`."""

    lane: ClassVar[Lane] = "pack"
    entries: tuple[Entry, ...]

    def code(self) -> str:
        """Everything here decides about the bytes."""
        return _this_module()

    def files(self) -> Iterable[Path]:
        """What comes from the project itself."""
        return [TOP / entry.source for entry in self.entries if isinstance(entry, Project)]

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Write the tar file."""
        writer = LayerWriter(parts)
        for entry in self.entries:
            writer.add(entry)
        (target / "digest").write_text(writer.write(target / "layer.tar"))


# ---------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Image:
    """An image: its full name HOST/REPOSITORY:TAG, the names of the layer parts, and what its configuration says."""

    name: str
    layers: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    env: tuple[str, ...] = (PATH,)
    workdir: str = "/"


def full_name(name: str) -> str:
    """The name with host and tag: `cozy/cozy-stack:1` is `docker.io/cozy/cozy-stack:1`."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def registry_host(name: str) -> str:
    """The host that a runtime asks for an image of this full name."""
    host = name.partition("/")[0]
    return "registry-1.docker.io" if host == "docker.io" else host


@dataclass
class _Blob:
    """Bytes with their digest: in memory, or a file that is linked rather than copied."""

    data: bytes | Path
    media_type: str
    digest: str = ""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.data, bytes):
            self.digest, self.size = hashlib.sha256(self.data).hexdigest(), len(self.data)
        else:
            self.size = self.data.stat().st_size

    def descriptor(self) -> dict[str, str | int]:
        """As manifests name it."""
        return {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": self.size}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class RegistryStorage:
    """The storage folder of a distribution registry (its `rootdirectory`), written directly.

    The layout is the one that registry/storage/paths.go of distribution documents.
    """

    def __init__(self, root: Path) -> None:
        self._top = root / "docker/registry/v2"

    def add(self, name: str, config: bytes, layers: Iterable[_Blob]) -> str:
        """Store an image under HOST/REPOSITORY:TAG (the storage knows no host); return the manifest's digest."""
        repository, _, tag = name.partition("/")[2].rpartition(":")
        blobs = [_Blob(config, CONFIG), *layers]
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blobs[0].descriptor(),
            "layers": [blob.descriptor() for blob in blobs[1:]],
        }
        manifest = _Blob(_json(body), MANIFEST)
        home = self._top / "repositories" / repository
        for blob in blobs:
            self._store(blob)
            self._link(home / "_layers/sha256" / blob.digest, blob.digest)
        self._store(manifest)
        self._link(home / "_manifests/revisions/sha256" / manifest.digest, manifest.digest)
        self._link(home / "_manifests/tags" / tag / "current", manifest.digest)
        self._link(home / "_manifests/tags" / tag / "index/sha256" / manifest.digest, manifest.digest)
        return f"sha256:{manifest.digest}"

    def _store(self, blob: _Blob) -> None:
        path = self._top / "blobs/sha256" / blob.digest[:2] / blob.digest / "data"
        if path.exists():
            return
        path.parent.mkdir(parents=True)
        if isinstance(blob.data, bytes):
            path.write_bytes(blob.data)
        else:
            path.hardlink_to(blob.data)

    def _link(self, folder: Path, digest: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link").write_text(f"sha256:{digest}")


def image_config(image: Image, diff_ids: Iterable[str]) -> bytes:
    """The OCI configuration of an image whose uncompressed layers have these sha256 sums (hex)."""
    config = {
        "User": image.user,
        "Env": list(image.env),
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "WorkingDir": image.workdir,
    }
    return _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {key: value for key, value in config.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in diff_ids]},
        }
    )


def archive_images(path: Path, scratch: Path) -> Iterator[tuple[str, bytes, list[_Blob]]]:
    """Full name, configuration and layers of each image in an archive written by `docker save` or `podman save`.

    Layers are unpacked into `scratch`. Raises ArtefactError for a file that is no such archive.
    """
    try:
        with tarfile.open(path) as archive:

            def member(name: str) -> IO[bytes]:
                handle = archive.extractfile(name)
                if handle is None:
                    raise ArtefactError(f"{path}: {name} is no file")
                return handle

            for entry in json.load(member("manifest.json")):
                blobs = []
                for name in entry["Layers"]:
                    draft = scratch / "layer"
                    with draft.open("wb") as out:
                        sink = _Hashing(out)
                        source = member(name)
                        while chunk := source.read(1 << 20):
                            sink.write(chunk)
                    kept = draft.rename(scratch / sink.digest.hexdigest())
                    with kept.open("rb") as start:
                        packed = start.read(2) == b"\x1f\x8b"
                    blobs.append(_Blob(kept, LAYER + ("+gzip" if packed else ""), kept.name))
                config = member(entry["Config"]).read()
                for name in entry["RepoTags"] or ():
                    yield full_name(name), config, blobs
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise ArtefactError(f"{path} is no archive of images (docker save, podman save): {error}") from error


@dataclass(frozen=True)
class Registry(Recipe):
    """All images in the storage folder of a registry: `docker/` in the part's folder, and the names in `images.json`.

    Archives (`*.tar`) in `archives` replace images of the same name and add others.
    """

    lane: ClassVar[Lane] = "pack"
    images: tuple[Image, ...]
    archives: Path = field(repr=False)

    def code(self) -> str:
        """Everything here decides about the bytes."""
        return _this_module()

    def files(self) -> Iterable[Path]:
        """The user's archives, by content."""
        return sorted(self.archives.glob("*.tar"))

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Link and write; takes no time worth mentioning."""
        storage = RegistryStorage(target)
        scratch = target / "unpacked"
        scratch.mkdir()
        digests: dict[str, str] = {}
        for path in self.files():
            for name, config, blobs in archive_images(path, scratch):
                digests[name] = storage.add(name, config, blobs)
        for image in self.images:
            if image.name in digests:
                continue
            sums = [(parts[layer] / "digest").read_text() for layer in image.layers]
            blobs = [
                _Blob(parts[layer] / "layer.tar", LAYER, digest)
                for layer, digest in zip(image.layers, sums, strict=True)
            ]
            digests[image.name] = storage.add(image.name, image_config(image, sums), blobs)
        for left in scratch.iterdir():
            left.unlink()
        scratch.rmdir()
        (target / "images.json").write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n")
