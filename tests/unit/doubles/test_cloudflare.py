# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The double of Cloudflare's API: who may do what, what it refuses in which words, and what it has DNS know."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

import pytest

from lab.doubles.cloudflare import ROOT, Cloudflare, Record, Token, zone_id
from lab.doubles.web import Request

RIGHT, WIDE, NO_DNS, NO_ZONE, REVOKED, FEW = ("abcdef"[number] * 40 for number in range(6))
BOTH = ("zone.read", "dns.edit")
TOKENS = {
    RIGHT: Token(("example.com",), BOTH),
    WIDE: Token(("example.com", "example.net"), BOTH),
    NO_DNS: Token(("example.com",), ("zone.read",)),
    NO_ZONE: Token(("example.com",), ("dns.edit",)),
    REVOKED: Token(("example.com",), BOTH, status="disabled"),
    FEW: Token(("example.com",), BOTH, limit=2),
}
RECORDS = f"/zones/{zone_id('example.com')}/dns_records"


class World:
    """The double, a clock, and what it told DNS."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dns: dict[tuple[str, str], list[str]] = {}
        there = {"example.com": [Record("cozy.example.com", "A", "198.18.0.10")], "example.net": []}
        self.api = Cloudflare(TOKENS, there, self.publish, lambda: self.now)

    def publish(self, zone: str, name: str, kind: str, records: Sequence[Record]) -> None:
        assert zone == "example.com"
        self.dns[name, kind] = [f"{record.seconds} {record.content}" for record in records]

    def ask(self, method: str, path: str, token: str = RIGHT, body: Any = None, **query: Any) -> tuple[int, Any]:
        """Ask as a client does; the answer is status and body."""
        data = json.dumps(body).encode() if body is not None else b""
        headers = Message()
        headers["Authorization"] = f"Bearer {token}"
        headers["Content-Length"] = str(len(data))
        path, _, there = path.partition("?")
        asked = [*parse_qsl(there), *((key, str(value)) for key, value in query.items())]
        stream: io.BufferedReader[Any] = io.BufferedReader(io.BytesIO(data))
        response = self.api(Request(method, ROOT + path, asked, headers, stream, "192.0.2.1"))
        assert isinstance(response.body, bytes)
        answer = json.loads(response.body)
        assert answer["success"] == (response.status == 200) == (not answer["errors"])
        self.headers = dict(response.headers)
        return response.status, answer

    def made(self, **record: Any) -> dict[str, Any]:
        """Make a record that nothing speaks against."""
        status, answer = self.ask("POST", RECORDS, body=record)
        assert status == 200, answer
        found: dict[str, Any] = answer["result"]
        return found

    def refused(self, method: str, path: str, token: str = RIGHT, body: Any = None, **query: Any) -> tuple[int, ...]:
        """Status and numbers of a refusal, that of its cause last."""
        status, answer = self.ask(method, path, token, body, **query)
        (error,) = answer["errors"]
        return (status, error["code"], *(cause["code"] for cause in error.get("error_chain", ())))


@pytest.fixture(name="world")
def fixture_world() -> World:
    return World()


def test_tokens_are_told_apart(world: World) -> None:
    assert world.ask("GET", "/user/tokens/verify")[1]["result"]["status"] == "active"
    assert world.ask("GET", "/user/tokens/verify", REVOKED)[1]["result"]["status"] == "disabled"
    assert world.refused("GET", "/user/tokens/verify", "z" * 40) == (401, 1000)
    assert world.refused("GET", "/user/tokens/verify", "too short") == (400, 6003, 6111)
    assert world.refused("GET", "/zones", REVOKED) == (403, 9109)
    assert world.refused("GET", "/zones", "z" * 40) == (403, 9109)


def test_a_token_sees_its_zones_only(world: World) -> None:
    def zones(token: str, **query: Any) -> list[str]:
        return [zone["name"] for zone in world.ask("GET", "/zones", token, **query)[1]["result"]]

    assert zones(RIGHT) == ["example.com"]
    assert zones(WIDE) == ["example.com", "example.net"]
    assert zones(WIDE, name="example.net") == ["example.net"]
    assert zones(RIGHT, name="cozy.example.com") == []
    assert zones(RIGHT, status="pending") == []
    assert world.ask("GET", "/zones", NO_DNS)[1]["result"][0]["permissions"] == ["#zone:read"]
    status, answer = world.ask("GET", "/zones", NO_ZONE)
    assert status == 403
    assert "requires permission 'com.cloudflare.api.account.zone.list'" in answer["errors"][0]["message"]
    elsewhere = f"/zones/{zone_id('example.net')}/dns_records"
    assert world.ask("GET", elsewhere, WIDE)[0] == 200
    assert world.refused("GET", elsewhere, RIGHT) == (403, 10000)
    assert world.refused("POST", RECORDS, NO_DNS, {"type": "TXT"}) == (403, 10000)


def test_a_record_lives_and_dns_knows(world: World) -> None:
    name = "_acme-challenge.cozy.example.com"
    first = world.made(type="TXT", name=name, content="one", ttl=120)
    world.made(type="TXT", name=name, content="two")
    assert world.dns[name, "TXT"] == ["120 one", "300 two"]
    found = world.ask("GET", RECORDS, type="TXT", name=name)[1]["result"]
    assert [record["content"] for record in found] == ["one", "two"]
    assert world.ask("GET", f"{RECORDS}/{first['id']}")[1]["result"] == first
    changed = world.ask("PATCH", f"{RECORDS}/{first['id']}", body={"content": "three"})[1]["result"]
    assert (changed["id"], changed["content"], changed["ttl"]) == (first["id"], "three", 120)
    assert sorted(world.dns[name, "TXT"]) == ["120 three", "300 two"]
    assert world.ask("DELETE", f"{RECORDS}/{first['id']}")[1]["result"] == {"id": first["id"]}
    assert world.dns[name, "TXT"] == ["300 two"]
    assert world.refused("DELETE", f"{RECORDS}/{first['id']}") == (404, 81044)


def test_a_record_may_change_its_name(world: World) -> None:
    record = world.made(type="A", name="www", content="198.18.0.10")
    assert record["name"] == "www.example.com"
    body = {"type": "A", "name": "web", "content": "198.18.0.10"}
    assert world.ask("PUT", f"{RECORDS}/{record['id']}", body=body)[1]["result"]["ttl"] == 1
    assert world.dns["www.example.com", "A"] == []
    assert world.dns["web.example.com", "A"] == ["300 198.18.0.10"]


def test_caa_is_made_of_its_parts(world: World) -> None:
    record = world.made(type="CAA", name="@", data={"flags": 0, "tag": "issuewild", "value": "letsencrypt.org"})
    assert (record["name"], record["content"]) == ("example.com", '0 issuewild "letsencrypt.org"')


@pytest.mark.parametrize(
    ("record", "codes"),
    [
        ({"type": "A", "name": "a", "content": "256.0.0.1"}, (400, 1004, 9005)),
        ({"type": "AAAA", "name": "a", "content": "192.0.2.1"}, (400, 1004, 9005)),
        ({"type": "MX", "name": "a", "content": "mail"}, (400, 1004, 9004)),
        ({"type": "A", "name": "a", "content": "192.0.2.1", "ttl": 30}, (400, 1004, 9021)),
        ({"type": "A", "name": "a", "content": "192.0.2.1", "ttl": True}, (400, 1004, 9207)),
        ({"type": "A", "name": "a", "content": "192.0.2.1", "proxy": True}, (400, 1004, 9207)),
        ({"type": "A", "name": "a b", "content": "192.0.2.1"}, (400, 1004, 9000)),
        ({"type": "TXT", "name": "a", "content": ""}, (400, 1004, 9019)),
        ({"type": "TXT", "name": "a", "content": "x", "proxied": True}, (400, 1004, 9004)),
        ({"type": "CAA", "name": "a", "content": ""}, (400, 1004, 9101)),
        ({"type": "CAA", "name": "a", "data": {"flags": 0, "tag": "any", "value": "x"}}, (400, 1004, 9102)),
        ({"type": "CNAME", "name": "a", "content": "a.example.com"}, (400, 1004, 9039)),
        ({"type": "CNAME", "name": "cozy", "content": "www.example.org"}, (400, 81053)),
        ({"type": "A", "name": "cozy", "content": "198.18.0.10"}, (400, 81058)),
        ({"type": "A", "name": "alias", "content": "198.18.0.10"}, (400, 81054)),
    ],
)
def test_a_record_that_cannot_be(world: World, record: dict[str, Any], codes: tuple[int, ...]) -> None:
    world.made(type="CNAME", name="alias", content="www.example.org")
    before = dict(world.dns)
    assert world.refused("POST", RECORDS, body=record) == codes
    assert world.dns == before


def test_pages(world: World) -> None:
    for number in range(5):
        world.made(type="TXT", name="many", content=str(number))
    seen = []
    for page in (1, 2, 3):
        answer = world.ask("GET", RECORDS, type="TXT", per_page=2, page=page)[1]
        seen += [record["content"] for record in answer["result"]]
        info = {"page": page, "per_page": 2, "count": len(answer["result"]), "total_count": 5, "total_pages": 3}
        assert answer["result_info"] == info
    assert seen == ["0", "1", "2", "3", "4"]
    assert world.ask("GET", RECORDS, per_page=2, page=4)[1]["result"] == []
    assert world.refused("GET", RECORDS, per_page=0) == (400, 1004)
    assert world.refused("GET", RECORDS, nam="misspelt") == (400, 1004, 1004)


def test_who_asks_too_often_has_to_wait(world: World) -> None:
    assert world.ask("GET", "/zones", FEW)[0] == 200
    world.now += 100
    assert world.ask("GET", "/zones", FEW)[0] == 200
    assert world.refused("GET", "/zones", FEW) == (429, 971)
    assert world.headers["Retry-After"] == "201"
    assert world.ask("GET", "/zones")[0] == 200
    world.now += 201
    assert world.ask("GET", "/zones", FEW)[0] == 200


def test_what_it_does_not_play_it_refuses(world: World) -> None:
    assert world.refused("GET", "/accounts") == (404, 7003, 7000)
    assert world.refused("POST", "/zones", body={}) == (404, 7003, 7000)
    assert world.refused("PUT", RECORDS, body={}) == (404, 7003, 7000)
    assert world.refused("POST", RECORDS, body=["no record"]) == (400, 9207)
