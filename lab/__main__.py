# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's command line: `python -m lab COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence

from lab import artefacts, ca, machines, network, outside, store
from lab.model import DOMAIN, HOSTS, MACHINES, Host, LabError, state_dir


def _say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    _say(f"{name:<46} {time.monotonic() - begin:6.1f} s")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold the lab: two commands that change it must not meet."""
    state_dir().mkdir(parents=True, exist_ok=True, mode=0o755)
    with (state_dir() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another command that changes the lab …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _chosen(names: Sequence[str]) -> list[Host]:
    unknown = [name for name in names if name not in MACHINES]
    if unknown:
        raise LabError(f"no machine {', '.join(unknown)}; there are: {', '.join(MACHINES)}")
    return [MACHINES[name] for name in names or MACHINES]


def _boot(hosts: Sequence[Host]) -> None:
    with _step(f"boot {', '.join(host.name for host in hosts)}"):
        for host in hosts:
            machines.start(host)
        machines.wait_booted(hosts)


def prepare() -> artefacts.Artefacts:
    """Install the packages this machine lacks and build what is missing of the artefacts."""
    artefacts.ensure_packages(_say)
    return artefacts.build(_say)


def up(names: Sequence[str]) -> None:
    """Build what is missing, start the outside and the machines."""
    hosts = _chosen(names)
    parts = prepare()
    with _only_one():
        with _step("disks"):
            store.mount()
        ca.root()
        with _step("networks"):
            network.up()
        with _step("the outside: DNS, web, registry, APIs, packages"):
            outside.up(parts)
        with _step("machines"):
            for host in hosts:
                machines.create(host, parts.base_root)
            machines.known_hosts()
        _boot(hosts)


def down() -> None:
    """End every process and remove every namespace, mount and cgroup of the lab; disks and artefacts stay."""
    with _only_one():
        for host in MACHINES.values():
            machines.power_cut(host)
        machines.remove_leftovers()
        outside.down()
        network.down()
        store.unmount()


def reset(names: Sequence[str]) -> None:
    """Bare machines again, as just installed."""
    hosts = _chosen(names)
    with _only_one():
        for host in hosts:
            machines.power_cut(host)
            machines.delete(host)
    up(names)


def power_cut(names: Sequence[str]) -> None:
    """Pull the plug of machines."""
    with _only_one():
        for host in _chosen(names):
            machines.power_cut(host)


def stop(names: Sequence[str]) -> None:
    """Shut machines down in order."""
    with _only_one():
        for host in _chosen(names):
            machines.stop(host)


def start(names: Sequence[str]) -> None:
    """Switch machines on and wait for ssh."""
    with _only_one():
        _boot(_chosen(names))


def reboot(names: Sequence[str]) -> None:
    """Shut down and start again."""
    stop(names)
    start(names)


def snapshot(name: str) -> None:
    """Save all machines' disks, as a power cut now would leave them."""
    with _only_one():
        store.save(name, [host for host in MACHINES if store.disk(host).exists()])


def restore(name: str) -> None:
    """Bring all machines back to a snapshot and boot them."""
    with _only_one():
        saved = store.saved(name)
        for host in MACHINES.values():
            machines.power_cut(host)
            machines.delete(host)
        for machine, source in saved.items():
            store.clone(source, store.disk(machine))
        machines.known_hosts()
        _boot([MACHINES[machine] for machine in saved])


def status() -> None:
    """Print what there is and what runs."""
    namespaces = network.namespaces()
    _say(f"{'host':<12}{'address':<15}{'network':<9}state")
    for host in HOSTS.values():
        if host.namespace not in namespaces:
            state = "not there"
        elif not host.machine:
            state = "there"
        elif not machines.running(host.name):
            state = "off"
        else:
            state = "up" if machines.reachable(host) else "on, no ssh"
        _say(f"{host.name:<12}{host.address:<15}{host.bridge:<9}{state}")
    for name, runs in outside.services().items():
        _say(f"{name:<36}{'runs' if runs else 'off'}")
    _say(f"snapshots: {', '.join(store.snapshots()) or 'none'}")


def execute(name: str, command: Sequence[str]) -> None:
    """Become a command on a host: over ssh on machines, in its namespace elsewhere."""
    if name not in HOSTS:
        raise LabError(f"no host {name}; there are: {', '.join(HOSTS)}")
    host = HOSTS[name]
    if host.namespace not in network.namespaces():
        raise LabError(f"{name} is not there; start the lab: python -m lab up")
    words = machines.ssh_command(host) if host.machine else ["ip", "netns", "exec", host.namespace]
    default = [] if host.machine else [os.environ.get("SHELL", "/bin/bash")]
    full = [*words, *(command or default)]
    os.execvp(full[0], full)


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="A cellar and an internet on one machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, does: object, *arguments: tuple[str, str | int | None]) -> None:
        text = (does.__doc__ or "").strip()
        command = commands.add_parser(name, help=text, description=text)
        for argument, number in arguments:
            command.add_argument(argument, nargs=number)
        command.set_defaults(does=does, arguments=[argument for argument, _ in arguments])

    some = ("names", "*")
    for name, does in (("up", up), ("reset", reset), ("start", start), ("stop", stop), ("reboot", reboot)):
        add(name, does, some)
    add("power-cut", power_cut, some)
    add("down", down)
    add("status", status)
    add("snapshot", snapshot, ("name", None))
    add("restore", restore, ("name", None))
    build = commands.add_parser("build", help="Build what is missing of the artefacts.")
    build.set_defaults(does=prepare, arguments=[])
    run_there = commands.add_parser("exec", help="Run a command on a host: exec NAME [--] COMMAND …; or a shell.")
    run_there.add_argument("name")
    run_there.add_argument("words", nargs=argparse.REMAINDER)
    run_there.set_defaults(
        does=lambda name, words: execute(name, words[1:] if words[:1] == ["--"] else words), arguments=["name", "words"]
    )
    client = commands.add_parser("client", help="Fetch a page as the client at home does.")
    client.add_argument("url", nargs="?", default=f"https://{DOMAIN}/")
    client.set_defaults(
        does=lambda url: execute("client", [sys.executable, "-m", "lab.client", url]), arguments=["url"]
    )
    options = parser.parse_args()
    if os.geteuid():
        raise LabError("the lab makes namespaces and mounts: it needs root")
    options.does(*(getattr(options, argument) for argument in options.arguments))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
