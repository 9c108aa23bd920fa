# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CouchDB double: refusals in the words of 3.3.3, documents that outlive a power cut, administrators."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.doubles.couchdb import Database, Settings, StartError, Store
from tests.unit.doubles.world import COUCH_PASSWORD, Answer, World, basic


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world") as world:
        world.start_couch()
        yield world


def told(answer: Answer) -> tuple[int, Any]:
    return answer.status, json.loads(answer.body)


def test_who_may(world: World) -> None:
    def ask(method: str, path: str, user: str = "", password: str = "") -> tuple[int, Any]:
        headers = {"Host": "couch"} | ({"Authorization": basic(user, password)} if user else {})
        return told(world.call(world.couch_port, method, path, headers))

    wrong = (401, {"error": "unauthorized", "reason": "Name or password is incorrect."})
    assert ask("GET", "/_up") == (200, {"status": "ok", "seeds": {}})
    assert ask("GET", "/_up", "cozy", "bad") == wrong
    assert ask("GET", "/", "nobody", COUCH_PASSWORD) == wrong
    assert ask("GET", "/")[1]["version"] == "3.3.3"
    not_admin = (401, {"error": "unauthorized", "reason": "You are not a server admin."})
    assert ask("GET", "/_all_dbs") == not_admin
    assert ask("PUT", "/db") == not_admin
    assert ask("DELETE", "/_users") == not_admin
    refused = (401, {"error": "unauthorized", "reason": "You are not authorized to access this db."})
    assert ask("GET", "/_users") == refused
    assert ask("GET", "/nothere") == refused
    assert ask("GET", "/_all_dbs", "cozy", COUCH_PASSWORD) == (200, ["_replicator", "_users"])


def test_databases(world: World) -> None:
    for name in ("cozya%2Fio-cozy-files", "cozya%2Fio-cozy-apps", "cozyb%2Fio-cozy-files"):
        assert told(world.couchdb("PUT", f"/{name}")) == (201, {"ok": True})
    reason = "The database could not be created, the file already exists."
    assert told(world.couchdb("PUT", "/cozya%2Fio-cozy-apps")) == (412, {"error": "file_exists", "reason": reason})
    assert told(world.couchdb("PUT", "/Upper"))[1]["error"] == "illegal_database_name"
    window = "/_all_dbs?start_key=%22cozya/%22&end_key=%22cozya0%22"
    assert told(world.couchdb("GET", window)) == (200, ["cozya/io-cozy-apps", "cozya/io-cozy-files"])
    info = told(world.couchdb("GET", "/cozya%2Fio-cozy-apps"))[1]
    assert info["db_name"] == "cozya/io-cozy-apps"
    assert isinstance(info["update_seq"], str)
    assert told(world.couchdb("DELETE", "/cozyb%2Fio-cozy-files")) == (200, {"ok": True})
    gone = (404, {"error": "not_found", "reason": "Database does not exist."})
    assert told(world.couchdb("GET", "/cozyb%2Fio-cozy-files")) == gone
    assert told(world.couchdb("DELETE", "/cozyb%2Fio-cozy-files")) == gone


def test_documents(world: World) -> None:
    world.couchdb("PUT", "/db")
    first = told(world.couchdb("PUT", "/db/a", b'{"x":1}'))[1]["rev"]
    conflict = (409, {"error": "conflict", "reason": "Document update conflict."})
    assert told(world.couchdb("PUT", "/db/a", b'{"x":2}')) == conflict
    assert told(world.couchdb("DELETE", "/db/a")) == conflict
    second = told(world.couchdb("PUT", "/db/a", json.dumps({"x": 2, "_rev": first}).encode()))[1]["rev"]
    assert re.fullmatch(r"2-[0-9a-f]{32}", second)
    assert told(world.couchdb("GET", "/db/a")) == (200, {"_id": "a", "_rev": second, "x": 2})
    assert told(world.couchdb("GET", "/db/b")) == (404, {"error": "not_found", "reason": "missing"})
    assert told(world.couchdb("DELETE", f"/db/a?rev={second}"))[1]["rev"].startswith("3-")
    assert told(world.couchdb("GET", "/db/a")) == (404, {"error": "not_found", "reason": "deleted"})
    assert told(world.couchdb("PUT", "/db/a", b"{}"))[1]["rev"].startswith("4-")
    ids = [told(world.couchdb("POST", "/db/", b'{"n":1}'))[1]["id"] for _ in range(3)]
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)
    rows = told(world.couchdb("GET", "/db/_all_docs?include_docs=true&limit=2"))[1]
    assert (rows["total_rows"], [row["id"] for row in rows["rows"]]) == (4, sorted([*ids, "a"])[:2])
    keys = told(world.couchdb("POST", "/db/_all_docs", b'{"keys":["a","zz"]}'))[1]["rows"]
    assert keys[1] == {"key": "zz", "error": "not_found"}
    bulk = told(world.couchdb("POST", "/db/_bulk_docs", b'{"docs":[{"_id":"a"},{"_id":"c"}]}'))[1]
    assert [row.get("error") for row in bulk] == ["conflict", None]


def test_what_is_not_played(world: World) -> None:
    world.couchdb("PUT", "/db")
    for method, path in (("POST", "/db/_find"), ("GET", "/_session"), ("GET", "/db/_changes"), ("GET", "/_node/a")):
        status, answer = told(world.couchdb(method, path, b"{}"))
        assert (status, answer["error"]) == (501, "not_implemented")
        assert f"501 {method} {path}" in world.log("couch")


def test_power_cut(world: World) -> None:
    """Killed at any moment, everything answered is still there, and a half-written line is dropped."""
    world.couchdb("PUT", "/db")
    revs = {name: told(world.couchdb("PUT", f"/db/{name}", b"{}"))[1]["rev"] for name in "abcdef"}
    assert world.stop_couch(signal.SIGKILL) == -9
    file = world.couch_root / "data" / "db.couch"
    with file.open("ab") as handle:
        handle.write(b'{"_id":"half","_rev":"1-0')
    world.start_couch()
    rows = told(world.couchdb("GET", "/db/_all_docs"))[1]["rows"]
    assert {row["id"]: row["value"]["rev"] for row in rows} == revs
    assert "unfinished write dropped" in world.log("couch")
    assert told(world.couchdb("PUT", "/db/half", b"{}"))[0] == 201


def test_every_write_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").resolve().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    database = Database("db", tmp_path / "db.couch")
    assert synced == ["db.couch.new", tmp_path.name]
    database.put("a", {}, None)
    assert synced[2:] == ["db.couch"]


def ini(folder: Path, name: str, text: str) -> Path:
    path = folder / "local.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_clear_passwords_are_hashed_into_the_last_file(tmp_path: Path) -> None:
    first = ini(tmp_path, "10-mine.ini", "[admins]\ncozy = secret-1\n")
    last = ini(tmp_path, "docker.ini", "[log]\nlevel = info\n")
    admins = Settings(tmp_path).hash_admins()
    assert re.fullmatch(r"-pbkdf2-[0-9a-f]{40},[0-9a-f]{32},10", admins["cozy"])
    assert first.read_text() == "[admins]\ncozy = secret-1\n"
    assert last.read_text() == f"[log]\nlevel = info\n\n[admins]\ncozy = {admins['cozy']}\n"
    assert Settings(tmp_path).hash_admins() == admins


def test_no_admin_no_start(tmp_path: Path) -> None:
    ini(tmp_path / "etc", "a.ini", "[admins]\n; cozy = x\n")
    command = [sys.executable, "-m", "lab.doubles.couchdb", "--root", str(tmp_path)]
    for arguments, words in (([], "No Admin Account Found"), (["--entrypoint", "/bin/true"], "Admin Party")):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert words in done.stderr


def test_data_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"data folder .* is not writable by uid \d+"):
        Store(tmp_path / "file" / "data")
