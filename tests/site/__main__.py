# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trials on machines of the lab, which must be up.

python -m tests.site TRIAL               a part of the story from bare machines to a Cozy
python -m tests.site molecule SCENARIO   a role or some roles
python -m tests.site soak PART           the long trials
python -m tests.site bench PART          how long it takes
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable
from functools import partial

from lab.model import LabError, state_dir
from tests.site import bench, machines, scenario, soak, trials
from tests.site.playbook import TrialError
from tests.site.recap import RecapError


def main() -> int:
    """Run what the command line names; returns the exit code."""
    known: dict[str, Callable[[], object]] = {
        **trials.TRIALS,
        **{f"molecule {name}": partial(scenario.run, name) for name in scenario.STARTS},
        **{f"soak {name}": part for name, part in soak.PARTS.items()},
        **{f"bench {name}": part for name, part in bench.PARTS.items()},
    }
    title = " ".join(sys.argv[1:])
    if title not in known:
        print(f"{__doc__}\nThere are: {', '.join(known)}")
        return 2
    begin = time.monotonic()
    try:
        with (state_dir() / "trial.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known[title]()
    except BlockingIOError:
        print(f"FAILED {title}: another trial has the machines", flush=True)
        return 1
    except (TrialError, RecapError, LabError) as error:
        print(f"FAILED {title}: {error}", flush=True)
        return 1
    machines.say(f"{title}: passed, {time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
