# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of CouchDB: one connection a call, errors with the names the stack shows."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

INSTANCES = "global/instances"


class CouchError(Exception):
    """An error of CouchDB, or no answer at all (status 503, name no_couch)."""

    def __init__(self, status: int, name: str, reason: str, cause: str = "") -> None:
        super().__init__(f"CouchDB({name}): {reason}" + (f" - {cause}" if cause else ""))
        self.status, self.name, self.reason, self.cause = status, name, reason, cause

    @property
    def unreachable(self) -> bool:
        return self.name == "no_couch"


class Couch:
    """A CouchDB server. All methods raise CouchError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "localhost", parts.port or 5984
        self.prefix = parts.path.rstrip("/")
        self.base = f"{parts.scheme}://{self.host}:{self.port}{self.prefix}"
        self.headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def call(self, method: str, path: str, body: Any = None, timeout: float = 10.0, shown: str = "") -> tuple[int, Any]:
        """One request: status and decoded body. Raises CouchError no_couch when nothing answers.

        ``shown`` is the path that the error's text names instead of the one this double really asks.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, self.prefix + path, data, self.headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            cause = f'{method.capitalize()} "{self.base}{shown or path}": {self._cause(error)}'
            raise CouchError(503, "no_couch", "could not create connection with the server", cause) from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, {}

    def _cause(self, error: Exception) -> str:
        if isinstance(error, socket.gaierror):
            return f"dial tcp: lookup {self.host}: no such host"
        if isinstance(error, TimeoutError):
            return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        if isinstance(error, ConnectionRefusedError):
            return f"dial tcp {socket.gethostbyname(self.host)}:{self.port}: connect: connection refused"
        return str(error) or type(error).__name__

    def ask(self, method: str, path: str, body: Any = None, shown: str = "") -> Any:
        """A request that must succeed. Raises CouchError with CouchDB's own status, name and reason."""
        status, answer = self.call(method, path, body, shown=shown)
        if status >= 400:
            raise CouchError(status, str(answer.get("error", "")), str(answer.get("reason", "")))
        return answer

    def up(self) -> str:
        """The empty text when CouchDB answers _up, else what is wrong."""
        try:
            status, _ = self.call("GET", "/_up", timeout=5.0)
        except CouchError as error:
            return error.cause.replace(" (Client.Timeout exceeded while awaiting headers)", "")
        return "" if 200 <= status < 300 else f"Invalid responde code: {status}"

    def ensure(self, database: str) -> None:
        try:
            self.ask("GET", f"/{quote(database, safe='')}")
        except CouchError as error:
            if error.status != 404:
                raise
            self._create_missing(database)

    def _create_missing(self, database: str) -> None:
        try:
            self.create(database)
        except CouchError as error:
            # somebody else was quicker
            if error.status != 412:
                raise

    def create(self, database: str) -> None:
        self.ask("PUT", f"/{quote(database, safe='')}")

    def drop(self, database: str) -> None:
        self.ask("DELETE", f"/{quote(database, safe='')}")

    def databases(self, prefix: str) -> list[str]:
        window = urlencode({"start_key": json.dumps(prefix + "/"), "end_key": json.dumps(prefix + "0")})
        return [str(name) for name in self.ask("GET", f"/_all_dbs?{window}")]

    def docs(self, database: str, shown: str = "") -> list[dict[str, Any]]:
        """All documents, sorted by id; none when there is no such database."""
        try:
            answer = self.ask("GET", f"/{quote(database, safe='')}/_all_docs?include_docs=true", shown=shown)
        except CouchError as error:
            if error.status == 404:
                return []
            raise
        return [row["doc"] for row in answer["rows"]]

    def get(self, database: str, doc_id: str) -> dict[str, Any] | None:
        """One document, None when it (or its database) is not there."""
        try:
            found: dict[str, Any] = self.ask("GET", f"/{quote(database, safe='')}/{quote(doc_id, safe='')}")
        except CouchError as error:
            if error.status == 404:
                return None
            raise
        return found

    def put(self, database: str, doc: dict[str, Any]) -> str:
        """Store a document, with an id of the server when it has none; returns and sets the new revision."""
        path = f"/{quote(database, safe='')}/"
        if "_id" in doc:
            answer = self.ask("PUT", path + quote(str(doc["_id"]), safe=""), doc)
        else:
            answer = self.ask("POST", path, doc)
        doc["_id"], doc["_rev"] = answer["id"], answer["rev"]
        return str(answer["rev"])

    def delete(self, database: str, doc: dict[str, Any]) -> str:
        """Delete a document; returns the revision of the deletion."""
        path = f"/{quote(database, safe='')}/{quote(str(doc['_id']), safe='')}?rev={doc['_rev']}"
        return str(self.ask("DELETE", path)["rev"])
