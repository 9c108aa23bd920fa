# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an instance should be, and the steps to get there. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import hashlib
import re
import time
import typing as t
import unicodedata
from urllib.parse import quote

from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import Answer, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._couchdb import CouchDB
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import ApiError, CozyError, InputError

SETTINGS_SCOPE = "io.cozy.settings"
POLL_SECONDS = 1.0
# cozy-stack's only word for it; there is no other sign.
DELETING = "already been requested"
UNLIMITED = "unlimited"
ALWAYS = "always"

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power

# Attributes of the instance that may be shown: an answer to PATCH also holds hashes and keys.
SHOWN = (
    "domain",
    "domain_aliases",
    "locale",
    "context",
    "disk_quota",
    "blocked",
    "onboarding_finished",
    "password_defined",
    "indexes_version",
    "feature_sets",
)
# option -> (parameter of POST and PATCH, attribute in GET /instances/:domain)
ON_INSTANCE = {"locale": ("Locale", "locale"), "context": ("ContextName", "context")}
# option -> (parameter of POST and PATCH, attribute in GET /settings/instance)
ON_SETTINGS = {
    "email": ("Email", "email"),
    "public_name": ("PublicName", "public_name"),
    "timezone": ("Timezone", "tz"),
    "phone": ("Phone", "phone"),
}


def normal_domain(text: str) -> str:
    """A domain as cozy-stack keeps it: no blanks around, lower case, Unicode instead of punycode.

    :raises InputError: if it is none.
    """
    # Browsers send the composed form of a letter.
    domain = unicodedata.normalize("NFC", text.strip().lower())
    if not domain or domain.startswith(".") or re.search(r"[ /,;&?#@|='\"\t\r\n\0]", domain):
        raise InputError(f"'{text}' is no domain cozy-stack accepts: use a plain DNS name such as cozy.example.com.")
    try:
        # Not Python's codec "idna", which turns some letters into others: cozy-stack only takes the punycode apart.
        return ".".join(p[4:].encode().decode("punycode") if p.startswith("xn--") else p for p in domain.split("."))
    except UnicodeError as exc:
        raise InputError(f"'{text}' has a part that is no valid international name: {exc}") from exc


def quota_bytes(text: str) -> int | None:
    """A quota such as `5GB` (5000000000) or `5GiB` in bytes; None for `unlimited`.

    :raises InputError: if it can't be read.
    """
    if text.strip().lower() == UNLIMITED:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None or int(match.group(1)) == 0:
        raise InputError(
            f"Quota '{text}' can't be read: give bytes, a number with KB, MB, GB, KiB …, or '{UNLIMITED}'."
        )
    return int(match.group(1)) * unit


def database_prefix(domain: str) -> str:
    """The beginning of the names of an instance's databases in CouchDB."""
    return "cozy" + hashlib.sha256(domain.encode()).hexdigest()[:32]


def password_proof(passphrase: str, salt: str, iterations: int) -> str:
    """What a browser sends instead of the passphrase."""
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt.encode(), iterations, 32)
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", key, passphrase.encode(), 1, 32)).decode()


class Found(t.NamedTuple):
    """An instance as it is now.

    :param attributes: those of the admin API that may be shown, and the register token under `register_token`.
    """

    rev: str
    attributes: dict[str, t.Any]

    @classmethod
    def of(cls, answer: Answer) -> Found:
        """Read from an answer, leaving out what is secret."""
        return cls.read(answer.json()["data"])

    @classmethod
    def read(cls, data: dict[str, t.Any]) -> Found:
        """Read from one item of an answer, leaving out what is secret."""
        attributes = {key: data["attributes"][key] for key in SHOWN if key in data["attributes"]}
        return cls(data["meta"]["rev"], attributes)

    @property
    def unfinished(self) -> bool:
        """Whether its creation has not come to its last step (the document is written a second time then)."""
        return self.rev.startswith("1-")

    @property
    def quota(self) -> int | None:
        """In bytes; None for unlimited."""
        text = self.attributes.get("disk_quota")
        return int(text) if text else None


def all_instances(stack: Stack) -> list[Found]:
    """Every instance of a stack, by domain.

    :raises CozyError: if the stack does not list them.
    """
    what = "Listing the instances"
    found: list[Found] = []
    path: str | None = "/instances"
    while path:
        answer = stack.admin("GET", path, what)
        if answer.status != 200:
            raise answer.error(what)
        page = answer.json()
        found += [Found.read(data) for data in page["data"]]
        path = (page.get("links") or {}).get("next")
    return sorted(found, key=lambda instance: str(instance.attributes.get("domain")))


class Wish(t.NamedTuple):
    """What the user wants; None: leave as it is.

    :param simple: options of `ON_INSTANCE` and `ON_SETTINGS`.
    :param quota: in bytes; None together with `quota_given` means unlimited.
    """

    domain: str
    simple: dict[str, str]
    aliases: list[str] | None = None
    quota_given: bool = False
    quota: int | None = None
    blocked: bool | None = None
    passphrase: str | None = None
    always_passphrase: bool = False
    flags: dict[str, t.Any] | None = None
    sets: list[str] | None = None

    @classmethod
    def from_parameters(cls, parameters: dict[str, t.Any]) -> Wish:
        """Made from a module's parameters.

        :raises InputError: if a value can't be used.
        """
        domain = normal_domain(parameters["domain"])
        aliases = parameters["aliases"]
        if aliases is not None:
            aliases = list(dict.fromkeys(normal_domain(alias) for alias in aliases))
            if domain in aliases:
                raise InputError(f"{domain} is among its own aliases.")
        simple = {}
        for option in (*ON_INSTANCE, *ON_SETTINGS):
            if parameters[option] is not None:
                if not parameters[option].strip():
                    raise InputError(f"{option} is empty, but cozy-stack can't clear it: leave the option out instead.")
                simple[option] = parameters[option]
        quota = parameters["quota"]
        return cls(
            domain=domain,
            simple=simple,
            aliases=aliases,
            quota_given=quota is not None,
            quota=None if quota is None else quota_bytes(quota),
            blocked=parameters["blocked"],
            passphrase=parameters["passphrase"] or None,
            always_passphrase=parameters["update_passphrase"] == ALWAYS,
            flags=parameters["feature_flags"],
            sets=None if parameters["feature_sets"] is None else sorted(parameters["feature_sets"]),
        )


class Instance:
    """One instance on a stack.

    :param check: look only, write nothing.
    :param wait: seconds to wait for a creation that runs already.
    :param couchdb: gives the CouchDB to remove leftover databases from; None to leave them.
    """

    def __init__(
        self, stack: Stack, wish: Wish, check: bool, wait: float, couchdb: t.Callable[[], CouchDB] | None
    ) -> None:
        self._stack = stack
        self._couchdb = couchdb
        self._wish = wish
        self._check = check
        self._wait = wait
        self._path = f"/instances/{quote(wish.domain, safe='')}"
        self.changes: list[str] = []
        self.before: dict[str, t.Any] = {}
        self.after: dict[str, t.Any] = {}

    @property
    def domain(self) -> str:
        return self._wish.domain

    def find(self) -> Found | None:
        """The instance of exactly this domain, if there is one.

        :raises InputError: if the domain is an alias of another instance.
        """
        what = f"Looking for the instance {self.domain}"
        answer = self._stack.admin("GET", self._path, what)
        if answer.status == 404:
            return None
        if answer.status == 422 and "-" in self.domain.split(".")[0]:
            raise InputError(
                f"cozy-stack refuses {self.domain}: with flat subdomains, the first part of a domain has no '-'."
            )
        if answer.status != 200:
            raise answer.error(what)
        found = Found.of(answer)
        main = found.attributes.get("domain")
        if main != self.domain:
            raise InputError(
                f"{self.domain} is an alias of the instance {main}. Every change, removal included, would hit {main}:"
                " name that domain, or take the alias away from it first."
            )
        return found

    def absent(self) -> None:
        """Remove the instance with everything in it."""
        found = self.find()
        if found is None:
            return
        self.before = dict(found.attributes)
        self.changes.append("removed")
        if not self._check:
            self._remove()

    def present(self) -> Found | None:
        """Make the instance what it should be.

        :returns: the instance, or None in check mode if it would be created.
        """
        found, hollow = self._settled(self.find())
        if hollow:
            # Nothing can ever have been stored in it: there is no folder to store it in.
            self.changes.append("half-created instance removed")
            if not self._check:
                self._remove()
            found = None
        if found is None:
            found = self._create()
            if found is None:
                return None
        else:
            found = self._finish_onboarding(found)
        return self._adjust(found)

    def onboarding_link(self) -> str | None:
        """Where a person sets the passphrase of an instance that has none yet; None if it has one."""
        token = self._register_token()
        return f"https://{self.domain}/?registerToken={token}" if token else None

    def _register_token(self) -> str | None:
        what = f"Reading the instance {self.domain}"
        answer = self._stack.admin("GET", self._path, what)
        if answer.status != 200:
            raise answer.error(what)
        token = answer.json()["data"]["attributes"].get("register_token")
        return base64.b64decode(token).hex() if token else None

    def _settled(self, found: Found | None) -> tuple[Found | None, bool]:
        """Wait while a creation may still be under way.

        :returns: the instance, and whether it is half-created for good.
        """
        deadline = time.monotonic() + self._wait
        while found is not None and found.unfinished and self._is_hollow():
            if time.monotonic() >= deadline:
                return found, True
            time.sleep(POLL_SECONDS)
            found = self.find()
        return found, False

    def _is_hollow(self) -> bool:
        """Whether the instance has no tree of files."""
        what = f"Checking the files of {self.domain}"
        answer = self._stack.admin("GET", f"{self._path}/fsck", what)
        if answer.status != 200:
            raise answer.error(what)
        return "index_missing_trash" in answer.body or '"error":"lstat' in answer.body

    def _remove(self) -> None:
        what = f"Removing the instance {self.domain}"
        answer = self._stack.admin("DELETE", self._path, what)
        if answer.status == 500 and DELETING in answer.body:
            # Another removal is under way; or one failed, and left its mark.
            if self._gone():
                return
            answer = self._stack.admin("PATCH", self._path, what, {"Deleting": "false"})
            if answer.status != 200:
                raise answer.error(what)
            answer = self._stack.admin("DELETE", self._path, what)
        if answer.status != 204:
            raise answer.error(what)

    def _gone(self) -> bool:
        """Wait while a removal may still be under way."""
        deadline = time.monotonic() + self._wait
        while self.find() is not None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _create(self) -> Found | None:
        wish = self._wish
        self.changes.append("created")
        self.after = {"domain": self.domain, **wish.simple}
        if wish.aliases:
            self.after["aliases"] = sorted(wish.aliases)
        if wish.quota is not None:
            self.after["quota"] = wish.quota
        if self._check:
            return None
        parameters = {"Domain": self.domain}
        for option, (parameter, _attribute) in {**ON_INSTANCE, **ON_SETTINGS}.items():
            if option in wish.simple:
                parameters[parameter] = wish.simple[option]
        if wish.aliases:
            parameters["DomainAliases"] = ",".join(wish.aliases)
        if wish.quota is not None:
            parameters["DiskQuota"] = str(wish.quota)
        if wish.passphrase:
            parameters["Passphrase"] = wish.passphrase
        return self._post(parameters)

    def _post(self, parameters: dict[str, str]) -> Found:
        what = f"Creating the instance {self.domain}"
        answer = self._stack.admin("POST", "/instances", what, parameters)
        if answer.status == 201:
            return Found.of(answer)
        error = answer.error(what)
        if not isinstance(error, ApiError) or error.status not in (409, 412):
            raise error
        if error.status == 409 and error.title != "conflict":
            found, hollow = self._settled(self.find())
            if found is None:
                raise self._taken_alias(what)
            return self._whole(found, hollow)
        # Databases of that name are there without an instance: another creation is running, or one died.
        found = self._awaited()
        if found is not None:
            return found
        prefix = database_prefix(self.domain)
        if self._couchdb is None:
            raise CozyError(
                f"{what}: an earlier creation was cut off and left databases behind, and none is running any more"
                f" (waited {self._wait:.0f} s). Say remove_leftovers=true, or remove all databases named"
                f" '{prefix}/...' from CouchDB yourself, then run this again."
            )
        couchdb = self._couchdb()
        leftovers = couchdb.databases(prefix)
        if not leftovers:
            raise error
        for name in leftovers:
            couchdb.remove(name)
        self.changes.insert(0, "leftover databases removed")
        # Once: what was removed can't be in the way again.
        self._couchdb = None
        return self._post(parameters)

    def _taken_alias(self, what: str) -> CozyError:
        aliases = ", ".join(self._wish.aliases or [])
        return CozyError(f"{what}: one of its aliases ({aliases}) is the domain or an alias of another instance.")

    def _whole(self, found: Found, hollow: bool) -> Found:
        if hollow:
            raise CozyError(
                f"Another creation of {self.domain} was cut off meanwhile. Run this again: it makes it anew."
            )
        return found

    def _awaited(self) -> Found | None:
        deadline = time.monotonic() + self._wait
        while True:
            found, hollow = self._settled(self.find())
            if found is not None:
                return self._whole(found, hollow)
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)

    def _finish_onboarding(self, found: Found) -> Found:
        """Give an instance that waits for its person the passphrase instead.

        :returns: the instance afterwards.
        """
        if not self._wish.passphrase or found.attributes.get("password_defined") is not False:
            return found
        token = self._register_token()
        if token is None:
            return found
        self._note("passphrase", "none", "set")
        if self._check:
            return found
        what = f"Setting the passphrase of {self.domain}"
        answer = self._stack.public(
            "POST",
            self.domain,
            "/settings/passphrase",
            what,
            accept="application/json",
            body={"register_token": token, "passphrase": self._wish.passphrase},
        )
        if answer.status != 200:
            raise answer.error(what)
        return self.find() or found

    def _note(self, name: str, before: t.Any, after: t.Any) -> None:
        self.changes.append(name)
        self.before[name] = before
        self.after[name] = after

    def _adjust(self, found: Found) -> Found:
        """Write what differs, and only that: some parameters write a revision even when nothing changes."""
        parameters = self._differences(found)
        if parameters and not self._check:
            what = f"Changing the instance {self.domain}"
            answer = self._stack.admin("PATCH", self._path, what, parameters)
            if answer.status != 200:
                error = answer.error(what)
                if isinstance(error, ApiError) and error.title == "Conflict" and "DomainAliases" in parameters:
                    raise self._taken_alias(what)
                raise error
            found = Found.of(answer)
        self._adjust_features(found)
        if self._wish.always_passphrase and "created" not in self.changes:
            self._adjust_passphrase()
        return found

    def _differences(self, found: Found) -> dict[str, str]:
        wish, parameters = self._wish, {}
        now = {option: found.attributes.get(attribute, "") for option, (_p, attribute) in ON_INSTANCE.items()}
        if any(option in wish.simple for option in ON_SETTINGS) and "created" not in self.changes:
            settings = self._settings()
            now.update({option: settings.get(attribute, "") for option, (_p, attribute) in ON_SETTINGS.items()})
        for option, (parameter, _attribute) in {**ON_INSTANCE, **ON_SETTINGS}.items():
            if option in wish.simple and option in now and now[option] != wish.simple[option]:
                self._note(option, now[option], wish.simple[option])
                parameters[parameter] = wish.simple[option]
        aliases = sorted(found.attributes.get("domain_aliases") or [])
        if wish.aliases is not None and aliases != sorted(wish.aliases):
            self._note("aliases", aliases, sorted(wish.aliases))
            # An empty value means "leave"; a lone comma empties the list.
            parameters["DomainAliases"] = ",".join(wish.aliases) or ","
        if wish.quota_given and found.quota != wish.quota:
            self._note("quota", found.quota or UNLIMITED, wish.quota or UNLIMITED)
            parameters["DiskQuota"] = str(wish.quota or -1)
        blocked = bool(found.attributes.get("blocked", False))
        if wish.blocked is not None and blocked != wish.blocked:
            self._note("blocked", blocked, wish.blocked)
            parameters["Blocked"] = str(wish.blocked).lower()
        return parameters

    def _settings(self) -> dict[str, t.Any]:
        what = f"Reading the settings of {self.domain}"
        answer = self._stack.public("GET", self.domain, "/settings/instance", what, SETTINGS_SCOPE)
        if answer.status != 200:
            raise answer.error(what)
        attributes = answer.json()["data"]["attributes"]
        return dict(attributes)

    def _adjust_features(self, found: Found) -> None:
        if self._wish.flags is not None:
            what = f"Feature flags of {self.domain}"
            answer = self._stack.admin("GET", f"{self._path}/feature/flags", what)
            if answer.status != 200:
                raise answer.error(what)
            flags = answer.json() or {}
            # null removes a flag, so a flag that is not there is already what null asks for
            wanted = {name: value for name, value in self._wish.flags.items() if flags.get(name) != value}
            if wanted:
                self._note("feature_flags", {name: flags.get(name) for name in wanted}, wanted)
                self._write("PATCH", f"{self._path}/feature/flags", what, wanted)
        if self._wish.sets is not None:
            what = f"Feature sets of {self.domain}"
            now = sorted(found.attributes.get("feature_sets") or [])
            if now != self._wish.sets:
                self._note("feature_sets", now, self._wish.sets)
                self._write("PUT", f"{self._path}/feature/sets", what, self._wish.sets)
                if not self._check:
                    found.attributes["feature_sets"] = self._wish.sets

    def _write(self, method: str, path: str, what: str, body: t.Any) -> None:
        if self._check:
            return
        answer = self._stack.admin(method, path, what, body=body)
        if answer.status != 200:
            raise answer.error(what)

    def _adjust_passphrase(self) -> None:
        if not self._wish.passphrase or "passphrase" in self.changes:
            return
        what = f"Checking the passphrase of {self.domain}"
        answer = self._stack.public("GET", self.domain, "/settings/passphrase", what, SETTINGS_SCOPE)
        if answer.status != 200:
            raise answer.error(what)
        known = answer.json()["data"]["attributes"]
        if known.get("iterations"):
            proof = password_proof(self._wish.passphrase, known["salt"], int(known["iterations"]))
            answer = self._stack.public(
                "POST",
                self.domain,
                "/settings/passphrase/check",
                what,
                SETTINGS_SCOPE,
                body={"passphrase": proof},
            )
            if answer.status == 204:
                return
            if answer.status != 403:
                raise answer.error(what)
        self._note("passphrase", "another", "set")
        if self._check:
            return
        what = f"Setting the passphrase of {self.domain}"
        answer = self._stack.public(
            "PUT",
            self.domain,
            "/settings/passphrase",
            what,
            SETTINGS_SCOPE,
            body={"new_passphrase": self._wish.passphrase, "force": True},
        )
        if answer.status != 204:
            raise answer.error(what)


__all__ = (
    "Found",
    "Instance",
    "Wish",
    "all_instances",
    "database_prefix",
    "normal_domain",
    "password_proof",
    "quota_bytes",
)
