# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The project's Python: which one is taken, and when its packages are installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import bootstrap


def program(path: Path, text: str) -> None:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("place", ["second", "home/.pyenv/versions/3.14.2/bin"])
def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path, place: str) -> None:
    """The shim of a version manager stands on PATH with nothing behind it; the real one may lie on PATH or not."""
    program(tmp_path / "first" / "python3.14", "echo 'no such version' >&2; exit 127")
    program(tmp_path / place / "python3.14", 'test "$1" = -c || echo "ran: $@"')
    ran = subprocess.run(
        [str(bootstrap.TOP / "tools" / "run"), "-m", "some thing"],
        env={"PATH": f"{tmp_path}/first:{tmp_path}/second:/usr/bin:/bin", "HOME": f"{tmp_path}/home"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"ran: {bootstrap.TOP}/tools/bootstrap.py -m some thing\n"


def test_an_interrupted_installation_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a complete environment counts; then nothing is installed."""
    environment = tmp_path / "venv-1"
    (environment / "half").mkdir(parents=True)
    installed: list[Path] = []

    def venv(command: list[str], *, check: bool) -> None:
        assert check
        Path(command[-1]).mkdir()

    monkeypatch.setattr(subprocess, "run", venv)
    monkeypatch.setattr(bootstrap, "pip_install", installed.append)
    bootstrap.make(environment)
    assert not (environment / "half").exists()
    assert installed == [environment / "bin" / "python"]
    bootstrap.make(environment)
    assert len(installed) == 1


def test_other_requirements_are_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed requirements file never meets packages installed for another one."""
    for name in bootstrap.REQUIREMENTS:
        (tmp_path / name).write_text("one\n")
    monkeypatch.setattr(bootstrap, "TOP", tmp_path)
    monkeypatch.setenv("KUBECOZY_CACHE", str(tmp_path / "cache"))
    first = bootstrap.environment_dir()
    assert first.parent == tmp_path / "cache"
    (tmp_path / bootstrap.REQUIREMENTS[0]).write_text("two\n")
    assert bootstrap.environment_dir() != first
