# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible and Molecule say at the end of a run, read strictly: a run without a recap proves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_HOST = re.compile(r"^(\S+)\s+: (ok=\d+ .*)$")
_COUNT = re.compile(r"(\w+)=(\d+)")
_ACTIONS = re.compile(r"\bactions=\d+ .*\bmissing=\d+.*")


class RecapError(Exception):
    """A run did not say what it must have said; the message names what."""


@dataclass(frozen=True)
class Recap:
    """The counts of one host at the end of one run."""

    ok: int
    changed: int
    unreachable: int
    failed: int
    skipped: int
    rescued: int
    ignored: int


def plain(text: str) -> str:
    """Text without colours."""
    return _ANSI.sub("", text)


def recaps(output: str) -> list[dict[str, Recap]]:
    """The recap of each ansible-playbook run in the output, by host; in order.

    Raises:
        RecapError: a line of a recap lacks one of the counts.
    """
    found: list[dict[str, Recap]] = []
    inside = False
    for line in plain(output).splitlines():
        if line.startswith("PLAY RECAP"):
            inside = True
            found.append({})
        elif inside and (match := _HOST.match(line.rstrip())):
            counts = {name: int(number) for name, number in _COUNT.findall(match[2])}
            try:
                found[-1][match[1]] = Recap(**counts)
            except TypeError as error:
                raise RecapError(f"not a line of a recap: {line!r} ({error})") from None
        elif inside and line.strip():
            inside = False
    return found


def last(output: str, hosts: Iterable[str]) -> dict[str, Recap]:
    """The recap of the last run in the output.

    Raises:
        RecapError: there is none, or one of `hosts` is not in it.
    """
    all_of_them = recaps(output)
    if not all_of_them:
        raise RecapError("the run ended without a recap")
    missing = sorted(set(hosts) - set(all_of_them[-1]))
    if missing:
        raise RecapError(f"the run did nothing on {', '.join(missing)}; its recap names {', '.join(all_of_them[-1])}")
    return all_of_them[-1]


def not_well(recap: Mapping[str, Recap]) -> list[str]:
    """Hosts on which something failed, was unreachable or ignored, in words."""
    return [
        f"{host}: {count} {what}"
        for host, counts in recap.items()
        for what in ("failed", "unreachable", "ignored")
        if (count := getattr(counts, what))
    ]


def not_steady(recap: Mapping[str, Recap]) -> list[str]:
    """Hosts on which something changed, in words."""
    return [f"{host}: {counts.changed} changed" for host, counts in recap.items() if counts.changed]


def changed_tasks(output: str) -> list[str]:
    """The tasks that reported a change, as `host: task`."""
    found, task = [], ""
    for line in plain(output).splitlines():
        if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*", line):
            task = match[1]
        elif match := re.match(r"changed: \[([^\]]+)\]", line):
            found.append(f"{match[1]}: {task}")
    return found


def molecule_counts(output: str) -> dict[str, int]:
    """Molecule's own count of a scenario's actions.

    Raises:
        RecapError: Molecule printed none, or more than one.
    """
    lines = _ACTIONS.findall(plain(output))
    if len(set(lines)) != 1:
        raise RecapError(f"Molecule counted its actions {len(set(lines))} times in place of once")
    return {name: int(number) for name, number in _COUNT.findall(lines[0])}
