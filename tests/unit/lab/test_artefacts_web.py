# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The tree of download hosts."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from lab.artefacts import REGISTRY_HOSTS, WEB_HOSTS
from lab.artefacts.parts import ArtefactError
from lab.artefacts.web import Archive, Chart, Plain, WebTree, chart_archive, stored_gzip


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart's folder as upstream keeps it in its sources."""
    folder = tmp_path / "chart"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("name: thing\nversion: v0.0.0\nappVersion: v0.0.0\n")
    (folder / "templates/a.yaml").write_text("a: 1\n")
    (folder / ".gitignore").write_text("x")
    return folder


def test_chart_has_its_versions_and_only_chart_files(chart: Path) -> None:
    data = chart_archive(chart, "thing", "1.2.3", "v1.2")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["thing/Chart.yaml", "thing/templates/a.yaml"]
        member = archive.extractfile("thing/Chart.yaml")
        assert member is not None
        assert member.read() == b"name: thing\nversion: 1.2.3\nappVersion: v1.2\n"


def test_chart_without_a_version_line_is_refused(chart: Path) -> None:
    (chart / "Chart.yaml").write_text("name: thing\nversion: 1\n")
    with pytest.raises(ArtefactError, match="0 lines appVersion"):
        chart_archive(chart, "thing", "1.2.3", "v1.2")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 200_000])
def test_stored_gzip_is_gzip(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    assert gzip.decompress(stored_gzip(data)) == data


def test_tree_has_files_archives_and_sums_as_upstream_writes_them(tmp_path: Path, chart: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "tool").write_bytes(b"program")
    items = (
        Plain("one.example/v1/tool", "part/tool", (("tool.sha256", "sha256"), ("tool.dgst", "openssl"))),
        Archive("two.example/tool.tgz", (("./tool", "part/tool"),), (("tool.tgz.sha256sum", "sha256sum"),)),
        Chart("three.example/thing-1.tgz", "chart/.", "thing", "1", "v1"),
    )
    sums = []
    for name in ("a", "b"):
        target = tmp_path / name
        target.mkdir()
        WebTree(items).build(target, {"part": part, "chart": chart})
        sums.append((target / "two.example/tool.tgz.sha256sum").read_text())
        assert (target / "one.example/v1/tool").read_bytes() == b"program"
        assert (target / "one.example/v1/tool.sha256").read_text() == hashlib.sha256(b"program").hexdigest()
        printed = f"SHA2-256(tool)= {hashlib.sha256(b'program').hexdigest()}\n"
        assert (target / "one.example/v1/tool.dgst").read_text() == printed
        archive = (target / "two.example/tool.tgz").read_bytes()
        assert sums[-1] == f"{hashlib.sha256(archive).hexdigest()}  tool.tgz\n"
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            assert opened.getmember("./tool").mode == 0o755
        assert (target / "three.example/thing-1.tgz").exists()
    assert sums[0] == sums[1]


def test_hosts_are_those_that_roles_ask() -> None:
    assert WEB_HOSTS == ("charts.jetstack.io", "dl.k8s.io", "get.helm.sh", "github.com")
    assert REGISTRY_HOSTS == ("ghcr.io", "quay.io", "registry-1.docker.io", "registry.k8s.io")
