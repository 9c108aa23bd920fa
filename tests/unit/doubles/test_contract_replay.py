# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doubles give the recorded answers: each test replays one chapter of the recordings, in its order."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.doubles.cozy_stack.__main__ import GLOBAL, make_assets
from lab.doubles.cozy_stack.admin import Admin
from lab.doubles.cozy_stack.config import load as load_config
from lab.doubles.cozy_stack.core import Stack
from lab.doubles.cozy_stack.couch import Couch
from lab.doubles.cozy_stack.public import Public
from lab.doubles.web import Server
from tests.unit.doubles.replay import FIXTURES, Hook, Replay, load, order
from tests.unit.doubles.world import COUCH_PASSWORD, PASSPHRASE, World, secret_line

OFFICIAL = "https://apps-registry.cozycloud.cc/selfhosted"
# answered at the same time, so in no order: two_creations_at_once takes them
CONCURRENT = ["create-concurrent-1", "create-concurrent-0"]
# no exchange of HTTP: test_contract_process takes them
PROCESS = ("start-", "signal-", "realtime-ws-", "fsck-after-sigterm-upload")

# chapter: first and last recording, how many they are, and a prefix when it takes only some of the range
CHAPTERS = {
    "one stack": ("version-public", "admin-sets-put", 250, ""),
    "CouchDB away": ("realtime-plain-get", "status-couch-hanging", 16, ""),
    "admin secret": ("admin-python-secret-ok", "admin-secret-restored", 14, ""),
    "half-made instances": ("create-dave", "client-gone-delete", 42, ""),
    "read-only volume": ("ro-fs-create", "ro-fs-later-delete", 8, ""),
    "registry": ("create-201-apps-registry", "reg2-delete", 32, ""),
    "CouchDB 3.3.3": ("c333-status-ok", "instances-list-xfp", 29, ""),
    "flat": ("flat-root", "flat-dash-app", 5, "flat-"),
}


def cases(chapter: str) -> list[str]:
    first, last, count, prefix = CHAPTERS[chapter]
    names = order()
    found = [name for name in names[names.index(first) : names.index(last) + 1] if name not in CONCURRENT]
    found = [name for name in found if name.startswith("flat-") == bool(prefix) and not name.startswith(PROCESS)]
    assert len(found) == count
    return found


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Any:
    with World(tmp_path / "world") as world:
        yield world


def replay(
    world: World, chapter: str, before: dict[str, Hook] | None = None, tokens: tuple[tuple[str, str], ...] = ()
) -> None:
    """Replay a chapter and fail with every difference at once; ``tokens`` (domain, scope) are taken beforehand."""
    run = Replay(
        world, before or {}, patient=("apps-list-two", "reg2-put-newperm-acked", "client-gone-create-again-1s")
    )
    for domain, scope in tokens:
        run.token(domain, scope)
    run.run(cases(chapter))
    assert not run.differences, "\n".join(run.differences)
    assert run.count == CHAPTERS[chapter][2]


def make_sources(world: World) -> None:
    """The folders from which the recorded apps were installed."""
    manifest = {"name": "Probe", "type": "webapp", "version": "0.0.1", "permissions": {}}
    konnector = manifest | {"name": "PK", "type": "konnector"}
    page = "<!doctype html><title>Probe</title>hello {{.Domain}}\n"
    contents = {
        "probe": {"manifest.webapp": json.dumps(manifest), "index.html": page},
        "nomanifest": {},
        "badmanifest": {"manifest.webapp": "{no"},
        "pk": {"manifest.konnector": json.dumps(konnector)},
    }
    for folder, entries in contents.items():
        (world.root / "apps" / folder).mkdir(parents=True)
        for name, text in entries.items():
            (world.root / "apps" / folder / name).write_text(text)


def times(count: int, method: str, path: str, domain: str, scope: str) -> Hook:
    """Calls that were made between two recordings and not kept."""

    def hook(world: World) -> None:
        headers = {"Host": domain, "Authorization": f"Bearer {world.token(domain, scope)}"}
        for _ in range(count):
            assert world.call(world.public_port, method, path, headers).status < 300

    return hook


def test_every_recording_is_in_a_chapter() -> None:
    replayed = [name for chapter in CHAPTERS for name in cases(chapter)] + CONCURRENT
    rest = [name for name in order() if name not in replayed]
    assert all(name.startswith(PROCESS) for name in rest)
    assert sorted(path.stem for path in FIXTURES.glob("*.json")) == sorted(order())
    assert (len(replayed), len(rest)) == (398, 46)


def hang_couch(world: World) -> None:
    """CouchDB takes connections but answers nothing."""
    world.start_couch()
    world.pause_couch()


def test_one_stack(world: World) -> None:
    """Health, authentication, an instance, its changes, apps, pages, onboarding, files."""
    make_sources(world)
    world.start()
    before: dict[str, Hook] = {
        "apps-get-file-source": times(2, "GET", "/apps/probe", "alice.cozy.test", "io.cozy.apps"),
    }
    replay(world, "one stack", before)


def test_couchdb_away(world: World) -> None:
    """CouchDB refuses connections, then hangs."""
    world.start()
    assert world.admin("POST", creation("alice.cozy.test")).status == 201
    before: dict[str, Hook] = {
        "status-couch-stopped": lambda world: world.stop_couch(),
        "status-couch-hanging": hang_couch,
    }
    replay(world, "CouchDB away", before, tokens=(("alice.cozy.test", "io.cozy.apps"),))


def test_admin_secret(world: World) -> None:
    """The secret file is read at each request; what its lines may look like."""
    file = world.etc / "cozy-admin-passphrase"

    def holds(text: str) -> Hook:
        return lambda _: file.write_text(text)

    world.start()
    python_made = secret_line("pyth0n é", n=32768, salt=b"\7" * 16)
    before: dict[str, Hook] = {
        "admin-python-secret-ok": holds(python_made),
        "admin-secret-file-gone": lambda _: file.unlink(),
        "admin-secret-file-garbage": holds("garbage"),
        "admin-secret-file-empty": holds(""),
        "admin-secret-rotated-live": holds(python_made + "\n"),
        "admin-secret-n16384": holds(secret_line(PASSPHRASE, n=16384)),
        "admin-secret-n65536": holds(f"  {secret_line(PASSPHRASE, n=65536)}\n"),
        "admin-secret-dk64": holds(secret_line(PASSPHRASE, length=64)),
        "admin-secret-salt8": holds(secret_line(PASSPHRASE, salt=b"\3" * 8)),
        "admin-secret-n1024": holds(secret_line(PASSPHRASE)),
    }
    replay(world, "admin secret", before)


def creation(domain: str) -> str:
    return f"/instances?Domain={domain}&Passphrase=p&Email=h@x.test"


def killed_creation(domain: str, stage: str) -> Hook:
    """A creation during which the stack is killed, then started again."""

    def hook(world: World) -> None:
        (world.data / "double-halt").write_text(stage)
        with contextlib.suppress(ConnectionError):
            answer = world.admin("POST", creation(domain))
            raise AssertionError(f"the stack lived on and answered {answer}")
        assert world.stop_stack() == -9
        world.start_stack()

    return hook


def clean_databases(domain: str) -> Hook:
    """What repairs an aborted creation: the databases named after the instance are removed."""

    def hook(world: World) -> None:
        prefix = json.loads(load(f"{domain.partition('.')[0]}-create-after-clean")["response"]["body"])
        name = prefix["data"]["attributes"]["prefix"]
        names = [one for one in json.loads(world.couchdb("GET", "/_all_dbs").body) if one.startswith(name + "/")]
        assert names
        for one in names:
            assert world.couchdb("DELETE", "/" + one.replace("/", "%2F")).status == 200

    return hook


def late_kill(world: World) -> None:
    assert world.admin("POST", creation("abort4.cozy.test")).status == 201
    world.stop_stack(9)
    world.start_stack()


def client_gone(world: World) -> None:
    """The client hangs up at once; the creation goes on."""
    with contextlib.suppress(TimeoutError):
        headers = {"Host": "admin", "Authorization": load("version-admin")["request"]["headers"]["Authorization"]}
        world.call(world.admin_port, "POST", creation("gone.cozy.test"), headers, timeout=0.01)
    end = time.monotonic() + 20
    while b'"rev":"2-' not in world.admin("GET", "/instances/gone.cozy.test").body:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_half_made_instances(world: World) -> None:
    """Deletion, and what a stack leaves that is killed while it makes an instance."""
    world.start()
    before: dict[str, Hook] = {"abort4-get": late_kill, "client-gone-create-again-1s": client_gone}
    for number in range(4):
        domain = f"abort{number}.cozy.test"
        before[f"abort{number}-get"] = killed_creation(domain, "databases")
        before[f"abort{number}-create-after-clean"] = clean_databases(domain)
    before["halfway-get"] = killed_creation("halfway.cozy.test", "document")
    before["get-after-concurrent"] = two_creations_at_once
    replay(world, "half-made instances", before)


def two_creations_at_once(world: World) -> None:
    """One creation wins, the other gets 412: the recorded pair, in any order."""
    path = load(CONCURRENT[0])["request"]["path"]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: world.admin("POST", path), range(2)))
    run = Replay(world)
    for case, answer in zip(CONCURRENT, sorted(answers, key=lambda one: -one.status), strict=True):
        assert run.compare(load(case)["response"], answer) == []


def release(version: str, **more: Any) -> dict[str, Any]:
    return {"name": "Home", "editor": "Test", "version": version, "permissions": {}} | more


def test_registry(tmp_path: Path) -> None:
    """Apps of a registry that changes: upgrade, downgrade, new permissions, damaged and slow packages."""
    files = {"files": {"type": "io.cozy.files"}}

    def offers(slug: str, version: str, **more: Any) -> Hook:
        return lambda world: world.set_registry({slug: {"stable": release(version, **more)}})

    def slow(world: World) -> None:
        world.set_registry({"home": {"stable": release("1.3.0"), "dev": release("1.4.0", delay=7)}})

    def beta(world: World) -> None:
        same = release("2.2.0", permissions=files)
        world.set_registry({"zed": {"stable": same, "beta": same}})

    before: dict[str, Hook] = {
        "create-201-apps-registry": offers("home", "1.0.0"),
        "reg-apps-put-upgrade": offers("home", "1.1.0"),
        "reg-apps-put-newperm-unacked": offers("home", "1.2.0", permissions=files),
        "reg-apps-put-downgrade": offers("home", "1.0.0"),
        "reg-apps-put-badsha": offers("home", "1.3.0", damaged=True),
        "reg-apps-install-default-source-sse": offers("home", "1.3.0"),
        "reg-apps-install-slow-registry": slow,
        "reg2-install-zed": offers("zed", "2.0.0"),
        "reg2-put-same": times(1, "PUT", "/apps/zed", "reg.cozy.test", "io.cozy.apps"),
        "reg2-get-newversion": offers("zed", "2.1.0"),
        "reg2-get-newperm": offers("zed", "2.2.0", permissions=files),
        "reg2-put-other-source": beta,
    }
    with World(tmp_path / "world", registry=OFFICIAL) as world:
        world.start()
        replay(world, "registry", before)


def test_couchdb_333(world: World) -> None:
    """The core cases as recorded on CouchDB 3.3.3, then odd bodies, a port in the domain, blocked instances."""
    make_sources(world)
    world.start()
    replay(world, "CouchDB 3.3.3", {"c333-abort-create": killed_creation("ab.cozy.test", "databases")})
    assert COUCH_PASSWORD not in world.log()


def test_flat_subdomains(tmp_path: Path) -> None:
    with World(tmp_path / "world", subdomains="flat") as world:
        make_sources(world)
        world.start()
        assert world.admin("POST", "/instances?Domain=cli.cozy.test&Locale=fr").status == 201
        assert world.admin("POST", "/instances?Domain=a-b.cozy.test").status == 422
        source = f"file://{world.root}/apps/probe"
        headers = {"Host": "cli.cozy.test", "Authorization": f"Bearer {world.token('cli.cozy.test', 'io.cozy.apps')}"}
        assert world.call(world.public_port, "POST", f"/apps/probe?Source={source}", headers).status == 202
        replay(world, "flat")


def test_read_only_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creation and deletion on a volume that has become read-only: here the file system's answers are played too."""
    world.start_couch()
    monkeypatch.chdir(world.etc)
    monkeypatch.setattr(os, "environ", os.environ | world.environment())
    config = load_config(world.etc / "cozy.yaml", world.environment(), {})
    stack = Stack(config, Couch(config.couch_url))
    for database in GLOBAL:
        stack.couch.ensure(database)
    make_assets(config)
    servers = [Server(("127.0.0.1", 0), handler) for handler in (Public(stack).handle, Admin(stack, {}).handle)]
    world.public_port, world.admin_port = (server.server_port for server in servers)
    refusal = pytest.MonkeyPatch()

    def mkdir(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    refusal.setattr(Path, "mkdir", mkdir)
    refusal.setattr(Stack, "writable", lambda _: False)
    for server in servers:
        server.start()
    try:
        replay(world, "read-only volume", {"ro-fs-later-get": lambda _: refusal.undo()})
    finally:
        refusal.undo()
        for server in servers:
            server.drain(5)
