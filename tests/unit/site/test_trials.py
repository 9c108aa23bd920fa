# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the trials compare and search for, and the steps that `make` runs them by."""

from __future__ import annotations

import pytest

from tests.site import bench, machines, scenario, soak, trials
from tests.site.playbook import TrialError
from tools import steps


def test_secrets_of_an_inventory_are_found_by_name() -> None:
    inventory = {
        "homelab_domain": "cozy.example.com",
        "homelab_instances": [{"domain": "a", "passphrase": "correct horse"}, {"passphrase": "{{ vault }}"}],
        "public_dns": {"api_token": "t0ken"},
    }
    assert list(trials._inventory_secrets(inventory)) == [
        ("inventory: passphrase", "correct horse"),
        ("inventory: api_token", "t0ken"),
    ]


def test_lasting_objects_are_those_that_people_make() -> None:
    names = ["Secret cozy/cozy-couchdb", "Deployment cozy/cozy-stack", "PersistentVolume /cozy-stack"]
    passing = ["Pod cozy/cozy-stack-1", "EndpointSlice cozy/a", "Secret kube-system/bootstrap-token-abcdef"]
    objects = {name: {"uid": f"{number}", "content": "", "version": ""} for number, name in enumerate(names + passing)}
    assert trials._lasting(objects) == {name: f"{number}" for number, name in enumerate(names)}


def test_pictures_that_differ_are_refused_and_the_list_is_bounded() -> None:
    machines.same("a check wrote", {"a": 1}, {"a": 1})
    with pytest.raises(TrialError, match=r"(?s)a check wrote:\n  made: 0\n.*and 60 more$"):
        machines.same("a check wrote", {}, {f"{number}": 1 for number in range(100)})


def test_the_sampled_kill_is_one_of_those_of_the_soak() -> None:
    assert trials.SAMPLE in trials.KILLS
    assert len(trials.KILLS) >= 5


def test_every_trial_is_a_step() -> None:
    test, long = ({step.name for step in steps.RUNS[run]()} for run in ("test", "soak"))
    assert test >= trials.TRIALS.keys()
    assert test | long >= {f"molecule {name}" for name in scenario.STARTS}
    assert long >= {f"soak {name}" for name in soak.PARTS}
    assert {step.name for step in steps.RUNS["bench"]()} >= {f"bench {name}" for name in bench.PARTS}
