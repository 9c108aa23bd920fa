# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run commands, and keep long-running processes by pid and start time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.model import LabError, state_dir


def run(*command: str | Path, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        LabError: the command failed and `check` is true; the message carries what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, input=stdin, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def _start_time(pid: int) -> str | None:
    """The kernel's start time of a process in clock ticks: with the pid it names one process for ever."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


class Service:
    """One long-running process of the lab, found again by what was recorded when it began."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._record = state_dir() / "run" / f"{name}.json"
        self.log = state_dir() / "logs" / f"{name}.log"

    @property
    def pid(self) -> int | None:
        """The pid while the very process that was started is alive, else None."""
        try:
            record = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return None
        pid = int(record["pid"])
        return pid if _start_time(pid) == record["started"] else None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        """Start it in a session of its own, unless it runs already; its output goes to a log file."""
        if self.pid is not None:
            return
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                preexec_fn=before_exec,  # noqa: PLW1509 (no threads here, and a cgroup is entered by the child itself)
                start_new_session=True,
            )
        process.returncode = 0  # it is meant to outlive us: nobody here will wait for it
        started = _start_time(process.pid)
        if started is None:
            raise LabError(f"{self.name} ended at once: {self.last_words()}")
        partial = self._record.with_suffix(".new")
        partial.write_text(json.dumps({"pid": process.pid, "started": started}))
        partial.rename(self._record)

    def last_words(self) -> str:
        """The last lines of its log."""
        try:
            return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-4:])
        except OSError:
            return "(no log)"

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, seconds: float = 5) -> None:
        """Ask it to end, then insist; returns when it is gone."""
        for attempt in (with_signal, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                break
            os.kill(pid, attempt)
            wait_until(lambda: self.pid is None, seconds)
        self._record.unlink(missing_ok=True)


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Look until the condition holds; False when `seconds` have passed without it."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(ChildProcessError):  # our own children stay zombies until somebody asks for them
            os.waitpid(-1, os.WNOHANG)
        time.sleep(step)
    return True
