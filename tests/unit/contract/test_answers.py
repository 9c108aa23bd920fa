# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The recordings that need nothing but instances of their own, played again under other domains."""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import quote

from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import database_prefix

from tests.unit.contract.site import PARENT, Site
from tests.unit.doubles.replay import Replay, load, order
from tests.unit.doubles.world import PASSPHRASE, basic

FIRST, LAST = "status-ok", "admin-sets-put"
# About the whole stack, and so about what else is there.
OF_THE_WHOLE = r"instances-(list|count)|auth-any-user|metrics|admin-(contexts|feature|with-app|konn-maint)|version-"
# Folders of applications on the stack's own disk, and what follows from them.
OF_ITS_DISK = (
    r"apps-(install-(sse|409|async|fail-(nomanifest|badmanifest)|konn)|list-(one|two|after-fail|xfp)|get-200|get-file"
    r"|put-(sse|async)|delete)|konn-(install|list-one|delete)|app-probe"
)
# A registry out of reach: here there may be one.
OF_THE_REGISTRY = r"apps-install-(fail-registry|nosource)|app-home-loggedin"
# A file of 100 MB: test_modules sends one of another size.
LARGE = r"file-(upload-100MB|download|upload-409|trash|destroy)|disk-usage-admin"
# Domains that could not be of this run.
FOREIGN = r"create-422-[1235]|create-nodomain|instance-delete-204-bad-name"
LEFT_OUT = re.compile(rf"({OF_THE_WHOLE}|{OF_ITS_DISK}|{OF_THE_REGISTRY}|{LARGE}|{FOREIGN})")
# Removal by an alias, and anew.
REMOVALS = ("create-dave", "instance-delete-404-second")
# The first follows from the length of a page, and so of a domain; the second from the stack's version.
NOT_COMPARED = ("Transfer-Encoding", "indexes_version")
PEOPLE = (
    ("alice", "alice-Passphrase-1"),
    ("bob", "bobS3cret-pass"),
    ("bob", "bob-forced-1"),
    ("bob", "bob-forced-2"),
)


def between(first: str, last: str) -> list[str]:
    names = order()
    return names[names.index(first) : names.index(last) + 1]


def proof(passphrase: str, domain: str) -> str:
    """What a browser sends instead of a passphrase."""
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), f"me@{domain}".encode(), 650_000, 32)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1, 32)).decode()


def translations(site: Site) -> dict[str, str]:
    """From what was recorded to what this run has instead."""
    found = {basic("", PASSPHRASE): basic("", site.passphrase)}
    for name, passphrase in PEOPLE:
        pair = [proof(passphrase, f"{name}.{parent}") for parent in (PARENT, site.parent)]
        found |= {pair[0]: pair[1], quote(pair[0], safe=""): quote(pair[1], safe="")}
    for name in ("alice", "bob", "dave"):
        prefixes = [database_prefix(f"{name}.{parent}") for parent in (PARENT, site.parent)]
        found[prefixes[0]] = prefixes[1]
    # last: what stands before it holds no domain
    return found | {PARENT: site.parent}


def played(site: Site, cases: list[str]) -> None:
    run = Replay(site, known=translations(site), leave=NOT_COMPARED)
    run.run(cases)
    assert not run.differences, "\n".join(run.differences)


def test_instances_people_and_pages(site: Site) -> None:
    """Health, refusals at the door, two instances, each of their attributes, logins, first steps, files."""
    cases = [name for name in between(FIRST, LAST) if not LEFT_OUT.match(name)]
    assert len(cases) == 189
    played(site, cases)


def test_removals(site: Site) -> None:
    played(site, between(*REMOVALS))


def test_what_is_left_out_is_there() -> None:
    """Each pattern still leaves something out, and nothing that could write outside of this run is left in."""
    names = between(FIRST, LAST)
    for pattern in (OF_THE_WHOLE, OF_ITS_DISK, OF_THE_REGISTRY, LARGE, FOREIGN):
        assert any(re.match(pattern, name) for name in names)
    for name in names:
        request = load(name)["request"]
        where = request["path"] + request["headers"].get("Host", "")
        assert request["method"] in ("GET", "HEAD") or PARENT in where or LEFT_OUT.match(name), name
