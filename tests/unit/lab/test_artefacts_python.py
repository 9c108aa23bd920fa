# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Programs in one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.artefacts.catalog import COZY_STACK, COZY_STACK_PROGRAM


def test_the_double_is_one_program_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    programs = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        COZY_STACK_PROGRAM.recipe.build(folder, {})
        programs.append((folder / "cozy-stack").read_bytes())
    assert programs[0] == programs[1]
    assert programs[0].startswith(b"#!/usr/bin/python3\n")
    # Far from the project, whose modules it must not need.
    command = [sys.executable, "-P", str(tmp_path / "a" / "cozy-stack"), "version"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{COZY_STACK}\n"
