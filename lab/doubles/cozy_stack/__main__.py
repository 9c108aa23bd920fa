# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: ``cozy-stack serve`` and ``cozy-stack version``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..web import Server, log
from . import VERSION, keys
from .admin import Admin
from .answers import now
from .config import Config, ConfigError, find_file, load
from .core import Stack
from .couch import INSTANCES, Couch, CouchError
from .public import Public

TRIES = 8
DRAIN_SECONDS = 120.0
FATAL_EXIT = 2
GLOBAL = (INSTANCES, "global/io-cozy-exports", "secrets/io-cozy-account_types")


class StartError(Exception):
    """A reason not to start; the text is what the real program prints after "Error: "."""


def wait_for_couch(couch: Couch) -> None:
    """Eight tries, a second apart, then the global databases. Raises StartError."""
    for attempt in range(1, TRIES + 1):
        problem = couch.up()
        if not problem:
            break
        text = f"could not reach Couchdb database: {problem}"
        if attempt == TRIES:
            raise StartError(f"failed to init the global db: failed contact couchdb: {text}")
        quoted = text.replace('"', '\\"')
        log(f'time="{now()}" level=warning msg="{quoted}, retrying in 1s" nspace=stack')
        time.sleep(1)
    try:
        for database in GLOBAL:
            couch.ensure(database)
    except CouchError as error:
        raise StartError(f"failed to init the global db: {error}") from error


def make_assets(config: Config) -> None:
    """The folder dyn-assets in fs.url. Raises StartError when the volume refuses."""
    folder = config.fs_root / "dyn-assets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = error.filename or folder
        reason = (error.strerror or "").lower()
        raise StartError(f"failed to init the dynamic asset fs: invalid path: mkdir {where}: {reason}") from error


def addresses(host: str) -> list[str]:
    """``localhost`` means both loopback addresses, an empty host all of IPv4."""
    if host == "localhost":
        return ["127.0.0.1", "::1"] if socket.has_ipv6 else ["127.0.0.1"]
    return [host.strip("[]") or "0.0.0.0"]  # noqa: S104  # what an empty host means to the real one


def listen(name: str, host: str, port: int, handler: Any) -> list[Server]:
    """Open the sockets of one server. Raises StartError."""
    servers: list[Server] = []
    for address in addresses(host):
        try:
            servers.append(Server((address, port), handler))
        except OSError as error:
            if servers:
                continue  # no IPv6 on this machine
            reason = (error.strerror or str(error)).lower()
            where = f"{address}:{port}"
            raise StartError(f"failed to start {name} server: listen tcp {where}: bind: {reason}") from error
    print(f'http server {name} started on "{host}:{port}"', flush=True)
    return servers


def fatal_signals() -> list[signal.Signals]:
    """The signals that Python must turn into Go's exit code 2.

    As PID 1 these are all: the kernel drops fatal signals to a first process that has no handler.
    """
    first = [signal.SIGTERM, signal.SIGHUP] if os.getpid() == 1 else []
    return [signal.SIGQUIT, *first]


def die_as_go() -> None:
    """Until the stack serves, and so can drain, SIGINT is as fatal as the others."""
    for number in fatal_signals():
        signal.signal(number, lambda *_: os._exit(FATAL_EXIT))
    if os.getpid() == 1:
        signal.signal(signal.SIGINT, lambda *_: os._exit(FATAL_EXIT))
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def serve(options: argparse.Namespace, environ: dict[str, str]) -> int:
    """Start, serve until SIGINT, drain. Raises StartError or ConfigError."""
    die_as_go()
    flags = {"host": options.host, "port": options.port}
    flags |= {"admin.host": options.admin_host, "admin.port": options.admin_port}
    config = load(options.config, environ, flags)
    keys.check_vault(config)
    if os.getuid() == 0 and not options.allow_root:
        raise StartError("Use --allow-root if you really want to start with the root user")
    find_file(config.secret_filename, environ)
    couch = Couch(config.couch_url)
    wait_for_couch(couch)
    stack = Stack(config, couch)
    make_assets(config)
    if not config.encryptor_key or not config.decryptor_key:
        log('level=warning msg="double: vault keys are not configured; the real stack says nothing" nspace=double')
    # blocked here, and so in all threads to come: sigwait takes them
    awaited = {signal.SIGINT, *fatal_signals()}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    servers = listen("major", config.host, config.port, Public(stack).handle)
    servers += listen("admin", config.admin_host, config.admin_port, Admin(stack, environ).handle)
    for server in servers:
        server.start()
    if signal.sigwait(awaited) != signal.SIGINT:
        os._exit(FATAL_EXIT)
    print("\nReceived interrupt signal:\n  shutting down servers...", end="", flush=True)
    threads = [threading.Thread(target=server.drain, args=(DRAIN_SECONDS,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stack.settle(DRAIN_SECONDS)
    print("ok.\nAll settled, bye bye !", flush=True)
    return 0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="cozy-stack", description="A double of cozy-stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="start the stack")
    serving.add_argument("-c", "--config", type=Path)
    serving.add_argument("--host")
    serving.add_argument("--port", "-p", type=int)
    serving.add_argument("--admin-host")
    serving.add_argument("--admin-port", type=int)
    serving.add_argument("--allow-root", action="store_true")
    commands.add_parser("version", help="print the version")
    options = parser.parse_args(argv)
    if options.command == "version":
        print(VERSION)
        return 0
    try:
        return serve(options, dict(os.environ))
    except (StartError, ConfigError) as error:
        log(f"Error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
