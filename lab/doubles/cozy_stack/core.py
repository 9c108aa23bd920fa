# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts share: the configuration, CouchDB, and the folder of the files."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from ..web import log
from .config import Config
from .couch import Couch


@dataclass
class Stack:
    """One running stack."""

    config: Config
    couch: Couch

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

    def writable(self) -> bool:
        """False on a file system that is mounted read-only."""
        return not os.statvfs(self.root).f_flag & os.ST_RDONLY
