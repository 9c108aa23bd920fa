# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of objects and files: every kind of writing shows, and no value is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.site import cluster, files
from tests.site.differences import differences

SECRET: dict[str, Any] = {
    "metadata": {
        "name": "a",
        "namespace": "cozy",
        "uid": "1",
        "resourceVersion": "7",
        "managedFields": [{"time": "now"}],
    },
    "data": {"password": "cGFzc3dvcmQ="},
    "status": {"seen": 1},
}


def changed(item: dict[str, Any], kind: str) -> set[str]:
    """Which parts of the fingerprint differ from those of SECRET."""
    before, after = cluster.fingerprint(kind, SECRET), cluster.fingerprint(kind, item)
    return {part for part in before if before[part] != after[part]}


def test_differences_tell_names_and_no_values() -> None:
    before = {"kept": "v1", "gone": "v2", "other": "secret"}
    after = {"kept": "v1", "new": "v4", "other": "more secret"}
    assert differences(before, after) == ["made: new", "gone: gone", "changed: other"]
    assert differences(before, dict(before)) == []


@pytest.mark.parametrize(
    ("item", "kind", "expected"),
    [
        (SECRET | {"data": {"password": "b3RoZXI="}}, "Secret", {"content"}),
        (SECRET | {"metadata": SECRET["metadata"] | {"labels": {"a": "b"}}}, "Secret", {"content"}),
        (SECRET | {"metadata": SECRET["metadata"] | {"uid": "2"}}, "Secret", {"uid", "content"}),
        (SECRET | {"metadata": SECRET["metadata"] | {"resourceVersion": "8"}}, "Secret", {"version"}),
        (SECRET | {"metadata": SECRET["metadata"] | {"resourceVersion": "8"}}, "Deployment", set()),
        (SECRET | {"status": {"seen": 2}}, "Deployment", set()),
        (SECRET | {"metadata": SECRET["metadata"] | {"managedFields": []}}, "Secret", set()),
    ],
)
def test_fingerprint(item: dict[str, Any], kind: str, expected: set[str]) -> None:
    assert changed(item, kind) == expected


def test_every_kind_of_writing_to_a_file_shows(tmp_path: Path) -> None:
    for name in ("same", "longer", "other", "mode", "gone", "log/moving"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
        os.utime(tmp_path / name, ns=(1, 1))
    (tmp_path / "link").symlink_to("same")
    before = files.picture(tmp_path, ("log",))
    (tmp_path / "longer").write_text("more text")
    (tmp_path / "other").write_text("tixt")  # as long as before
    (tmp_path / "mode").chmod(0o600)
    (tmp_path / "gone").unlink()
    (tmp_path / "new").mkdir()
    (tmp_path / "log" / "moving").write_text("moved")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("other")
    assert differences(before, files.picture(tmp_path, ("log",))) == [
        "made: new",
        "gone: gone",
        "changed: link",
        "changed: longer",
        "changed: mode",
        "changed: other",
    ]
