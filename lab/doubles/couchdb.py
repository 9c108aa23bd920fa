#!/usr/bin/env python3
# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A double of CouchDB 3.3.3 on one node: what cozy-stack's double and the roles touch, and a clear 501 for the rest.

Every write is on disk before it is answered: a database is one append-only file of JSON lines.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from .web import Json, Request, Response, Server, go_json, log

VERSION = "3.3.3"
NAME = re.compile(r"^[a-z][a-z0-9_$()+/-]*$")
SYSTEM = ("_users", "_replicator", "_global_changes")
HASHED = re.compile(r"^-pbkdf2-([0-9a-f]+),([0-9a-f]+),(\d+)$")
NO_ADMIN = (
    'ERROR: CouchDB 3.0+ will no longer run in "Admin Party" mode. You *MUST* specify an admin user and password, '
    "either via your own .ini file mapped into the container at /opt/couchdb/etc/local.ini or inside "
    '/opt/couchdb/etc/local.d, or with "-e COUCHDB_USER=admin -e COUCHDB_PASSWORD=password" to set it via '
    '"docker run".'
)


class CouchError(Exception):
    """An answer that is an error: status, error name and reason as CouchDB gives them."""

    def __init__(self, status: int, error: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.error, self.reason = status, error, reason


class StartError(Exception):
    """A reason not to start."""


# ---------------------------------------------------------------------------------------------------------- storage


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file so that after a power cut either the old or the new one is there."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def next_revision(generation: int, doc: Json) -> str:
    digest = hashlib.md5(json.dumps(doc, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return f"{generation}-{digest}"


class Database:
    """One database: all documents in memory, each change appended to its file and synced."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.lock = threading.Lock()
        self.docs: dict[str, dict[str, Any]] = {}
        self.sequence = 0
        self.created = str(int(time.time()))
        if path.exists():
            self._load()
        else:
            write_atomic(path, go_json({"db": name, "created": self.created}))

    def _load(self) -> None:
        raw = self.path.read_bytes()
        good = raw.rfind(b"\n") + 1
        lines = raw[:good].splitlines()
        if not lines:
            raise StartError(f"{self.path} is empty")
        header = json.loads(lines[0])
        self.created = header["created"]
        for line in lines[1:]:
            doc = json.loads(line)
            self.docs[doc["_id"]] = doc
            self.sequence += 1
        if good != len(raw):
            # the last line was cut by a power cut, before it was answered
            log(f"[warning] {self.path}: {len(raw) - good} bytes of an unfinished write dropped")
            with self.path.open("r+b") as file:
                file.truncate(good)
                os.fsync(file.fileno())

    def _append(self, doc: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(go_json(doc))
            file.flush()
            os.fsync(file.fileno())
        self.docs[doc["_id"]] = doc
        self.sequence += 1

    def put(self, doc_id: str, body: dict[str, Any], rev: str | None) -> str:
        """Store a document (a deletion is one with ``_deleted``). Raises CouchError 409 when ``rev`` is not current."""
        with self.lock:
            old = self.docs.get(doc_id)
            alive = old is not None and not old.get("_deleted")
            if (old["_rev"] if old and alive else None) != rev and not (old and not alive and rev == old["_rev"]):
                raise CouchError(409, "conflict", "Document update conflict.")
            if body.get("_deleted") and not alive:
                raise CouchError(404, "not_found", "deleted" if old else "missing")
            fields = {key: value for key, value in body.items() if key not in ("_id", "_rev")}
            generation = int(old["_rev"].split("-")[0]) + 1 if old else 1
            new_rev = next_revision(generation, [fields, old["_rev"] if old else None])
            self._append({"_id": doc_id, "_rev": new_rev, **fields})
            return new_rev

    def get(self, doc_id: str) -> dict[str, Any]:
        with self.lock:
            doc = self.docs.get(doc_id)
        if doc is None or doc.get("_deleted"):
            raise CouchError(404, "not_found", "missing" if doc is None else "deleted")
        return doc

    def alive(self) -> list[dict[str, Any]]:
        with self.lock:
            return [self.docs[key] for key in sorted(self.docs) if not self.docs[key].get("_deleted")]

    def info(self, cluster: dict[str, int]) -> Json:
        alive = len(self.alive())
        size = self.path.stat().st_size
        return {
            "instance_start_time": self.created,
            "db_name": self.name,
            "purge_seq": "0-g1AAAABPeJzLYWBgYMpgTmHgz8tPSTV0MDQy1zMAQsMckEQiQ1L9",
            "update_seq": f"{self.sequence}-g1AAAACbeJzLYWBgYMpgTmHgz8tPSTV0MDQy1zMAQsMckEQiQ1L9",
            "sizes": {"file": size, "external": size, "active": size},
            "props": {},
            "doc_del_count": len(self.docs) - alive,
            "doc_count": alive,
            "disk_format_version": 8,
            "compact_running": False,
            "cluster": cluster,
        }


class Store:
    """The data folder. Raises StartError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.databases: dict[str, Database] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / ".writable", b"")
            for leftover in folder.glob("*.couch.new"):
                leftover.unlink()
            for path in sorted(folder.glob("*.couch")):
                name = unquote(path.name.removesuffix(".couch"))
                self.databases[name] = Database(name, path)
        except OSError as error:
            raise StartError(f"data folder {folder} is not writable by uid {os.getuid()}: {error}") from error
        uuid_file = folder / ".uuid"
        if not uuid_file.exists():
            write_atomic(uuid_file, secrets.token_hex(16).encode())
        self.uuid = uuid_file.read_text()
        self._uuid_prefix, self._uuid_counter = "", 0xFFFFFF

    def new_id(self) -> str:
        """Ids as the algorithm ``sequential`` makes them: they sort by age."""
        with self.lock:
            self._uuid_counter += 1 + secrets.randbelow(0xFFE)
            if self._uuid_counter > 0xFFF000:
                self._uuid_prefix, self._uuid_counter = secrets.token_hex(13), 1 + secrets.randbelow(0xFFE)
            return f"{self._uuid_prefix}{self._uuid_counter:06x}"

    def names(self) -> list[str]:
        with self.lock:
            return sorted(self.databases)

    def get(self, name: str) -> Database:
        with self.lock:
            found = self.databases.get(name)
        if found is None:
            raise CouchError(404, "not_found", "Database does not exist.")
        return found

    def create(self, name: str) -> None:
        if not NAME.match(name) and name not in SYSTEM:
            raise CouchError(
                400,
                "illegal_database_name",
                f"Name: '{name}'. Only lowercase characters (a-z), digits (0-9), and any of the characters _, $, (, ), "
                "+, -, and / are allowed. Must begin with a letter.",
            )
        with self.lock:
            if name in self.databases:
                raise CouchError(412, "file_exists", "The database could not be created, the file already exists.")
            self.databases[name] = Database(name, self.folder / (quote(name, safe="") + ".couch"))

    def delete(self, name: str) -> None:
        with self.lock:
            database = self.databases.pop(name, None)
            if database is None:
                raise CouchError(404, "not_found", "Database does not exist.")
            with database.lock:
                database.path.unlink()
                sync_folder(self.folder)


# ---------------------------------------------------------------------------------------------------------- settings


def pbkdf2(password: str, salt: str, rounds: int) -> str:
    return hashlib.pbkdf2_hmac("sha1", password.encode(), salt.encode(), rounds, 20).hex()


class Settings:
    """The ini chain: default.ini, default.d, local.ini, local.d; a later file wins, the last one is written to."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "default.ini", *sorted((folder / "default.d").glob("*.ini")), folder / "local.ini"]
        self.files += sorted((folder / "local.d").glob("*.ini"))
        self.parser = configparser.ConfigParser(
            strict=False, interpolation=None, delimiters=("=",), comment_prefixes=(";",), allow_no_value=True
        )
        self.parser.optionxform = str  # type: ignore[assignment,method-assign]
        for path in self.files:
            try:
                if path.exists():
                    self.parser.read_string(path.read_text(), str(path))
            except (OSError, configparser.Error) as error:
                raise StartError(f"{path}: {error}") from error

    def get(self, section: str, key: str, default: str) -> str:
        return (self.parser.get(section, key, fallback=default) or default).strip()

    def admins(self) -> dict[str, str]:
        if not self.parser.has_section("admins"):
            return {}
        return {key: value.strip() for key, value in self.parser.items("admins") if value and value.strip()}

    def hash_admins(self) -> dict[str, str]:
        """Replace clear passwords by hashes, in the last ini file, as the server does at start."""
        admins = self.admins()
        for name, value in admins.items():
            if HASHED.match(value):
                continue
            if value.startswith("-pbkdf2:"):
                raise StartError(f"[admins] {name}: hash scheme {value.split('-')[1]!r} is of CouchDB 3.4 or later")
            salt = secrets.token_hex(16)
            admins[name] = f"-pbkdf2-{pbkdf2(value, salt, 10)},{salt},10"
            self._write(name, admins[name])
        return admins

    def _write(self, name: str, value: str) -> None:
        path = [path for path in self.files if path.exists()][-1]
        lines = path.read_text().splitlines()
        entry = f"{name} = {value}"
        section, place = "", None
        for index, line in enumerate(lines):
            if line.strip().startswith("["):
                section = line.strip()
                place = index + 1 if section == "[admins]" and place is None else place
            elif section == "[admins]" and line.partition("=")[0].strip() == name:
                lines[index] = entry
                break
        else:
            if place is None:
                lines += ["", "[admins]", entry]
            else:
                lines.insert(place, entry)
        try:
            write_atomic(path, ("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise StartError(f"cannot write the hash of admin {name!r} to {path}: {error}") from error


# ------------------------------------------------------------------------------------------------------------ server


def key_range(rows: list[str], request: Request) -> list[str]:
    """Apply start_key, end_key, key, descending, skip and limit to sorted names. Raises CouchError on bad JSON."""

    def value(*names: str) -> str | None:
        for name in names:
            if request.has(name):
                try:
                    return str(json.loads(request.first(name)))
                except ValueError as error:
                    raise CouchError(400, "bad_request", "invalid UTF-8 JSON") from error
        return None

    start, end, key = value("start_key", "startkey"), value("end_key", "endkey"), value("key")
    if request.first("descending") == "true":
        rows, start, end = rows[::-1], end, start
    if key is not None:
        start = end = key
    rows = [row for row in rows if (start is None or row >= start) and (end is None or row <= end)]
    if request.first("inclusive_end") == "false" and end in rows:
        rows.remove(end)
    rows = rows[int(request.first("skip", "0")) :]
    return rows[: int(request.first("limit"))] if request.has("limit") else rows


class CouchDB:
    """The routes."""

    def __init__(self, store: Store, admins: dict[str, str], shards: int) -> None:
        self.store, self.admins = store, admins
        self.cluster = {"q": shards, "n": 1, "w": 1, "r": 1}

    def handle(self, request: Request) -> Response:
        try:
            return self._route(request)
        except CouchError as error:
            return self._json(error.status, {"error": error.error, "reason": error.reason})

    def _json(self, status: int, value: Json, headers: Iterable[tuple[str, str]] = ()) -> Response:
        extra = [("Cache-Control", "must-revalidate"), ("X-Couch-Request-ID", secrets.token_hex(5)), *headers]
        return Response(status, go_json(value), "application/json", extra)

    def _not_played(self, request: Request) -> Response:
        log(f"[error] 501 {request.method} {request.path}: not played by this double")
        return self._json(501, {"error": "not_implemented", "reason": f"the double does not play {request.path}"})

    def _user(self, request: Request) -> bool:
        """True for an admin, False for nobody. Raises CouchError 401 for a wrong name or password."""
        scheme, _, given = request.header("Authorization").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError as error:
            raise CouchError(400, "bad_request", "Authorization header has invalid base64 value") from error
        found = HASHED.match(self.admins.get(name, ""))
        if found is None or not hmac.compare_digest(pbkdf2(password, found[2], int(found[3])), found[1]):
            raise CouchError(401, "unauthorized", "Name or password is incorrect.")
        return True

    def _route(self, request: Request) -> Response:
        admin = self._user(request)
        parts = request.parts
        if parts == [""]:
            return self._json(200, self._welcome())
        if parts == ["_up"]:
            return self._json(200, {"status": "ok", "seeds": {}})
        if parts == ["_all_dbs"]:
            self._need(admin, "You are not a server admin.")
            return self._json(200, key_range(self.store.names(), request))
        if parts == ["_uuids"]:
            return self._json(200, {"uuids": [self.store.new_id() for _ in range(int(request.first("count", "1")))]})
        if parts[0].startswith("_") and parts[0] not in SYSTEM:
            return self._not_played(request)
        if len(parts) == 1 or parts[1:] == [""]:
            return self._database(request, parts[0], admin)
        self._need(admin, "You are not authorized to access this db.")
        database = self.store.get(parts[0])
        if parts[1] == "_all_docs" and len(parts) == 2 and request.method in ("GET", "POST"):
            return self._json(200, self._all_docs(database, request))
        if parts[1] == "_bulk_docs" and len(parts) == 2 and request.method == "POST":
            return self._json(201, self._bulk(database, self._body(request)))
        if len(parts) == 2 and not parts[1].startswith("_"):
            return self._document(request, database, parts[1])
        return self._not_played(request)

    def _need(self, admin: bool, reason: str) -> None:
        if not admin:
            raise CouchError(401, "unauthorized", reason)

    def _welcome(self) -> Json:
        return {
            "couchdb": "Welcome",
            "version": VERSION,
            "git_sha": "40afbcfc7",
            "uuid": self.store.uuid,
            "features": ["access-ready", "partitioned", "pluggable-storage-engines", "reshard", "scheduler"],
            "vendor": {"name": "The Apache Software Foundation"},
        }

    def _body(self, request: Request) -> dict[str, Any]:
        try:
            value = request.json()
        except ValueError as error:
            raise CouchError(400, "bad_request", "invalid UTF-8 JSON") from error
        if not isinstance(value, dict):
            raise CouchError(400, "bad_request", "Request body must be a JSON object")
        return value

    def _database(self, request: Request, name: str, admin: bool) -> Response:
        if request.method in ("PUT", "DELETE"):
            self._need(admin, "You are not a server admin.")
            if request.method == "PUT":
                self.store.create(name)
                return self._json(201, {"ok": True}, [("Location", f"http://{request.host}/{quote(name, safe='')}")])
            self.store.delete(name)
            return self._json(200, {"ok": True})
        self._need(admin, "You are not authorized to access this db.")
        database = self.store.get(name)
        if request.method == "POST":
            body = self._body(request)
            doc_id = str(body.get("_id") or self.store.new_id())
            rev = database.put(doc_id, body, body.get("_rev"))
            return self._json(201, {"ok": True, "id": doc_id, "rev": rev})
        if request.method in ("GET", "HEAD"):
            return self._json(200, database.info(self.cluster))
        raise CouchError(405, "method_not_allowed", "Only DELETE,GET,HEAD,POST allowed")

    def _document(self, request: Request, database: Database, doc_id: str) -> Response:
        rev = request.first("rev") or request.header("If-Match").strip('"') or None
        if request.method in ("GET", "HEAD"):
            doc = database.get(doc_id)
            return self._json(200, doc, [("ETag", f'"{doc["_rev"]}"')])
        if request.method == "PUT":
            body = self._body(request)
            new_rev = database.put(doc_id, body, body.get("_rev") or rev)
            return self._json(201, {"ok": True, "id": doc_id, "rev": new_rev}, [("ETag", f'"{new_rev}"')])
        if request.method == "DELETE":
            new_rev = database.put(doc_id, {"_deleted": True}, rev)
            return self._json(200, {"ok": True, "id": doc_id, "rev": new_rev}, [("ETag", f'"{new_rev}"')])
        return self._not_played(request)

    def _all_docs(self, database: Database, request: Request) -> Json:
        docs = {doc["_id"]: doc for doc in database.alive()}
        wanted: list[str] | None = self._body(request).get("keys") if request.method == "POST" else None
        with_docs = request.first("include_docs") == "true"
        rows: list[Json] = []
        for key in key_range(sorted(docs), request) if wanted is None else wanted:
            doc = docs.get(key)
            if doc is None:
                rows.append({"key": key, "error": "not_found"})
                continue
            rows.append({"id": key, "key": key, "value": {"rev": doc["_rev"]}} | ({"doc": doc} if with_docs else {}))
        return {"total_rows": len(docs), "offset": 0 if wanted is None else None, "rows": rows}

    def _bulk(self, database: Database, body: dict[str, Any]) -> Json:
        if body.get("new_edits", True) is not True:
            raise CouchError(501, "not_implemented", "the double does not play new_edits=false")
        results: list[Json] = []
        for doc in body.get("docs", []):
            doc_id = str(doc.get("_id") or self.store.new_id())
            try:
                results.append({"ok": True, "id": doc_id, "rev": database.put(doc_id, doc, doc.get("_rev"))})
            except CouchError as error:
                results.append({"id": doc_id, "error": error.error, "reason": error.reason})
        return results


# ------------------------------------------------------------------------------------------------------- entry points


def file_env(environ: dict[str, str], name: str) -> str:
    """A variable or the content of the file named by ``<name>_FILE``. Raises StartError when both are given."""
    value, path = environ.get(name, ""), environ.get(f"{name}_FILE", "")
    if value and path:
        raise StartError(f"error: both {name} and {name}_FILE are set (but are exclusive)")
    if path:
        try:
            return Path(path).read_text().rstrip("\n")
        except OSError as error:
            raise StartError(f"{name}_FILE: {error}") from error
    return value


def entrypoint(root: Path, command: list[str]) -> None:
    """What /docker-entrypoint.sh of the official image does: admins from the environment, the check, drop root."""
    local = root / "etc" / "local.d"
    inis = [*(root / "etc" / "default.d").glob("*.ini"), *local.glob("*.ini"), root / "etc" / "local.ini"]
    environ = dict(os.environ)
    user, password = file_env(environ, "COUCHDB_USER"), file_env(environ, "COUCHDB_PASSWORD")
    texts = [path.read_text() for path in inis if path.exists()]
    docker = local / "docker.ini"
    if user and password and not any(re.search(rf"\[admins\]\n{re.escape(user)} =", text) for text in texts):
        try:
            with docker.open("a") as file:
                file.write(f"\n[admins]\n{user} = {password}\n")
        except OSError as error:
            raise StartError(f"{docker}: {error.strerror}") from error
        texts.append(docker.read_text())
    if not any(re.search(r"\[admins\]\n[^;]\w+", text) for text in texts):
        raise StartError(NO_ADMIN)
    if os.getuid() == 0:
        data = root / "data"
        data.mkdir(parents=True, exist_ok=True)
        for path in (data, *data.glob("*"), local, *local.glob("*.ini")):
            os.chown(path, 5984, 5984)
        os.setgroups([])
        os.setgid(5984)
        os.setuid(5984)
    os.execvp(command[0], command)


def serve(root: Path) -> None:
    """Start the server on the folder that holds ``etc`` and ``data``, and serve until a signal."""
    settings = Settings(root / "etc")
    if not settings.admins():
        raise StartError("No Admin Account Found, aborting startup. Please configure an admin account in local.ini.")
    admins = settings.hash_admins()
    store = Store(Path(settings.get("couchdb", "database_dir", str(root / "data"))))
    if settings.get("couchdb", "single_node", "false") == "true":
        for name in ("_users", "_replicator"):
            if name not in store.databases:
                store.create(name)
    host, port = settings.get("chttpd", "bind_address", "any"), int(settings.get("chttpd", "port", "5984"))
    address = "0.0.0.0" if host == "any" else host, port  # noqa: S104  # the image's own default
    try:
        couch = CouchDB(store, admins, int(settings.get("cluster", "q", "2")))
        server = Server(address, couch.handle, f"CouchDB/{VERSION} (Erlang OTP/24)")
    except OSError as error:
        raise StartError(f"cannot listen on {address[0]}:{address[1]}: {error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        # every answered write is already synced: nothing to wait for
        signal.signal(number, lambda *_: os._exit(0))
    log(
        f"[notice] CouchDB double {VERSION}: {len(store.databases)} databases, listening on {host}:{server.server_port}"
    )
    if "_users" not in store.databases:
        log("[warning] chttpd_auth_cache: _users database does not exist")
    server.serve_forever()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="couchdb", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/opt/couchdb"), help="folder with etc/ and data/")
    parser.add_argument("--entrypoint", action="store_true", help="play /docker-entrypoint.sh, then run the command")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    try:
        if options.entrypoint:
            entrypoint(options.root, options.command or [str(options.root / "bin" / "couchdb")])
        else:
            serve(options.root)
    except StartError as error:
        log(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
