# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret is found in every form in which it slips into a log; what is public is not."""

from __future__ import annotations

import base64
import json
import urllib.parse
from pathlib import Path

import pytest

from tests.site import leaks

PASSPHRASE = 'correct "horse" battery/staple é'
KEY_LINE = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQ0FGRUJBQkUwMTIz"
KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\nshort\n-----END PRIVATE KEY-----\n"
CERTIFICATE = f"-----BEGIN CERTIFICATE-----\n{KEY_LINE}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("after", [b"", b"x", b"xy"])
def test_a_value_inside_base64_is_found(before: bytes, after: bytes) -> None:
    log = b"data: " + base64.b64encode(before + PASSPHRASE.encode() + after) + b"\n"
    assert leaks.search(log, leaks.needles({"passphrase": PASSPHRASE})) == {"passphrase"}


@pytest.mark.parametrize(
    "written",
    [
        PASSPHRASE,
        json.dumps({"msg": PASSPHRASE}),
        f"GET /?p={urllib.parse.quote(PASSPHRASE, safe='')}",
        f"-p {PASSPHRASE}\n",
    ],
)
def test_a_value_is_found(written: str) -> None:
    assert leaks.search(written.encode(), leaks.needles({"passphrase": f"{PASSPHRASE}\n"})) == {"passphrase"}


def test_a_line_of_a_private_key_is_enough() -> None:
    assert leaks.search(f"stdin: {KEY_LINE}".encode(), leaks.needles({"key": KEY})) == {"key"}


def test_certificates_and_short_values_are_not_searched_for() -> None:
    assert leaks.needles({"certificate": CERTIFICATE, "user": "admin"}) == {}


def test_a_key_beside_its_certificate_is_searched_for() -> None:
    assert KEY_LINE.encode() in leaks.needles({"both": CERTIFICATE.replace(KEY_LINE, "public") + KEY})


def test_join_tokens_are_found_by_their_shape() -> None:
    assert leaks.search(b"kubeadm join --token abc1ef.0123456789abcdef x", {}) == {"a join token"}


@pytest.mark.parametrize(
    "text",
    [
        b"v1.36.3",
        b"worker1.cozy.example.com",
        b"0.28.9-abc",
        b"cri-containerd-abc1ef.0123456789abcdef.scope",
        b"nothin.initialises12345",
    ],
)
def test_other_dotted_names_are_no_tokens(text: bytes) -> None:
    assert leaks.search(text, {}) == set()


def test_a_secret_across_two_blocks_of_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_BLOCK", 1 << 14)
    clean, leaking = tmp_path / "clean.log", tmp_path / "leaking.log"
    clean.write_bytes(b"." * (1 << 14))
    leaking.write_bytes(b"." * ((1 << 14) - 5) + b"hunter2hunter2")
    assert leaks.search_files([clean, leaking], leaks.needles({"password": "hunter2hunter2"})) == {
        str(leaking): {"password"}
    }
