# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""`python -m lab.artefacts [PART …]`: build all artefacts, or some."""

from __future__ import annotations

import argparse
import sys
import time

from . import ArtefactError, build, ensure_packages
from .catalog import PARTS


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.artefacts", description="Build what the lab serves and runs.")
    parser.add_argument("part", nargs="*", help="build only these, with what they need")
    parser.add_argument("--list", action="store_true", help="print the names of all parts")
    options = parser.parse_args()
    if options.list:
        print("\n".join(part.name for part in PARTS))
        return 0

    def report(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, flush=True)

    try:
        ensure_packages(report)
        artefacts = build(report, options.part or None)
    except ArtefactError as error:
        print(error, file=sys.stderr)
        return 1
    for name in ("base_root", "web_root", "registry_root", "programs"):
        if (path := getattr(artefacts, name)).exists():
            print(f"{name:14} {path}")
    return 0


sys.exit(main())
