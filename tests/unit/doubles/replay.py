# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replay recorded exchanges in their order and tell every difference that is not chance.

Ids, tokens, cookies and paths of the recording are translated into those of the double, both ways.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.doubles.world import Answer, Place

FIXTURES = Path(__file__).parents[2] / "fixtures" / "contract"
HEADERS = [
    "Content-Type",
    "Location",
    "WWW-Authenticate",
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "Cache-Control",
    "Accept-Ranges",
    "Content-Range",
    "Content-Disposition",
    "Transfer-Encoding",
    "Sec-Websocket-Version",
]
HEX_ID = re.compile(r"\b[0-9a-f]{32}\b")
REVISION = re.compile(r"^(\d+)-[0-9a-f]{32}$")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ZERO_TIME = "0001-01-01T00:00:00Z"
TOKEN = re.compile(r"^[\w-]+\.[\w-]+\.[\w-]+$")
# recorded with another client, which left its token out
UNRECORDED_HEADERS = {"file-download-100MB": {"Authorization": "Bearer <cli token, scope io.cozy.files>"}}
# values that are chance by nature: only their type, and whether they are empty, must agree
CHANCE = [
    "session_secret",
    "oauth_secret",
    "cli_secret",
    "passphrase_hash",
    "register_token",
    "checksum",
    "couchdb_latency",
    "last-activity",
]

Recording = dict[str, Any]
Hook = Callable[[Any], object]


def load(case: str) -> Recording:
    found: Recording = json.loads((FIXTURES / f"{case}.json").read_text())
    return found


def order() -> list[str]:
    """The copied recordings in the order in which they were made."""
    lines = (FIXTURES / "INDEX.tsv").read_text().splitlines()
    return [line.split("\t")[0] for line in lines[1:]]


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@dataclass
class Replay:
    """One run over one world.

    ``before``: what happened between two recordings; ``patient``: may need a moment; ``leave``: headers and names of
    values that are not compared.
    """

    world: Place
    before: dict[str, Hook] = field(default_factory=dict)
    patient: Iterable[str] = ()
    leave: Iterable[str] = ()
    known: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    count: int = 0
    _tokens: dict[str, str] = field(default_factory=dict)

    def run(self, cases: Iterable[str]) -> None:
        for case in cases:
            if case in self.before:
                self.before[case](self.world)
            self.step(case)
            self.count += 1

    def step(self, case: str) -> None:
        recording = load(case)
        end = time.monotonic() + 5
        while True:
            answer = self._send(recording)
            found = self.compare(recording["response"], answer)
            if not found or case not in self.patient or time.monotonic() > end:
                break
            time.sleep(0.05)
        self._learn(recording["response"], answer)
        self.differences += [f"{case}: {text}" for text in found]

    # ------------------------------------------------------------------------------------------------ the request

    def _translate(self, text: str) -> str:
        for old, new in self.known.items():
            text = text.replace(old, new)
        return text.replace("%2Ftmp%2Freal%2Fapps", str(self.world.root / "apps").replace("/", "%2F"))

    def _send(self, recording: Recording) -> Answer:
        request = recording["request"]
        body = self._body(request)
        extra = UNRECORDED_HEADERS.get(recording["case"], {})
        headers = {name: self._header(name, value) for name, value in (request["headers"] | extra).items()}
        headers = {name: value for name, value in headers.items() if name != "Content-Length"}
        port = self.world.admin_port if str(request.get("port")).startswith("admin") else self.world.public_port
        return self.world.call(port, request["method"], self._translate(request["path"]), headers, body)

    def token(self, domain: str, scope: str) -> str:
        """A token of the double, taken once."""
        key = f"{domain} {scope}"
        if key not in self._tokens:
            self._tokens[key] = self.world.token(domain, scope)
        return self._tokens[key]

    def _header(self, name: str, value: str) -> str:
        if name == "Authorization" and value.startswith("Bearer ") and TOKEN.match(value[7:]):
            recorded = value[7:]
            try:
                claims = claims_of(recorded)
            except ValueError:
                return value
            return "Bearer " + self.token(self._translate(claims["iss"]), claims["scope"])
        if name == "Authorization" and "<cli token, scope " in value:
            scope = value.split("scope ")[1].rstrip(">")
            return "Bearer " + self.world.token(self._translate("alice.cozy.test"), scope)
        return self._translate(value)

    def _body(self, request: Recording) -> bytes | None:
        body = request.get("body")
        if body is None:
            return None
        if isinstance(body, str) and (sized := re.match(r"^<(\d+) bytes>$", body)):
            data = b"abc" if sized[1] == "3" else b"x" * int(sized[1])
            given = request["headers"].get("Content-MD5")
            if not given or given.startswith("AAAA"):
                return data
            # the recorded content is not kept: another of the same size, with its own checksum
            self.known[given] = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
            return data
        text = body if isinstance(body, str) else json.dumps(body)
        return self._translate(text).encode()

    # ------------------------------------------------------------------------------------------------- the answer

    def _learn(self, recorded: Recording, answer: Answer) -> None:
        for (old, _), (new, _) in zip(cookies(recorded["headers"]), cookies(answer.headers), strict=False):
            self.known[old] = new
        try:
            pair = json.loads(recorded["body"]), json.loads(answer.body)
        except ValueError:
            return
        self._learn_values(*pair)

    def _learn_values(self, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in old.keys() & new.keys():
                if key == "id" and isinstance(old[key], str) and HEX_ID.fullmatch(old[key]):
                    self.known[old[key]] = new[key]
                if key == "register_token":
                    self.known[base64.b64decode(old[key]).hex()] = base64.b64decode(new[key]).hex()
                self._learn_values(old[key], new[key])
        elif isinstance(old, list) and isinstance(new, list):
            for pair in zip(old, new, strict=False):
                self._learn_values(*pair)

    def compare(self, recorded: Recording, answer: Answer) -> list[str]:
        """Every difference in status, headers that matter, and body."""
        found: list[str] = []
        if recorded["status"] != answer.status:
            found.append(f"status {recorded['status']}, the double {answer.status} {answer.body[:200]!r}")
            return found
        listed = {name.lower(): value for name, value in recorded["headers"]}
        for name in [name for name in HEADERS if name not in self.leave]:
            old, new = listed.get(name.lower()), answer.header(name)
            if self._plain(old or "", recorded=True) != self._plain(new or "", recorded=False):
                found.append(f"{name}: {old!r}, the double {new!r}")
        old_cookies = [self._translate(attributes) for _, attributes in cookies(recorded["headers"])]
        new_cookies = [attributes for _, attributes in cookies(answer.headers)]
        if old_cookies != new_cookies:
            found.append(f"Set-Cookie: {old_cookies}, the double {new_cookies}")
        found += self._compare_bodies(recorded, answer)
        return found

    def _plain(self, text: str, recorded: bool) -> str:
        """A text with what is chance, or of the place, replaced by names."""
        world = self.world
        if recorded:
            for old, new in self.known.items():
                text = text.replace(old, new)
            text = text.replace("/srv/cozy/data", "<data>").replace("/srv/apps", "<apps>")
            text = text.replace("127.0.0.1:15984", "<couch>")
        else:
            text = text.replace(str(world.data), "<data>").replace(str(world.root / "apps"), "<apps>")
            text = text.replace(f"127.0.0.1:{world.couch_port}", "<couch>")
        text = re.sub(r"(<data>/\S+?\.\w{3}|\.bin)\d{1,12}\b", r"\1<number>", text)
        return HEX_ID.sub("<id>", text)

    def _compare_bodies(self, recorded: Recording, answer: Answer) -> list[str]:
        old, new = recorded["body"] or "", answer.body.decode(errors="replace")
        if len(old) < 400 and re.match(r"^<\d+ bytes", old):
            sized = re.match(r"^<(\d+) bytes", old)
            return (
                [] if sized and len(answer.body) == int(sized[1]) else [f"{old}, the double {len(answer.body)} bytes"]
            )
        if old.startswith("<!DOCTYPE html>"):
            start = old.split(">")[1].strip()
            return [] if new.startswith("<!DOCTYPE html>\n" + start) else [f"a page {start}, the double {new[:60]!r}"]
        if old.startswith("# HELP"):
            return [] if new.startswith("# HELP") else [f"metrics, the double {new[:60]!r}"]
        if TOKEN.match(old) and len(old) > 60:
            old_claims, new_claims = claims_of(old), claims_of(new)
            old_claims["iss"] = self._translate(old_claims["iss"])
            return [] if old_claims | {"iat": 0} == new_claims | {"iat": 0} else [f"{old_claims}, {new_claims}"]
        if old.startswith("event: "):
            return self._compare_events(old, new)
        if "}\n{" in old:
            return self._compare_lines(old, new)
        try:
            pair = json.loads(old), json.loads(new)
        except ValueError:
            same = self._plain(old, recorded=True) == self._plain(new, recorded=False)
            return [] if same else [f"body {old[:300]!r}, the double {new[:300]!r}"]
        if old.endswith("\n") != new.endswith("\n"):
            return ["newline at the end differs"]
        return self._compare_values(*pair, "")

    def _compare_lines(self, old: str, new: str) -> list[str]:
        pair = [json.loads(line) for line in old.splitlines()], [json.loads(line) for line in new.splitlines()]
        return self._compare_values(*pair, "")

    def _compare_events(self, old: str, new: str) -> list[str]:
        if new.replace("\r\n", "").count("\n"):
            return ["events must end their lines with CR LF"]
        return self._compare_values(events(old), events(new), "")

    def _compare_values(self, old: Any, new: Any, where: str) -> list[str]:
        if where.rpartition(".")[2] in self.leave:
            return []
        if type(old) is not type(new):
            return [f"{where or 'body'}: {old!r}, the double {new!r}"]
        if isinstance(old, dict):
            found = [f"{where}.{key} is missing" for key in old.keys() - new.keys()]
            found += [f"{where}.{key} is not in the recording" for key in new.keys() - old.keys()]
            for key in old.keys() & new.keys():
                found += self._compare_values(old[key], new[key], f"{where}.{key}")
            return found
        if isinstance(old, list):
            if len(old) != len(new):
                return [f"{where}: {len(old)} items, the double {len(new)}"]
            pairs = zip(old, new, strict=True)
            return [
                text for index, pair in enumerate(pairs) for text in self._compare_values(*pair, f"{where}[{index}]")
            ]
        if not isinstance(old, str):
            return [] if old == new else [f"{where}: {old!r}, the double {new!r}"]
        return self._compare_strings(old, new, where)

    def _compare_strings(self, old: str, new: str, where: str) -> list[str]:
        key = where.rpartition(".")[2]
        different = [f"{where}: {old!r}, the double {new!r}"]
        if (one := REVISION.match(old)) and (two := REVISION.match(new)):
            return [] if one[1] == two[1] else different
        if key in CHANCE or ".latency." in where:
            return [] if bool(old) == bool(new) else different
        if key == "version":
            old, new = (re.sub(r"-[A-Za-z]{10}$", "-<suffix>", text) for text in (old, new))
        if TIME.fullmatch(old) and TIME.fullmatch(new):
            return [] if (old == ZERO_TIME) == (new == ZERO_TIME) else different
        return [] if self._plain(old, recorded=True) == self._plain(new, recorded=False) else different


def cookies(headers: Iterable[Iterable[str]]) -> list[tuple[str, str]]:
    """Value, and name with attributes, of each cookie that is set."""
    found = []
    for name, value in headers:
        if name.lower() == "set-cookie":
            pair, _, attributes = value.partition("; ")
            cookie, _, content = pair.partition("=")
            found.append((content, f"{cookie}; {attributes}"))
    return found


def events(text: str) -> list[list[Any]]:
    found = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        found.append([name, json.loads(data)])
    return found
