# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A double of Cloudflare's API, version 4: tokens, zones and DNS records, published by whoever is given to it.

Source: https://developers.cloudflare.com/api/ (User API tokens, Zones, DNS records) for paths, fields and pages; the
error numbers and texts are those that clients of the real one report. What it does not play it refuses as an
unknown route or field.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import ipaddress
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .web import Json, Request, Response

ROOT = "/client/v4"
TYPES = ("A", "AAAA", "CAA", "CNAME", "TXT")
AUTOMATIC = 1
AUTOMATIC_SECONDS = 300
TTL = range(60, 86401)
WINDOW_SECONDS = 300.0
_LABEL = re.compile(r"(?:\*|[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{40}")


@dataclasses.dataclass(frozen=True)
class Token:
    """An API token.

    Attributes:
        zones: names of the zones it is for.
        permissions: `zone.read`, `dns.edit` (which includes reading).
        status: `active` or `disabled`.
        limit: requests that it may make in five minutes.
    """

    zones: tuple[str, ...]
    permissions: tuple[str, ...]
    status: str = "active"
    limit: int = 1200


@dataclasses.dataclass
class Record:
    """A DNS record: `name` is absolute without the last dot, `content` as the customer wrote it, `ttl` in seconds."""

    name: str
    type: str
    content: str
    ttl: int = AUTOMATIC
    proxied: bool = False
    comment: str | None = None
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    created: str = ""
    modified: str = ""

    @property
    def seconds(self) -> int:
        """The TTL with which it is published."""
        return AUTOMATIC_SECONDS if self.ttl == AUTOMATIC else self.ttl


Publish = Callable[[str, str, str, Sequence[Record]], None]
"""Called with a zone, a name, a type and all records of both: from now on these are the ones that DNS has."""


class CloudflareError(Exception):
    """An answer that is an error: status, number and text, and the number and text of its cause if it has one."""

    def __init__(self, status: int, code: int, message: str, cause: tuple[int, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, list[tuple[str, str]]()
        self.error: dict[str, Json] = {"code": code, "message": message}
        if cause:
            self.error["error_chain"] = [{"code": cause[0], "message": cause[1]}]


def _invalid(code: int, message: str) -> CloudflareError:
    return CloudflareError(400, 1004, "DNS Validation Error", (code, message))


def zone_id(zone: str) -> str:
    """The identifier of a zone, the same on every day."""
    return hashlib.sha256(zone.encode()).hexdigest()[:32]


class Cloudflare:
    """Answers requests.

    Args:
        tokens: what each token may do.
        zones: zone names with the records that DNS has already.
        publish: makes records known to DNS.
        clock: seconds, for the rate limit.
    """

    def __init__(
        self,
        tokens: Mapping[str, Token],
        zones: Mapping[str, Iterable[Record]],
        publish: Publish,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._zones = {zone: list(records) for zone, records in zones.items()}
        self._publish = publish
        self._clock = clock
        self._asked: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        """Answer a request; what is done to records is done one at a time."""
        try:
            with self._lock:
                result, info = self._answer(request)
        except CloudflareError as error:
            body: dict[str, Json] = {"success": False, "errors": [error.error], "messages": [], "result": None}
            return _response(error.status, body, error.headers)
        envelope = {"result": result, "success": True, "errors": [], "messages": []}
        return _response(200, {**envelope, **({"result_info": info} if info else {})})

    def _answer(self, request: Request) -> tuple[Json, Json]:
        if not request.path.startswith(f"{ROOT}/"):
            raise self._no_route(request.path)
        parts = request.path.removeprefix(f"{ROOT}/").split("/")
        token = self._token(request, verifying=parts == ["user", "tokens", "verify"])
        match request.method, *parts:
            case "GET", "user", "tokens", "verify":
                return {"id": hashlib.sha256(repr(token).encode()).hexdigest()[:32], "status": token.status}, None
            case "GET", "zones":
                return self._list_zones(token, request)
            case _, "zones", zone, "dns_records":
                return self._records(self._zone(token, zone), request)
            case _, "zones", zone, "dns_records", record:
                return self._record(self._zone(token, zone), record, request)
        raise self._no_route(request.path)

    @staticmethod
    def _no_route(path: str) -> CloudflareError:
        message = f"Could not route to {path.removeprefix(ROOT)}, perhaps your object identifier is invalid?"
        return CloudflareError(404, 7003, message, (7000, "No route for that URI"))

    def _token(self, request: Request, *, verifying: bool) -> Token:
        scheme, _, value = request.header("Authorization").partition(" ")
        if scheme != "Bearer" or not _TOKEN.fullmatch(value):
            wrong = (6111, "Invalid format for Authorization header")
            raise CloudflareError(400, 6003, "Invalid request headers", wrong)
        token = self._tokens.get(value)
        if token is None and verifying:
            raise CloudflareError(401, 1000, "Invalid API Token")
        if token is None or (token.status != "active" and not verifying):
            raise CloudflareError(403, 9109, "Invalid access token")
        now = self._clock()
        asked = [then for then in self._asked.get(value, []) if now - then < WINDOW_SECONDS]
        if len(asked) >= token.limit:
            error = CloudflareError(429, 971, "Please wait and consider throttling your request speed")
            error.headers.append(("Retry-After", str(int(asked[0] + WINDOW_SECONDS - now) + 1)))
            raise error
        self._asked[value] = [*asked, now]
        return token

    def _list_zones(self, token: Token, request: Request) -> tuple[Json, Json]:
        if "zone.read" not in token.permissions:
            actor = f"Actor 'com.cloudflare.api.token.{hashlib.sha256(repr(token).encode()).hexdigest()[:32]}'"
            need = "requires permission 'com.cloudflare.api.account.zone.list' to list zones"
            raise CloudflareError(403, 0, f"{actor} {need}")
        query = _query(request, ("name", "status", "page", "per_page"))
        names = [name for name in self._zones if name in token.zones and query.get("name", name) == name]
        if query.get("status", "active") != "active":
            names = []
        permissions = ["#zone:read", *(["#dns_records:edit"] if "dns.edit" in token.permissions else [])]
        zones = [
            {"id": zone_id(name), "name": name, "status": "active", "paused": False, "permissions": permissions}
            for name in names
        ]
        return _page(zones, query, default=20, most=50)

    def _zone(self, token: Token, wanted: str) -> str:
        found = next((zone for zone in token.zones if zone in self._zones and zone_id(zone) == wanted), None)
        if found is None or "dns.edit" not in token.permissions:
            raise CloudflareError(403, 10000, "Authentication error")
        return found

    def _records(self, zone: str, request: Request) -> tuple[Json, Json]:
        if request.method == "POST":
            record = self._made(zone, _body(request), Record("", "", "", created=_now()))
            self._accept(zone, record, None)
            return _shown(record), None
        if request.method != "GET":
            raise self._no_route(request.path)
        query = _query(request, ("type", "name", "content", "proxied", "page", "per_page"))
        found = [_shown(record) for record in self._zones[zone]]
        for key in ("type", "name", "content"):
            found = [record for record in found if query.get(key, record[key]) == record[key]]
        if "proxied" in query:
            found = [record for record in found if record["proxied"] == (query["proxied"] == "true")]
        return _page(found, query, default=100, most=5000)

    def _record(self, zone: str, wanted: str, request: Request) -> tuple[Json, Json]:
        old = next((record for record in self._zones[zone] if record.id == wanted), None)
        if old is None:
            raise CloudflareError(404, 81044, "Record does not exist.")
        if request.method == "DELETE":
            self._zones[zone].remove(old)
            self._tell(zone, old)
            return {"id": old.id}, None
        if request.method in ("PUT", "PATCH"):
            base = old if request.method == "PATCH" else Record("", "", "", id=old.id, created=old.created)
            record = self._made(zone, _body(request), base)
            self._accept(zone, record, old)
            return _shown(record), None
        if request.method != "GET":
            raise self._no_route(request.path)
        return _shown(old), None

    def _made(self, zone: str, body: dict[str, Json], base: Record) -> Record:
        """A record of what a body says and, where it says nothing, of another record."""
        known = {"type", "name", "content", "data", "ttl", "proxied", "comment"}
        if unknown := sorted(body.keys() - known):
            raise _invalid(9207, f"Request body is invalid: unknown field {', '.join(unknown)}.")
        record = dataclasses.replace(base, modified=_now())
        for key, kind in (("type", str), ("name", str), ("content", str), ("ttl", int), ("proxied", bool)):
            value = body.get(key, getattr(base, key))
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise _invalid(9207, f"Request body is invalid: {key} is no {kind.__name__}.")
            setattr(record, key, value)
        if body.get("comment", base.comment) is not None:
            record.comment = str(body.get("comment", base.comment))
        if record.type not in TYPES:
            raise _invalid(9004, f"DNS record type '{record.type}' is invalid.")
        if record.ttl != AUTOMATIC and record.ttl not in TTL:
            raise _invalid(9021, "TTL must be between 60 and 86400 seconds, or 1 for Automatic.")
        if record.proxied and record.type in ("CAA", "TXT"):
            raise _invalid(9004, "This record type cannot be proxied.")
        record.name = _absolute(record.name.lower().rstrip("."), zone)
        if record.type == "CAA":
            record.content = _caa(body.get("data"), record.content)
        _judge_content(record)
        return record

    def _accept(self, zone: str, record: Record, old: Record | None) -> None:
        """Put a record into the zone, in place of an older one if there is one, unless it cannot be there."""
        others = [other for other in self._zones[zone] if other is not old]
        for other in (other for other in others if other.name == record.name):
            if (other.type, other.content) == (record.type, record.content):
                raise CloudflareError(400, 81058, "An identical record already exists.")
            if record.type == "CNAME" and other.type in ("A", "AAAA", "CNAME"):
                raise CloudflareError(400, 81053, "An A, AAAA, or CNAME record with that host already exists.")
            if other.type == "CNAME" and record.type in ("A", "AAAA"):
                raise CloudflareError(400, 81054, "A CNAME record with that host already exists.")
        self._zones[zone] = [*others, record]
        if old is not None and (old.name, old.type) != (record.name, record.type):
            self._tell(zone, old)
        self._tell(zone, record)

    def _tell(self, zone: str, record: Record) -> None:
        same = [r for r in self._zones[zone] if (r.name, r.type) == (record.name, record.type)]
        self._publish(zone, record.name, record.type, same)


def _absolute(name: str, zone: str) -> str:
    if name in ("@", ""):
        return zone
    whole = name if name == zone or name.endswith(f".{zone}") else f"{name}.{zone}"
    if len(whole) > 253 or not all(_LABEL.fullmatch(label) for label in whole.split(".")):
        raise _invalid(9000, "DNS name is invalid.")
    return whole


def _caa(data: Json, content: str) -> str:
    if data is None and content:
        return content
    if not isinstance(data, dict) or data.keys() != {"flags", "tag", "value"}:
        raise _invalid(9101, "flags, tag and value are required data fields.")
    if data["flags"] not in range(256) or data["tag"] not in ("issue", "issuewild", "iodef"):
        raise _invalid(9102, "flags or tag is invalid.")
    return f'{data["flags"]} {data["tag"]} "{data["value"]}"'


def _judge_content(record: Record) -> None:
    judges: dict[str, Callable[[str], object]] = {"A": ipaddress.IPv4Address, "AAAA": ipaddress.IPv6Address}
    try:
        judges.get(record.type, str)(record.content)
    except ValueError:
        kind = "IPv4" if record.type == "A" else "IPv6"
        raise _invalid(9005, f"Content for {record.type} record must be a valid {kind} address.") from None
    if record.type == "CNAME":
        record.content = record.content.lower().rstrip(".")
        if not all(_LABEL.fullmatch(label) for label in record.content.split(".")):
            raise _invalid(9007, "Content for CNAME record is invalid.")
        if record.content == record.name:
            raise _invalid(9039, "CNAME content cannot reference itself.")
    if not record.content:
        raise _invalid(9019, "Content cannot be empty.")


def _query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The query's parameters, none of which may be unknown: a misspelt filter would otherwise find everything."""
    query = dict(request.query)
    if unknown := sorted(query.keys() - set(known)):
        raise CloudflareError(400, 1004, "Invalid query parameter", (1004, f"unknown: {', '.join(unknown)}"))
    return query


def _page(found: list[dict[str, Json]], query: Mapping[str, str], *, default: int, most: int) -> tuple[Json, Json]:
    try:
        page, size = int(query.get("page", "1")), int(query.get("per_page", str(default)))
    except ValueError:
        page = size = 0
    if page < 1 or not 1 <= size <= most:
        raise CloudflareError(400, 1004, "Invalid pagination parameters")
    shown = found[(page - 1) * size : page * size]
    pages = -(-len(found) // size)
    return shown, {
        "page": page,
        "per_page": size,
        "count": len(shown),
        "total_count": len(found),
        "total_pages": pages,
    }


def _body(request: Request) -> dict[str, Json]:
    try:
        body = request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CloudflareError(400, 9207, "Request body is invalid.")
    return body


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shown(record: Record) -> dict[str, Json]:
    return {
        "id": record.id,
        "name": record.name,
        "type": record.type,
        "content": record.content,
        "proxiable": record.type not in ("CAA", "TXT"),
        "proxied": record.proxied,
        "ttl": record.ttl,
        "settings": {},
        "meta": {},
        "comment": record.comment,
        "tags": [],
        "created_on": record.created,
        "modified_on": record.modified,
    }


def _response(status: int, body: Any, headers: Sequence[tuple[str, str]] = ()) -> Response:
    return Response(status, json.dumps(body).encode(), "application/json", list(headers))
