# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts share: the configuration, CouchDB, and the folder of the files."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..web import log
from .config import Config
from .couch import Couch


@dataclass
class Stack:
    """One running stack."""

    config: Config
    couch: Couch
    jobs: list[threading.Thread] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.config.fs_root

    def folder(self, domain: str) -> Path:
        """Where the files of an instance lie."""
        return self.root / domain

    def halt_point(self, stage: str) -> None:
        """Die here when the file ``double-halt`` in the folder of the files asks for this stage, once.

        This is how tests get the half-created instances that a crash of the real stack leaves.
        """
        order = self.root / "double-halt"
        if order.is_file() and order.read_text().strip() == stage:
            order.unlink()
            log(f'level=error msg="double: halted at stage {stage} by {order}" nspace=double')
            os.kill(os.getpid(), signal.SIGKILL)
            # In a container it is PID 1, which the kernel does not let kill itself.
            os._exit(128 + signal.SIGKILL)

    def settle(self, seconds: float) -> None:
        """Wait for the jobs that run."""
        end = time.monotonic() + seconds
        for job in self.jobs:
            job.join(max(0.0, end - time.monotonic()))

    def writable(self) -> bool:
        """False on a file system that is mounted read-only."""
        return not os.statvfs(self.root).f_flag & os.ST_RDONLY
