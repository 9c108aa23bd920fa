# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract's tests touch nothing but what is theirs, and take secrets from where nobody else sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.contract.site import Settings, SettingsError, Site

GIVEN = {
    "COZY_URL": "http://127.0.0.1:1",
    "COZY_ADMIN_URL": "http://127.0.0.1:2/",
    "COUCHDB_URL": "http://127.0.0.1:3",
    "COZY_ADMIN_PASSPHRASE": "adm",
    "COUCHDB_USER": "cozy",
    "COUCHDB_PASSWORD": "p@ss",
}


def test_settings_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert Settings.read({"COZY_ADMIN_URL": "x"}) is None
    settings = Settings.read(GIVEN)
    assert settings is not None
    assert Site(settings).couchdb_url == "http://cozy:p%40ss@127.0.0.1:3"
    file = tmp_path / "passphrase"
    file.write_text("from a file\n")
    without = {name: value for name, value in GIVEN.items() if name != "COZY_ADMIN_PASSPHRASE"}
    found = Settings.read({**without, "COZY_ADMIN_PASSPHRASE_FILE": str(file)})
    assert found is not None
    assert found.passphrase == "from a file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"COZY_ADMIN_URL": ""}, "not COZY_ADMIN_URL: the admin port"),
        ({"COUCHDB_PASSWORD": ""}, "not COUCHDB_PASSWORD or COUCHDB_PASSWORD_FILE"),
        ({"COUCHDB_PASSWORD": "", "COUCHDB_PASSWORD_FILE": "/nowhere"}, "COUCHDB_PASSWORD_FILE can't be read"),
        ({"COZY_URL": "cozy.example.com"}, "COZY_URL must be http"),
        ({"COUCHDB_URL": "http://cozy:secret@127.0.0.1:5984"}, "COUCHDB_URL holds a login"),
    ],
)
def test_settings_that_can_not_be_used(change: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        Settings.read({**GIVEN, **change})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("port", "method", "path"),
    [
        (1, "DELETE", "/instances/alice.cozy.test"),
        (1, "PATCH", "/instances/feature/defaults"),
        (1, "POST", "/instances?Domain=alice.cozy.test"),
        (2, "DELETE", "/global%2Finstances"),
    ],
)
def test_what_is_not_of_this_run_is_never_touched(port: int, method: str, path: str) -> None:
    settings = Settings.read(GIVEN)
    assert settings is not None
    with pytest.raises(AssertionError, match="not of this run"):
        Site(settings).call(port, method, path, {"Host": "alice.cozy.test"})


def test_all_is_cleaned_away(site: Site) -> None:
    assert site.admin("POST", f"/instances?Domain={site.domain('olivia')}").status == 201
    assert site.domain("olivia") in site.instances()
    assert len(site.databases()) > 10
    site.clean()
    assert site.instances() == site.databases() == []
