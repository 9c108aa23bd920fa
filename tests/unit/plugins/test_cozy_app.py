# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cozy_app, played against recorded answers of the real stack."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils._apps import last_event
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_app

from tests.unit.plugins.module_helper import run_module
from tests.unit.plugins.stack_script import Answer, Plain, Script

LIST = "GET public /apps/"
HOME_FROM_REGISTRY = "POST public /apps/home?Source=registry://home/stable"


def take(domain: str, scope: str = "io.cozy.apps") -> tuple[str, str]:
    """The call for a token, and its answer."""
    return (
        f"POST admin /instances/token?Domain={domain}&Audience=cli&Subject=CLI&Scope={scope}",
        "token-200",
    )


REG = take("reg.cozy.test")
ALICE = take("alice.cozy.test")


def play(script: Script, **arguments: Any) -> dict[str, Any]:
    """Run the module against a script."""
    with script.played():
        return run_module(cozy_app.main, **{"domain": "reg.cozy.test", "name": ["home"], **arguments})


def test_installs_what_is_missing_from_the_registry() -> None:
    script = Script(
        REG,
        (LIST, "reg-apps-list-after-install-badsha"),
        (HOME_FROM_REGISTRY, "reg-apps-install-default-source-sse"),
        (LIST, "reg-apps-list"),
    )
    result = play(script)
    assert result["changes"] == ["home"]
    assert result["apps"]["home"] == {
        "slug": "home",
        "version": "1.0.0",
        "source": "registry://home/stable",
        "state": "ready",
    }
    assert result["diff"] == {"before": {}, "after": {"home": "1.0.0 from registry://home/stable"}}


def test_only_the_list_is_read_when_nothing_is_missing() -> None:
    for check in (True, False):
        assert not play(Script(REG, (LIST, "reg-apps-list")), check=check)["changed"]


def test_installation_is_foretold_in_check_mode() -> None:
    script = Script(REG, (LIST, "reg-apps-list-after-install-badsha"))
    result = play(script, check=True, name=["home", "drive"])
    assert result["changes"] == ["home", "drive"]
    assert result["diff"] == {"before": {}, "after": {"drive": "to be installed", "home": "to be installed"}}


def test_every_failure_is_named_and_the_rest_is_installed() -> None:
    script = Script(
        REG,
        (LIST, "reg-apps-list-after-install-badsha"),
        ("POST public /apps/drive?Source=registry://drive/stable", "apps-install-fail-registry-sse"),
        ("POST public /apps/photos?Source=registry://photos/stable", "reg-apps-install-badsha-sse"),
        (HOME_FROM_REGISTRY, "reg-apps-install-default-source-sse"),
        (LIST, "reg-apps-list"),
    )
    result = play(script, name=["drive", "photos", "home"])
    assert result["failed"]
    assert result["failures"] == {
        "drive": "Application manifest is not reachable",
        "photos": "Application checksum does not match",
    }
    assert result["changes"] == ["home"]
    assert "drive: Application manifest is not reachable" in result["msg"]


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        ("apps-install-409-sse", "Application with same slug already exists"),
        ("apps-install-fail-missing-dir-sse", "Application manifest is not reachable"),
        ("apps-install-fail-badmanifest-sse", "Application manifest is invalid or malformed"),
        ("apps-list-wrong-scope", "403: Forbidden"),
        ("apps-list-badtoken", "400: Invalid JWT token"),
    ],
)
def test_reason_of_a_failure_is_the_stack_s_own(recording: str, reason: str) -> None:
    script = Script(REG, (LIST, "reg-apps-list-after-install-badsha"), (HOME_FROM_REGISTRY, recording))
    assert reason in play(script)["failures"]["home"]


def test_application_that_did_not_arrive_is_a_failure() -> None:
    script = Script(
        REG,
        (LIST, "reg-apps-list-after-install-badsha"),
        (HOME_FROM_REGISTRY, "reg-apps-install-default-source-sse"),
        (LIST, "reg-apps-list-after-install-badsha"),
    )
    assert "does not list it" in play(script)["failures"]["home"]


def test_source_of_one_s_own() -> None:
    arguments: dict[str, Any] = {
        "domain": "alice.cozy.test",
        "name": ["probe"],
        "sources": {"probe": "file:///srv/apps/probe"},
    }
    script = Script(
        ALICE,
        (LIST, "apps-list-empty"),
        ("POST public /apps/probe?Source=file:///srv/apps/probe", "apps-install-sse"),
        (LIST, "apps-list-one"),
    )
    assert play(script, **arguments)["changes"] == ["probe"]
    # An update of a folder would install it anew each time: nothing is asked but the list.
    assert not play(Script(ALICE, (LIST, "apps-list-one")), state="latest", **arguments)["changed"]


def test_other_source_moves_the_application() -> None:
    zed = Answer("reg2-put-same").body
    listed = Answer("reg-apps-list").body.replace("home", "zed").replace("1.0.0", "2.0.0")
    assert "2.0.0" in zed
    script = Script(
        REG,
        (LIST, Plain(200, listed)),
        ("PUT public /apps/zed?Source=registry://zed/beta&PermissionsAcked=true", "reg2-put-other-source"),
        (LIST, Plain(200, listed)),
    )
    result = play(script, name=["zed"], sources={"zed": "registry://zed/beta"}, accept_permissions=True)
    assert result["changes"] == ["zed"]


@pytest.mark.parametrize(
    ("recording", "accept", "changes"),
    [
        ("reg-apps-put-upgrade", False, ["home"]),
        ("reg-apps-put-same-version", True, []),
    ],
)
def test_upgrade_is_a_change_only_with_another_version(recording: str, accept: bool, changes: list[str]) -> None:
    acked = "?PermissionsAcked=true" if accept else ""
    script = Script(REG, (LIST, "reg-apps-list-before-upgrade"), (f"PUT public /apps/home{acked}", recording))
    if changes:
        script.steps.append((LIST, "reg-apps-list-newperm"))
    assert play(script, state="latest", accept_permissions=accept)["changes"] == changes


ZED = "PUT public /apps/zed"


def zed_list(version: str, waiting: str = "") -> Plain:
    """The list with nothing but zed in it."""
    listed = json.loads(Answer("reg-apps-list").body)
    attributes = listed["data"][0]["attributes"]
    attributes |= {"slug": "zed", "source": "registry://zed/stable", "version": version, "available_version": waiting}
    return Plain(200, json.dumps(listed))


def test_new_permissions_wait_for_the_person() -> None:
    script = Script(REG, (LIST, zed_list("2.1.0")), (ZED, "reg2-put-newperm-unacked"))
    result = play(script, name=["zed"], state="latest")
    assert not result["changed"]
    assert result["waiting"] == {"zed": "2.2.0"}
    assert play(Script(REG, (LIST, zed_list("2.1.0", "2.2.0"))), name=["zed"])["waiting"] == {"zed": "2.2.0"}


def test_new_permissions_are_taken_on_request() -> None:
    arguments: dict[str, Any] = {"name": ["zed"], "state": "latest", "accept_permissions": True}
    assert play(Script(REG, (LIST, zed_list("2.1.0", "2.2.0"))), check=True, **arguments)["changes"] == ["zed"]
    script = Script(
        REG,
        (LIST, zed_list("2.1.0", "2.2.0")),
        (f"{ZED}?PermissionsAcked=true", "reg2-put-newperm-acked"),
        (LIST, zed_list("2.2.0")),
    )
    result = play(script, **arguments)
    assert result["changes"] == ["zed"]
    assert result["waiting"] == {}


def test_konnector_with_accounts_takes_its_time_to_go() -> None:
    arguments: dict[str, Any] = {"domain": "alice.cozy.test", "kind": "konnector", "name": ["pk"], "state": "absent"}
    token = take("alice.cozy.test", "io.cozy.konnectors")
    there, removal = ("GET public /konnectors/", "konn-list-one"), ("DELETE public /konnectors/pk", Plain(202, "{}"))
    gone = ("GET public /konnectors/", "konn-list-empty")
    script = Script(token, there, removal, there, gone, gone)
    assert play(script, **arguments)["changes"] == ["pk"]
    script = Script(token, there, removal, *[there] * 5)
    assert "still there 3 s after" in play(script, timeout=3, **arguments)["failures"]["pk"]


def test_installation_under_way_is_waited_for() -> None:
    busy = Plain(200, Answer("reg-apps-list").body.replace('"state":"ready"', '"state":"installing"'))
    script = Script(REG, (LIST, busy), (LIST, busy), (LIST, "reg-apps-list"))
    with script.played() as slept:
        assert not run_module(cozy_app.main, domain="reg.cozy.test", name=["home"])["changed"]
    assert slept == [1, 1]


def test_broken_application_is_a_failure() -> None:
    errored = Plain(200, Answer("reg-apps-list").body.replace('"state":"ready"', '"state":"errored"'))
    assert "state 'errored'" in play(Script(REG, (LIST, errored)))["failures"]["home"]


def test_removes() -> None:
    arguments: dict[str, Any] = {"domain": "alice.cozy.test", "name": ["probe2", "never"], "state": "absent"}
    script = Script(
        ALICE,
        (LIST, "apps-list-two"),
        ("DELETE public /apps/probe2", "apps-delete"),
        (LIST, "apps-list-one"),
    )
    assert play(script, **arguments)["changes"] == ["probe2"]
    result = play(Script(ALICE, (LIST, "apps-list-two")), check=True, **arguments)
    assert result["changes"] == ["probe2"]
    assert list(result["diff"]["after"]) == ["probe"]
    assert not play(Script(ALICE, (LIST, "apps-list-one")), **arguments)["changed"]


def test_konnectors_have_a_path_and_a_scope_of_their_own() -> None:
    script = Script(take("alice.cozy.test", "io.cozy.konnectors"), ("GET public /konnectors/", "konn-list-one"))
    result = play(script, domain="alice.cozy.test", kind="konnector", name=["pk"])
    assert list(result["apps"]) == ["pk"]
    assert not result["changed"]


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        ("apps-list-wrong-scope", "403: Forbidden"),
        ("apps-list-couch-stopped", "can't reach CouchDB"),
    ],
)
def test_list_that_is_refused_tells_the_reason(recording: str, message: str) -> None:
    assert message in play(Script(REG, (LIST, recording)))["msg"]


def test_unknown_instance() -> None:
    result = play(Script((REG[0], "token-404")))
    assert "Taking a token for reg.cozy.test: cozy-stack answered 404: Instance not found" in result["msg"]


@pytest.mark.parametrize(
    ("slug", "source", "message"),
    [
        ("Home", "", "is no short name"),
        ("home", "https://h.test/home.tar.gz", "needs its checksum"),
        ("home", "http://h.test/home.tar.gz#abc", "needs its checksum"),
        ("home", "file://srv/home", "file:///folder"),
        ("home", "ftp://h.test/home", "is none of: registry"),
        ("home", "home", "is none of: registry"),
    ],
)
def test_names_and_sources_that_can_not_be_used(slug: str, source: str, message: str) -> None:
    assert message in play(Script(), name=[slug], sources={slug: source} if source else {})["msg"]


@pytest.mark.parametrize("source", [f"https://h.test/home.tar.gz#{'0a' * 32}", "git+https://h.test/home.git#build"])
def test_sources_of_every_kind(source: str) -> None:
    script = Script(
        REG,
        (LIST, "reg-apps-list-after-install-badsha"),
        (f"POST public /apps/home?Source={source}", "reg-apps-install-default-source-sse"),
        (LIST, "reg-apps-list"),
    )
    assert play(script, name=["home", "home"], sources={"home": source})["changes"] == ["home"]


def test_token_is_taken_again_before_it_is_too_old() -> None:
    busy = Plain(200, Answer("reg-apps-list").body.replace('"state":"ready"', '"state":"installing"'))
    steps = [(LIST, busy)] * 1200
    script = Script(REG, *steps, REG, (LIST, "reg-apps-list"))
    assert not play(script, timeout=2000).get("failed")


def test_sources_without_a_name_are_refused() -> None:
    assert "sources names zed" in play(Script(), sources={"zed": "registry://zed/stable"})["msg"]


def test_event_stream_that_breaks_off() -> None:
    with pytest.raises(CozyError, match="closed the event stream"):
        last_event("event: state\r\n")
    with pytest.raises(CozyError, match="not JSON"):
        last_event("event: state\r\ndata: {\r\n\r\n")
    assert last_event('event: error\r\ndata: "no"\r\n\r\n') == ("error", "no")
