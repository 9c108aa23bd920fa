# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a Molecule scenario on machines of the lab, and believe it only what its output proves.

Molecule takes a missing playbook for success, an output without recap for idempotence, and does not look at what a
check reports; all three are looked at here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab import credentials
from lab.artefacts.catalog import HOST
from lab.model import cache_dir
from tests.site import leaks, machines, playbook, recap
from tests.site.playbook import TrialError

_MOLECULE = playbook.TOP / "molecule"
_PLAYBOOK = {"check": "converge", "idempotence": "converge"}

STARTS: dict[str, Callable[[], None]] = {
    "machine": lambda: machines.bare(["worker1"]),
    "home_dns": lambda: machines.bare(["pi", "worker1"]),
    "single": lambda: machines.bare(["control1"]),
    "services": machines.whole,
    "acme": machines.whole,
    "cozy": machines.whole,
    "elsewhere": machines.whole,
    "export": machines.whole,
    "image": machines.whole,
}
"""How each scenario's machines are made; in place of Molecule's create and destroy."""

LONG = frozenset({"acme", "cozy", "elsewhere", "image"})
"""Scenarios that take too long for `make test`; `make soak` runs them."""


def sequence(name: str) -> list[str]:
    """The actions of a scenario, each of whose playbooks is there.

    Raises:
        TrialError: one is missing.
    """
    actions: list[str] = []
    for file in (playbook.TOP / ".config" / "molecule" / "config.yml", _MOLECULE / name / "molecule.yml"):
        settings: dict[str, Any] = yaml.safe_load(file.read_text())
        actions = settings.get("scenario", {}).get("test_sequence", actions)
    missing = [
        action for action in actions if not (_MOLECULE / name / f"{_PLAYBOOK.get(action, action)}.yml").is_file()
    ]
    if missing or not actions:
        raise TrialError(f"scenario {name} has no playbook for: {', '.join(missing) or 'anything'}")
    return actions


def judge(actions: Sequence[str], output: str) -> None:
    """See in Molecule's output that every action did something and that nothing changed where nothing may.

    Raises:
        TrialError: it does not show that.
    """
    counts = recap.molecule_counts(output)
    if counts["successful"] != len(actions) or counts["actions"] != len(actions):
        raise TrialError(
            f"{len(actions)} actions should have succeeded: {', '.join(actions)}; Molecule counted {counts}"
        )
    runs = recap.recaps(output)
    if len(runs) != len(actions):
        raise TrialError(f"{len(actions)} runs of Ansible should have ended with a recap, {len(runs)} did")
    converged = False
    for action, run in zip(actions, runs, strict=True):
        if not run or not all(host.ok for host in run.values()):
            raise TrialError(
                f"{action} did nothing on {', '.join(host for host in run if not run[host].ok) or 'any host'}"
            )
        faults = recap.not_well(run)
        if action in ("check", "idempotence") and converged:
            faults += recap.not_steady(run)
        if faults:
            raise TrialError(
                f"{action} after converge: {'; '.join(faults)}" if converged else f"{action}: {'; '.join(faults)}"
            )
        converged = converged or action == "converge"


def run(name: str) -> None:
    """Run a scenario from its start state.

    Raises:
        TrialError: it failed, or did not show that it passed.
    """
    if name not in STARTS:
        raise TrialError(f"no scenario {name}; there are: {', '.join(STARTS)}")
    actions = sequence(name)
    STARTS[name]()
    with machines.step(f"molecule {name}: {', '.join(actions)}"), tempfile.TemporaryDirectory() as fresh:
        # A folder of its own: Molecule skips what it believes it has done before.
        ran = playbook.run(
            (str(Path(sys.executable).with_name("molecule")), "test", "--report", "--scenario-name", name),
            f"molecule-{name}",
            environment={
                "MOLECULE_EPHEMERAL_DIRECTORY": fresh,
                "LAB_PROGRAMS": str(cache_dir() / "artefacts" / HOST.name),
            },
        )
    secrets = {f"lab secret {file.name}": file.read_text() for file in credentials.folder().iterdir()}
    if told := leaks.search(ran.output.encode(), leaks.needles(secrets)):
        raise TrialError(f"the output tells secrets: {', '.join(sorted(told))}")
    if ran.code:
        raise TrialError(f"Molecule ended with {ran.code}; what failed is above")
    try:
        judge(actions, ran.output)
    except TrialError as error:
        raise TrialError("\n  ".join([str(error), *recap.changed_tasks(ran.output)])) from None


def names() -> list[str]:
    """The scenarios, those that start from bare machines first.

    Raises:
        TrialError: a folder has no start state, or a start state no folder.
    """
    there = {file.parent.name for file in _MOLECULE.glob("*/molecule.yml")}
    if there != STARTS.keys():
        raise TrialError(f"scenarios with a folder: {sorted(there)}; with a start state: {sorted(STARTS)}")
    return list(STARTS)
