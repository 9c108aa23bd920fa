# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets that live in another network namespace than the process that holds them (setns(2))."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from lab.model import LabError

_CLONE_NEWNET = 0x40000000


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(error)}")


def socket_in(namespace: str | None) -> socket.socket:
    """A new TCP socket of that namespace (None: the caller's): it stays there though the caller does not."""
    if namespace is None:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        _setns(there)
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            _setns(home)
    finally:
        os.close(home)
        os.close(there)


def listener(namespace: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket on that address of that namespace."""
    sock = socket_in(namespace)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(128)
    return sock


def answers(namespace: str | None, address: str, port: int, seconds: float = 1) -> bool:
    """Whether something accepts TCP connections there, seen from that namespace."""
    with socket_in(namespace) as sock:
        sock.settimeout(seconds)
        return sock.connect_ex((address, port)) == 0
