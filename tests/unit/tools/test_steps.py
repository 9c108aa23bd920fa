# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The step runner counts what passed, and ends what does not end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tools import steps
from tools.steps import Result, Runner, Step


def python(name: str, code: str, limit: float = 20, needs: tuple[str, ...] = (), jobs: int = 1) -> Step:
    """Return a step that runs a few lines of Python."""
    return Step(name, (sys.executable, "-c", code), limit, needs, jobs)


def why(results: list[Result]) -> dict[str, str]:
    """Return what each step says about its failure."""
    return {result.step.name: result.why for result in results}


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def test_passed_failed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failing step shows its last words; what needs it does not run, what does not need it does."""
    results = Runner(
        [
            python("good", "print('fine')"),
            python("bad", "print('first line'); print('the cause'); raise SystemExit(3)"),
            python("after", "", needs=("bad",)),
            python("after that", "", needs=("after",)),
            python("alone", ""),
        ],
        tmp_path / "logs",
    ).run()
    assert why(results) == {
        "good": "",
        "bad": "exit code 3",
        "after": "not run: it needs bad",
        "after that": "not run: it needs after",
        "alone": "",
    }
    said = capsys.readouterr().out
    assert "  | the cause" in said
    assert "fine" not in said
    assert steps.table(results, 1.0)[-1] == "2 passed, 3 failed"


def test_limit_ends_descendants_in_other_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit a step is ended with all it started, even what has left its process group and ignores requests."""
    monkeypatch.setattr(steps, "GRACE_SECONDS", 0.5)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    pids = tmp_path / "pid"
    code = (
        "import subprocess, sys, time, pathlib\n"
        f"p = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        f"pathlib.Path({str(pids)!r}).write_text(str(p.pid))\n"
        "time.sleep(60)\n"
    )
    results = Runner([python("long", code, limit=3)], tmp_path / "logs").run()
    assert why(results) == {"long": "no end within 3 s"}
    assert not alive(int(pids.read_text()))


def test_steps_side_by_side(tmp_path: Path) -> None:
    """Two steps that allow it run at once; one that does not runs alone."""
    wait = (
        "import pathlib, sys, time\n"
        "here = pathlib.Path({0!r})\n"
        "(here / '{1}').touch()\n"
        "end = time.monotonic() + 15\n"
        "while not (here / '{2}').exists():\n"
        "    if time.monotonic() > end: sys.exit('alone')\n"
        "    time.sleep(0.05)\n"
    )
    one, two = (wait.format(str(tmp_path), *pair) for pair in (("one", "two"), ("two", "one")))
    results = Runner(
        [python("one", one, jobs=2), python("two", two, jobs=2), python("three", "")], tmp_path / "l"
    ).run()
    assert why(results) == {"one": "", "two": "", "three": ""}


def test_long_silence_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step that runs long says so, with what its log said last."""
    monkeypatch.setattr(steps, "HEARTBEAT_SECONDS", 0.2)
    Runner([python("slow", "import time; print('half way', flush=True); time.sleep(1.5)")], tmp_path / "logs").run()
    assert "half way" in capsys.readouterr().out


def test_an_interrupted_run_ends_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still runs when the run is ended is ended with it."""
    runner = Runner([python("long", "import time; time.sleep(60)")], tmp_path / "logs")
    begin = time.monotonic()

    def interrupt(_running: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps.Running, "heartbeat", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert time.monotonic() - begin < 20
    assert not alive(runner.running[0].process.pid)


@pytest.mark.parametrize("name", sorted(steps.RUNS))
def test_names_of_steps_are_unique(name: str) -> None:
    """A log belongs to one step, and what a step needs comes before it."""
    names: list[str] = []
    for step in steps.RUNS[name]():
        assert step.name not in names
        assert set(step.needs) <= set(names)
        names.append(step.name)
