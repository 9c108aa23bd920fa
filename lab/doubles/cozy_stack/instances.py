# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances: look-up, creation, change, deletion; their documents in CouchDB."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
import time
from typing import Any
from urllib.parse import quote

from ..web import Request
from . import files, keys
from .answers import ApiError
from .core import Stack
from .couch import INSTANCES, CouchError

INDEXES_VERSION = 39
DOCTYPES = [
    "com-bitwarden-ciphers",
    "io-cozy-apps",
    "io-cozy-contacts",
    "io-cozy-files",
    "io-cozy-files-versions",
    "io-cozy-jobs",
    "io-cozy-konnectors",
    "io-cozy-nextcloud-migrations",
    "io-cozy-notifications",
    "io-cozy-oauth-clients",
    "io-cozy-permissions",
    "io-cozy-sessions-logins",
    "io-cozy-settings",
    "io-cozy-shared",
    "io-cozy-sharings",
    "io-cozy-triggers",
]
ILLEGAL = " /,;&?#@|='\"\t\r\n\0"
SETTINGS_ID = "io.cozy.settings.instance"
# attributes that are left out when false or empty; the rest is always shown
OPTIONAL = [
    "domain_aliases",
    "old_domain",
    "org_domain",
    "org_id",
    "uuid",
    "oidc_id",
    "franceconnect_id",
    "context",
    "sponsorships",
    "tos",
    "tos_latest",
    "auth_mode",
    "magic_link",
    "deleting",
    "moved",
    "blocked",
    "blocking_reason",
    "no_auto_update",
    "onboarding_finished",
    "disk_quota",
    "register_token",
    "feature_flags",
    "feature_sets",
]
SECRETS = ("passphrase_hash", "session_secret", "oauth_secret", "cli_secret")
# parameter of POST and PATCH -> field of the instance document
TEXTS = {
    "Locale": "locale",
    "UUID": "uuid",
    "OIDCID": "oidc_id",
    "FranceConnectID": "franceconnect_id",
    "TOSSigned": "tos",
    "TOSLatest": "tos_latest",
    "ContextName": "context",
    "OldDomain": "old_domain",
}
PATCH_TEXTS = TEXTS | {"BlockingReason": "blocking_reason"}
PATCH_BOOLS = {
    "MagicLink": "magic_link",
    "Blocked": "blocked",
    "OnboardingFinished": "onboarding_finished",
    "Deleting": "deleting",
}
# parameter -> field of the settings document
SETTINGS = {"Email": "email", "PublicName": "public_name", "Timezone": "tz", "Phone": "phone"}
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")

Doc = dict[str, Any]


class UnknownInstanceError(ApiError):
    """No instance has this domain or alias."""

    def __init__(self) -> None:
        super().__init__(404, "Instance not found")


def exists() -> ApiError:
    return ApiError(409, "Instance already exists")


def settings_db(doc: Doc) -> str:
    return f"{doc['prefix']}/io-cozy-settings"


def to_unicode(domain: str) -> str:
    """A domain with its punycode taken apart, and nothing else done. Raises UnicodeError."""
    parts = [part[4:].encode().decode("punycode") if part.startswith("xn--") else part for part in domain.split(".")]
    return ".".join(parts)


def clean_domain(stack: Stack, domain: str) -> str:
    """The domain as the stack keeps it. Raises ApiError 422 for an illegal one."""
    try:
        name = to_unicode(domain).strip().lower()
    except UnicodeError as error:
        raise ApiError(422, "Domain name contains illegal characters", "domain") from error
    dashed = stack.config.subdomains == "flat" and "-" in name.split(".")[0]
    if not name or name.startswith(".") or dashed or any(sign in ILLEGAL for sign in name):
        raise ApiError(422, "Domain name contains illegal characters", "domain")
    return name


def search(stack: Stack, domain: str) -> Doc | None:
    """The instance with this domain or alias. Raises CouchError."""
    view = "/global%2Finstances/_design/domain-and-aliases/_view/domain-and-aliases"
    shown = f"{view}?group=false&include_docs=true&key=%22{quote(domain)}%22&limit=1&reduce=false"
    for doc in stack.couch.docs(INSTANCES, shown):
        if doc.get("domain") == domain or domain in doc.get("domain_aliases", []):
            return doc
    return None


def lookup(stack: Stack, domain: str) -> Doc:
    """As search, with the one retry after a second by which the stack rides over a CouchDB that is away.

    Raises UnknownInstanceError or CouchError.
    """
    try:
        found = search(stack, domain)
    except CouchError as error:
        if not error.unreachable:
            raise
        time.sleep(1)
        found = search(stack, domain)
    if found is None:
        raise UnknownInstanceError
    return found


def attributes(doc: Doc, with_secrets: bool = False) -> Doc:
    """The attributes of an instance as the admin API shows them."""
    shown: Doc = {"domain": doc["domain"]}
    for name in ("domain_aliases", "prefix", "locale", *OPTIONAL[1:], "password_defined", "indexes_version"):
        if name in doc and (doc[name] or name not in OPTIONAL):
            shown[name] = str(doc[name]) if name == "disk_quota" else doc[name]
    if with_secrets:
        shown |= {name: doc[name] for name in SECRETS if doc.get(name)}
    return shown


def resource(doc: Doc, with_secrets: bool = False) -> Doc:
    return {
        "type": "instances",
        "id": doc["_id"],
        "attributes": attributes(doc, with_secrets),
        "meta": {"rev": doc["_rev"]},
        "links": {"self": f"/instances/{doc['_id']}"},
    }


def new_secret(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()


def set_hash(doc: Doc, hashed: bytes, iterations: int) -> None:
    """Give the instance the passphrase whose browser-side hash this is."""
    doc["passphrase_hash"] = base64.b64encode(keys.make_secret(hashed).encode()).decode()
    doc["kdf_iterations"] = iterations
    doc["password_defined"] = True


def check_hash(doc: Doc, hashed: bytes) -> bool:
    stored = doc.get("passphrase_hash")
    return stored is not None and keys.check_secret(base64.b64decode(stored).decode(), hashed)


def parse_quota(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ApiError(500, f'strconv.ParseInt: parsing "{value}": invalid syntax') from None


def parse_settings(value: str) -> Doc:
    pairs = [pair.partition(":") for pair in value.split(",") if ":" in pair]
    return {key.strip(): item.strip() for key, _, item in pairs}


def parse_aliases(stack: Stack, value: str, own_domain: str, own_id: str | None) -> list[str]:
    """The aliases in a comma list. Raises ApiError 409 for a name that is taken, 422 for an illegal one."""
    aliases = [clean_domain(stack, alias) for alias in value.split(",") if alias.strip()]
    for alias in aliases:
        other = search(stack, alias)
        if alias == own_domain or (other is not None and other["_id"] != own_id):
            raise exists()
    return aliases


def create(stack: Stack, request: Request) -> Doc:
    """Create an instance from the query; databases, documents, folder, in the real order.

    Raises ApiError, CouchError (412 when databases of an earlier try are there).
    """
    domain = clean_domain(stack, request.first("Domain"))
    iterations = int(request.first("KdfIterations") or "0")
    if request.has("KdfIterations") and not 50_000 <= iterations <= 5_000_000:
        word = "low" if iterations < 50_000 else "high"
        raise ApiError(422, f"The KdfIterations number is too {word}", "KdfIterations")
    if search(stack, domain) is not None:
        raise exists()
    aliases = parse_aliases(stack, request.first("DomainAliases"), domain, None)
    doc: Doc = {
        "domain": domain,
        "prefix": "cozy" + hashlib.sha256(domain.encode()).hexdigest()[:32],
        "locale": "en",
        "password_defined": False,
        "indexes_version": INDEXES_VERSION,
        "session_secret": new_secret(64),
        "oauth_secret": new_secret(128),
        "cli_secret": new_secret(128),
    }
    doc |= {field: request.first(name) for name, field in TEXTS.items() if request.first(name)}
    doc |= {"domain_aliases": aliases} if aliases else {}
    if request.first("DiskQuota") and parse_quota(request.first("DiskQuota")) > 0:
        doc["disk_quota"] = parse_quota(request.first("DiskQuota"))
    doc |= {"magic_link": True} if request.first("MagicLink") in TRUE else {}
    doc |= {"feature_sets": request.first("feature_sets").split(",")} if request.first("feature_sets") else {}
    for name in DOCTYPES:
        stack.couch.create(f"{doc['prefix']}/{name}")
        stack.halt_point("databases")
    settings = {field: request.first(name) for name, field in SETTINGS.items() if request.first(name)}
    settings |= parse_settings(request.first("Settings"))
    stack.couch.put(settings_db(doc), {"_id": SETTINGS_ID, **settings})
    if request.first("Passphrase"):
        if request.first("Key"):
            set_hash(doc, request.first("Passphrase").encode(), iterations or keys.KDF_ITERATIONS)
        else:
            set_passphrase(doc, request.first("Passphrase"))
        doc["onboarding_finished"] = True
    else:
        doc["register_token"] = new_secret(16)
    stack.couch.put(INSTANCES, doc)
    files.make_root(stack, doc)
    stack.halt_point("document")
    files.make_tree(stack, doc)
    stack.couch.put(INSTANCES, doc)
    return doc


def set_passphrase(doc: Doc, passphrase: str) -> None:
    set_hash(doc, keys.hash_passphrase(passphrase, doc["domain"], keys.KDF_ITERATIONS), keys.KDF_ITERATIONS)


def patch(stack: Stack, doc: Doc, request: Request) -> None:
    """Apply the query to an instance; which fields write a revision follows the recordings. Raises ApiError."""
    fields: Doc = {}
    always = False
    for name, field in PATCH_TEXTS.items():
        if request.first(name):
            fields[field] = request.first(name)
    for name, field in PATCH_BOOLS.items():
        if request.first(name) in TRUE + FALSE:
            fields[field] = request.first(name) in TRUE
    if request.first("DiskQuota"):
        quota = parse_quota(request.first("DiskQuota"))
        if quota:
            fields["disk_quota"] = max(quota, 0)
            always = quota < 0
    if request.first("DomainAliases"):
        fields["domain_aliases"] = parse_aliases(stack, request.first("DomainAliases"), doc["domain"], doc["_id"])
        always = True
    if request.first("Sponsorships"):
        fields["sponsorships"] = [name.strip() for name in request.first("Sponsorships").split(",") if name.strip()]
        always = True
    settings = {field: request.first(name) for name, field in SETTINGS.items() if request.first(name)}
    settings |= parse_settings(request.first("Settings"))
    if settings:
        stored = stack.couch.get(settings_db(doc), SETTINGS_ID) or {"_id": SETTINGS_ID}
        if any(stored.get(key) != value for key, value in settings.items()):
            stack.couch.put(settings_db(doc), stored | settings)
    if always or any((doc.get(key) or "") != (value or "") for key, value in fields.items()):
        doc.update(fields)
        stack.couch.put(INSTANCES, doc)


def delete(stack: Stack, doc: Doc) -> None:
    """Remove databases, folder and document. When the folder resists, the rest is gone all the same (500)."""
    doc["deleting"] = True
    stack.couch.put(INSTANCES, doc)
    for name in stack.couch.databases(doc["prefix"]):
        stack.couch.drop(name)
    folder = stack.folder(doc["domain"])
    try:
        if folder.exists():
            shutil.rmtree(folder)
        elif not stack.writable():
            raise OSError(30, "Read-only file system")
    except OSError as error:
        doc["deleting"] = False
        stack.couch.put(INSTANCES, doc)
        raise ApiError(500, f"unlinkat {error.filename or folder}: {(error.strerror or '').lower()}") from error
    stack.couch.delete(INSTANCES, doc)


def settings_attributes(stack: Stack, doc: Doc) -> tuple[Doc, str]:
    """The attributes of GET /settings/instance, and the revision of the settings document."""
    stored = dict(stack.couch.get(settings_db(doc), SETTINGS_ID) or {"_rev": ""})
    rev = str(stored.pop("_rev"))
    stored.pop("_id", None)
    shown = {
        "auth_mode": "basic",
        "auto_update": True,
        "context": doc.get("context", ""),
        "default_redirection": "home/",
        "locale": doc["locale"],
        "oidc_id": doc.get("oidc_id", ""),
        "onboarding_finished": doc.get("onboarding_finished", False),
        "org_domain": doc.get("org_domain", ""),
        "org_id": doc.get("org_id", ""),
        "password_defined": doc["password_defined"],
        "tos": doc.get("tos", ""),
        "tos_latest": doc.get("tos_latest", ""),
        "uuid": doc.get("uuid", ""),
        **stored,
    }
    return dict(sorted(shown.items())), rev
