# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of jobs and its worker sendmail, as far as they can be asked without a mail going anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.contract.site import Site
from tests.unit.doubles.world import Answer

MAIL = {"mode": "noreply", "subject": "A täst", "parts": [{"type": "text/plain", "body": "x"}]}


@pytest.fixture(name="domain")
def fixture_domain(site: Site) -> Iterator[str]:
    """An instance whose person has no address."""
    domain = site.domain("niaj")
    assert site.admin("POST", f"/instances?Domain={domain}").status == 201
    yield domain
    assert site.admin("DELETE", f"/instances/{domain}").status == 204


def ask(site: Site, domain: str, method: str, path: str, body: bytes | None = None, scope: str = "jobs") -> Answer:
    headers = {"Host": domain}
    if scope:
        headers["Authorization"] = f"Bearer {site.token(domain, f'io.cozy.{scope}')}"
    return site.call(site.public_port, method, path, headers, body)


def request(arguments: dict[str, Any] | None) -> bytes:
    attributes = {} if arguments is None else {"arguments": arguments}
    return json.dumps({"data": {"attributes": attributes}}).encode()


def detail(answer: Answer) -> tuple[int, str]:
    return answer.status, str(json.loads(answer.body)["errors"][0]["detail"])


def ended(site: Site, domain: str, arguments: dict[str, Any] | None) -> dict[str, Any]:
    """Queue a mail; the attributes of its job at the end."""
    answer = ask(site, domain, "POST", "/jobs/queue/sendmail", request(arguments))
    assert (answer.status, answer.header("Content-Type")) == (202, "application/vnd.api+json")
    data = json.loads(answer.body)["data"]
    assert data["type"] == "io.cozy.jobs"
    assert data["links"] == {"self": f"/jobs/sendmail/{data['id']}"}
    found: dict[str, Any] = data["attributes"]
    assert (found["_id"], found["_rev"]) == (data["id"], data["meta"]["rev"])
    assert (found["state"], found["message"]) == ("queued", arguments)
    assert found["finished_at"] == "0001-01-01T00:00:00Z"
    names, end = set(found), time.monotonic() + 20
    while found["state"] in ("queued", "running"):
        assert time.monotonic() < end
        found = json.loads(ask(site, domain, "GET", f"/jobs/{data['id']}").body)["data"]["attributes"]
    assert set(found) - names == {"error"}
    assert found["_rev"].startswith("3-")
    return found


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (MAIL, "Domain {domain} has no email in its settings"),
        (MAIL | {"mode": "loud"}, "Mail sent with unknown mode loud"),
        ({}, "Mail sent with unknown mode "),
        (None, "jobs: message is nil"),
    ],
)
def test_mail_that_does_not_go_out(site: Site, domain: str, arguments: dict[str, Any] | None, error: str) -> None:
    job = ended(site, domain, arguments)
    assert (job["state"], job["error"]) == ("errored", error.format(domain=domain))


def test_what_the_queue_refuses(site: Site, domain: str) -> None:
    queue = "/jobs/queue/sendmail"
    assert detail(ask(site, domain, "POST", "/jobs/queue/nothing", request(MAIL))) == (
        404,
        "jobs: could not find worker",
    )
    assert detail(ask(site, domain, "POST", queue, b"{}"))[0] == 400
    assert detail(ask(site, domain, "POST", queue, b"{no"))[0] == 500
    assert detail(ask(site, domain, "GET", "/jobs/none")) == (500, "jobs: not found")
    refused = ask(site, domain, "POST", queue, request(MAIL), scope="files")
    assert (refused.status, refused.body) == (403, b"Forbidden")
    refused = ask(site, domain, "POST", queue, request(MAIL), scope="")
    assert (refused.status, refused.body) == (401, b"No token in request")
