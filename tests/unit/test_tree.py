# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The tree has the shape that people and tools rely on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.sanity import LISTED

TOP = Path(__file__).parents[2]
ROLES = sorted(path for path in (TOP / "roles").glob("*") if path.is_dir())
ROLE_FILES = ("README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml")


def load(path: Path) -> Any:
    """Return the content of a YAML file, {} when it is empty."""
    return yaml.safe_load(path.read_text()) or {}


def tracked() -> list[Path]:
    """Return the files in version control."""
    listed = subprocess.run(LISTED, cwd=TOP, capture_output=True, text=True, check=True).stdout
    return [TOP / name for name in listed.split("\0") if name]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_has_its_files(role: Path) -> None:
    """Every role looks the same from outside."""
    assert [name for name in ROLE_FILES if not (role / name).is_file()] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_read(role: Path) -> None:
    """A variable that nothing reads is a promise that nothing keeps."""
    readers = [
        path
        for folder in ("defaults", "handlers", "tasks", "templates", "vars")
        for path in sorted((role / folder).rglob("*"))
        if path.is_file()
    ]
    lines = [line for path in readers for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    names = list(load(role / "defaults" / "main.yml"))
    # Each is there once where it is set.
    assert [name for name in names if len(re.findall(rf"\b{name}\b", text)) < 2] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_lists_keep_their_order(role: Path) -> None:
    """The filter union gives names in another order in each run: what is written with it changes each time."""
    users = [
        path for path in sorted(role.rglob("*")) if path.is_file() and re.search(r"\|\s*union\(", path.read_text())
    ]
    assert users == []


def test_code_names_its_licence() -> None:
    """Every file of code says under which licence it may be used."""
    code = [path for path in tracked() if path.suffix in (".py", ".go", ".sh") and path.is_file()]
    assert code
    wanted = "SPDX-License-Identifier: GPL-3.0-or-later"
    assert [str(path.relative_to(TOP)) for path in code if wanted not in path.read_text()[:600]] == []


def test_user_requirements_carry_what_plugins_import() -> None:
    """requirements.txt alone is enough to run a playbook: it has every package that a plugin imports."""
    # Where the names differ, and what a required package brings with it.
    known = {"dns": "dnspython", "yaml": "PyYAML", "jinja2": "ansible", "urllib3": "kubernetes"}
    standard = {"ansible_collections", "__future__"}
    required = re.findall(r"^([A-Za-z0-9_-]+)", (TOP / "requirements.txt").read_text(), re.MULTILINE)
    text = "\n".join(path.read_text() for path in sorted((TOP / "plugins").rglob("*.py")))
    imported = set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", text, re.MULTILINE)) - standard
    third = imported - set(sys.stdlib_module_names)
    assert {known.get(name, name) for name in third} <= set(required)


def test_collections_in_use_are_named() -> None:
    """Whoever installs from Galaxy gets every collection that a role or a playbook uses, and no other."""
    pattern = re.compile(r"\b((?:community|kubernetes|ansible|containers)\.[a-z_]+)\.[a-z_]+\b")
    files = [path for folder in ("playbooks", "roles") for path in sorted((TOP / folder).rglob("*.yml"))]
    used = {name for path in files for name in pattern.findall(path.read_text())} - {"ansible.builtin"}
    galaxy = load(TOP / "galaxy.yml")["dependencies"]
    assert used == galaxy.keys()
    assert {entry["name"]: entry["version"] for entry in load(TOP / "requirements.yml")["collections"]} == galaxy
