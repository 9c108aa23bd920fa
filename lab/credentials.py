# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of the outside: what a provider gives its customer, made on first use and kept in the lab's state."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

from lab.doubles.cloudflare import Token
from lab.model import ZONES, state_dir

TOKENS = {
    "right": Token((ZONES[0],), ("zone.read", "dns.edit")),
    "wide": Token(ZONES, ("zone.read", "dns.edit")),
    # Either half of what is needed.
    "no-dns": Token((ZONES[0],), ("zone.read",)),
    "no-zone": Token((ZONES[0],), ("dns.edit",)),
    "revoked": Token((ZONES[0],), ("zone.read", "dns.edit"), status="disabled"),
    "throttled": Token((ZONES[0],), ("zone.read", "dns.edit"), limit=2),
}
"""Cloudflare's tokens by name; the file of each is cloudflare-NAME."""


def folder() -> Path:
    """Where they lie, one file each."""
    return state_dir() / "secrets"


def _kept(name: str, make: Callable[[], str]) -> str:
    file = folder() / name
    if not file.exists():
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(make())
        partial.rename(file)
    return file.read_text()


def tsig(name: str) -> str:
    """The secret (base64, 32 bytes) of a TSIG key."""
    return _kept(f"tsig-{name}", lambda: base64.b64encode(secrets.token_bytes(32)).decode())


def cloudflare() -> dict[str, Token]:
    """Cloudflare's tokens and what each may do. Their form, 40 characters, is that of the real ones."""
    return {_kept(f"cloudflare-{name}", lambda: secrets.token_urlsafe(30)): token for name, token in TOKENS.items()}
