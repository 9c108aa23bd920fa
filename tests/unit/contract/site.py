# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack that `make contract` tests: a real one given by URL, or else the doubles as local processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils._instance import database_prefix

from tests.unit.doubles.world import COUCH_PASSWORD, PASSPHRASE, Answer, Place, World

URLS = {"COZY_URL": "the public port", "COZY_ADMIN_URL": "the admin port", "COUCHDB_URL": "CouchDB"}
SECRETS = {
    "COZY_ADMIN_PASSPHRASE": "the admin passphrase",
    "COUCHDB_USER": "CouchDB's administrator",
    "COUCHDB_PASSWORD": "the password",
}
PARENT = "cozy.test"


class SettingsError(Exception):
    """What the environment says can't be used; the text says what is missing."""


@dataclass(frozen=True)
class Settings:
    """Where the stack is, and its secrets."""

    urls: tuple[SplitResult, SplitResult, SplitResult]
    passphrase: str
    couch_login: tuple[str, str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings | None:
        """From the environment; None if it names no stack. Raises SettingsError."""
        if not environ.get("COZY_URL"):
            return None
        found = {name: read_one(environ, name, what) for name, what in {**URLS, **SECRETS}.items()}
        urls = [urlsplit(found[name]) for name in URLS]
        for name, url in zip(URLS, urls, strict=True):
            if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/"):
                raise SettingsError(f"{name} must be http(s)://host[:port].")
            if url.username or url.password:
                raise SettingsError(f"{name} holds a login: give it in COUCHDB_USER and COUCHDB_PASSWORD.")
        login = found["COUCHDB_USER"], found["COUCHDB_PASSWORD"]
        return cls((urls[0], urls[1], urls[2]), found["COZY_ADMIN_PASSPHRASE"], login)


def read_one(environ: Mapping[str, str], name: str, what: str) -> str:
    """A variable, or the content of the file that the variable with _FILE names. Raises SettingsError."""
    if environ.get(name):
        return environ[name]
    if name in SECRETS and environ.get(f"{name}_FILE"):
        try:
            return Path(environ[f"{name}_FILE"]).read_text().strip()
        except OSError as error:
            raise SettingsError(f"{name}_FILE can't be read: {error}") from error
    also = f" or {name}_FILE" if name in SECRETS else ""
    raise SettingsError(f"COZY_URL is given, but not {name}{also}: {what}.")


class Site(Place):
    """A stack by its URLs, of which only instances below a domain of this run are touched."""

    public_port, admin_port, couch_port = range(3)
    root = data = Path("/nowhere")

    def __init__(self, settings: Settings) -> None:
        self.urls = settings.urls
        self.passphrase = settings.passphrase
        self.couch_login = settings.couch_login
        # begins with a letter and has no dash: flat subdomains want that
        self.tag = f"t{secrets.token_hex(6)}"
        self.parent = f"{self.tag}.{PARENT}"
        self.seen: set[str] = set()

    def domain(self, name: str) -> str:
        """The domain of an instance of this run."""
        self.seen.add(f"{name}.{self.parent}")
        return f"{name}.{self.parent}"

    def connection(self, port: int, timeout: float) -> http.client.HTTPConnection:
        url = self.urls[port]
        if url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(str(url.hostname), url.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(str(url.hostname), url.port, timeout=timeout)

    def call(
        self, port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None, timeout: float = 60
    ) -> Answer:
        where = f"{headers.get('Host', '')} {path}"
        ours = self.tag in where or any(database_prefix(domain) in where for domain in self.seen)
        assert method in ("GET", "HEAD") or ours, f"this would touch what is not of this run: {method} {path}"
        self.seen.update(re.findall(rf"[\w-]+\.{re.escape(self.parent)}", where.lower()))
        return super().call(port, method, path, headers, body, timeout)

    @property
    def urls_and_secrets(self) -> dict[str, Any]:
        """For the modules."""
        public, admin, _ = (url.geturl() for url in self.urls)
        return {"admin_url": admin, "public_url": public, "admin_passphrase": self.passphrase, "timeout": 120}

    @property
    def couchdb_url(self) -> str:
        user, password = (quote(part, safe="") for part in self.couch_login)
        return f"{self.urls[2].scheme}://{user}:{password}@{self.urls[2].netloc}"

    def instances(self) -> list[str]:
        """The domains of this run that have an instance."""
        path, found = "/instances", set()
        while path:
            page = json.loads(self.admin("GET", path).body)
            found |= {item["attributes"]["domain"] for item in page["data"]}
            path = (page.get("links") or {}).get("next", "")
        return sorted(domain for domain in found if domain.endswith(f".{self.parent}"))

    def databases(self) -> list[str]:
        """The databases of this run."""
        prefixes = tuple(f"{database_prefix(domain)}/" for domain in self.seen)
        return [name for name in json.loads(self.couchdb("GET", "/_all_dbs").body) if name.startswith(prefixes)]

    def clean(self) -> None:
        """Remove all that this run made."""
        for domain in self.instances():
            self.admin("DELETE", f"/instances/{quote(domain)}")
        for name in self.databases():
            self.couchdb("DELETE", f"/{quote(name, safe='')}")
        assert self.instances() == []
        assert self.databases() == []


@contextlib.contextmanager
def opened(environ: Mapping[str, str], folder: Path) -> Iterator[Site]:
    """The stack that the environment names, or the doubles; cleaned afterwards."""
    try:
        settings = Settings.read(environ)
    except SettingsError as error:
        pytest.exit(str(error), returncode=2)
    with contextlib.ExitStack() as stack:
        if settings is None:
            world = stack.enter_context(World(folder))
            world.start()
            ports = (world.public_port, world.admin_port, world.couch_port)
            public, admin, couch = (urlsplit(f"http://127.0.0.1:{port}") for port in ports)
            settings = Settings((public, admin, couch), PASSPHRASE, ("cozy", COUCH_PASSWORD))
        site = Site(settings)
        stack.callback(site.clean)
        yield site
