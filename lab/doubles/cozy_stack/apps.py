# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apps and konnectors: sources, the registry's double, install, update, removal."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..web import Request, Response, log
from . import keys
from .answers import ZERO_DATE, ApiError, TextError, event, jsonapi, now, text
from .config import OFFICIAL_REGISTRY
from .core import Stack
from .couch import CouchError

SLUG = re.compile(r"^[a-z0-9\-]+$")
PLATFORM = [
    "banks",
    "contacts",
    "drive",
    "home",
    "notes",
    "passwords",
    "photos",
    "settings",
    "store",
    "coachco2",
    "mespapiers",
    "dataproxy",
]
SCHEMES = ("registry", "file", "http", "https", "git", "git+https", "git+ssh")
REGISTRY_TIMEOUT = 5.0
MANIFESTS = {"apps": ("manifest.webapp", "webapp"), "konnectors": ("manifest.konnector", "konnector")}
WEBAPP_FIELDS: dict[str, Any] = {
    "intents": None,
    "locales": None,
    "notifications": None,
    "permissions": {},
    "routes": {"/": {"folder": "/", "index": "index.html", "public": False}},
    "services": None,
    "terms": {"url": "", "version": ""},
}

Doc = dict[str, Any]


@dataclass
class Package:
    """What a source gives: the manifest, the files, and the checksum (empty for a folder)."""

    manifest: Doc
    files: dict[str, bytes]
    checksum: str = ""
    damaged: bool = False


def unreachable() -> ApiError:
    return ApiError(404, "Application manifest is not reachable")


def not_installed() -> ApiError:
    return ApiError(404, "Application is not installed")


def doctype(kind: str) -> str:
    return f"io.cozy.{kind}"


def database(instance: Doc, kind: str) -> str:
    return f"{instance['prefix']}/io-cozy-{kind}"


# ----------------------------------------------------------------------------------------------------------- sources


def registry_entries() -> Doc:
    """slug -> channel -> release. COZY_DOUBLE_REGISTRY names a JSON file to use instead of the built-in list."""
    override = os.environ.get("COZY_DOUBLE_REGISTRY")
    if override:
        found: Doc = json.loads(Path(override).read_text())
        return found
    release = {"version": "1.0.0", "editor": "Cozy"}
    files = {"files": {"type": "io.cozy.files"}}
    return {
        slug: {"stable": release | {"name": slug.capitalize(), "permissions": files if slug == "drive" else {}}}
        for slug in PLATFORM
    }


def from_registry(stack: Stack, instance: Doc, source: str) -> Package:
    """A release of the registry. Only the official registry is played: any other one counts as out of reach."""
    first = stack.config.registries_of(instance.get("context", ""))[0]
    if urlsplit(first).hostname != urlsplit(OFFICIAL_REGISTRY).hostname:
        log(f'level=warning msg="double: registry {first} is not played, taken as unreachable" nspace=registry')
        raise unreachable()
    slug, channel = ([*source.removeprefix("registry://").split("/"), "stable"])[:2]
    release = registry_entries().get(slug, {}).get(channel or "stable")
    if release is None:
        raise unreachable()
    if release.get("delay", 0) > 0:
        time.sleep(min(REGISTRY_TIMEOUT, release["delay"]))
        if release["delay"] > REGISTRY_TIMEOUT:
            raise unreachable()
    manifest = {key: release[key] for key in ("name", "version", "editor", "permissions") if key in release}
    page = (
        f"<!doctype html><title>{manifest['name']}</title>"
        f'<div data-cozy-token="{{{{.Token}}}}">{manifest["name"]} {manifest["version"]} on {{{{.Domain}}}}</div>\n'
    )
    content = json.dumps([slug, manifest]).encode()
    checksum = hashlib.sha256(content).hexdigest()
    return Package(manifest | {"type": "webapp"}, {"index.html": page.encode()}, checksum, bool(release.get("damaged")))


def from_folder(source: str, kind: str) -> Package:
    """An app that lies on the stack's own disk. Raises ApiError."""
    folder = Path(unquote(urlsplit(source).path))
    name, wanted = MANIFESTS[kind]
    try:
        raw = (folder / name).read_bytes()
    except OSError as error:
        raise unreachable() from error
    try:
        manifest = json.loads(raw)
        good = isinstance(manifest, dict) and manifest.get("type", wanted) == wanted
    except ValueError:
        good = False
    if not good:
        raise ApiError(400, "Application manifest is invalid or malformed")
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return Package(manifest, contents)


def check_source(slug: str, source: str) -> str:
    """The source in full form. Raises ApiError 422."""
    if not SLUG.match(slug):
        raise ApiError(422, "Invalid slug name", "slug")
    source = source or f"registry://{slug}/stable"
    if urlsplit(source).scheme not in SCHEMES:
        raise ApiError(422, "Invalid or not supported source scheme", "Source")
    return source


def fetch(stack: Stack, instance: Doc, kind: str, source: str) -> Package:
    scheme = urlsplit(source).scheme
    if scheme == "registry":
        return from_registry(stack, instance, source)
    if scheme == "file":
        return from_folder(source, kind)
    log(f'level=error msg="double: sources of scheme {scheme} are not played, taken as unreachable" nspace=apps')
    raise unreachable()


# ---------------------------------------------------------------------------------------------------------- documents


def load(stack: Stack, instance: Doc, kind: str, slug: str) -> Doc | None:
    return stack.couch.get(database(instance, kind), f"{doctype(kind)}/{slug}")


def resource(doc: Doc, kind: str, related: str = "") -> Doc:
    """An app as the API shows it; ``related`` is the domain under which its page is."""
    links = {"self": f"/{kind}/{doc['slug']}"}
    if kind == "konnectors":
        links["permissions"] = f"/permissions/konnectors/{doc['slug']}"
    elif related:
        links["related"] = f"https://{app_host(doc['slug'], related)}/"
    return {
        "type": doctype(kind),
        "id": f"{doctype(kind)}/{doc['slug']}",
        "attributes": dict(sorted((key, value) for key, value in doc.items() if not key.startswith("_"))),
        "meta": {"rev": doc["_rev"]} if "_rev" in doc else {},
        "links": links,
    }


def app_host(slug: str, domain: str, subdomains: str = "nested") -> str:
    """The host of an app's page."""
    if subdomains == "flat":
        first, _, rest = domain.partition(".")
        return f"{first}-{slug}.{rest}"
    return f"{slug}.{domain}"


def draft(kind: str, slug: str, source: str, package: Package, state: str) -> Doc:
    """The document of an app whose files are not there yet."""
    doc = dict(WEBAPP_FIELDS) if kind == "apps" else {"permissions": {}}
    doc |= package.manifest
    doc |= {"checksum": "", "created_at": ZERO_DATE, "updated_at": ZERO_DATE}
    doc |= {"slug": slug, "source": source, "state": state, "type": MANIFESTS[kind][1]}
    return doc


def store_files(stack: Stack, instance: Doc, kind: str, doc: Doc, package: Package) -> None:
    """Write the app's folder; older versions stay, as with the real stack. Raises ApiError."""
    if package.damaged:
        raise ApiError(422, "Application checksum does not match")
    if not package.checksum:
        doc["version"] += "-" + "".join(secrets.choice(string.ascii_letters) for _ in range(10))
    doc["checksum"] = package.checksum
    base = stack.folder(instance["domain"])
    folder = app_folder(stack, instance, kind, doc)
    try:
        if not base.is_dir():
            base.mkdir(mode=0o755)
        for name, content in package.files.items():
            target = folder / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        raise ApiError(500, f"mkdir {error.filename}: {(error.strerror or '').lower()}") from error


def app_folder(stack: Stack, instance: Doc, kind: str, doc: Doc) -> Path:
    version = f"{doc['version']}-{doc['checksum']}" if doc["checksum"] else doc["version"]
    return stack.folder(instance["domain"]) / f".cozy_{kind}" / str(doc["slug"]) / str(version)


# ------------------------------------------------------------------------------------------------------------- actions

Steps = Iterator[Doc]


def install(stack: Stack, instance: Doc, kind: str, slug: str, source: str) -> Steps:
    """Install; yields the document at each state. Raises ApiError, also after the first state."""
    source = check_source(slug, source)
    if load(stack, instance, kind, slug) is not None:
        raise ApiError(409, "Application with same slug already exists")
    package = fetch(stack, instance, kind, source)
    doc = draft(kind, slug, source, package, "installing")
    yield doc
    store_files(stack, instance, kind, doc, package)
    stamp = now()
    doc |= {"_id": f"{doctype(kind)}/{slug}", "state": "ready", "created_at": stamp, "updated_at": stamp}
    stack.couch.put(database(instance, kind), doc)
    yield doc


def asks_more(old: Doc, package: Package) -> bool:
    """True when a new version wants permissions the installed one does not have."""
    return any(old["permissions"].get(key) != value for key, value in package.manifest.get("permissions", {}).items())


def update(stack: Stack, instance: Doc, kind: str, slug: str, source: str, acked: bool, lazy: bool = False) -> Steps:
    """Update; yields the document at each state. ``lazy``: the update a mere GET does. Raises ApiError."""
    old = load(stack, instance, kind, slug)
    if old is None:
        raise not_installed()
    source = check_source(slug, source or old["source"])
    package = fetch(stack, instance, kind, source)
    parked = asks_more(old, package) and not acked and slug not in PLATFORM
    same = bool(package.checksum) and package.manifest["version"] == old["version"]
    if same or parked:
        old["source"] = source
        if parked:
            known = old.get("available_version") == package.manifest["version"]
            old["available_version"] = package.manifest["version"]
        if same and lazy:
            yield old
            return
        yield dict(old)
        if not (parked and lazy and known):
            old["updated_at"] = now()
            stack.couch.put(database(instance, kind), old)
        yield old if lazy else {}
        return
    doc = draft(kind, slug, source, package, "upgrading")
    doc |= {"_id": old["_id"], "_rev": old["_rev"], "created_at": old["created_at"]}
    yield doc
    store_files(stack, instance, kind, doc, package)
    doc |= {"state": "ready", "updated_at": now()}
    stack.couch.put(database(instance, kind), doc)
    yield doc


def failure_text(error: ApiError | CouchError) -> str:
    return error.detail if isinstance(error, ApiError) else str(error)


def run(steps: Steps, kind: str, request: Request) -> Response:
    """Answer an action: as an event stream, or 202 at the first state with the rest in the background."""
    if "text/event-stream" in request.header("Accept"):
        return Response(200, _events(steps, kind), "text/event-stream")
    first = next(steps)
    answer = jsonapi({"data": resource(first, kind)}, 202)
    threading.Thread(target=_finish, args=(steps,), daemon=True).start()
    return answer


def _events(steps: Steps, kind: str) -> Iterator[bytes]:
    try:
        for doc in steps:
            if doc:
                yield event("state", {"data": resource(doc, kind)})
    except (ApiError, CouchError) as error:
        yield event("error", failure_text(error))


def _finish(steps: Steps) -> None:
    try:
        for _ in steps:
            pass
    except (ApiError, CouchError) as error:
        log(f'level=error msg="could not install or update the application: {failure_text(error)}" nspace=apps')


def listing(stack: Stack, instance: Doc, kind: str) -> Response:
    docs = stack.couch.docs(database(instance, kind))
    data = [resource(doc, kind, instance["domain"]) for doc in docs]
    return jsonapi({"data": data, "links": {}, "meta": {"count": len(data)}})


def refresh(stack: Stack, instance: Doc, kind: str, slug: str) -> Doc:
    """The app after the lazy update that reading it causes. Raises ApiError 404."""
    if load(stack, instance, kind, slug) is None:
        raise not_installed()
    try:
        for _ in update(stack, instance, kind, slug, "", acked=False, lazy=True):
            pass
    except (ApiError, CouchError) as error:
        log(f'level=warning msg="lazy update of {slug}: {failure_text(error)}" nspace=apps')
    found = load(stack, instance, kind, slug)
    if found is None:
        raise not_installed()
    return found


def delete(stack: Stack, instance: Doc, kind: str, slug: str) -> Response:
    doc = load(stack, instance, kind, slug)
    if doc is None:
        raise not_installed()
    doc["_rev"] = stack.couch.delete(database(instance, kind), doc)
    return jsonapi({"data": resource(doc, kind)})


def install_quietly(stack: Stack, instance: Doc, slugs: str) -> None:
    """The apps of POST /instances: what fails is only logged."""
    for slug in filter(None, (slug.strip() for slug in slugs.split(","))):
        _finish(install(stack, instance, "apps", slug, ""))


def page(stack: Stack, instance: Doc, slug: str, path: str) -> Response:
    """A file of an installed app, for a browser that is logged in."""
    doc = refresh(stack, instance, "apps", slug)
    folder = app_folder(stack, instance, "apps", doc)
    route = doc["routes"].get("/", {})
    name = path.strip("/") or route.get("index", "index.html")
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()) or not target.is_file():
        raise TextError(404, "Not Found")
    content = target.read_bytes()
    if target.suffix == ".html":
        scope = " ".join(str(rule.get("type", "")) for rule in doc["permissions"].values())
        content = content.replace(b"{{.Domain}}", instance["domain"].encode())
        content = content.replace(b"{{.Token}}", keys.make_token(instance, "app", slug, scope).encode())
        headers = [("Cache-Control", "private, no-store, must-revalidate")]
        return Response(200, content, "text/html; charset=UTF-8", headers)
    return text(200, content.decode(errors="replace"))
