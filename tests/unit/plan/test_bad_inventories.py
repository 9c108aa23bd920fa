# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Every bad inventory is refused by the plan with exactly the messages kept beside it; good ones are not.

``expected.txt`` has a line for each problem; ``<any>`` in it stands for what only the machine that runs the tests
knows. Most inventories are judged in one process, on Ansible's own inventory and variables. The real playbook runs for
some of them, for all good ones, and for those named ``machine_*``: they are refused by the second stage, which looks at
machines, here at the one that runs the tests. The first stage must refuse before any connection is attempted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing as t

import pytest

TOP = pathlib.Path(__file__).parents[3]
INVENTORIES = TOP / "tests" / "inventories"
BAD = sorted(path.name for path in (INVENTORIES / "bad").iterdir())
GOOD = sorted(path.name for path in (INVENTORIES / "good").iterdir())
SAMPLES = sorted(path.name for path in (TOP / "inventories").iterdir())
PASSING = [("good", name) for name in GOOD] + [("sample", name) for name in SAMPLES]
PLAYED_TO_THE_END = ["given_cluster", "router_dns", "single_machine"]
#: With these, no machine is logged in to.
WITHOUT_MACHINES = ["given_cluster", "router_dns"]
MACHINE = [name for name in BAD if name.startswith("machine_")]
PLAYED = [*MACHINE, "control_plane_empty", "many", "vault_closed"]
JUDGED = [("bad", name) for name in BAD if name not in PLAYED] + PASSING
FIRST_STAGE_PASSED = re.compile(r"TASK \[kubecozy\.homelab\.plan : Refuse an inventory that cannot work\] \*+\nok: ")

#: Stands in for ssh: leaves a mark and reaches nothing.
SSH = """#!/bin/sh
echo "$*" >> "$SSH_MARKER"
echo "no ssh in this test" >&2
exit 255
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run of the plan did."""

    code: int
    output: str
    connected: bool

    @property
    def problems(self) -> list[str]:
        """Return the listed problems."""
        return re.findall(r"^  - (.+)$", self.output.partition("Origin:")[0], flags=re.MULTILINE)


def inventory_of(kind: str, name: str) -> str:
    """Return the inventory of a fixture."""
    return str(INVENTORIES / kind / name / "hosts.yml")


def filled_in(sample: str, folder: pathlib.Path) -> str:
    """Copy a sample inventory and give it the secret that its user would."""
    copy = folder / sample
    shutil.copytree(TOP / "inventories" / sample, copy)
    place = copy / "group_vars" / "all"
    if place.is_dir():
        (place / "vault.yml").write_text("vault_cozy_passphrase: correct horse battery\n")
    return str(copy / "hosts.yml")


def runner(*arguments: str, **environment: str) -> list[object]:
    """Let the runner judge or play inventories."""
    variables = {
        **os.environ,
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(TOP / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        **environment,
    }
    command = [sys.executable, str(pathlib.Path(__file__).with_name("runner.py")), *arguments]
    ended = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    answer: list[object] = json.loads(ended.stdout)
    return answer


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """Judge all inventories that are not played, and all good ones."""
    folder = tmp_path_factory.mktemp("samples")
    paths = [filled_in(name, folder) if kind == "sample" else inventory_of(kind, name) for kind, name in JUDGED]
    answer = t.cast(list[list[str]], runner("judge", *paths, KUBECOZY_LAB=str(folder)))
    return dict(zip(JUDGED, answer, strict=True))


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    """Run the real playbook for some inventories."""
    folder = tmp_path_factory.mktemp("plan")
    ssh = folder / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o700)
    keys = [("bad", name) for name in PLAYED] + [("good", name) for name in PLAYED_TO_THE_END]
    codes = runner("play", str(folder), *(inventory_of(*key) for key in keys), ANSIBLE_SSH_EXECUTABLE=str(ssh))
    return {
        key: Run(int(str(code)), (folder / f"{number}.out").read_text(), (folder / f"{number}.ssh").exists())
        for number, (key, code) in enumerate(zip(keys, codes, strict=True))
    }


def compare(name: str, problems: list[str]) -> None:
    """Compare the problems of an inventory with the expected ones."""
    expected = (INVENTORIES / "bad" / name / "expected.txt").read_text().splitlines()
    assert expected, "expected.txt is empty"
    assert len(problems) == len(expected), problems
    for line, problem in zip(expected, problems, strict=True):
        pattern = ".+".join(re.escape(part) for part in line.split("<any>"))
        assert re.fullmatch(pattern, problem), f"{problem!r} is not {line!r}"


@pytest.mark.parametrize("name", [name for kind, name in JUDGED if kind == "bad"])
def test_bad_inventory_is_judged(judged: dict[tuple[str, str], list[str]], name: str) -> None:
    compare(name, judged["bad", name])


@pytest.mark.parametrize(("kind", "name"), PASSING)
def test_good_inventory_is_judged(judged: dict[tuple[str, str], list[str]], kind: str, name: str) -> None:
    assert judged[kind, name] == []


@pytest.mark.parametrize("name", PLAYED)
def test_bad_inventory_is_refused(played: dict[tuple[str, str], Run], name: str) -> None:
    run = played["bad", name]
    assert run.code == 2, run.output
    compare(name, run.problems)
    assert bool(FIRST_STAGE_PASSED.search(run.output)) == (name in MACHINE), run.output
    assert not run.connected


@pytest.mark.parametrize("name", PLAYED_TO_THE_END)
def test_good_inventory_passes(played: dict[tuple[str, str], Run], name: str) -> None:
    run = played["good", name]
    assert FIRST_STAGE_PASSED.search(run.output), run.output
    # The second stage of an inventory with machines goes to our ssh: so a connection would have been seen above.
    assert run.connected == (name not in WITHOUT_MACHINES)
    assert run.code == (0 if name in WITHOUT_MACHINES else 4), run.output


def test_enough_bad_inventories() -> None:
    assert len(BAD) >= 25


def test_no_secret_is_printed(played: dict[tuple[str, str], Run], judged: dict[tuple[str, str], list[str]]) -> None:
    """No passphrase of any inventory here is in any output."""
    secrets = {"hunter2", "hunter2hunter2", "correct horse battery", "staple battery horse", "12345678"}
    secrets |= {"staple of the battery", "aTokenOfNobodys"}
    inventories = "".join(path.read_text() for path in INVENTORIES.glob("*/*/hosts.yml"))
    assert all(secret in inventories for secret in secrets)
    outputs = [run.output for run in played.values()] + [line for lines in judged.values() for line in lines]
    assert not [secret for secret in secrets if any(secret in output for output in outputs)]
