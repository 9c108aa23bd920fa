# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The checks and tests, one step after the other: `make check` and `make test` in one table.

    tools/run -m tools.steps check            the fast part
    tools/run -m tools.steps test             everything
    tools/run -m tools.steps soak             the long trials
    tools/run -m tools.steps bench            how long the runs take
    tools/run -m tools.steps check ruff mypy  only these steps of it

Each step is a command of its own with a log file and a time limit. A step that runs long says so; one that fails shows
the end of its log; the last line counts both kinds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.site import bench, scenario, soak, trials
from tools.bootstrap import TOP, cache_dir

HEARTBEAT_SECONDS = 30.0
GRACE_SECONDS = 15.0
POLL_SECONDS = 0.1
TAIL_LINES = 80


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of a run.

    Attributes:
        name: what the tables call it; unique in a run.
        command: program and arguments, run from the top of the project.
        limit: seconds after which it is ended with all that it started, and has failed.
        needs: steps that must have passed; if one did not, this one fails without running.
        jobs: how many steps may run while this one does, itself included.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()
    jobs: int = 1


@dataclasses.dataclass(frozen=True)
class Result:
    """How a step ended: `why` is empty when it passed."""

    step: Step
    seconds: float
    why: str


class Running:
    """A step that has been started."""

    def __init__(self, step: Step, log: Path) -> None:
        self.step = step
        self.log = log
        self.started = self.spoke = time.monotonic()
        with log.open("wb") as out:
            # A session of its own: what is typed at the terminal ends the run, which then ends the step.
            self.process = subprocess.Popen(
                step.command,
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def end(self) -> None:
        """End the step and all that it started: ask first, then force."""
        started = family(self.process.pid)
        send(started, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        send(started, signal.SIGKILL)
        self.process.wait()

    def result(self) -> Result | None:
        """Return how the step ended, or None while it runs; at its limit it is ended here."""
        code = self.process.poll()
        if code is None and self.seconds <= self.step.limit:
            return None
        if code is None:
            self.end()
            return Result(self.step, self.seconds, f"no end within {self.step.limit:.0f} s")
        why = "" if code == 0 else f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        return Result(self.step, self.seconds, why)

    def heartbeat(self) -> None:
        """Say every now and then that the step still runs, and what it said last."""
        if time.monotonic() - self.spoke >= HEARTBEAT_SECONDS:
            self.spoke = time.monotonic()
            last = tail(self.log, 1)
            say(f"  ..    {self.step.name}: {self.seconds:.0f} s  {last[0][:100] if last else ''}")


def family(pid: int) -> list[int]:
    """Return a process and its descendants: Ansible gives its workers sessions of their own, a group is not all."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def say(line: str) -> None:
    """Print a line at once: a run may be read through a pipe."""
    print(line, flush=True)


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log that hold text."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line for line in text.splitlines() if line.strip()][-lines:]


class Runner:
    """Runs steps in their order, some of them side by side, and keeps how each ended.

    Args:
        steps: the steps, in the order in which they start.
        logs: folder for the log of each step; emptied first.
    """

    def __init__(self, steps: Sequence[Step], logs: Path) -> None:
        self.waiting = list(steps)
        self.running: list[Running] = []
        self.results: list[Result] = []
        self.logs = logs
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)

    def run(self) -> list[Result]:
        """Run all steps and return how each ended, in the order of their ends."""
        try:
            while self.waiting or self.running:
                self.start_next()
                for running in list(self.running):
                    result = running.result()
                    if result is None:
                        running.heartbeat()
                    else:
                        self.running.remove(running)
                        self.finish(result, running.log)
                time.sleep(POLL_SECONDS)
        finally:
            for running in self.running:
                running.end()
        return self.results

    def start_next(self) -> None:
        """Start waiting steps while there is room for them."""
        while self.waiting:
            step = self.waiting[0]
            if len(self.running) >= min([step.jobs, *(other.step.jobs for other in self.running)]):
                return
            if any(other.step.name in step.needs for other in self.running):
                return
            self.waiting.pop(0)
            failed = {result.step.name for result in self.results if result.why}
            missing = [name for name in step.needs if name in failed]
            log = self.logs / f"{step.name.replace(' ', '-')}.log"
            if missing:
                self.finish(Result(step, 0.0, f"not run: it needs {', '.join(missing)}"), log)
                continue
            say(f"  start {step.name}")
            self.running.append(Running(step, log))

    def finish(self, result: Result, log: Path) -> None:
        """Keep a result and say it; show the end of the log of a step that failed."""
        self.results.append(result)
        if result.why:
            lines = tail(log, TAIL_LINES)
            for line in lines:
                say(f"  | {line}")
            whole = f", whole log: {log}" if lines else ""
            say(f"  FAIL  {result.step.name}: {result.why}, {result.seconds:.1f} s{whole}")
        else:
            say(f"  ok    {result.step.name}: {result.seconds:.1f} s")


def table(results: Iterable[Result], seconds: float) -> list[str]:
    """Return the closing table of a run: one line a step, and the count as the last line."""
    results = list(results)
    width = max((len(result.step.name) for result in results), default=4)
    lines = [f"  {'step':{width}}  {'seconds':>8}  result"]
    lines += [f"  {r.step.name:{width}}  {r.seconds:8.1f}  {r.why or 'passed'}" for r in results]
    failed = sum(bool(result.why) for result in results)
    return [*lines, f"  {'whole run':{width}}  {seconds:8.1f}", f"{len(results) - failed} passed, {failed} failed"]


def check_steps() -> list[Step]:
    """Return the fast part: style, types, unit tests, documents against code."""
    # The longest first: the others fit beside them.
    return [
        Step("ansible-lint", ("ansible-lint",), 600, jobs=2),
        # What a file prepares once is costly: its tests stay together.
        Step("unit tests", ("pytest", "-n", "3", "--dist", "loadfile"), 600, jobs=2),
        Step("mypy", ("mypy", "."), 600, jobs=2),
        Step("ruff", ("ruff", "check", "."), 600, jobs=2),
        Step("ruff format", ("ruff", "format", "--check", "."), 600, jobs=2),
        Step("yamllint", ("yamllint", "--strict", "."), 600, jobs=2),
        Step("role readmes", (sys.executable, "-m", "tools.role_readme", "--check"), 600, jobs=2),
        Step("changelog", ("antsibull-changelog", "lint"), 600, jobs=2),
    ]


def site(*words: str, limit: float, needs: tuple[str, ...] = ("lab up",)) -> Step:
    """Return a step that is a trial on the lab's machines (python -m tests.site)."""
    return Step(" ".join(words), (sys.executable, "-m", "tests.site", *words), limit, needs)


def on_the_lab(steps: Iterable[Step]) -> list[Step]:
    """Return steps between starting the lab and ending it."""
    lab = (sys.executable, "-m", "lab")
    return [Step("lab up", (*lab, "up"), 2700), *steps, Step("lab down", (*lab, "down"), 300)]


def test_steps() -> list[Step]:
    """Return everything: the fast part, sanity, the whole story, each molecule scenario."""
    story = [
        site(name, limit=1200, needs=("lab up",) if name in ("bare-check", "killed-run") else ("lab up", "killed-run"))
        for name in trials.TRIALS
    ]
    scenarios = [site("molecule", name, limit=900) for name in scenario.STARTS if name not in scenario.LONG]
    sanity = Step("sanity", (sys.executable, "-m", "tools.sanity"), 900)
    return [*check_steps(), sanity, *on_the_lab([*story, *scenarios])]


def soak_steps() -> list[Step]:
    """Return the long trials: first runs killed at many moments, many runs in a row, every machine's plug pulled."""
    scenarios = [site("molecule", name, limit=1200) for name in scenario.STARTS if name in scenario.LONG]
    return on_the_lab([*(site("soak", name, limit=1800) for name in soak.PARTS), *scenarios])


def bench_steps() -> list[Step]:
    """Return what is timed, and the page that is made of it."""
    parts = list(bench.PARTS)
    steps = [site("bench", name, limit=1200, needs=("lab up",)) for name in parts]
    needs = tuple(f"bench {name}" for name in parts[:-1])
    return on_the_lab([*steps[:-1], dataclasses.replace(steps[-1], needs=needs)])


RUNS: dict[str, Callable[[], list[Step]]] = {
    "check": check_steps,
    "test": test_steps,
    "soak": soak_steps,
    "bench": bench_steps,
}


def interrupted(number: int, _frame: object) -> None:
    """Turn a signal into an exception, so that the running steps are ended on the way out."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the steps named on the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="tools/run -m tools.steps", description="Run the checks or the tests.")
    parser.add_argument("run", choices=sorted(RUNS))
    parser.add_argument("only", nargs="*", metavar="STEP", help="only these steps of it")
    arguments = parser.parse_args()
    steps = RUNS[arguments.run]()
    unknown = set(arguments.only) - {step.name for step in steps}
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are: {', '.join(step.name for step in steps)}")
    if arguments.only:
        steps = [step for step in steps if step.name in arguments.only]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    # Logs are read as text.
    os.environ.update(NO_COLOR="1", ANSIBLE_NOCOLOR="1", PYTHONUNBUFFERED="1")
    started = time.monotonic()
    results = Runner(steps, cache_dir() / "logs" / arguments.run).run()
    for line in table(results, time.monotonic() - started):
        say(line)
    return int(any(result.why for result in results))


if __name__ == "__main__":
    sys.exit(main())
