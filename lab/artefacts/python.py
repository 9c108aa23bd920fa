# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Programs in one file, made of Python modules of this project."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .parts import Lane, Recipe

TOP = Path(__file__).parents[2]
_OLDEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class PythonProgram(Recipe):
    """An executable file `name` that calls `main` of a module with the command line's words.

    It is a zip file behind a first line that names the interpreter, as Python's zipapp describes it; its bytes depend
    on the modules alone. `sources` are files and folders below the top of the project.
    """

    lane: ClassVar[Lane] = "pack"
    name: str
    module: str
    sources: tuple[str, ...]

    def files(self) -> Iterable[Path]:
        """All modules."""
        return [TOP / source for source in self.sources]

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Write the file."""
        del parts
        call = f"import sys\nfrom {self.module} import main\nsys.exit(main(sys.argv[1:]))\n"
        members = {"__main__.py": call.encode()}
        for source in self.files():
            for path in [source] if source.is_file() else source.rglob("*.py"):
                members[str(path.relative_to(TOP))] = path.read_bytes()
        buffer = io.BytesIO(b"#!/usr/bin/python3\n")
        with zipfile.ZipFile(buffer, "a") as archive:
            for name in sorted(members):
                archive.writestr(zipfile.ZipInfo(name, _OLDEST), members[name])
        program = target / self.name
        program.write_bytes(buffer.getvalue())
        program.chmod(0o755)
