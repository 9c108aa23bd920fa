# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: the admin passphrase file, the vault keys, passphrases of instances, tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Config, ConfigError

KDF_ITERATIONS = 650_000
TOKEN_LIFE = {"cli": 1800, "konn": 1800, "app": 86400}


def scrypt(password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, dklen=length, maxmem=256 * n * r + 1024 * 1024)


def make_secret(password: bytes) -> str:
    """One line in the stack's own form, with its own parameters."""
    salt = secrets.token_bytes(16)
    return f"scrypt$32768$8$1${salt.hex()}${scrypt(password, salt, 32768, 8, 1, 32).hex()}"


def check_secret(line: str, password: bytes) -> bool:
    """True when the password makes the line. A broken line fits nothing."""
    fields = line.strip().split("$")
    try:
        if len(fields) != 6 or fields[0] != "scrypt":
            return False
        n, r, p = (int(field) for field in fields[1:4])
        salt, wanted = bytes.fromhex(fields[4]), bytes.fromhex(fields[5])
        return bool(wanted) and hmac.compare_digest(scrypt(password, salt, n, r, p, len(wanted)), wanted)
    except ValueError:
        return False


def read_vault_key(path: str) -> bytes:
    """The 64 bytes of a vault key file. Raises ConfigError in the real program's words."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ConfigError(
            f'failed to setup the keyring: failed to open file "{path}": open {path}: {reason}'
        ) from error
    except UnicodeDecodeError:
        text = ""
    failure = "failed to setup the keyring: failed to unmarshal NACL key: nacl: "
    lines = text.splitlines()
    if not text.startswith("-----BEGIN NACL KEY-----") or "-----END NACL KEY-----" not in lines[1:]:
        raise ConfigError(failure + "bad PEM block header")
    try:
        raw = base64.b64decode("".join(lines[1 : lines.index("-----END NACL KEY-----")]), validate=True)
    except binascii.Error as error:
        raise ConfigError(failure + "bad PEM block header") from error
    if len(raw) != 64:
        raise ConfigError(failure + "bad key length")
    return raw


def check_vault(config: Config) -> None:
    """Read both vault keys; with one of them unset the real program starts silently too."""
    if config.encryptor_key and config.decryptor_key:
        read_vault_key(config.encryptor_key)
        read_vault_key(config.decryptor_key)


def hash_passphrase(passphrase: str, domain: str, iterations: int) -> bytes:
    """What a browser sends instead of the passphrase: base64 of a PBKDF2 of a PBKDF2."""
    salt = "me@" + domain.partition(":")[0]
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt.encode(), iterations, 32)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1, 32))


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(secret: str, text: str) -> bytes:
    return hmac.new(base64.b64decode(secret), text.encode(), "sha512").digest()


def token_secret(doc: dict[str, Any], audience: str) -> str:
    return str(doc["cli_secret"] if audience == "cli" else doc["session_secret"])


def make_token(doc: dict[str, Any], audience: str, subject: str, scope: str) -> str:
    claims: dict[str, Any] = {"iss": doc["domain"]}
    claims |= {"sub": subject} if subject else {}
    claims |= {"aud": [audience], "iat": int(time.time()), "scope": scope}
    head = b64url(b'{"alg":"HS512","typ":"JWT"}')
    text = f"{head}.{b64url(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{text}.{b64url(sign(token_secret(doc, audience), text))}"


class TokenError(Exception):
    """A token that is broken, foreign or too old."""


@dataclass
class Claims:
    """What a good token grants."""

    audience: str
    subject: str
    scope: list[str]

    def allows(self, doctype: str, method: str) -> bool:
        for rule in self.scope:
            name, *rest = rule.split(":")
            if name == doctype and (not rest or rest[0] in ("", "ALL") or method in rest[0].split(",")):
                return True
        return False


def read_token(doc: dict[str, Any], token: str) -> Claims:
    """Verify a token of this instance. Raises TokenError."""
    try:
        text, _, signature = token.rpartition(".")
        claims = json.loads(from_b64url(text.split(".")[1]))
        audience = claims["aud"][0]
        good = hmac.compare_digest(sign(token_secret(doc, audience), text), from_b64url(signature))
        if not good or claims["iss"] != doc["domain"]:
            raise TokenError("Invalid JWT token")
        if time.time() > claims["iat"] + TOKEN_LIFE[audience]:
            raise TokenError("Expired token")
        return Claims(audience, claims.get("sub", ""), claims["scope"].split())
    except (ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise TokenError("Invalid JWT token") from error


def make_session(doc: dict[str, Any], session_id: str) -> str:
    text = b64url(session_id.encode())
    return f"{text}.{b64url(sign(doc['session_secret'], text)[:32])}"


def read_session(doc: dict[str, Any], cookie: str) -> str | None:
    """The id of the session in a cookie, or None when the cookie is not of this instance."""
    text, _, signature = cookie.partition(".")
    try:
        if hmac.compare_digest(sign(doc["session_secret"], text)[:32], from_b64url(signature)):
            return from_b64url(text).decode()
    except (ValueError, UnicodeDecodeError):
        pass
    return None
