# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A killed run leaves no process behind, workers with sessions of their own included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.process import wait_until
from tests.site import playbook
from tests.site.recap import RecapError

PARENT = """
import subprocess, sys, time
worker = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(worker.pid, flush=True)
time.sleep(60)
"""
GOOD = "PLAY RECAP **\npi : ok=1 changed=0 unreachable=0 failed=0 skipped=0 rescued=0 ignored=0\n"


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kill_all_ends_descendants_in_other_sessions() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        assert playbook.kill_all(parent.pid) == 2
    assert wait_until(lambda: not alive(worker), 5)
    assert parent.returncode == -9


def test_a_good_run_is_taken() -> None:
    assert playbook.ended_well(playbook.Ran(0, 1, GOOD), ["pi"])["pi"].ok == 1
    playbook.changed_nothing(playbook.Ran(0, 1, GOOD), ["pi"])


@pytest.mark.parametrize(
    ("ran", "message"),
    [
        (playbook.Ran(2, 1, GOOD), "ended with 2"),
        (playbook.Ran(-9, 1, GOOD), "ended with -9"),
        (playbook.Ran(0, 1, GOOD.replace("ignored=0", "ignored=1")), "1 ignored"),
        (playbook.Ran(0, 1, GOOD.replace("changed=0", "changed=4")), "pi: 4 changed"),
    ],
)
def test_a_bad_run_is_refused(ran: playbook.Ran, message: str) -> None:
    with pytest.raises(playbook.TrialError, match=message):
        playbook.changed_nothing(ran, ["pi"])


def test_a_run_on_other_hosts_is_refused() -> None:
    with pytest.raises(RecapError, match="control1"):
        playbook.changed_nothing(playbook.Ran(0, 1, GOOD), ["pi", "control1"])
