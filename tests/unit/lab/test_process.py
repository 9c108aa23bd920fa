# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes are found again by what was recorded, and never mistaken for others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.model import LabError
from lab.process import Service, run, wait_until


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("KUBECOZY_LAB", str(tmp_path))
    made = Service("sleeper")
    yield made
    made.stop()


def test_start_is_idempotent_and_stop_ends_it(service: Service) -> None:
    service.start(["sleep", "60"])
    first = service.pid
    assert first is not None
    service.start(["sleep", "60"])
    assert service.pid == first
    service.stop()
    assert service.pid is None
    assert not Path(f"/proc/{first}/task").exists() or Path(f"/proc/{first}/stat").read_text().split()[2] == "Z"


def test_a_process_that_took_over_the_pid_is_not_ours(service: Service, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record = tmp_path / "run" / "sleeper.json"
        record.parent.mkdir()
        record.write_text(json.dumps({"pid": stranger.pid, "started": "1"}))
        assert service.pid is None
        service.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_stop_insists_when_asking_does_not_help(service: Service) -> None:
    service.start(["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"])
    assert wait_until(lambda: service.pid is not None, 2)
    service.stop(seconds=0.5)
    assert service.pid is None


def test_what_a_service_said_is_kept(service: Service) -> None:
    service.start(["sh", "-c", "echo no such thing; exec sleep 60"])
    assert wait_until(lambda: "no such thing" in service.last_words(), 2)


def test_a_failing_command_is_an_error_with_its_own_words() -> None:
    with pytest.raises(LabError, match="sh -c echo broken >&2; exit 3 ended with 3: broken"):
        run("sh", "-c", "echo broken >&2; exit 3")


def test_wait_until_gives_up() -> None:
    assert not wait_until(lambda: False, 0.1)
