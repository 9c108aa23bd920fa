# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run proves nothing unless its recap says so."""

from __future__ import annotations

import pytest

from tests.site import recap

RUN = """
TASK [kubecozy.homelab.containerd : Write the configuration] *****
changed: [worker1]
ok: [control1]

RUNNING HANDLER [kubecozy.homelab.containerd : Restart] *****
changed: [worker1] => (item=x)

PLAY RECAP *********************************************************************
control1                   : ok=12   changed=0    unreachable=0    failed=0    skipped=3    rescued=0    ignored=0
worker1                    : ok=13   changed=2    unreachable=0    failed=0    skipped=3    rescued=0    ignored=0

something after it : ok=1
"""
BROKEN = """
PLAY RECAP ****
pi : ok=1    changed=0    unreachable=1    failed=2    skipped=0    rescued=0    ignored=3
"""


def test_recaps_are_read_by_host() -> None:
    (only,) = recap.recaps(RUN)
    assert only.keys() == {"control1", "worker1"}
    assert only["worker1"] == recap.Recap(13, 2, 0, 0, 3, 0, 0)


def test_colours_do_not_hide_a_change() -> None:
    coloured = RUN.replace("changed=2", "\x1b[0;33mchanged=2   \x1b[0m").replace(
        "worker1   ", "\x1b[0;33mworker1\x1b[0m   "
    )
    assert recap.last(coloured, ["worker1"])["worker1"].changed == 2


def test_each_run_has_its_own_recap() -> None:
    first, second = recap.recaps(RUN + BROKEN)
    assert "pi" in second
    assert "pi" not in first


def test_a_run_without_recap_is_refused() -> None:
    with pytest.raises(recap.RecapError, match="without a recap"):
        recap.last("PLAY [nobody] ***\nskipping: no hosts matched\n", [])


def test_a_recap_without_a_host_is_refused() -> None:
    with pytest.raises(recap.RecapError, match=r"nothing on pi; its recap names control1, worker1"):
        recap.last(RUN, ["pi", "control1"])


def test_an_empty_recap_is_refused_when_a_host_is_expected() -> None:
    with pytest.raises(recap.RecapError, match="nothing on worker1"):
        recap.last("PLAY RECAP ***\n\n", ["worker1"])


def test_a_recap_with_missing_counts_is_refused() -> None:
    with pytest.raises(recap.RecapError, match="not a line of a recap"):
        recap.recaps("PLAY RECAP ***\npi : ok=1 changed=0\n")


def test_faults_are_named() -> None:
    assert recap.not_well(recap.recaps(BROKEN)[0]) == ["pi: 2 failed", "pi: 1 unreachable", "pi: 3 ignored"]
    assert recap.not_well(recap.recaps(RUN)[0]) == []


def test_changes_are_named_with_their_tasks() -> None:
    assert recap.not_steady(recap.recaps(RUN)[0]) == ["worker1: 2 changed"]
    assert recap.changed_tasks(RUN) == [
        "worker1: kubecozy.homelab.containerd : Write the configuration",
        "worker1: kubecozy.homelab.containerd : Restart",
    ]


def test_molecule_counts_are_read() -> None:
    line = "INFO     machine > scenario: actions=6  successful=5  disabled=0  skipped=0  missing=1  failed=0\n"
    assert recap.molecule_counts(line)["missing"] == 1
    assert recap.molecule_counts(line)["successful"] == 5


def test_molecule_without_a_count_is_refused() -> None:
    with pytest.raises(recap.RecapError, match="0 times"):
        recap.molecule_counts("INFO all is well\n")
