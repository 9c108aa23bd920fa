# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Make the project's Python environment when it is missing, then become its Python (called by tools/run).

Only the standard library is used here: this file runs before anything is installed. The environment lies in the cache,
one for each content of the requirements files and each Python; it counts only once it is complete.
"""

from __future__ import annotations

import collections
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
PROGRESS_SECONDS = 5.0


def cache_dir() -> Path:
    """Return the folder that keeps what is costly to make again (KUBECOZY_CACHE, or ~/.cache/kubecozy)."""
    return Path(os.environ.get("KUBECOZY_CACHE") or "~/.cache/kubecozy").expanduser().absolute()


def environment_dir() -> Path:
    """Return where the environment for these requirements and this Python lies, made or not."""
    digest = hashlib.sha256(f"{sys.version}\n{Path(sys.executable).resolve()}\n".encode())
    for name in REQUIREMENTS:
        lines = (TOP / name).read_text().splitlines()
        digest.update("\n".join(line for line in lines if not line.startswith("#")).encode())
    return cache_dir() / f"venv-{digest.hexdigest()[:12]}"


def install_venv_support() -> None:
    """Install Debian's package with ensurepip, which Debian keeps apart from Python itself.

    Raises:
        SystemExit: this is not Debian's Python, or not root.
    """
    package = f"python3.{sys.version_info.minor}-venv"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"{sys.executable} cannot make environments: it has no ensurepip. On Debian install {package}.")
    print(f"installing {package}", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    install = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "install", "-y", "--no-install-recommends", package]
    subprocess.run(install, check=True, env=quiet, stdout=subprocess.DEVNULL)


def pip_install(python: Path) -> None:
    """Install the requirements with the pip beside `python`, saying every few seconds how far it is.

    Raises:
        SystemExit: pip failed; its last lines are in the message.
    """
    command = [str(python), "-m", "pip", "install", "--no-compile", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "-r", str(TOP / REQUIREMENTS[-1])]
    started = shown = time.monotonic()
    last: collections.deque[str] = collections.deque(maxlen=20)
    found = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None  # noqa: S101 - a pipe was asked for: this tells mypy
        for line in pip.stdout:
            last.append(line.rstrip())
            found += line.startswith("Collecting ")
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"  {found} packages, {shown - started:.0f} s: {line.strip()[:100]}", flush=True)
    if pip.returncode != 0:
        sys.exit("\n".join([*last, f"pip could not install {REQUIREMENTS[-1]} (see above)"]))
    print(f"  {found} packages, {time.monotonic() - started:.0f} s: done", flush=True)


def make(environment: Path) -> None:
    """Make the environment unless it is complete; two at a time wait for each other."""
    complete = environment / ".complete"
    environment.parent.mkdir(parents=True, exist_ok=True)
    with environment.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists():
            return
        if environment.exists():
            shutil.rmtree(environment)
        print(f"Python environment (once, about 1 GB): {environment}", flush=True)
        if importlib.util.find_spec("ensurepip") is None:
            install_venv_support()
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip_install(environment / "bin" / "python")
        complete.touch()


def main() -> None:
    """Make the environment, then run its Python with the arguments given, from the top of the project."""
    environment = environment_dir()
    if not (environment / ".complete").exists():
        make(environment)
    programs = environment / "bin"
    os.environ["VIRTUAL_ENV"] = str(environment)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.chdir(TOP)
    os.execv(programs / "python", [str(programs / "python"), *sys.argv[1:]])


if __name__ == "__main__":
    main()
