# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules cozy_admin_passphrase and cozy_vault_keys."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import KeyFormatError
from ansible_collections.kubecozy.homelab.plugins.module_utils._keys import ScryptLine, VaultKey, VaultKeys
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_admin_passphrase, cozy_vault_keys

from tests.unit.plugins.module_helper import run_module

# Made by `cozy-stack config passwd` from "test" with a salt of zeros.
VECTOR = "scrypt$32768$8$1$" + "00" * 16 + "$ae10bac419481501d7ad45b6b9ece95c0cc165c233b17d73ed7ae50bbfdf1511"
PASSPHRASE = "a long Passphrase with é"


def test_line_is_the_one_of_the_command_line() -> None:
    assert str(ScryptLine.make("test", bytes(16))) == VECTOR
    assert ScryptLine.parse(f"  {VECTOR}\n").matches("test")
    assert not ScryptLine.parse(VECTOR).matches("Test")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        VECTOR.replace("scrypt", "bcrypt"),
        VECTOR.replace("32768", "32767"),
        VECTOR.replace("32768", "many"),
        VECTOR.replace("32768", str(1 << 24)),
        VECTOR + "zz",
        VECTOR.rsplit("$", 1)[0] + "$",
    ],
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(KeyFormatError):
        ScryptLine.parse(text)


def test_line_for_a_secret_is_made_once_and_kept() -> None:
    first = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line="")
    assert first["changed"]
    assert ScryptLine.parse(first["line"]).matches(PASSPHRASE)
    again = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line=first["line"])
    assert not again["changed"]
    assert "line" not in again


def test_other_passphrase_or_broken_line_gives_a_new_one() -> None:
    other = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line=VECTOR)
    assert other["changed"]
    assert "of another passphrase" in other["diff"]["before"]
    broken = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line="nonsense")
    assert broken["changed"]


def test_weak_line_is_reported_and_renewed_on_request() -> None:
    weak = ScryptLine(1024, 8, 1, b"saltsalt", b"\0" * 32)
    weak = weak._replace(key=weak._hash(PASSPHRASE))
    kept = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line=str(weak))
    assert not kept["changed"]
    assert len(kept["weaknesses"]) == 2
    assert "is weaker than a new one: N=1024" in str(kept["warnings"])
    renewed = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line=str(weak), renew_weak=True)
    assert renewed["changed"]
    assert renewed["weaknesses"] == []


def test_empty_passphrase_is_refused() -> None:
    for empty in ("", "  "):
        assert "empty" in run_module(cozy_admin_passphrase.main, passphrase=empty)["msg"]


def test_line_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cozy-admin-passphrase"
    foretold = run_module(cozy_admin_passphrase.main, check=True, passphrase=PASSPHRASE, path=str(path))
    assert foretold["changed"]
    assert not path.exists()
    made = run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, path=str(path))
    assert made["changed"]
    assert "line" not in made
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    content = path.read_bytes()
    assert content.endswith(b"\n")
    for check in (True, False):
        assert not run_module(cozy_admin_passphrase.main, check=check, passphrase=PASSPHRASE, path=str(path))["changed"]
    assert path.read_bytes() == content


def test_nothing_secret_in_a_result() -> None:
    result = str(run_module(cozy_admin_passphrase.main, passphrase=PASSPHRASE, line=VECTOR))
    assert PASSPHRASE not in result
    assert VECTOR not in result


def test_pair_is_made_once_and_kept() -> None:
    first = run_module(cozy_vault_keys.main, encryptor="", decryptor="")
    assert first["changed"]
    keys = VaultKeys.parse(first["encryptor"], first["decryptor"])
    assert keys.belong_together()
    again = run_module(cozy_vault_keys.main, encryptor=first["encryptor"], decryptor=first["decryptor"])
    assert not again["changed"]
    assert again["fingerprint"] == first["fingerprint"]
    assert "encryptor" not in again
    assert keys.encryptor.pem() not in str(again)


def test_swapped_pair_works_and_is_left_alone() -> None:
    keys = VaultKeys.make()
    swapped = run_module(cozy_vault_keys.main, encryptor=keys.decryptor.pem(), decryptor=keys.encryptor.pem())
    assert not swapped["changed"]
    assert swapped["fingerprint"] == keys.fingerprint()


def test_pair_that_does_not_belong_together_is_named() -> None:
    one, other = VaultKeys.make(), VaultKeys.make()
    result = run_module(cozy_vault_keys.main, encryptor=one.encryptor.pem(), decryptor=other.decryptor.pem())
    assert result["failed"]
    assert "do not belong together" in result["msg"]


@pytest.mark.parametrize(
    ("encryptor", "message"),
    [
        ("", "encryptor key is missing"),
        (" {pem}", "not a PEM file of type NACL KEY"),
        ("-----BEGIN NACL KEY-----\nAAAA\n-----END NACL KEY-----\n", "3 bytes instead of 64"),
        ("-----BEGIN NACL KEY-----\n!!!\n-----END NACL KEY-----\n", "not base64"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a PEM file of type NACL KEY"),
    ],
)
def test_damaged_pair_is_refused(encryptor: str, message: str) -> None:
    keys = VaultKeys.make()
    text = encryptor.format(pem=keys.encryptor.pem())
    result = run_module(cozy_vault_keys.main, encryptor=text, decryptor=keys.decryptor.pem())
    assert result["failed"]
    assert message in result["msg"]
    assert "regenerate=always" in result["msg"]


def test_harmless_forms_of_a_key_file_are_read() -> None:
    pem = VaultKeys.make().encryptor.pem()
    key = VaultKey.parse(pem, "key")
    assert key.pem() == pem
    assert VaultKey.parse(pem.replace("\n", "\r\n"), "key") == key
    assert VaultKey.parse(pem.rstrip("\n"), "key") == key
    head, *body, tail = pem.splitlines()
    assert VaultKey.parse("\n".join([head, "".join(body), tail]), "key") == key


def test_pair_as_files_is_replaced_only_when_told_twice(tmp_path: Path) -> None:
    paths: dict[str, Any] = {
        "encryptor_path": str(tmp_path / "vault.enc"),
        "decryptor_path": str(tmp_path / "vault.dec"),
    }

    def contents() -> list[bytes]:
        return [Path(path).read_bytes() for path in paths.values()]

    assert run_module(cozy_vault_keys.main, check=True, **paths)["changed"]
    assert list(tmp_path.iterdir()) == []
    assert run_module(cozy_vault_keys.main, **paths)["changed"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o400, 0o400]
    before = contents()
    assert not run_module(cozy_vault_keys.main, **paths)["changed"]
    refused = run_module(cozy_vault_keys.main, regenerate="always", **paths)
    assert "acknowledge_loss" in refused["msg"]
    assert contents() == before
    told = run_module(cozy_vault_keys.main, regenerate="always", acknowledge_loss=True, **paths)
    assert told["changed"]
    assert contents() != before
    assert [Path(path).read_bytes() for path in told["backup_files"]] == before
