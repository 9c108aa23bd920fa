# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two kinds of secrets cozy-stack reads from files. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import typing as t

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import (
    CozyError,
    InputError,
    KeyFormatError,
)

try:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
except ImportError:
    X25519PrivateKey = None  # type: ignore[assignment, misc]

SCRYPT_N = 32768
SCRYPT_R = 8
SCRYPT_P = 1
SCRYPT_SALT_BYTES = 16
SCRYPT_KEY_BYTES = 32
# scrypt needs 128*N*r bytes (32 MiB here) and a little more; Python's own limit is just below that.
SCRYPT_MAXMEM = 1 << 28

PEM_TYPE = "NACL KEY"


class ScryptLine(t.NamedTuple):
    """The one line of the file `cozy-admin-passphrase`."""

    n: int
    r: int
    p: int
    salt: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> ScryptLine:
        """Read a line; blanks around it don't matter.

        :raises KeyFormatError: if it is no scrypt line.
        """
        parts = text.strip().split("$")
        if len(parts) != 6 or parts[0] != "scrypt":
            raise KeyFormatError("not a line of the form scrypt$N$r$p$salt$key")
        try:
            line = cls(int(parts[1]), int(parts[2]), int(parts[3]), bytes.fromhex(parts[4]), bytes.fromhex(parts[5]))
        except ValueError as exc:
            raise KeyFormatError("a scrypt line with a part that is no number") from exc
        if line.n < 2 or line.n & (line.n - 1) or line.r < 1 or line.p < 1 or not line.salt or not line.key:
            raise KeyFormatError("a scrypt line with impossible parameters")
        if 128 * line.n * line.r > SCRYPT_MAXMEM // 2:
            raise KeyFormatError("a scrypt line that asks for more memory than is sensible")
        return line

    @classmethod
    def make(cls, passphrase: str, salt: bytes | None = None) -> ScryptLine:
        """Hash a passphrase with a fresh salt (or the one given) and today's parameters.

        :raises InputError: if the passphrase is empty.
        """
        if not passphrase.strip():
            raise InputError("The admin passphrase is empty. cozy-stack refuses an empty one: set a long random value.")
        salt = os.urandom(SCRYPT_SALT_BYTES) if salt is None else salt
        line = cls(SCRYPT_N, SCRYPT_R, SCRYPT_P, salt, b"\0" * SCRYPT_KEY_BYTES)
        return line._replace(key=line._hash(passphrase))

    def _hash(self, passphrase: str) -> bytes:
        return hashlib.scrypt(
            passphrase.encode(), salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=SCRYPT_MAXMEM, dklen=len(self.key)
        )

    def matches(self, passphrase: str) -> bool:
        """Whether this line was made from that passphrase."""
        return hmac.compare_digest(self._hash(passphrase), self.key)

    def weaknesses(self) -> list[str]:
        """What cozy-stack would warn about: parameters other than today's."""
        found = []
        if (self.n, self.r, self.p) != (SCRYPT_N, SCRYPT_R, SCRYPT_P):
            found.append(f"N={self.n} r={self.r} p={self.p} instead of N={SCRYPT_N} r={SCRYPT_R} p={SCRYPT_P}")
        if len(self.salt) < SCRYPT_SALT_BYTES:
            found.append(f"salt of {len(self.salt)} bytes instead of {SCRYPT_SALT_BYTES}")
        if len(self.key) != SCRYPT_KEY_BYTES:
            found.append(f"key of {len(self.key)} bytes instead of {SCRYPT_KEY_BYTES}")
        return found

    def __str__(self) -> str:
        return f"scrypt${self.n}${self.r}${self.p}${self.salt.hex()}${self.key.hex()}"

    def describe(self) -> str:
        """The line in words, without its salt and key."""
        return f"scrypt line, N={self.n} r={self.r} p={self.p}, salt of {len(self.salt)} bytes"


def _x25519_public(private: bytes) -> bytes:
    if X25519PrivateKey is None:
        raise CozyError("The Python library 'cryptography' is needed where this module runs, and can't be imported.")
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class VaultKey(t.NamedTuple):
    """One of the two key files: somebody's public key and one's own private key, 32 bytes each."""

    public: bytes
    private: bytes

    @classmethod
    def parse(cls, pem: str, name: str) -> VaultKey:
        """Read a key file's text.

        :param name: what to call the file in an error.
        :raises KeyFormatError: if cozy-stack would refuse it.
        """
        lines = pem.replace("\r\n", "\n").rstrip().split("\n")
        # cozy-stack wants the file to begin with the PEM header: no blank may stand before it.
        if lines[0] != f"-----BEGIN {PEM_TYPE}-----" or lines[-1] != f"-----END {PEM_TYPE}-----":
            raise KeyFormatError(f"{name} is not a PEM file of type {PEM_TYPE}.")
        try:
            body = base64.b64decode("".join(lines[1:-1]), validate=True)
        except binascii.Error as exc:
            raise KeyFormatError(f"{name} has a PEM body that is not base64.") from exc
        if len(body) != 64:
            raise KeyFormatError(f"{name} holds {len(body)} bytes instead of 64.")
        return cls(body[:32], body[32:])

    def pem(self) -> str:
        """The key file's text, as `cozy-stack config gen-keys` writes it."""
        body = base64.b64encode(self.public + self.private).decode()
        lines = [body[i : i + 64] for i in range(0, len(body), 64)]
        return "\n".join([f"-----BEGIN {PEM_TYPE}-----", *lines, f"-----END {PEM_TYPE}-----", ""])


class VaultKeys(t.NamedTuple):
    """The pair of key files that protects stored konnector credentials."""

    encryptor: VaultKey
    decryptor: VaultKey

    @classmethod
    def make(cls) -> VaultKeys:
        """A fresh pair."""
        sender, receiver = os.urandom(32), os.urandom(32)
        return cls(
            VaultKey(_x25519_public(receiver), sender),
            VaultKey(_x25519_public(sender), receiver),
        )

    @classmethod
    def parse(cls, encryptor: str, decryptor: str) -> VaultKeys:
        """Read both files' texts.

        :raises KeyFormatError: if one of them is no key file.
        """
        return cls(VaultKey.parse(encryptor, "The encryptor key"), VaultKey.parse(decryptor, "The decryptor key"))

    def belong_together(self) -> bool:
        """Whether the decryptor reads what the encryptor wrote. cozy-stack itself never checks this."""
        expected = (_x25519_public(self.decryptor.private), _x25519_public(self.encryptor.private))
        return (self.encryptor.public, self.decryptor.public) == expected

    def fingerprint(self) -> str:
        """A short name of the pair, made of its public halves only."""
        publics = b"".join(sorted([self.encryptor.public, self.decryptor.public]))
        return "sha256:" + hashlib.sha256(publics).hexdigest()[:16]


__all__ = ("ScryptLine", "VaultKey", "VaultKeys")
