# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""`ansible-test sanity` on what a user installs, with nothing but package registries at hand.

    tools/run -m tools.sanity [ARGUMENT…]     the arguments go to ansible-test

ansible-test wants the collection in a folder of a certain name and tests every file it finds there, so it is given a
clean copy: the files in version control that `galaxy.yml` does not leave out, and tests/sanity.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tools.bootstrap import TOP

# ansible-test fetches this script from a host of its own, unless it is there already. Python can do the same alone.
GET_PIP = "import ensurepip\n\nensurepip.bootstrap(upgrade=True, default_pip=True)\n"


# Wherever the clone lies and whoever owns it.
LISTED = ["git", "-c", "safe.directory=*", "ls-files", "-z"]


def files() -> list[Path]:
    """Return the files to test, relative to the top of the project."""
    listed = subprocess.run(LISTED, cwd=TOP, check=True, capture_output=True, text=True).stdout
    ignored = yaml.safe_load((TOP / "galaxy.yml").read_text())["build_ignore"]

    def shipped(path: Path) -> bool:
        parts = [path, *path.parents]
        return not any(fnmatch.fnmatch(str(part), pattern) for part in parts for pattern in ignored)

    tracked = [Path(name) for name in listed.split("\0") if name]
    return [
        path for path in tracked if (shipped(path) or path.is_relative_to("tests/sanity")) and (TOP / path).exists()
    ]


def copy(collection: Path) -> None:
    """Copy the files to test to a new folder."""
    for path in files():
        target = collection / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(TOP / path, target, follow_symlinks=False)


def provide_get_pip() -> None:
    """Put the script that ansible-test would download where it looks for it.

    Raises:
        SystemExit: this ansible-test names its pip in another way.
    """
    package = importlib.util.find_spec("ansible_test")
    if package is None or not package.submodule_search_locations:
        sys.exit("ansible-test is not installed")
    source = Path(package.submodule_search_locations[0]) / "_internal" / "python_requirements.py"
    version = re.search(r"""pip=['"]([0-9.]+)['"]""", source.read_text())
    if version is None:
        sys.exit(f"no version of pip found in {source}")
    script = Path(f"~/.ansible/test/cache/get_pip_{version[1].replace('.', '_')}.py").expanduser()
    if not script.exists():
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(GET_PIP)


def search_path() -> str:
    """Return a PATH with every real Python of this machine, and without shims that may have nothing behind them."""
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    real = [folder for folder in folders if folder.name != "shims"]
    pythons = sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin"), reverse=True)
    return os.pathsep.join(str(folder) for folder in [*real, *pythons])


def main() -> int:
    """Run ansible-test and return its exit code."""
    provide_get_pip()
    with tempfile.TemporaryDirectory(prefix="sanity-") as temporary:
        collection = Path(temporary) / "ansible_collections" / "kubecozy" / "homelab"
        copy(collection)
        command = [str(Path(sys.executable).with_name("ansible-test")), "sanity", "--python", "default", *sys.argv[1:]]
        environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, cwd=collection, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
