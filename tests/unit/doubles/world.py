# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests call a stack and its CouchDB; and the doubles of both as processes with folders of their own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
PASSPHRASE = "adm1n-Secret"
COUCH_PASSWORD = "p@:#%ss"
CONFIG = """\
host: 127.0.0.1
port: {public}
admin: {{host: 127.0.0.1, port: {admin}}}
couchdb: {{url: "http://{{{{.Env.COUCH_USER}}}}:{{{{urlquery .Env.COUCH_PASSWORD}}}}@127.0.0.1:{couch}/"}}
fs: {{url: "file://{data}"}}
subdomains: {subdomains}
registries: {{default: ["{registry}"]}}
contexts:
  default: {{features: []}}
  other: {{support_address: support@other.test}}
"""


# below the range the kernel takes ports from for outgoing connections; runs side by side begin at other places
_PORTS = itertools.cycle(range(20000, 32000))
_PORTS_LOCK = threading.Lock()
_SKIPPED = list(itertools.islice(_PORTS, os.getpid() * 97 % 12000))


def free_port() -> int:
    """A port that nothing listens on and that no other caller here gets."""
    while True:
        with _PORTS_LOCK:
            port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def secret_line(password: str, n: int = 1024, salt: bytes = b"\1" * 16, length: int = 32) -> str:
    """An admin secret; a small N keeps the tests fast, and the real stack takes it too."""
    key = hashlib.scrypt(password.encode(), salt=salt, n=n, r=8, p=1, dklen=length, maxmem=256 * n * 8)
    return f"scrypt${n}$8$1${salt.hex()}${key.hex()}"


@dataclass
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Place:
    """A stack and its CouchDB, and how to call them. Ports are what ``connection`` makes of them."""

    root: Path
    data: Path
    public_port: int
    admin_port: int
    couch_port: int
    passphrase = PASSPHRASE
    couch_login = ("cozy", COUCH_PASSWORD)

    def connection(self, port: int, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def call(
        self, port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None, timeout: float = 60
    ) -> Answer:
        """One request with exactly these headers (and the length of the body)."""
        connection = self.connection(port, timeout)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None or method in ("POST", "PUT", "PATCH"):
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def admin(self, method: str, path: str, body: bytes | None = None) -> Answer:
        headers = {"Host": "127.0.0.1", "Authorization": basic("", self.passphrase)}
        return self.call(self.admin_port, method, path, headers, body)

    def token(self, domain: str, scope: str) -> str:
        query = f"Domain={domain}&Audience=cli&Subject=CLI&Scope={scope.replace(' ', '%20')}"
        answer = self.admin("POST", f"/instances/token?{query}")
        assert answer.status == 200, answer
        return answer.body.decode()

    def couchdb(self, method: str, path: str, body: bytes | None = None) -> Answer:
        headers = {"Host": "couch", "Authorization": basic(*self.couch_login), "Content-Type": "application/json"}
        return self.call(self.couch_port, method, path, headers, body)


@dataclass
class World(Place):
    """A CouchDB double and a stack double, started by the parts."""

    root: Path
    registry: str = "http://127.0.0.1:19"
    subdomains: str = "nested"
    couch_port: int = field(default_factory=free_port)
    public_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    couch: subprocess.Popen[bytes] | None = None
    stack: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.etc, self.data, self.couch_root = self.root / "etc", self.root / "data", self.root / "couchdb"
        for folder in (self.etc, self.data, self.couch_root / "etc" / "local.d"):
            folder.mkdir(parents=True)
        (self.couch_root / "etc" / "local.d" / "10.ini").write_text(
            f"[couchdb]\nsingle_node = true\n[chttpd]\nport = {self.couch_port}\nbind_address = 127.0.0.1\n"
            f"[admins]\ncozy = {COUCH_PASSWORD}\n"
        )
        (self.etc / "cozy-admin-passphrase").write_text(secret_line(PASSPHRASE) + "\n")
        self.registry_file = self.root / "registry.json"
        self.set_registry({})
        self.write_config()

    def write_config(self, **changes: str) -> None:
        values: dict[str, Any] = {
            "public": self.public_port,
            "admin": self.admin_port,
            "couch": self.couch_port,
            "data": self.data,
            "registry": self.registry,
            "subdomains": self.subdomains,
        }
        (self.etc / "cozy.yaml").write_text(CONFIG.format(**(values | changes)))

    def set_registry(self, entries: dict[str, Any]) -> None:
        self.registry_file.write_text(json.dumps(entries))

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_stack(signal.SIGKILL)
        self.stop_couch(signal.SIGKILL)

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "COUCH_USER": "cozy",
            "COUCH_PASSWORD": COUCH_PASSWORD,
            "COZY_DOUBLE_REGISTRY": str(self.registry_file),
            **extra,
        }

    def start_couch(self) -> None:
        command = [sys.executable, "-m", "lab.doubles.couchdb", "--root", str(self.couch_root)]
        self.couch = subprocess.Popen(command, env=self.environment(), stderr=self._log("couch"))
        self.wait_port(self.couch_port, self.couch)

    def spawn_stack(self, before: str = "", **environ: str) -> subprocess.Popen[bytes]:
        """Start the stack without waiting for it, after the Python statement ``before``."""
        script = f"{before}\nfrom lab.doubles.cozy_stack.__main__ import main\nraise SystemExit(main(['serve'"
        command = [sys.executable, "-c", script + ", '--allow-root']))"]
        log = self._log("stack")
        self.stack = subprocess.Popen(command, cwd=self.etc, env=self.environment(**environ), stdout=log, stderr=log)
        return self.stack

    def start_stack(self, before: str = "", **environ: str) -> None:
        stack = self.spawn_stack(before, **environ)
        self.wait_port(self.admin_port, stack)
        self.wait_port(self.public_port, stack)

    def start(self) -> World:
        self.start_couch()
        self.start_stack()
        return self

    def _log(self, name: str) -> int:
        return os.open(self.root / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def log(self, name: str = "stack") -> str:
        return (self.root / f"{name}.log").read_text()

    def wait_port(self, port: int, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert process.poll() is None, f"ended with {process.returncode}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"nothing listens on {port}")

    def stop_stack(self, number: int = signal.SIGINT) -> int | None:
        self.stack, process = None, self.stack
        return _stop(process, number)

    def stop_couch(self, number: int = signal.SIGTERM) -> int | None:
        self.couch, process = None, self.couch
        return _stop(process, number)

    def pause_couch(self) -> None:
        assert self.couch is not None
        self.couch.send_signal(signal.SIGSTOP)

    def resume_couch(self) -> None:
        assert self.couch is not None
        self.couch.send_signal(signal.SIGCONT)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _stop(process: subprocess.Popen[bytes] | None, number: int) -> int | None:
    if process is None:
        return None
    if process.poll() is None:
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
