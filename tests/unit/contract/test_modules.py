# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on whole stacks: what needs no process of its own, and so can be asked of a real one."""

from __future__ import annotations

from typing import Any

from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import database_prefix
from ansible_collections.kubecozy.homelab.plugins.modules import (
    cozy_app,
    cozy_instance,
    cozy_instance_info,
    cozy_test_mail,
)

from tests.unit.contract.site import Site
from tests.unit.doubles.browser import cookie, download, handshake, log_in, upload
from tests.unit.plugins.module_helper import four_steps, run_module


def instance(site: Site, name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
    return run_module(cozy_instance.main, check, **{"domain": site.domain(name), **site.urls_and_secrets, **arguments})


def test_life_of_an_instance(site: Site) -> None:
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        return instance(site, "erin", check, **arguments)

    wish: dict[str, Any] = {"passphrase": "erin-Passphrase-1", "email": "erin@example.test", "locale": "fr"}
    four_steps(run, **wish)
    wish |= {"email": "erin@example.com", "public_name": "Erin", "quota": "5GB", "aliases": [site.domain("er")]}
    done = four_steps(run, **wish, timezone="Europe/Paris", feature_flags={"a": True}, feature_sets=["s"])
    assert done["instance"]["disk_quota"] == "5000000000"
    four_steps(run, quota="unlimited", aliases=[], blocked=True)
    four_steps(run, blocked=False)
    four_steps(run, passphrase="erin-Passphrase-2", update_passphrase="always")
    listed = run_module(cozy_instance_info.main, **site.urls_and_secrets)["instances"]
    assert site.domain("erin") in [found["domain"] for found in listed]
    four_steps(run, state="absent")


def test_application_that_does_not_exist(site: Site) -> None:
    instance(site, "frank")
    arguments: dict[str, Any] = {"domain": site.domain("frank"), "name": ["no-such-app"], **site.urls_and_secrets}
    failed = run_module(cozy_app.main, **arguments)
    assert failed["failures"] == {"no-such-app": "Application manifest is not reachable"}
    assert failed["apps"] == {}
    assert not run_module(cozy_app.main, **{**arguments, "state": "absent"})["changed"]
    instance(site, "frank", state="absent")


def test_mail_to_a_person_without_an_address(site: Site) -> None:
    instance(site, "peggy")
    failed = run_module(cozy_test_mail.main, domain=site.domain("peggy"), **site.urls_and_secrets)
    assert f"Domain {site.domain('peggy')} has no email in its settings" in failed["msg"]
    instance(site, "peggy", state="absent")


def test_person_with_a_link(site: Site) -> None:
    link = instance(site, "grace", onboarding_link=True)["onboarding_link"]
    assert link.startswith(f"https://{site.domain('grace')}/?registerToken=")
    four_steps(lambda check=False, **more: instance(site, "grace", check, **more), passphrase="grace-Passphrase-1")
    assert "onboarding_link" not in instance(site, "grace", onboarding_link=True)
    instance(site, "grace", state="absent")


def test_alias_is_no_domain(site: Site) -> None:
    instance(site, "carol", aliases=[site.domain("ca")])
    for state in ("present", "absent"):
        assert "is an alias of" in instance(site, "ca", state=state)["msg"]
    assert "one of its aliases" in instance(site, "heidi", aliases=[site.domain("ca")])["msg"]
    assert instance(site, "carol", state="absent")["changed"]


def test_databases_that_a_cut_off_creation_left(site: Site) -> None:
    """What a crash leaves is played by a database in the way."""
    name = f"{database_prefix(site.domain('ivan'))}%2Fio-cozy-files"
    assert site.couchdb("PUT", f"/{name}").status == 201
    assert "left databases behind" in instance(site, "ivan", wait=1)["msg"]
    wish: dict[str, Any] = {"wait": 1, "remove_leftovers": True, "couchdb_url": site.couchdb_url}
    assert instance(site, "ivan", **wish)["changes"] == ["leftover databases removed", "created"]
    assert not instance(site, "ivan", **wish)["changed"]
    assert instance(site, "ivan", state="absent")["changed"]


def test_removal_that_failed_half_way(site: Site) -> None:
    """What such a one leaves is the mark that it has begun."""
    instance(site, "kim")
    assert site.admin("PATCH", f"/instances/{site.domain('kim')}?Deleting=true").status == 200
    assert instance(site, "kim", state="absent", wait=1)["changes"] == ["removed"]
    assert not instance(site, "kim", state="absent")["changed"]


def test_international_name(site: Site) -> None:
    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        return instance(site, "straße", check, **arguments)

    four_steps(run, passphrase="some-Passphrase-1", aliases=[site.domain("café")])
    assert run()["instance"]["domain"] == site.domain("straße")
    four_steps(run, email="x@example.test")
    assert "is an alias of" in instance(site, "xn--caf-dma")["msg"]
    assert instance(site, "xn--strae-oqa", state="absent")["changed"]


def test_wrong_passphrase(site: Site) -> None:
    assert "refuses the admin passphrase" in instance(site, "judy", admin_passphrase="wrong")["msg"]


def test_what_a_browser_does(site: Site) -> None:
    """Login by passphrase, a file there and back, a websocket."""
    domain = site.domain("mallory")
    instance(site, "mallory", passphrase="mallory-Passphrase-1")
    assert log_in(site, domain, "another").status == 401
    welcome = log_in(site, domain, "mallory-Passphrase-1")
    assert welcome.status == 303
    token = site.token(domain, "io.cozy.files")
    sent = upload(site, domain, token, 5 * 10**6)
    assert download(site, domain, token, sent["id"]) == (5 * 10**6, sent["md5"])
    handshake(site, domain, cookie(welcome, "cozysessid")).close()
    instance(site, "mallory", state="absent")
