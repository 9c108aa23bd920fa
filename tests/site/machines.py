# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the lab's machines into the state a trial starts from, and look at them from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import store
from lab.machines import ssh_command
from lab.model import DOMAIN, HOSTS, MACHINES, state_dir
from tests.site import files, playbook
from tests.site.differences import differences
from tests.site.playbook import TrialError

SNAPSHOT = "site"


def kubeconfig() -> Path:
    """Where the lab's inventory has the cluster's kubeconfig written."""
    return state_dir() / "kubeconfig.yaml"


def _kept_kubeconfig() -> Path:
    return state_dir() / f"snapshot-{SNAPSHOT}-kubeconfig.yaml"


def say(text: str) -> None:
    """Print a line of a trial."""
    print(f"=== {text}", flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say when a part of a trial begins and how long it took."""
    say(name)
    begin = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - begin:.1f} s")


def lab(*words: str) -> None:
    """Do something with the lab.

    Raises:
        TrialError: it failed.
    """
    command = [sys.executable, "-m", "lab", *words]
    if code := subprocess.run(command, cwd=playbook.TOP, check=False).returncode:
        raise TrialError(f"{' '.join(command[2:])} ended with {code}")


def bare(names: Iterable[str] = MACHINES) -> None:
    """These machines as just installed, the others switched off, and a controller that knows no cluster."""
    names = list(names)
    with step(f"bare machines: {', '.join(names)}"):
        if others := [name for name in MACHINES if name not in names]:
            lab("power-cut", *others)
        lab("reset", *names)
        kubeconfig().unlink(missing_ok=True)
        (state_dir() / "single.yaml").unlink(missing_ok=True)


def save() -> None:
    """Keep all machines and the kubeconfig: the state that later trials start from."""
    with step("keep the machines as they are"):
        _kept_kubeconfig().unlink(missing_ok=True)
        lab("snapshot", SNAPSHOT)
        shutil.copy2(kubeconfig(), _kept_kubeconfig())


def whole() -> None:
    """All machines as `save` kept them; made now if it never did."""
    if SNAPSHOT in store.snapshots() and _kept_kubeconfig().exists():
        with step("the machines as they were kept"):
            lab("restore", SNAPSHOT)
            shutil.copy2(_kept_kubeconfig(), kubeconfig())
        return
    bare()
    with step("a site, for none was kept"):
        playbook.ended_well(playbook.play("site"), MACHINES)
    save()


def program(host: str, module: str, *words: str) -> list[str]:
    """The command of a program of these trials on a host."""
    return ["ip", "netns", "exec", HOSTS[host].namespace, sys.executable, "-m", module, *words]


def ask(host: str, *words: str, module: str = "tests.site.probe", secret: Mapping[str, str] | None = None) -> Any:
    """What a program of these trials says on a host (JSON).

    Args:
        host: of the lab.
        words: its arguments.
        module: the program.
        secret: what it reads from standard input.

    Raises:
        TrialError: it failed.
    """
    command, given = program(host, module, *words), f"{json.dumps(secret)}\n" if secret else ""
    done = subprocess.run(command, cwd=playbook.TOP, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrialError(
            f"{module} {' '.join(words)} on {host} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return json.loads(done.stdout)


def cluster(*words: str) -> Any:
    """What the cluster's API says (tests/site/cluster.py)."""
    return ask("controller", str(kubeconfig()), *words, module="tests.site.cluster")


def pod(name: str) -> dict[str, Any]:
    """The one pod of a part of the Cozy (tests/site/cluster.py: pods).

    Raises:
        TrialError: there is none, or more than one.
    """
    found = cluster("pods", "cozy", f"app.kubernetes.io/name={name}")
    if len(found) != 1:
        raise TrialError(f"{name} should have one pod, it has: {', '.join(found) or 'none'}")
    seen: dict[str, Any] = next(iter(found.values()))
    return seen


def on_machine(name: str, command: str, stdin: bytes = b"") -> bytes:
    """What a command says on a machine.

    Raises:
        TrialError: it failed.
    """
    done = subprocess.run([*ssh_command(MACHINES[name]), command], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise TrialError(
            f"{command!r} on {name} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-500:]}"
        )
    return done.stdout


def pictures() -> dict[str, tuple[int, ...]]:
    """The files of all machines, and those that a run leaves on the controller."""
    found = {path: state for name in MACHINES for path, state in files.machine(name).items()}
    downloads = state_dir() / "downloads"
    if downloads.exists():
        found.update({f"controller:{downloads / path}": state for path, state in files.picture(downloads).items()})
    if kubeconfig().exists():
        found[f"controller:{kubeconfig()}"] = (kubeconfig().stat().st_mtime_ns,)
    return found


def same(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """See that two pictures are the same.

    Raises:
        TrialError: they are not; with the first differences.
    """
    if found := differences(before, after):
        more = f"\n  and {len(found) - 40} more" if len(found) > 40 else ""
        raise TrialError(f"{what}:\n  " + "\n  ".join(found[:40]) + more)
    say(f"{len(before)} compared, none differs")


def wait_for(what: str, seen: Callable[[], Any], good: Callable[[Any], bool], seconds: float) -> float:
    """Look until it is good; returns the seconds it took.

    Raises:
        TrialError: it was not good in time; with what was seen last.
    """
    begin = time.monotonic()
    while not good(last := seen()):
        if time.monotonic() - begin > seconds:
            raise TrialError(f"{what}: not within {seconds:.0f} s; seen last: {last}")
        time.sleep(0.5)
    return time.monotonic() - begin


def cozy_answers(seconds: float) -> float:
    """Wait until the client at home gets the login page of the Cozy by its name; returns the seconds it took."""
    url = f"https://{DOMAIN}/auth/login"
    return wait_for(url, lambda: ask("client", "http", url), lambda seen: seen.get("status") == 200, seconds)
