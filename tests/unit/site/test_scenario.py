# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Molecule scenario passes only when its output shows that every action did its work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import scenario
from tests.site.playbook import TrialError
from tests.site.recap import RecapError

ACTIONS = ["prepare", "check", "converge", "check", "idempotence", "verify"]


def output(changed: tuple[int, ...] = (1, 5, 5, 0, 0, 1), *, successful: int = 6, ok: int = 3, failed: int = 0) -> str:
    """What Molecule prints when the actions changed that many things."""
    runs = [
        f"PLAY RECAP ***\npi : ok={ok} changed={number} unreachable=0 failed={failed} skipped=0 rescued=0 ignored=0\n\n"
        for number in changed
    ]
    count = f"INFO x: actions=6  successful={successful}  disabled=0  skipped=0  missing={6 - successful}  failed=0\n"
    return "".join(runs) + count


def test_a_scenario_that_did_its_work_passes() -> None:
    scenario.judge(ACTIONS, output())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (output(successful=5), "6 actions should have succeeded"),
        (output((1, 5, 5, 0, 0)), "6 runs of Ansible should have ended with a recap, 5 did"),
        (output((1, 5, 5, 2, 0, 1)), "check after converge: pi: 2 changed"),
        (output((1, 5, 5, 0, 1, 1)), "idempotence after converge: pi: 1 changed"),
        (output(ok=0), "prepare did nothing on pi"),
        (output(failed=1), "prepare: pi: 1 failed"),
        (output().replace("pi : ok=3", "nobody"), "prepare did nothing on any host"),
    ],
)
def test_what_was_not_done_is_told(text: str, message: str) -> None:
    with pytest.raises(TrialError, match=message):
        scenario.judge(ACTIONS, text)


def test_an_output_without_a_count_is_refused() -> None:
    with pytest.raises(RecapError):
        scenario.judge(ACTIONS, "all is well")


@pytest.mark.parametrize("name", scenario.names())
def test_every_action_of_every_scenario_has_its_playbook(name: str) -> None:
    assert set(ACTIONS) <= set(scenario.sequence(name))


def test_a_missing_playbook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "machine"
    folder.mkdir()
    (folder / "molecule.yml").write_text("---\n{}\n")
    for action in ("prepare", "converge", "verfiy"):
        (folder / f"{action}.yml").write_text("---\n")
    monkeypatch.setattr(scenario, "_MOLECULE", tmp_path)
    with pytest.raises(TrialError, match="scenario machine has no playbook for: verify"):
        scenario.sequence("machine")
