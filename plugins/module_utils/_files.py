# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small secret files. Private: not for use outside of this collection."""

from __future__ import annotations

import contextlib
import os
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def read_text(path: str) -> str | None:
    """A file's text, or None if there is no such file.

    :raises CozyError: if it is there and can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise CozyError(f"{path} can't be read: {exc}") from exc


def write_text(module: AnsibleModule, path: str, text: str) -> None:
    """Replace a file in one step; only its owner may read it until the module sets another mode.

    :raises CozyError: if that can't be done.
    """
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        module.atomic_move(temporary, path)
    except OSError as exc:
        raise CozyError(f"{path} can't be written: {exc}") from exc
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


__all__ = ("read_text", "write_text")
