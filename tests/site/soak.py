# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The long trials: first runs killed at every chosen moment, many runs, every machine's plug pulled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lab.model import MACHINES
from tests.site import cozy, machines, trials


def _cut(name: str) -> None:
    seconds = trials.power_cut(name)
    trials.client()
    machines.say(f"report: {name} cut off, the Cozy answered {seconds:.1f} s after its boot, nothing was made anew")


def _kill(moment: str) -> None:
    trials.killed_run(moment)
    trials.client()
    trials.second_run()
    machines.say(f"report: a first run killed when {moment}; the next one ended well, the one after it changed nothing")


def _slug(text: str) -> str:
    return text.replace(" ", "-").replace(".", "")


PARTS: dict[str, Callable[[], None]] = {
    **{f"kill-{_slug(moment)}": partial(_kill, moment) for moment in trials.KILLS},
    "start": machines.whole,
    "repeats": partial(cozy.repeats, 20),
    **{f"half-created-{moment}": partial(cozy.half_created, moment) for moment in ("document", "databases")},
    **{f"cut-{name}": partial(_cut, name) for name in MACHINES},
}
"""The soak's steps, in their order."""
