# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run commands in the controller's namespace: their output goes on, is kept, and can be the moment of a SIGKILL."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.model import HOSTS, state_dir
from tests.site import recap

TOP = Path(__file__).resolve().parents[2]
INVENTORY = "inventories/lab"
SITE = "site.yml"
_PROGRAMS = Path(sys.executable).parent


class TrialError(Exception):
    """A trial saw something else than it must see; the message says what."""


@dataclass(frozen=True)
class Moment:
    """A moment of a run: `seconds` after a line of its output in which `line` (a pattern) is found."""

    line: str
    seconds: float = 0


@dataclass(frozen=True)
class Ran:
    """A command that has ended: exit code (negative: signal), seconds, all it said."""

    code: int
    seconds: float
    output: str


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found.setdefault(int(fields[1]), []).append(int(folder.name))
    return found


def kill_all(pid: int) -> int:
    """SIGKILL a process group and all its descendants (Ansible's workers have sessions of their own); says how many."""
    os.kill(pid, signal.SIGSTOP)  # nothing new is started while we look
    children, waiting, doomed = _children(), [pid], []
    while waiting:
        one = waiting.pop()
        doomed.append(one)
        waiting += children.get(one, [])
    os.killpg(pid, signal.SIGKILL)
    for one in doomed:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(doomed)


def run(
    command: Iterable[str], name: str, *, kill: Moment | None = None, environment: Mapping[str, str] | None = None
) -> Ran:
    """Run a command as the controller, from the top of the project.

    Args:
        command: program and arguments.
        name: of the log file that keeps the output.
        kill: when to end it with SIGKILL; if it ends before, that is for the caller to see in the exit code.
        environment: what is added to the environment.
    """
    words = ["ip", "netns", "exec", HOSTS["controller"].namespace, *command]
    plain = {"PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", "PATH": _path()}
    log = state_dir() / "logs" / "trials" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    lines = []
    timer = None
    with (
        log.open("w") as kept,
        subprocess.Popen(
            words,
            cwd=TOP,
            env={**os.environ, **plain, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for: this tells mypy
        try:
            for line in process.stdout:
                lines.append(line)
                kept.write(line)
                kept.flush()
                print(line, end="", flush=True)
                if kill and timer is None and re.search(kill.line, recap.plain(line)):
                    timer = threading.Timer(kill.seconds, kill_all, (process.pid,))
                    timer.start()
        except BaseException:
            kill_all(process.pid)
            raise
        finally:
            if timer is not None:
                timer.cancel()
    return Ran(process.returncode, time.monotonic() - begin, "".join(lines))


def _path() -> str:
    return f"{_PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def play(name: str, *arguments: str, book: str = SITE, kill: Moment | None = None) -> Ran:
    """Run a playbook, by default the site's, on the lab's inventory."""
    return run((str(_PROGRAMS / "ansible-playbook"), "-i", INVENTORY, book, *arguments), name, kill=kill)


def module(name: str, module: str, arguments: Mapping[str, object]) -> Ran:
    """Run one module on the controller, with the lab's inventory at hand for its arguments."""
    words = ("-i", INVENTORY, "localhost", "-m", module, "-a", json.dumps(arguments))
    return run((str(_PROGRAMS / "ansible"), *words), name)


def ended_well(ran: Ran, hosts: Iterable[str]) -> dict[str, recap.Recap]:
    """The recap of a run that ended well on all those hosts.

    Raises:
        TrialError: it did not.
    """
    if ran.code:
        raise TrialError(f"the run ended with {ran.code}; what failed is above")
    counts = recap.last(ran.output, hosts)
    if faults := recap.not_well(counts):
        raise TrialError(f"the run ended with 0, yet: {'; '.join(faults)}")
    return counts


def changed_nothing(ran: Ran, hosts: Iterable[str]) -> None:
    """See that a run ended well and reported no change.

    Raises:
        TrialError: it did not.
    """
    if faults := recap.not_steady(ended_well(ran, hosts)):
        tasks = "\n  ".join(recap.changed_tasks(ran.output))
        raise TrialError(f"nothing should have changed, yet: {'; '.join(faults)}\n  {tasks}")
