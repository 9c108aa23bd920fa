# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cozy_instance, played against recorded answers of the real stack."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import UrlRoute, to_ascii
from ansible_collections.kubecozy.homelab.plugins.module_utils._couchdb import CouchDB
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import InputError
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import (
    database_prefix,
    normal_domain,
    password_proof,
    quota_bytes,
)
from ansible_collections.kubecozy.homelab.plugins.module_utils._keys import ScryptLine
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_instance, cozy_instance_info

from tests.unit.plugins.module_helper import run_module
from tests.unit.plugins.stack_script import PASSPHRASE, Answer, Plain, Script

ALICE = "GET admin /instances/alice.cozy.test"
TAKE = "POST admin /instances/token?Domain=alice.cozy.test&Audience=cli&Subject=CLI&Scope=io.cozy.settings"
SETTINGS = "GET public /settings/instance"
SECRETS = ("passphrase_hash", "session_secret", "oauth_secret", "cli_secret", "register_token")


def play(script: Script, **arguments: Any) -> dict[str, Any]:
    """Run the module against a script."""
    with script.played():
        return run_module(cozy_instance.main, **{"domain": "alice.cozy.test", **arguments})


def gone() -> Answer:
    return Answer("instance-get-404")


def test_creates_with_everything_in_one_call() -> None:
    wanted = (
        "Domain=alice.cozy.test&Locale=fr&ContextName=other&Email=alice@example.test&PublicName=Alice"
        "&Timezone=Europe/Paris&DomainAliases=alice-alias.cozy.test&DiskQuota=5000000000&Passphrase=alice-Passphrase-1"
    )
    script = Script(
        (ALICE, "instance-get-404"),
        (f"POST admin /instances?{wanted}", "create-201-passphrase"),
    )
    result = play(
        script,
        domain=" Alice.cozy.test",
        passphrase="alice-Passphrase-1",
        locale="fr",
        email="alice@example.test",
        public_name="Alice",
        timezone="Europe/Paris",
        context="other",
        quota="5GB",
        aliases=["alice-alias.cozy.test"],
    )
    assert result["changed"]
    assert result["changes"] == ["created"]
    assert result["instance"]["domain"] == "alice.cozy.test"


def test_creation_is_foretold_in_check_mode() -> None:
    result = play(Script((ALICE, "instance-get-404")), check=True, locale="fr")
    assert result["changed"]
    assert "instance" not in result


def test_nothing_is_written_when_nothing_differs() -> None:
    script = Script((ALICE, "instance-get-200-alice"), (TAKE, "token-200"), (SETTINGS, "settings-instance"))
    result = play(
        script,
        locale="fr",
        context="other",
        email="alice@example.test",
        public_name="Alice",
        timezone="Europe/Paris",
        quota="5GB",
        aliases=["alice-alias.cozy.test"],
        blocked=False,
        passphrase="another-Passphrase-2",
    )
    assert not result["changed"]
    assert script.hosts[-1] == "alice.cozy.test"


def test_only_what_differs_is_written_and_no_secret_comes_back() -> None:
    changed = Answer("patch-Email-change")
    assert "passphrase_hash" in changed.body
    script = Script(
        (ALICE, "instance-get-200-alice"),
        (TAKE, "token-200"),
        (SETTINGS, "settings-instance"),
        ("PATCH admin /instances/alice.cozy.test?Email=alice2@example.test", changed),
    )
    result = play(script, email="alice2@example.test", locale="fr")
    assert result["changes"] == ["email"]
    assert result["diff"] == {
        "before": {"email": "alice@example.test"},
        "after": {"email": "alice2@example.test"},
    }
    assert not any(secret in json.dumps(result) for secret in SECRETS)


def test_check_mode_foretells_a_change_and_writes_nothing() -> None:
    result = play(Script((ALICE, "instance-get-200-alice")), check=True, locale="en", quota="unlimited", aliases=[])
    assert result["changes"] == ["locale", "aliases", "quota"]


@pytest.mark.parametrize(
    ("option", "parameter", "answer"),
    [
        ({"quota": "unlimited"}, "DiskQuota=-1", "patch-DiskQuota-minus1"),
        ({"quota": "6000000000"}, "DiskQuota=6000000000", "patch-DiskQuota-change"),
        ({"aliases": []}, "DomainAliases=,", "patch-DomainAliases-comma"),
        ({"blocked": True}, "Blocked=true", "patch-Blocked-change"),
        ({"locale": "en"}, "Locale=en", "patch-Locale-change"),
        ({"context": "default"}, "ContextName=default", "patch-ContextName-change"),
    ],
)
def test_each_attribute_has_its_parameter(option: dict[str, Any], parameter: str, answer: str) -> None:
    script = Script((ALICE, "instance-get-200-alice"), (f"PATCH admin /instances/alice.cozy.test?{parameter}", answer))
    assert play(script, **option)["changes"] == list(option)


def test_refused_change_tells_the_reason() -> None:
    script = Script(
        (ALICE, "instance-get-200-alice"),
        ("PATCH admin /instances/alice.cozy.test?DomainAliases=bob.cozy.test", "patch-DomainAliases-conflict"),
    )
    message = play(script, aliases=["bob.cozy.test"])["msg"]
    assert "one of its aliases (bob.cozy.test) is the domain or an alias of another instance" in message


@pytest.mark.parametrize("state", ["present", "absent"])
def test_alias_as_a_domain_is_refused(state: str) -> None:
    script = Script(("GET admin /instances/alice-alias.cozy.test", "instance-get-200-alias"))
    result = play(script, domain="alice-alias.cozy.test", state=state)
    assert "is an alias of the instance alice.cozy.test" in result["msg"]


def test_removes() -> None:
    script = Script(
        (ALICE, "instance-get-200-alice"), ("DELETE admin /instances/alice.cozy.test", "instance-delete-204")
    )
    assert play(script, state="absent")["changes"] == ["removed"]
    assert not play(Script((ALICE, "instance-get-404")), state="absent")["changed"]
    assert play(Script((ALICE, "instance-get-200-alice")), state="absent", check=True)["changed"]


DELETING = Plain(500, '{"errors":[{"status":"500","detail":"The deletion has already been requested"}]}')


def test_removal_under_way_is_waited_for() -> None:
    script = Script(
        (ALICE, "instance-get-200-alice"),
        ("DELETE admin /instances/alice.cozy.test", DELETING),
        (ALICE, "instance-get-200-alice"),
        (ALICE, "instance-get-404"),
    )
    assert play(script, state="absent")["changes"] == ["removed"]


def test_removal_that_failed_before_is_begun_anew() -> None:
    script = Script(
        (ALICE, "instance-get-200-alice"),
        ("DELETE admin /instances/alice.cozy.test", DELETING),
        *[(ALICE, "instance-get-200-alice")] * 3,
        ("PATCH admin /instances/alice.cozy.test?Deleting=false", "patch-none"),
        ("DELETE admin /instances/alice.cozy.test", "instance-delete-204"),
    )
    assert play(script, state="absent", wait=2)["changes"] == ["removed"]


def test_removal_that_fails_tells_the_reason() -> None:
    path = "/instances/rofresh.cozy.test"
    script = Script((f"GET admin {path}", "ro-fs-get"), (f"DELETE admin {path}", "ro-fs-delete"))
    assert "read-only file system" in play(script, domain="rofresh.cozy.test", state="absent")["msg"]


def test_half_created_instance_is_made_anew() -> None:
    path = "/instances/halfway.cozy.test"
    look = [(f"GET admin {path}", "halfway-get"), (f"GET admin {path}/fsck", "halfway-fsck")]
    created = Plain(201, Answer("halfway-get").body.replace('"rev":"1-', '"rev":"2-'))
    script = Script(
        *look * 4,
        (f"DELETE admin {path}", "halfway-delete"),
        ("POST admin /instances?Domain=halfway.cozy.test", created),
    )
    result = play(script, domain="halfway.cozy.test", wait=3)
    assert result["changes"] == ["half-created instance removed", "created"]


def test_half_created_instance_is_only_foretold_in_check_mode() -> None:
    path = "/instances/halfway.cozy.test"
    script = Script(*[(f"GET admin {path}", "halfway-get"), (f"GET admin {path}/fsck", "halfway-fsck")] * 2)
    with script.played():
        result = run_module(cozy_instance.main, check=True, domain="halfway.cozy.test", wait=1)
    assert result["changes"] == ["half-created instance removed", "created"]


def test_creation_that_is_just_ending_is_waited_for() -> None:
    path = "/instances/race.cozy.test"
    young = Plain(200, Answer("get-after-concurrent").body.replace('"rev":"2-', '"rev":"1-'))
    script = Script(
        (f"GET admin {path}", young),
        (f"GET admin {path}/fsck", "halfway-fsck"),
        (f"GET admin {path}", "get-after-concurrent"),
    )
    assert not play(script, domain="race.cozy.test")["changed"]


def test_creation_under_way_is_waited_for() -> None:
    path = "/instances/gone.cozy.test"
    script = Script(
        (f"GET admin {path}", "client-gone-get-0.7s"),
        ("POST admin /instances?Domain=gone.cozy.test", "abort1-create-again"),
        (f"GET admin {path}", "client-gone-get-0.7s"),
        (f"GET admin {path}", "client-gone-get-5s"),
    )
    assert play(script, domain="gone.cozy.test")["instance"]["domain"] == "gone.cozy.test"


CONFLICT = Plain(409, '{"errors":[{"status":"409","title":"conflict","detail":"Document update conflict."}]}')


@pytest.mark.parametrize("refusal", ["abort1-create-again", CONFLICT])
def test_leftover_databases_are_named_and_left_alone(refusal: str | Answer) -> None:
    path = "/instances/abort1.cozy.test"
    script = Script(
        (f"GET admin {path}", "abort1-get"),
        ("POST admin /instances?Domain=abort1.cozy.test", refusal),
        *[(f"GET admin {path}", "abort1-get")] * 6,
    )
    message = play(script, domain="abort1.cozy.test", wait=5)["msg"]
    assert f"{database_prefix('abort1.cozy.test')}/" in message
    assert "none is running any more (waited 5 s)" in message
    assert "remove_leftovers=true" in message


def test_creation_by_someone_else_in_between_is_taken_over() -> None:
    path = "/instances/gone.cozy.test"
    script = Script(
        (f"GET admin {path}", "client-gone-get-0.7s"),
        ("POST admin /instances?Domain=gone.cozy.test", "client-gone-create-again-1s"),
        (f"GET admin {path}", "client-gone-get-5s"),
    )
    assert not play(script, domain="gone.cozy.test").get("failed")


def test_taken_alias_is_named() -> None:
    path = "/instances/carol.cozy.test"
    script = Script(
        (f"GET admin {path}", gone()),
        (
            "POST admin /instances?Domain=carol.cozy.test&DomainAliases=alice.cozy.test",
            "create-409-newalias-is-existing-domain",
        ),
        (f"GET admin {path}", gone()),
    )
    result = play(script, domain="carol.cozy.test", aliases=["alice.cozy.test"])
    assert "one of its aliases (alice.cozy.test) is the domain or an alias of another instance" in result["msg"]


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        ("create-422-0", "422: Domain name contains illegal characters"),
        ("ro-fs-create", "500: mkdir"),
        ("create-couch-stopped", "can't reach CouchDB"),
    ],
)
def test_refused_creation_tells_the_reason(recording: str, message: str) -> None:
    script = Script((ALICE, "instance-get-404"), ("POST admin /instances?Domain=alice.cozy.test", recording))
    assert message in play(script)["msg"]


BOB = "/instances/bob.cozy.test"


def test_onboarding_link_only_when_asked_for() -> None:
    found = (f"GET admin {BOB}", "instance-get-200-bob-uppercase")
    quiet = play(Script(found), domain="bob.cozy.test")
    assert "onboarding_link" not in quiet
    assert "register_token" not in json.dumps(quiet)
    told = play(Script(found, found), domain="bob.cozy.test", onboarding_link=True)
    assert told["onboarding_link"] == "https://bob.cozy.test/?registerToken=f7ac67ecfb29dcf182b76a8992239cbd"


def test_instance_that_waits_for_its_person_gets_the_passphrase() -> None:
    found = (f"GET admin {BOB}", "instance-get-200-bob-uppercase")
    script = Script(
        found,
        found,
        ("POST public /settings/passphrase", "bob-onboard-ok"),
        (f"GET admin {BOB}", "bob-get-after-onboard"),
    )
    result = play(script, domain="bob.cozy.test", passphrase="bobS3cret-pass")
    assert result["changes"] == ["passphrase"]
    assert result["instance"]["onboarding_finished"]
    assert script.bodies[-2] == {"register_token": "f7ac67ecfb29dcf182b76a8992239cbd", "passphrase": "bobS3cret-pass"}
    assert "bobS3cret-pass" not in json.dumps(result)


def passphrase_script(check: str) -> list[tuple[str, str | Answer | Exception]]:
    return [
        (ALICE, "instance-get-200-alice"),
        (TAKE, "token-200"),
        ("GET public /settings/passphrase", "settings-passphrase-params"),
        ("POST public /settings/passphrase/check", check),
    ]


def test_passphrase_is_set_again_only_if_it_is_another() -> None:
    arguments = {"passphrase": "alice-Passphrase-1", "update_passphrase": "always"}
    script = Script(*passphrase_script("passphrase-check-ok"))
    assert not play(script, **arguments)["changed"]
    assert script.bodies[-1] == {"passphrase": "5yB2lOGbCE3przGiEIlOvstPTIJrB7BP2Fp2X8Ddor4="}
    script = Script(*passphrase_script("passphrase-check-wrong"), ("PUT public /settings/passphrase", "bob-put-force"))
    assert play(script, **arguments)["changes"] == ["passphrase"]
    assert script.bodies[-1] == {"new_passphrase": "alice-Passphrase-1", "force": True}


def test_feature_flags_and_sets() -> None:
    path = "/instances/alice.cozy.test/feature"
    arguments: dict[str, Any] = {"feature_flags": {"a.b": True, "old": None}, "feature_sets": ["b", "a"]}
    script = Script(
        (ALICE, "instance-get-200-alice"),
        (f"GET admin {path}/flags", "admin-flags-get"),
        (f"PATCH admin {path}/flags", "admin-flags-patch"),
        (f"PUT admin {path}/sets", "admin-sets-put"),
    )
    result = play(script, **arguments)
    assert result["changes"] == ["feature_flags", "feature_sets"]
    assert result["instance"]["feature_sets"] == ["a", "b"]
    assert script.bodies[-2:] == [{"a.b": True}, ["a", "b"]]


# ---- the five messages


def couch_refusal(status: int, name: str, reason: str) -> Plain:
    """CouchDB's refusal of cozy-stack, as cozy-stack hands it on."""
    error = {"status": str(status), "title": name, "detail": reason, "source": {}}
    return Plain(status, json.dumps({"errors": [error]}))


@pytest.mark.parametrize(
    ("recording", "line", "message"),
    [
        ("auth-wrong", None, "either it is not the one the stack was given, or"),
        ("auth-wrong", str(ScryptLine.make("another")), "it is not the one whose hash lies in the stack's secret"),
        ("admin-secret-file-empty", "", "the secret with its admin passphrase is broken"),
        ("admin-secret-file-garbage", "garbage", "the secret with its admin passphrase is broken"),
        ("admin-secret-file-gone", None, "has no file cozy-admin-passphrase"),
        ("instance-get-couch-stopped", None, "can't reach couchdb"),
        ("auth-none", None, "does not see our credentials"),
        ("admin-unknown-route", None, "is not the admin port"),
        (couch_refusal(401, "unauthorized", "Name or password is incorrect."), None, "couchdb refuses its credentials"),
        (couch_refusal(403, "forbidden", "Account is temporarily locked"), None, "couchdb has locked the account"),
    ],
)
def test_each_trouble_has_its_own_message(recording: str | Answer, line: str | None, message: str) -> None:
    script = Script((ALICE, recording))
    script.lines = [line]
    assert message in play(script)["msg"].lower()


def test_stack_that_is_down_has_its_own_message() -> None:
    result = play(Script((ALICE, ConnectionRefusedError(111, "Connection refused"))))
    assert "no answer from cozy-stack's admin port" in result["msg"]


def test_rotated_passphrase_is_waited_for() -> None:
    line = str(ScryptLine.make(PASSPHRASE))
    script = Script(*[(ALICE, "admin-secret-rotated-live-old")] * 3, (ALICE, "instance-get-200-alice"))
    script.lines = [line] * 3
    with script.played() as slept:
        assert not run_module(cozy_instance.main, domain="alice.cozy.test").get("failed")
    assert slept == [5, 5, 5]


def test_rotated_passphrase_that_never_arrives_is_given_up() -> None:
    script = Script(*[(ALICE, "admin-secret-rotated-live-old")] * 32)
    script.lines = [str(ScryptLine.make(PASSPHRASE))] * 32
    assert "subPath" in play(script)["msg"]


# ---- the list


def test_list_goes_through_all_pages_and_shows_no_secret() -> None:
    first = json.loads(Answer("instances-list-page-limit").body)
    script = Script(
        ("GET admin /instances", Plain(200, json.dumps(first))),
        (f"GET admin {unquote(first['links']['next'])}", "instances-list-2"),
    )
    with script.played():
        result = run_module(cozy_instance_info.main)
    assert [instance["domain"] for instance in result["instances"]] == [
        "-x",
        "alice.cozy.test",
        "alice.cozy.test",
        "bob.cozy.test",
    ]
    assert not any(secret in json.dumps(result) for secret in SECRETS)


def test_list_of_nothing_and_of_a_broken_stack() -> None:
    with Script(("GET admin /instances", "instances-list-empty")).played():
        assert run_module(cozy_instance_info.main)["instances"] == []
    with Script(("GET admin /instances", "instances-couch-stopped")).played():
        assert "can't reach CouchDB" in run_module(cozy_instance_info.main)["msg"]


# ---- small parts


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("5 GiB", 5 * 2**30), ("1000", 1000), ("2tb", 2 * 10**12), ("unlimited", None)],
)
def test_quota(text: str, size: int | None) -> None:
    assert quota_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "GB", "5 apples", "-1", "1.5GB"])
def test_quota_that_can_not_be_read(text: str) -> None:
    with pytest.raises(InputError, match="can't be read"):
        quota_bytes(text)


def test_aliases_are_compared_without_order_and_doubles() -> None:
    aliases = [" Alice-Alias.cozy.test", "alice-alias.cozy.test"]
    assert not play(Script((ALICE, "instance-get-200-alice")), aliases=aliases)["changed"]


def test_dash_that_flat_subdomains_do_not_allow_is_named() -> None:
    script = Script(("GET admin /instances/a-b.cozy.test", "instance-get-404-bad-name"))
    assert "has no '-'" in play(script, domain="a-b.cozy.test")["msg"]


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "http://h/x", "http://u:secret@h", "http://h:secret", "http://[h"]
)
def test_url_that_can_not_be_used(url: str) -> None:
    with pytest.raises(InputError, match="admin_url") as refused:
        UrlRoute(url, "http://h", 1)
    assert "secret" not in str(refused.value)
    with pytest.raises(InputError, match="couchdb_url") as refused:
        CouchDB.from_parameters({"couchdb_url": url.replace("http://u", "https://u"), "timeout": 1})
    assert "secret" not in str(refused.value)


def test_domains() -> None:
    assert normal_domain(" Bob.Cozy.Test ") == "bob.cozy.test"
    assert normal_domain("xn--caf-dma.example.com") == "café.example.com"
    assert normal_domain("CAFE\u0301.example.com") == "café.example.com"
    # The letter ß is one that older rules turned into another.
    for ascii_form, domain in (
        ("xn--strae-oqa.example.com", "straße.example.com"),
        ("xn--caf-dma.test:80", "café.test:80"),
    ):
        assert normal_domain(ascii_form) == domain
        assert to_ascii(domain) == ascii_form
    assert to_ascii("lab.test:18080") == "lab.test:18080"
    for wrong in ("", " ", ".x.test", "a b.test", "a/b", "a,b", "xn--\u00e9.test"):
        with pytest.raises(InputError):
            normal_domain(wrong)


def test_password_proof_is_the_one_of_a_browser() -> None:
    assert password_proof("alice-Passphrase-1", "me@alice.cozy.test", 650000) == (
        "5yB2lOGbCE3przGiEIlOvstPTIJrB7BP2Fp2X8Ddor4="
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "a b"}, "is no domain"),
        ({"email": ""}, "can't clear it"),
        ({"aliases": ["alice.cozy.test"]}, "among its own aliases"),
        ({"quota": "much"}, "can't be read"),
    ],
)
def test_bad_values_are_refused_before_anything_is_asked(arguments: dict[str, Any], message: str) -> None:
    assert message in play(Script(), **arguments)["msg"]
