# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cozy_test_mail, played against answers as cozy-stack's web/jobs/jobs.go makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_test_mail

from tests.unit.plugins.module_helper import run_module
from tests.unit.plugins.stack_script import Plain, Script

TAKE = (
    "POST admin /instances/token?Domain=alice.cozy.test&Audience=cli&Subject=CLI&Scope=io.cozy.jobs",
    "token-200",
)
PUSH = "POST public /jobs/queue/sendmail"
LOOK = "GET public /jobs/4f2a"


def job(state: str, error: str = "", status: int = 200) -> Plain:
    """A job of the worker sendmail."""
    attributes: dict[str, Any] = {"domain": "alice.cozy.test", "worker": "sendmail", "state": state}
    if error:
        attributes["error"] = error
    return Plain(status, json.dumps({"data": {"type": "io.cozy.jobs", "id": "4f2a", "attributes": attributes}}))


def play(script: Script, **arguments: Any) -> dict[str, Any]:
    """Run the module against a script."""
    with script.played():
        return run_module(cozy_test_mail.main, **{"domain": "alice.cozy.test", **arguments})


def test_sends_one_mail_and_waits_until_it_has_left() -> None:
    script = Script(
        TAKE,
        (PUSH, job("queued", status=202)),
        (LOOK, job("queued")),
        (LOOK, job("running")),
        (LOOK, job("done")),
    )
    result = play(script, subject="Is anybody there?")
    assert (result["changed"], result["job"]) == (True, "4f2a")
    message = script.bodies[1]["data"]["attributes"]["arguments"]
    assert (message["mode"], message["subject"]) == ("noreply", "Is anybody there?")
    assert [part["type"] for part in message["parts"]] == ["text/plain"]


def test_sends_nothing_in_check_mode() -> None:
    assert play(Script(), check=True)["changed"]


def test_says_what_the_mail_server_said() -> None:
    script = Script(TAKE, (PUSH, job("queued", status=202)), (LOOK, job("errored", "535 5.7.8 bad login")))
    result = play(script)
    assert result["failed"]
    assert "535 5.7.8 bad login" in result["msg"]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_does_not_wait_for_ever(state: str) -> None:
    script = Script(TAKE, (PUSH, job("queued", status=202)), *[(LOOK, job(state))] * 122)
    result = play(script)
    assert f"the job is still '{state}' after 60 s" in result["msg"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([(PUSH, Plain(403, "Forbidden", "text/plain"))], "403"),
        ([(PUSH, job("queued", status=202)), (LOOK, Plain(404, "", "text/plain"))], "404"),
    ],
)
def test_says_when_cozy_stack_refuses(steps: list[tuple[str, Plain]], message: str) -> None:
    result = play(Script(TAKE, *steps))
    assert result["failed"]
    assert message in result["msg"]
