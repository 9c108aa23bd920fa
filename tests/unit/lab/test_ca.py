# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's certificates hold up to openssl, an independent judge."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from lab import ca


@pytest.fixture(autouse=True)
def _lab_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECOZY_LAB", str(tmp_path))


def _verify(certificate: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name]
    command += ["-CAfile", str(ca.root()), "-untrusted", str(certificate), str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_server_is_certified_for_its_names_only() -> None:
    certificate, key = ca.server("web", ["dl.k8s.io", "github.com"])
    assert _verify(certificate, "dl.k8s.io").returncode == 0
    assert _verify(certificate, "registry.k8s.io").returncode != 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_same_names_keep_the_certificate_and_others_renew_it() -> None:
    certificate, _ = ca.server("web", ["dl.k8s.io", "github.com"])
    first = certificate.read_bytes()
    ca.server("web", ["github.com", "dl.k8s.io"])
    assert certificate.read_bytes() == first
    ca.server("web", ["github.com"])
    assert certificate.read_bytes() != first


def test_the_house_is_an_authority_below_the_lab() -> None:
    root = ca.root()
    house = ca.folder() / "house.crt"
    done = subprocess.run(["openssl", "verify", "-CAfile", str(root), str(house)], capture_output=True, check=False)
    assert done.returncode == 0
    show = ["openssl", "x509", "-noout", "-ext", "basicConstraints", "-in", str(house)]
    assert "CA:TRUE" in subprocess.run(show, capture_output=True, text=True, check=True).stdout
