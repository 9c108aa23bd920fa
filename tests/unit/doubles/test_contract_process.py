# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, refusal to start, signals and the websocket, as recorded."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.doubles.cozy_stack import __main__ as program
from lab.doubles.cozy_stack import keys
from lab.doubles.cozy_stack.config import Config, ConfigError, load
from lab.doubles.cozy_stack.couch import Couch
from tests.unit.doubles.browser import say
from tests.unit.doubles.replay import Replay, order
from tests.unit.doubles.replay import load as recording
from tests.unit.doubles.world import World, free_port

VAULT = "vault: {{credentials_encryptor_key: {0}, credentials_decryptor_key: {1}}}\n"


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world") as world:
        yield world


@dataclass
class Start:
    """How a recorded start differed from the usual one; ``extra`` is added to cozy.yaml, ``replace`` changes it."""

    extra: str = ""
    replace: tuple[str, str] = ("", "")
    environ: dict[str, str] = field(default_factory=dict)
    config: str = "cozy.yaml"
    folder: str = "etc"


KUBERNETES = {
    "all": {"COZY_PORT": "tcp://10.0.0.1:80", "COZY_SERVICE_HOST": "10.0.0.1", "COZY_SERVICE_PORT": "80"},
    "couchdb": {"COZY_COUCHDB_PORT": "tcp://10.0.0.1:5984", "COZY_COUCHDB_SERVICE_HOST": "10.0.0.1"},
    "stack": {"COZY_STACK_PORT": "tcp://10.0.0.1:8080", "COZY_STACK_SERVICE_HOST": "10.0.0.1"},
    "redis": {"COZY_REDIS_PORT": "tcp://10.0.0.1:6379", "COZY_REDIS_SERVICE_HOST": "10.0.0.1"},
}
STARTS = {
    "start-couch-absent": Start(replace=("@COUCH@", "@CLOSED@")),
    "start-c333-couch-bad-password": Start(replace=(".Env.COUCH_PASSWORD", ".Env.HOME")),
    "start-couch-no-credentials": Start(replace=("{{.Env.COUCH_USER}}:{{urlquery .Env.COUCH_PASSWORD}}@", "")),
    "start-couch-pathprefix": Start(replace=("@COUCH@/", "@COUCH@/prefix/")),
    "start-vault-file-missing": Start(VAULT.format("@ETC@/nothere.enc", "@ETC@/vault.dec")),
    "start-vault-garbage": Start(VAULT.format("@ETC@/garbage", "@ETC@/vault.dec")),
    "start-vault-only-enc": Start(VAULT.format("@ETC@/vault.enc", '""')),
    "start-vault-none": Start(),
    "start-vault-swapped": Start(VAULT.format("@ETC@/vault.dec", "@ETC@/vault.enc")),
    "start-admin-secret-missing": Start(folder="empty"),
    "start-config-missing": Start(config="none.yml"),
    "start-config-bad-yaml": Start(extra='a: "b" c\n'),
    "start-config-unknown-key": Start(extra="nonsense: {deep: [1, 2]}\n"),
    "start-fs-relative": Start(replace=("file://", "")),
    "start-port-in-use": Start(replace=("port: @PUBLIC@", "port: @COUCH@")),
    "start-env-COZY_PORT": Start(environ={"COZY_PORT": "tcp://10.0.0.1:80"}),
    "start-env-COZY_ADMIN_PORT": Start(environ={"COZY_ADMIN_PORT": "tcp://10.0.0.1:6060"}),
    "start-env-COZY_MAIL_PORT": Start(environ={"COZY_MAIL_PORT": "tcp://10.0.0.1:25"}),
    "start-env-k8s-service-cozy-all": Start(environ=KUBERNETES["all"]),
    "start-env-k8s-service-cozy-couchdb": Start(environ=KUBERNETES["couchdb"]),
    "start-env-k8s-service-cozy-stack": Start(environ=KUBERNETES["stack"]),
    "start-env-k8s-service-cozy-redis": Start(environ=KUBERNETES["redis"]),
    "start-env-COZY_HOST-empty": Start(environ={"COZY_HOST": ""}),
    "start-env-COZY_HOST-localhost": Start(environ={"COZY_HOST": "localhost"}),
}
# these need what only another machine has: test_refusals_of_the_system and test_late_couchdb take them
ELSEWHERE = (
    "start-couch-appears-after-4s",
    "start-couch-hostname-unresolvable",
    "start-vault-unreadable",
    "start-fs-unwritable",
    "start-fs-existing-unwritable",
)
CONFIG = """\
host: 127.0.0.1
port: @PUBLIC@
admin: {host: 127.0.0.1, port: @ADMIN@}
couchdb: {url: "http://{{.Env.COUCH_USER}}:{{urlquery .Env.COUCH_PASSWORD}}@127.0.0.1:@COUCH@/"}
fs: {url: "file://@DATA@"}
"""
VAULT_KEY = f"-----BEGIN NACL KEY-----\n{'A' * 64}\n{'A' * 22}==\n-----END NACL KEY-----\n"


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) == 0


def attempt(world: World, case: str, start: Start) -> list[str]:
    """Start the stack as recorded; every difference in exit code, last words, and what it listens on."""
    wanted = recording(case)
    ports = {"PUBLIC": free_port(), "ADMIN": free_port(), "COUCH": world.couch_port, "CLOSED": free_port()}
    text = (CONFIG + start.extra).replace(*start.replace) if start.replace[0] else CONFIG + start.extra
    for name, value in (ports | {"DATA": world.data, "ETC": world.etc}).items():
        text = text.replace(f"@{name}@", str(value))
    config = world.etc / f"{case}.yml"
    config.write_text(text)
    path = config if start.config == "cozy.yaml" else world.etc / start.config
    log_path = world.root / f"{case}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.doubles.cozy_stack", "serve", "--allow-root", "-c", str(path)],
            cwd=world.root / start.folder,
            env=world.environment(**start.environ),
            stdout=log,
            stderr=log,
        )
    end = time.monotonic() + 60
    while process.poll() is None and "admin started" not in log_path.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    served = process.poll() is None
    heard = {name: served and listens(ports[name]) for name in ("PUBLIC", "ADMIN")}
    if served:
        process.send_signal(signal.SIGINT)
    code = process.wait(30)
    output = log_path.read_text()
    found = [] if code == wanted["exit_code"] else [f"exit {code}, recorded {wanted['exit_code']}"]
    recorded_ports = " ".join(wanted["listening"] or [])
    recorded = {"PUBLIC": "127.0.0.1:18080" in recorded_ports, "ADMIN": "127.0.0.1:16060" in recorded_ports}
    found += [f"listens {heard}, recorded {recorded}"] if heard != recorded else []
    errors, said = (plain(text, world, ports) for text in (wanted["log_tail"], output.splitlines()))
    found += [f"said {said}, recorded {errors}"] if said != errors else []
    retries = output.count("retrying in 1s"), sum("retrying in 1s" in line for line in wanted["log_tail"])
    found += [f"tries {retries}"] if retries[0] != retries[1] else []
    return [f"{case}: {text}" for text in found]


def plain(lines: list[str], world: World, ports: dict[str, int]) -> list[str]:
    """The error lines, with places replaced by names."""
    places = {"/srv/cozy/etc": "<etc>", str(world.etc): "<etc>", f"127.0.0.1:{ports['CLOSED']}": "<couch>"}
    places |= {"127.0.0.1:15984": "<couch>", f"127.0.0.1:{ports['COUCH']}": "<couch>"}
    found = []
    for line in filter(lambda line: line.startswith("Error: "), lines):
        text = line
        for old, new in places.items():
            text = text.replace(old, new)
        found.append(re.sub(r"line \d+", "line <n>", text))
    return found


def test_starts(world: World) -> None:
    """Each recorded start ends, or serves, as the real one did. They run side by side: some try for seven seconds."""
    for name, text in (("vault.enc", VAULT_KEY), ("vault.dec", VAULT_KEY), ("garbage", "no key\n")):
        (world.etc / name).write_text(text)
    (world.root / "empty").mkdir()
    world.start_couch()
    with ThreadPoolExecutor(len(STARTS)) as pool:
        results = list(pool.map(lambda item: attempt(world, *item), STARTS.items()))
    differences = [text for found in results for text in found]
    assert not differences, "\n".join(differences)
    assert sorted([*STARTS, *ELSEWHERE]) == sorted(name for name in order() if name.startswith("start-"))
    assert len(results) == 24


def test_late_couchdb(world: World) -> None:
    """A CouchDB that comes while the stack tries is good enough."""
    world.spawn_stack()
    end = time.monotonic() + 30
    while "retrying in 1s" not in world.log():
        assert time.monotonic() < end
        time.sleep(0.02)
    world.start_couch()
    assert world.stack is not None
    world.wait_port(world.public_port, world.stack)
    assert world.stop_stack() == recording("start-couch-appears-after-4s")["exit_code"] == 0


def refusing(error: OSError) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise error

    return refuse


def last_words(case: str) -> str:
    lines: list[str] = recording(case)["log_tail"]
    return next(line for line in lines if line.startswith("Error: ")).removeprefix("Error: ")


def config_with(tmp_path: Path, fs_url: str) -> Config:
    path = tmp_path / "cozy.yaml"
    path.write_text(f"fs: {{url: '{fs_url}'}}\n")
    return load(path, {}, {})


def test_refusals_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file system or the resolver refuses is said in the real words."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refusing(PermissionError(13, "Permission denied")))
        with pytest.raises(ConfigError) as caught:
            keys.read_vault_key("/srv/cozy/etc/rooted.enc")
    assert str(caught.value) == last_words("start-vault-unreadable")
    for case, url, refused in (
        ("start-fs-unwritable", "file:///usr/nothere", "/usr/nothere"),
        ("start-fs-existing-unwritable", "file:///usr", "/usr/dyn-assets"),
    ):
        config = config_with(tmp_path, url)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refusing(PermissionError(13, "Permission denied", refused)))
            with pytest.raises(program.StartError) as refusal:
                program.make_assets(config)
        assert str(refusal.value) == last_words(case)
    monkeypatch.setattr(socket, "getaddrinfo", refusing(socket.gaierror(-2, "Name or service not known")))
    recorded = last_words("start-couch-hostname-unresolvable").replace(" on 10.255.255.53:53", "")
    assert recorded.endswith(Couch("http://couch.invalid:15984/").up())


def test_root_is_refused(world: World) -> None:
    command = [sys.executable, "-c", "import os; os.getuid = lambda: 0\n"]
    command[2] += "from lab.doubles.cozy_stack.__main__ import main; raise SystemExit(main(['serve']))"
    done = subprocess.run(
        command, cwd=world.etc, env=world.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "Error: Use --allow-root" in done.stderr


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("name", ["sigterm-idle", "sigint-idle", "sigquit", "sighup"])
def test_signals(world: World, name: str) -> None:
    wanted = recording(f"signal-{name}")
    world.start()
    assert world.stop_stack(getattr(signal, wanted["signal"])) == wanted["returncode"]
    for line in ("Received interrupt signal:", "All settled, bye bye !"):
        assert (line in world.log()) == (line in wanted["log_tail"])


@pytest.mark.parametrize("name", ["sigterm", "sigint"])
def test_signals_to_the_first_process(world: World, name: str) -> None:
    """As PID 1 the stack must still end by a signal: the kernel kills no first process for it."""
    world.start_couch()
    world.start_stack("import os; os.getpid = lambda: 1")
    wanted = recording(f"signal-pid1-{name}")["exit_code_seen_by_parent(unshare)"]
    assert world.stop_stack(getattr(signal, name.upper())) == wanted


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_while_it_waits_for_couchdb(world: World, name: str) -> None:
    stack = world.spawn_stack("import os; os.getpid = lambda: 1")
    end = time.monotonic() + 30
    while "retrying in 1s" not in world.log():
        assert time.monotonic() < end
        time.sleep(0.02)
    stack.send_signal(getattr(signal, name))
    assert stack.wait(30) == 2


def slow_upload(world: World, name: str) -> socket.socket:
    """The first 9000 of 20000 bytes of an upload, on disk."""
    token = world.token("alice.cozy.test", "io.cozy.files")
    connection = socket.create_connection(("127.0.0.1", world.public_port), timeout=30)
    head = (
        f"POST /files/io.cozy.files.root-dir?Type=file&Name={name} HTTP/1.1\r\nHost: alice.cozy.test\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/octet-stream\r\nContent-Length: 20000\r\n\r\n"
    )
    connection.sendall(head.encode() + b"x" * 9000)
    folder, end = world.data / "alice.cozy.test", time.monotonic() + 20
    while sum(path.stat().st_size for path in folder.glob(f"{name}*")) != 9000:
        assert time.monotonic() < end
        time.sleep(0.02)
    return connection


def test_interrupt_lets_an_upload_finish(world: World) -> None:
    wanted = recording("signal-sigint-upload")
    world.start()
    assert world.admin("POST", "/instances?Domain=alice.cozy.test").status == 201
    with slow_upload(world, "slow.bin") as upload:
        assert world.stack is not None
        world.stack.send_signal(signal.SIGINT)
        end = time.monotonic() + 30
        while listens(world.public_port):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "ConnectionRefusedError" in wanted["new_request_0.5s_after_signal"]
        upload.sendall(b"x" * 11000)
        answer = upload.makefile("rb").readline()
    assert answer.decode().strip() == wanted["upload"]["answer"].split("\r\n")[0]
    assert world.stack.wait(30) == wanted["returncode"]
    assert (world.data / "alice.cozy.test" / "slow.bin").stat().st_size == 20000


def test_termination_cuts_an_upload(world: World) -> None:
    """SIGTERM leaves the temporary file, and fsck finds it."""
    wanted = recording("signal-sigterm-upload")
    world.start()
    assert world.admin("POST", "/instances?Domain=alice.cozy.test").status == 201
    with slow_upload(world, "slow-sigterm-upload.bin") as upload:
        assert world.stop_stack(signal.SIGTERM) == wanted["returncode"]
        with contextlib.suppress(ConnectionError):
            assert upload.recv(100) == b""
    world.start_stack()
    run = Replay(world)
    run.run(["fsck-after-sigterm-upload"])
    assert not run.differences, "\n".join(run.differences)


# ---------------------------------------------------------------------------------------------------------- websocket


def connect(world: World, case: str) -> tuple[socket.socket, bytes]:
    """Send a recorded handshake; the connection and the head of the answer."""
    request = recording(case)["request"]
    port = world.admin_port if request["port"] == "16060" else world.public_port
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    lines = [f"{request['method']} {request['path']} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request["headers"].items()]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1)
    return connection, received


def heads(raw: str) -> set[str]:
    """Status line and headers, without what differs each time."""
    lines = raw.partition("\r\n\r\n")[0].split("\r\n")
    return {line for line in lines if not line.startswith(("Date:", "Content-Length:"))}


def test_websocket(world: World) -> None:
    world.start()
    assert world.admin("POST", "/instances?Domain=alice.cozy.test").status == 201
    for case in ("notoken", "origin-alien", "origin-app", "unknown-host", "admin-noauth"):
        connection, head = connect(world, f"realtime-ws-{case}")
        connection.close()
        assert heads(head.decode()) == heads(recording(f"realtime-ws-{case}")["raw_response"])
    for case, token in (("bad", "bad"), ("empty", "")):
        connection, _ = connect(world, "realtime-ws-notoken")
        with connection:
            say(connection, {"method": "AUTH", "payload": token})
            wanted = recording(f"realtime-ws-auth-{case}")["frames"][1][1].encode()
            head = connection.recv(4)
            assert head[0] == 0x81
            assert connection.recv(len(wanted)) == wanted
            assert connection.recv(2) == b"\x88\x00"
    assert recording("realtime-ws-auth-ok")["frames"][1][0].startswith("nothing in")
    connection, _ = connect(world, "realtime-ws-notoken")
    with connection:
        say(connection, {"method": "AUTH", "payload": world.token("alice.cozy.test", "io.cozy.files")})
        say(connection, {"method": "SUBSCRIBE", "payload": {"type": "io.cozy.files"}})
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
