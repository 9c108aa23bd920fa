# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications of an instance. Private: not for use outside of this collection."""

from __future__ import annotations

import json
import re
import time
import typing as t
from urllib.parse import quote, urlsplit

from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import Answer, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError

DONE = ("ready", "installed")
UNDER_WAY = ("installing", "upgrading")
POLL_SECONDS = 1.0
# All that cozy-stack takes (model/app/installer.go).
SCHEMES = ("registry", "http", "https", "file", "git", "git+https", "git+ssh", "ssh+git")


class App(t.NamedTuple):
    """An application as the list shows it."""

    slug: str
    version: str
    source: str
    state: str
    available_version: str

    @classmethod
    def of(cls, data: t.Mapping[str, t.Any]) -> App:
        """Read from one item of the list, or one event."""
        attributes = data["attributes"]
        return cls(*(str(attributes.get(name) or "") for name in cls._fields))

    def shown(self) -> dict[str, str]:
        """For results: without what is empty."""
        return {name: value for name, value in self._asdict().items() if value}


def check_names(slugs: t.Iterable[str], sources: t.Mapping[str, str]) -> None:
    """Refuse what cozy-stack would refuse, or take without being able to tell whether it got the right thing.

    :raises InputError: if a name or a source can't be used.
    """
    for slug in slugs:
        if not re.fullmatch(r"[a-z0-9-]+", slug):
            raise InputError(f"'{slug}' is no short name of an application: only a-z, 0-9 and '-' are allowed.")
    for slug, source in sources.items():
        url = urlsplit(source)
        if url.scheme in ("http", "https") and not re.fullmatch(r"[0-9a-f]{64}", url.fragment):
            raise InputError(f"The source of {slug} needs its checksum: {url.scheme}://host/app.tar.gz#sha256.")
        if url.scheme == "file" and (url.netloc or not url.path.startswith("/")):
            raise InputError(f"The source of {slug} must be file:///folder, on cozy-stack's own disk.")
        if url.scheme not in SCHEMES:
            raise InputError(f"The source of {slug} is none of: {', '.join(SCHEMES)}.")


def last_event(body: str) -> tuple[str, t.Any]:
    """Name and content of the last event of an event stream: the only one that says how it ended.

    :raises CozyError: if there is none.
    """
    name, data, last = "", "", None
    for line in [*body.replace("\r\n", "\n").split("\n"), ""]:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line and data:
            last = (name, data)
            name, data = "", ""
    if last is None:
        raise CozyError("cozy-stack closed the event stream before it said how the installation ended.")
    try:
        return last[0], json.loads(last[1])
    except ValueError as exc:
        raise CozyError("cozy-stack sent an event that is not JSON.") from exc


class Apps:
    """The applications of one kind of one instance.

    :param konnectors: konnectors instead of web applications.
    :param check: look only, write nothing.
    :param wait: seconds to wait for an installation that runs already.
    """

    def __init__(self, stack: Stack, domain: str, konnectors: bool, check: bool, wait: float) -> None:
        self._stack = stack
        self._domain = domain
        self._path = "/konnectors/" if konnectors else "/apps/"
        self._scope = "io.cozy.konnectors" if konnectors else "io.cozy.apps"
        self._check = check
        self._wait = wait
        self.changed: list[str] = []
        self.failed: dict[str, str] = {}
        # Versions that ask for permissions a person has not given yet.
        self.waiting: dict[str, str] = {}

    def listed(self) -> dict[str, App]:
        """All of them, by slug. Only the list is read: asking for one application installs it anew."""
        what = f"Listing the applications of {self._domain}"
        answer = self._stack.public("GET", self._domain, self._path, what, self._scope)
        if answer.status != 200:
            raise answer.error(what)
        return {app.slug: app for app in map(App.of, answer.json()["data"] or [])}

    def present(
        self, now: dict[str, App], slugs: list[str], sources: dict[str, str], latest: bool, accept_permissions: bool
    ) -> None:
        """Install what is missing, move what has another source, and on request upgrade what is there.

        :param now: the list as it is.
        """
        now = self._settled(now, slugs)
        for slug in slugs:
            app, source = now.get(slug), sources.get(slug, "")
            self._note_waiting(slug, app)
            if app is None:
                self._run("POST", slug, {"Source": source or f"registry://{slug}/stable"}, None)
            elif app.state not in DONE:
                self.failed[slug] = f"is in state '{app.state}'"
            elif source and app.source != source:
                self._run("PUT", slug, {"Source": source, **_permissions(accept_permissions)}, app)
            elif latest and app.source.startswith("registry://"):
                self._run("PUT", slug, _permissions(accept_permissions), app)

    def absent(self, now: dict[str, App], slugs: list[str]) -> None:
        """Remove what is there.

        :param now: the list as it is.
        """
        for slug in [slug for slug in slugs if slug in now]:
            self.changed.append(slug)
            if self._check:
                continue
            what = f"Removing {slug} from {self._domain}"
            answer = self._stack.public("DELETE", self._domain, self._path + quote(slug, safe=""), what, self._scope)
            # 202: a konnector with accounts is removed later, when their own removal has been told to the other side.
            if answer.status not in (200, 202):
                self.failed[slug] = str(answer.error(what))
            elif answer.status == 202 and not self._left(slug):
                self.failed[slug] = f"is still there {self._wait:.0f} s after its removal began"

    def verify(self, now: dict[str, App]) -> None:
        """An installation may fail without a word: what is not in the list did not arrive.

        :param now: the list as it is after installing.
        """
        for slug in self.changed:
            if slug not in now:
                self.failed.setdefault(slug, "cozy-stack reported success, but does not list it")

    def _left(self, slug: str) -> bool:
        deadline = time.monotonic() + self._wait
        while slug in self.listed():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _settled(self, now: dict[str, App], slugs: list[str]) -> dict[str, App]:
        deadline = time.monotonic() + self._wait
        while any(slug in now and now[slug].state in UNDER_WAY for slug in slugs) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self.listed()
        return now

    def _run(self, method: str, slug: str, parameters: dict[str, str], before: App | None) -> None:
        if self._check:
            # What a registry offers can't be known without asking the stack to upgrade; what waits is known.
            if (
                before is None
                or "Source" in parameters
                or (before.available_version and "PermissionsAcked" in parameters)
            ):
                self.changed.append(slug)
            return
        answer = self._stack.public(
            method,
            self._domain,
            self._path + quote(slug, safe=""),
            f"Installing {slug} on {self._domain}",
            self._scope,
            accept="text/event-stream",
            parameters=parameters,
        )
        app = self._ended(slug, answer)
        self._note_waiting(slug, app or before)
        # The revision grows with every call; only version and source tell.
        if app and (before is None or (app.version, app.source) != (before.version, before.source)):
            self.changed.append(slug)

    def _note_waiting(self, slug: str, app: App | None) -> None:
        self.waiting.pop(slug, None)
        if app and app.available_version:
            self.waiting[slug] = app.available_version

    def _ended(self, slug: str, answer: Answer) -> App | None:
        if answer.status != 200:
            self.failed[slug] = str(answer.error(f"Installing {slug}"))
            return None
        try:
            name, content = last_event(answer.body)
        except CozyError as exc:
            self.failed[slug] = str(exc)
            return None
        if name != "state":
            self.failed[slug] = str(content)
            return None
        app = App.of(content["data"])
        if app.state not in DONE:
            self.failed[slug] = f"ended in state '{app.state}'"
            return None
        return app


def _permissions(accept: bool) -> dict[str, str]:
    return {"PermissionsAcked": "true"} if accept else {}


__all__ = ("App", "Apps", "check_names", "last_event")
