# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the runs take, against the time that plain commands need; written to docs/benchmarks.md."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Callable

from lab.model import MACHINES, state_dir
from tests.site import floor, machines, playbook, trials
from tests.site.playbook import TrialError

FIRST_SECONDS = 300
SECOND_SECONDS = 75
_PAGE = playbook.TOP / "docs" / "benchmarks.md"
_TEXT = """\
# How long it takes

Written by `make bench` on {date}, on {cpus} cores with {memory:.0f} GiB of memory, Linux {kernel}, shared by the lab's
four machines, its internet and Ansible. All downloads come from the lab's own internet: no line to a provider counts.

| run | seconds | against plain commands | to stay below |
|---|---|---|---|
| plain commands: three machines, kubeadm and flannel over ssh | {floor:.0f} | 1.0 | |
| first run, from four bare machines to the login page | {first:.0f} | {first_ratio:.1f} | {first_limit} s |
| second run, changes nothing | {second:.0f} | {second_ratio:.1f} | {second_limit} s |
| `--check --diff` on the finished site | {check:.0f} | {check_ratio:.1f} | |

The plain commands (`tests/site/floor.py`) install the same programs of the same releases on the three machines of the
cluster, side by side; then come `kubeadm init`, `kubeadm join` and helm for flannel, until all are Ready. The first run
also makes the house's DNS server, MetalLB, ingress-nginx, cert-manager, the certificate, CouchDB, mail, cozy-stack and
the instance, and proves each of them.

To repeat: `make bench`. The machines are made anew; the lab's artefacts have to be there (`make build`).
"""


def _note(name: str, seconds: float) -> None:
    machines.say(f"{name}: {seconds:.1f} s")
    file = state_dir() / "bench.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, name: seconds}))


def _first() -> None:
    (state_dir() / "bench.json").unlink(missing_ok=True)
    machines.bare()
    ran = playbook.play("bench-first")
    playbook.ended_well(ran, MACHINES)
    _note("first", ran.seconds)
    machines.cozy_answers(5)
    machines.save()


def _second() -> None:
    _note("second", trials.second_run())


def _check() -> None:
    _note("check", trials.check_run())


def _floor() -> None:
    _note("floor", floor.run())


def _report() -> None:
    """Write the page, then judge: a number that is too high is to be read, not hidden."""
    seen = json.loads((state_dir() / "bench.json").read_text())
    ratios = {f"{name}_ratio": seen[name] / seen["floor"] for name in ("first", "second", "check")}
    _PAGE.parent.mkdir(exist_ok=True)
    text = _TEXT.format(
        **seen,
        **ratios,
        date=dt.datetime.now(dt.UTC).date(),
        cpus=os.cpu_count(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        kernel=platform.release().partition("-")[0],
        first_limit=FIRST_SECONDS,
        second_limit=SECOND_SECONDS,
    )
    _PAGE.write_text(text)
    print(text, flush=True)
    slow = [name for name, limit in (("first", FIRST_SECONDS), ("second", SECOND_SECONDS)) if seen[name] >= limit]
    if slow:
        raise TrialError(f"too slow: {', '.join(f'{name} run {seen[name]:.0f} s' for name in slow)}")


PARTS: dict[str, Callable[[], None]] = {
    "first": _first,
    "second": _second,
    "check": _check,
    "floor": _floor,
    "report": _report,
}
"""The benchmark's steps, in their order."""
