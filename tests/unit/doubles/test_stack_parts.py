# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the stack double that no recording shows: the template, the environment, keys, and honest refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.doubles.cozy_stack import keys
from lab.doubles.cozy_stack.config import OFFICIAL_REGISTRY, ConfigError, load, render
from tests.unit.doubles.world import World

HARD = "p@:#%/ é\"'\\"
BODY = "A" * 64 + "\n" + "A" * 22 + "==\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{.Env.X}}", HARD),
        ("{{ .Env.X }}", HARD),
        ("{{.Env.MISSING}}", ""),
        ("{{urlquery .Env.X}}", "p%40%3A%23%25%2F+%C3%A9%22%27%5C"),
        ('{{printf "%q" .Env.X}}', '"p@:#%/ é\\"\'\\\\"'),
        ("{{/* a remark */}}x", "x"),
    ],
)
def test_template(text: str, wanted: str) -> None:
    assert render(text, {"X": HARD}) == wanted


@pytest.mark.parametrize("text", ["{{.Foo}}", "{{if .Env.X}}a{{end}}", "{{add 1 2}}"])
def test_template_beyond_the_double(text: str) -> None:
    with pytest.raises(ConfigError, match="is not played"):
        render(text, {"X": "1"})


def test_flags_over_environment_over_local_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cozy.yaml").write_text("Port: 1\nhost: a\nADMIN: {Port: 2, host: b}\nfs: {url: 'file:///c'}\n")
    (tmp_path / "cozy.yaml.local").write_text("admin: {host: d}\n")
    config = load(None, {"COZY_PORT": "3", "COZY_ADMIN_HOST": "", "COZY_FS_URL": "file:///e"}, {"host": "f"})
    assert (config.host, config.port, config.admin_host, config.admin_port) == ("f", 3, "d", 2)
    assert config.fs_root == Path("/e")
    assert load(None, {"COZY_PORT": "tcp://10.0.0.1:80"}, {}).port == 0
    assert config.registries_of("") == [OFFICIAL_REGISTRY]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobs: {workers: {sendmail: {concurency: 1}}}", 'config: unknown key "jobs.workers.sendmail.concurency"'),
        ("jobs: {workers: {sendmail: 1}}", 'config: expecting a map in the key "jobs.workers.sendmail"'),
        ("safe_http: {trusted_private_networks: [10.0.0.1]}", "invalid CIDR address: 10.0.0.1"),
        ("safe_http: {trusted_private_networks: [10.0.0.0/99]}", "invalid CIDR address: 10.0.0.0/99"),
        ("registries: {default: 'https://h.test/'}", "should be a list of strings"),
        ("subdomains: deep", 'Subdomains mode should either be "flat" or "nested", was: "deep"'),
        ("mail: {contexts: {a: {host: b}}}", "mail.contexts is not played"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """As pkg/config/config/config.go does it."""
    path = tmp_path / "cozy.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(path, {}, {})


def test_settings_of_mail(tmp_path: Path) -> None:
    path = tmp_path / "cozy.yaml"
    path.write_text("mail: {port: '465', use_ssl: true, disable_tls: false}\njobs: {workers: {log: false}}\n")
    mail = load(path, {"COZY_MAIL_PASSWORD": "p", "COZY_MAIL_HOST": ""}, {}).mail
    assert (mail["host"], mail["port"], mail["password"]) == ("localhost", 465, "p")
    assert (mail["use_ssl"], mail["disable_tls"], mail["skip_certificate_validation"]) == (True, False, False)
    path.write_text("{}\n")
    assert load(path, {}, {}).mail["disable_tls"] is True


def test_secret_line() -> None:
    vector = "scrypt$32768$8$1$" + "00" * 16 + "$ae10bac419481501d7ad45b6b9ece95c0cc165c233b17d73ed7ae50bbfdf1511"
    assert keys.check_secret(f" {vector}\n", b"test")
    assert not keys.check_secret(vector, b"Test")
    assert keys.check_secret(keys.make_secret(b"x y"), b"x y")
    for broken in ("", "scrypt", "scrypt$1$8$1$00$00", vector[:-1], vector.replace("scrypt", "bcrypt"), vector + "$"):
        assert not keys.check_secret(broken, b"test")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (f"-----BEGIN NACL KEY-----\n{BODY}-----END NACL KEY-----\n", True),
        (f"-----BEGIN NACL KEY-----\n{BODY}-----END NACL KEY-----", True),
        (f"-----BEGIN NACL KEY-----\n{BODY}-----END NACL KEY-----\n".replace("\n", "\r\n"), True),
        ("-----BEGIN NACL KEY-----\n" + BODY.replace("\n", "") + "\n-----END NACL KEY-----\n", True),
        (f" -----BEGIN NACL KEY-----\n{BODY}-----END NACL KEY-----\n", False),
        (f"-----BEGIN PRIVATE KEY-----\n{BODY}-----END PRIVATE KEY-----\n", False),
        ("-----BEGIN NACL KEY-----\n" + "A" * 43 + "=\n-----END NACL KEY-----\n", False),
        ("", False),
    ],
)
def test_vault_key_files(tmp_path: Path, text: str, good: bool) -> None:
    path = tmp_path / "vault.enc"
    path.write_bytes(text.encode())
    if good:
        assert keys.read_vault_key(str(path)) == bytes(64)
    else:
        with pytest.raises(ConfigError, match="failed to setup the keyring: failed to unmarshal NACL key"):
            keys.read_vault_key(str(path))


def test_hash_of_a_browser() -> None:
    """The recorded passphrase-check-ok: this is what the real stack accepted for this passphrase."""
    hashed = keys.hash_passphrase("alice-Passphrase-1", "alice.cozy.test", 650_000)
    assert hashed == b"5yB2lOGbCE3przGiEIlOvstPTIJrB7BP2Fp2X8Ddor4="


def test_tokens() -> None:
    doc = {"domain": "a.b", "cli_secret": "AAAA", "session_secret": "BBBB"}
    token = keys.make_token(doc, "cli", "CLI", "io.cozy.apps io.cozy.files:GET")
    claims = keys.read_token(doc, token)
    assert claims.allows("io.cozy.apps", "POST")
    assert claims.allows("io.cozy.files", "GET")
    assert not claims.allows("io.cozy.files", "POST")
    for other in (doc | {"domain": "c.d"}, doc | {"cli_secret": "CCCC"}):
        with pytest.raises(keys.TokenError, match="Invalid JWT token"):
            keys.read_token(other, token)


def test_old_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = {"domain": "a.b", "cli_secret": "AAAA", "session_secret": "BBBB"}
    token = keys.make_token(doc, "cli", "CLI", "io.cozy.apps")
    monkeypatch.setitem(keys.TOKEN_LIFE, "cli", -1)
    with pytest.raises(keys.TokenError, match="Expired token"):
        keys.read_token(doc, token)


def test_what_is_not_played(tmp_path: Path) -> None:
    """Routes of the real stack that the double leaves out say so, and only with the right to ask."""
    with World(tmp_path / "world") as world:
        world.start()
        assert world.admin("POST", "/instances?Domain=a.b").status == 201
        for method, path in (
            ("POST", "/instances/a.b/export"),
            ("GET", "/instances/assets"),
            ("POST", "/oidc/a/b/code"),
        ):
            answer = world.admin(method, path)
            assert answer.status == 501
            assert f"does not play {method} {path}" in answer.body.decode()
            assert f"does not play {method} {path}" in world.log()
            assert world.call(world.admin_port, method, path, {"Host": "x"}).status == 401
        assert world.call(world.public_port, "GET", "/sharings/", {"Host": "a.b"}).status == 501
        assert world.call(world.admin_port, "DELETE", "/version", {"Host": "x"}).status == 405
        names = json.loads(world.couchdb("GET", "/_all_dbs").body)
        assert len([name for name in names if name.startswith("cozy")]) == 16
