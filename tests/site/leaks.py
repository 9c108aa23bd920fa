# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search logs for secrets by their values, in the forms in which they slip into logs."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SHORTEST = 8
"""Characters below which a value is found by chance."""

_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)
_JOIN_TOKEN = re.compile(rb"(?<![\w.-])(?=[a-z]*[0-9])[a-z0-9]{6}\.(?=[a-z]*[0-9])[a-z0-9]{16}(?![\w.-])")
_LONG_LINE = 40
_OVERLAP = 8192
_BLOCK = 1 << 24


def _forms(value: str) -> Iterator[str]:
    """A value and what it looks like base64-encoded, in JSON, in a URL."""
    yield value
    yield json.dumps(value)[1:-1]
    yield urllib.parse.quote(value, safe="")
    raw = value.encode()
    # base64 is another one for each position in which the value may begin; the ends depend on the neighbours
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode()
        yield encoded[(0, 2, 3)[shift] : len(encoded) - (4 if (shift + len(raw)) % 3 else 0)]


def needles(secrets: Mapping[str, str]) -> dict[bytes, str]:
    """What to search for, and what it is.

    Of private keys each full line is one; certificates are public and none.

    Args:
        secrets: values by a name that may be told.
    """
    found: dict[bytes, str] = {}
    for name, value in secrets.items():
        keys = [match[2] for match in _PRIVATE_KEY.finditer(value)]
        if keys:
            values = [line for key in keys for line in key.split() if len(line) >= _LONG_LINE]
        elif "-----BEGIN CERTIFICATE" in value:
            values = []
        else:
            values = [value.strip()]
        for one in values:
            if len(one) >= SHORTEST:
                for form in _forms(one):
                    if len(form) >= SHORTEST:
                        found[form.encode()] = name
    return found


def search(text: bytes, wanted: Mapping[bytes, str]) -> set[str]:
    """The names of the secrets that are in the text, and `a join token` for anything of that shape."""
    found = {name for needle, name in wanted.items() if needle in text}
    if _JOIN_TOKEN.search(text):
        found.add("a join token")
    return found


def search_files(files: Iterable[Path], wanted: Mapping[bytes, str]) -> dict[str, set[str]]:
    """Which of the files hold which secrets."""
    found: dict[str, set[str]] = {}
    for file in files:
        rest = b""
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                if names := search(rest + block, wanted):
                    found.setdefault(str(file), set()).update(names)
                rest = block[-_OVERLAP:]
    return found
