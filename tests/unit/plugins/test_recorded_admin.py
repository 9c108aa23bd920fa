# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every answer recorded on the admin port is given to the module that can meet it, at the place where it can meet it.

A new recording fails here until it is said what a module makes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_instance, cozy_instance_info

from tests.unit.plugins.module_helper import run_module
from tests.unit.plugins.stack_script import RECORDINGS, Answer, Plain, Script

SECRETS = ("passphrase_hash", "session_secret", "oauth_secret", "cli_secret", "register_token")
OF_ALL = ("count", "token", "contexts", "feature", "with-app-version")
# Not asked by any module.
NOT_CALLED = {
    "GET /connection_check",
    "GET /instances/:domain/debug",
    "GET /instances/:domain/disk-usage",
    "GET /instances/:domain/last-activity",
    "GET /instances/:domain/prefix",
    "GET /instances/contexts",
    "GET /instances/contexts/other",
    "GET /instances/contexts/zzz",
    "GET /instances/count",
    "GET /instances/feature/defaults",
    "GET /instances/with-app-version/probe/0.0.1",
    "GET /konnectors/maintenance",
    "GET /metrics",
    "GET /version",
    "GET /version/",
    "POST /instances/:domain/checks/shared",
    "POST /instances/:domain/checks/sharings",
    "POST /instances/:domain/checks/triggers",
}
# What the door says, before any address is looked at: every call can meet it.
DOOR = {
    "401 missing basic auth": "does not see our credentials",
    "403 bad passphrase": "refuses the admin passphrase",
    "500 Could not find config file": "has no file cozy-admin-passphrase",
    "404 Not Found": "is not the admin port",
}
GOOD = ""
# Call, status and title -> a part of the module's message.
OUTCOMES = {
    "GET /instances 200": GOOD,
    "GET /instances 503 no_couch": "can't reach CouchDB",
    "GET /instances/:domain 200": GOOD,
    "GET /instances/:domain 200 by its alias": "is an alias of the instance",
    "GET /instances/:domain 404 Not Found": GOOD,
    "GET /instances/:domain 422 Invalid Parameter": "illegal characters",
    "GET /instances/:domain 503 no_couch": "can't reach CouchDB",
    "POST /instances 201": GOOD,
    "POST /instances 409 Conflict": GOOD,
    "POST /instances 412 file_exists": "left databases behind",
    "POST /instances 422 Invalid Parameter": "answered 422: ",
    "POST /instances 500 Unqualified error": "answered 500: mkdir",
    "POST /instances 503 no_couch": "can't reach CouchDB",
    "PATCH /instances/:domain 200": GOOD,
    "PATCH /instances/:domain 404 Not Found": "answered 404: Instance not found",
    "PATCH /instances/:domain 409 Conflict": "one of its aliases",
    "PATCH /instances/:domain 500 Unqualified error": "answered 500: strconv",
    "DELETE /instances/:domain 204": GOOD,
    "DELETE /instances/:domain 404 Not Found": "answered 404: Instance not found",
    "DELETE /instances/:domain 500 Unqualified error": "answered 500: unlinkat",
    "GET /instances/:domain/fsck 200": GOOD,
    "GET /instances/:domain/fsck 404 Not Found": "answered 404: Instance not found",
    "GET /instances/:domain/feature/flags 200": GOOD,
    "PATCH /instances/:domain/feature/flags 200": GOOD,
    "PUT /instances/:domain/feature/sets 200": GOOD,
    "POST /instances/token 200": GOOD,
    "POST /instances/token 400 Unknown audience %s": "answered 400: Unknown audience",
    "POST /instances/token 404 Not Found": "answered 404: Instance not found",
}


class Case(NamedTuple):
    """A recorded exchange of the admin port.

    :param call: method and address, such as `GET /instances/:domain`.
    :param domain: the one in the address, or in the answer.
    :param key: the call, or "" for the door, with status and title.
    """

    name: str
    call: str
    domain: str
    key: str
    answer: Answer


def admin_cases() -> list[Case]:
    found = []
    for name, path in sorted(RECORDINGS.items()):
        recording = json.loads(path.read_text())
        request, response = recording.get("request"), recording.get("response")
        if request and response and str(request.get("port")).startswith("admin"):
            found.append(read(name, request["method"], request["path"].partition("?")[0]))
    return found


def read(name: str, method: str, path: str) -> Case:
    answer = Answer(name)
    parts = path.split("/")
    domain = ""
    if len(parts) > 2 and parts[1] == "instances" and parts[2] and parts[2] not in OF_ALL:
        domain, parts[2] = parts[2].lower(), ":domain"
    call = f"{method} {'/'.join(parts)}"
    said = next((text for text in DOOR if answer.status == int(text[:3]) and text[4:] in answer.body), "")
    if said and "errors" not in answer.body:
        return Case(name, call, domain, said, answer)
    title = ""
    if answer.status >= 400:
        body = answer.body.strip()
        title = json.loads(body)["errors"][0]["title"] if body.startswith("{") else body
    elif call == "GET /instances/:domain" and main_domain(answer) != domain:
        title = "by its alias"
    return Case(name, call, domain, f"{call} {answer.status} {title}".strip(), answer)


def main_domain(answer: Answer) -> str:
    return str(json.loads(answer.body)["data"]["attributes"]["domain"])


CASES = admin_cases()


class Loose(Script):
    """A script whose calls have no parameters."""

    def _asked(self, port: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        super()._asked(port, method, path.partition("?")[0], body, headers)


def instance(domain: str, rev: str = "2-0") -> Plain:
    data = {"attributes": {"domain": domain, "locale": "en"}, "meta": {"rev": rev}}
    return Plain(200, json.dumps({"data": data}))


Steps = list[tuple[str, str | Answer | Exception]]
ABSENT = "instance-get-404"


def play(domain: str, *steps: tuple[str, str | Answer | Exception], check: bool = False, **wish: Any) -> dict[str, Any]:
    script = Loose(*steps)
    with script.played():
        return run_module(cozy_instance.main, check, domain=domain, wait=0, **wish)


def listing(case: Case) -> dict[str, Any]:
    steps: Steps = [("GET admin /instances", case.answer)]
    if '"next"' in case.answer.body:
        steps.append(("GET admin /instances", "instances-list-empty"))
    with Loose(*steps).played():
        return run_module(cozy_instance_info.main)


def looking(case: Case) -> dict[str, Any]:
    domain = case.domain if "%" not in case.domain else "alice.cozy.test"
    steps: Steps = [(f"GET admin /instances/{domain}", case.answer)]
    if '"rev":"1-' in case.answer.body:
        steps.append((f"GET admin /instances/{domain}/fsck", "fsck"))
    return play(domain, *steps, check=True)


def creation(case: Case) -> dict[str, Any]:
    domain = main_domain(case.answer) if case.answer.status == 201 else "alice.cozy.test"
    get = f"GET admin /instances/{domain}"
    after: dict[int, Steps] = {409: [(get, instance(domain))], 412: [(get, ABSENT)]}
    return play(domain, (get, ABSENT), ("POST admin /instances", case.answer), *after.get(case.answer.status, []))


def change(case: Case) -> dict[str, Any]:
    path = f"admin /instances/{case.domain}"
    return play(
        case.domain, (f"GET {path}", instance(case.domain)), (f"PATCH {path}", case.answer), aliases=["other.test"]
    )


def removal(case: Case) -> dict[str, Any]:
    path = f"admin /instances/{case.domain}"
    return play(case.domain, (f"GET {path}", instance(case.domain)), (f"DELETE {path}", case.answer), state="absent")


def files_check(case: Case) -> dict[str, Any]:
    path = f"admin /instances/{case.domain}"
    result = play(
        case.domain, (f"GET {path}", instance(case.domain, "1-0")), (f"GET {path}/fsck", case.answer), check=True
    )
    assert result.get("failed") or result["changed"] == (case.name == "halfway-fsck")
    return result


def flags(case: Case) -> dict[str, Any]:
    path = f"admin /instances/{case.domain}"
    steps: Steps = [(f"GET {path}", instance(case.domain))]
    if case.call.startswith("PATCH"):
        steps.append((f"GET {path}/feature/flags", "admin-flags-get"))
        return play(case.domain, *steps, (f"PATCH {path}/feature/flags", case.answer), feature_flags={"x": 1})
    return play(case.domain, *steps, (f"GET {path}/feature/flags", case.answer), feature_flags={})


def sets(case: Case) -> dict[str, Any]:
    path = f"admin /instances/{case.domain}"
    steps: Steps = [(f"GET {path}", instance(case.domain)), (f"PUT {path}/feature/sets", case.answer)]
    return play(case.domain, *steps, feature_sets=["x"])


def token(case: Case) -> dict[str, Any]:
    domain = "alice.cozy.test"
    steps: Steps = [(f"GET admin /instances/{domain}", instance(domain)), ("POST admin /instances/token", case.answer)]
    if case.answer.status == 200:
        steps.append(("GET public /settings/instance", "settings-instance"))
    return play(domain, *steps, email="alice@example.test")


def door(case: Case) -> dict[str, Any]:
    return play("alice.cozy.test", ("GET admin /instances/alice.cozy.test", case.answer))


PLAYS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "GET /instances": listing,
    "GET /instances/:domain": looking,
    "POST /instances": creation,
    "PATCH /instances/:domain": change,
    "DELETE /instances/:domain": removal,
    "GET /instances/:domain/fsck": files_check,
    "GET /instances/:domain/feature/flags": flags,
    "PATCH /instances/:domain/feature/flags": flags,
    "PUT /instances/:domain/feature/sets": sets,
    "POST /instances/token": token,
}


def is_met(case: Case) -> bool:
    return case.key in DOOR or case.call not in NOT_CALLED


def test_every_recording_has_its_outcome() -> None:
    unsaid = [f"{case.name}: {case.key}" for case in CASES if is_met(case) and case.key not in {**OUTCOMES, **DOOR}]
    assert not unsaid, f"say what a module makes of: {unsaid}"
    assert set(OUTCOMES) | set(DOOR) == {case.key for case in CASES if is_met(case)}
    assert {case.call for case in CASES} >= NOT_CALLED
    assert set(PLAYS) == {re.sub(r" \d.*", "", key) for key in OUTCOMES}


@pytest.mark.parametrize("case", [case for case in CASES if is_met(case)], ids=lambda case: case.name)
def test_recording_is_understood(case: Case) -> None:
    result = door(case) if case.key in DOOR else PLAYS[case.call](case)
    expected = DOOR.get(case.key) or OUTCOMES[case.key]
    assert expected in result.get("msg", "")
    assert bool(result.get("failed")) == bool(expected)
    assert not any(secret in json.dumps(result) for secret in SECRETS)
