# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Layers, images and the registry's storage folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from lab.artefacts.images import (
    File,
    Folder,
    Image,
    Layer,
    LayerWriter,
    Link,
    Owner,
    Packages,
    Registry,
    Text,
    Tree,
    full_name,
    package_closure,
    registry_host,
)
from lab.artefacts.ingress import fit_template
from lab.artefacts.parts import ArtefactError

STATUS = """\
Package: nginx
Depends: libc6 (>= 2.38), nginx-abi-1 | other, debconf (>= 0.5)

Package: libc6
Pre-Depends: libgcc-s1:any

Package: libgcc-s1

Package: nginx-common
Provides: nginx-abi-1 (= 1), httpd

Package: debconf
"""


def test_closure_follows_alternatives_and_leaves_out_what_only_installs() -> None:
    assert package_closure(STATUS, ["nginx"]) == ["libc6", "libgcc-s1", "nginx", "nginx-common"]
    with pytest.raises(ArtefactError, match="packages not in the tree for images: apache2"):
        package_closure(STATUS, ["apache2"])


def _layer(parts: dict[str, Path], *entries: File | Folder | Link | Packages | Text | Tree) -> tuple[bytes, str]:
    writer = LayerWriter(parts)
    for entry in entries:
        writer.add(entry)
    path = parts["part"].parent / "layer.tar"
    digest = writer.write(path)
    return path.read_bytes(), digest


def test_a_layer_depends_on_content_only(tmp_path: Path) -> None:
    part = tmp_path / "part"
    (part / "tree").mkdir(parents=True)
    for name in ("program", "tree/file"):
        (part / name).write_text("content")
    entries = (
        Text("/etc/passwd", "root", owner=Owner(1, 2)),
        File("/bin/program", "part/program"),
        Tree("/srv", "part/tree", Owner(5, 6)),
        Link("/bin/again", "program"),
    )
    one, digest = _layer({"part": part}, *entries)
    os.utime(part / "program", (1, 1))
    other, _ = _layer({"part": part}, *reversed(entries))
    assert one == other
    assert hashlib.sha256(one).hexdigest() == digest
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        found = {member.name: (member.mode, member.uid, member.gid) for member in archive}
    assert found == {
        "bin": (0o755, 0, 0),
        "bin/again": (0o777, 0, 0),
        "bin/program": (0o755, 0, 0),
        "etc": (0o755, 0, 0),
        "etc/passwd": (0o644, 1, 2),
        "srv": (0o755, 0, 0),
        "srv/file": (0o644, 5, 6),
    }


def test_packages_bring_their_files_without_documentation(tmp_path: Path) -> None:
    root = tmp_path / "image-packages/root"
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("Package: tool\n")
    (root / "etc/alternatives").mkdir(parents=True)
    (root / "etc/alternatives/tool").symlink_to("/usr/bin/tool-real")
    (info / "tool:amd64.list").write_text("/.\n/bin\n/bin/tool-real\n/usr/share/doc/tool/copyright\n/gone\n")
    for name in ("usr/bin/tool-real", "usr/share/doc/tool/copyright", "usr/sbin/other"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "usr/bin/tool").symlink_to("/etc/alternatives/tool")
    parts = {"part": root.parent, "image-packages": root.parent}
    data, _ = _layer(parts, Packages(("tool",)))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert archive.getmember("bin").linkname == "usr/bin"
        assert archive.getmember("tmp").mode == 0o1777
    assert {"usr/bin/tool-real", "usr/bin/tool", "etc/alternatives/tool"} <= set(names)
    assert not {"usr/share/doc/tool/copyright", "usr/sbin/other", "gone"} & set(names)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("couchdb:3.3.3", "docker.io/library/couchdb:3.3.3"),
        ("cozy/cozy-stack:1.6.58", "docker.io/cozy/cozy-stack:1.6.58"),
        ("docker.io/library/couchdb:3.3.3", "docker.io/library/couchdb:3.3.3"),
        ("localhost/mine", "localhost/mine:latest"),
        ("127.0.0.1:5000/mine", "127.0.0.1:5000/mine:latest"),
    ],
)
def test_names_are_completed(short: str, full: str) -> None:
    assert full_name(short) == full


def test_docker_hub_is_asked_under_its_own_name() -> None:
    assert registry_host("docker.io/library/couchdb:3.3.3") == "registry-1.docker.io"
    assert registry_host("quay.io/metallb/speaker:v1") == "quay.io"


def _registry(tmp_path: Path, name: str, archives: Path, *images: Image) -> Path:
    layer = tmp_path / "layer"
    if not layer.exists():
        layer.mkdir()
        Layer((Text("/hello", "world"),)).build(layer, {})
    target = tmp_path / name
    target.mkdir()
    Registry(images, archives).build(target, {"layer": layer})
    return target


def _tagged(root: Path, repository: str, tag: str) -> dict[str, object]:
    """The manifest a client would get."""
    top = root / "docker/registry/v2"
    link = (top / "repositories" / repository / "_manifests/tags" / tag / "current/link").read_text()
    digest = link.removeprefix("sha256:")
    data = (top / "blobs/sha256" / digest[:2] / digest / "data").read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    manifest = json.loads(data)
    for blob in (manifest["config"], *manifest["layers"]):
        blob_digest = blob["digest"].removeprefix("sha256:")
        content = (top / "blobs/sha256" / blob_digest[:2] / blob_digest / "data").read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (blob["size"], blob_digest)
        assert (top / "repositories" / repository / "_layers/sha256" / blob_digest / "link").exists()
    return dict(manifest)


def test_images_share_layers_and_keep_their_configuration(tmp_path: Path) -> None:
    images = [Image(f"quay.io/some/{name}:v1", ("layer",), entrypoint=(f"/{name}",), user="7:8") for name in "ab"]
    root = _registry(tmp_path, "registry", tmp_path, *images)
    manifests = [_tagged(root, f"some/{name}", "v1") for name in "ab"]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    assert len(list((root / "docker/registry/v2/blobs/sha256").glob("*/*/data"))) == 5
    assert set(json.loads((root / "images.json").read_text())) == {image.name for image in images}
    assert (
        _registry(tmp_path, "again", tmp_path, *images).joinpath("images.json").read_text()
        == (root / "images.json").read_text()
    )


def test_an_archive_replaces_the_image_of_its_name(tmp_path: Path) -> None:
    archives = tmp_path / "images.d"
    archives.mkdir()
    members = {
        "manifest.json": json.dumps(
            [{"Config": "c.json", "RepoTags": ["some/thing:1"], "Layers": ["l/layer.tar"]}]
        ).encode(),
        "c.json": b'{"real": true}',
        "l/layer.tar": b"a layer",
    }
    with tarfile.open(archives / "real.tar", "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    thing = Image("docker.io/some/thing:1", ("layer",))
    before = _tagged(_registry(tmp_path, "before", tmp_path, thing), "some/thing", "1")
    root = _registry(tmp_path, "after", archives, thing)
    after = _tagged(root, "some/thing", "1")
    assert before["config"] != after["config"]
    assert after["config"] == {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:" + hashlib.sha256(members["c.json"]).hexdigest(),
        "size": len(members["c.json"]),
    }
    assert not (root / "unpacked").exists()


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.tar").write_text("no archive at all")
    with pytest.raises(ArtefactError, match=r"wrong\.tar is no archive of images"):
        _registry(tmp_path, "registry", tmp_path)


def test_the_template_loads_modules_and_has_no_lua_in_streams() -> None:
    template = "# head\npid {{ .PID }};\nhttp {\n}\nstream {\n    lua_x;\n    server {\n    }\n}\n{{ define }}\n"
    fitted = fit_template(template)
    assert "pid {{ .PID }};\ninclude /etc/nginx/modules-enabled/*.conf;\n" in fitted
    assert "lua_x" not in fitted
    assert fitted.endswith("}\n{{ define }}\n")
    with pytest.raises(ArtefactError, match="stream block"):
        fit_template("pid {{ .PID }};\n")
