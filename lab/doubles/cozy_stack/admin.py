# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The admin API."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ..web import Request, Response, log
from . import BUILD, apps, files, instances, keys
from .answers import ApiError, TextError, api_error, json_answer, jsonapi, not_played, text, text_error
from .config import ConfigError, find_file
from .core import Stack
from .couch import INSTANCES, CouchError
from .instances import UnknownInstanceError, lookup, resource

FEATURES = "global/io-cozy-settings"
DEFAULT_FLAGS = "io.cozy.settings.flags.default"
AUDIENCES = {"cli": "cli", "app": "app", "webapp": "app", "konn": "konn", "konnector": "konn"}

# What the real stack routes on the admin port. A route without a function here answers 501.
ROUTES: list[tuple[str, str, str]] = [
    ("GET", r"/instances", "list"),
    ("POST", r"/instances", "create"),
    ("GET", r"/instances/count", "count"),
    ("POST", r"/instances/token", "token"),
    ("GET", r"/instances/contexts", "contexts"),
    ("GET", r"/instances/contexts/([^/]+)", "context"),
    ("GET PATCH", r"/instances/feature/defaults", "feature_defaults"),
    ("GET PATCH", r"/instances/feature/contexts/([^/]+)", "feature_context"),
    ("GET", r"/instances/feature/config/([^/]+)", "feature_config"),
    ("GET", r"/instances/with-app-version/([^/]+)/([^/]+)", "with_app_version"),
    ("GET POST", r"/instances/oauth_client", ""),
    ("POST", r"/instances/redis", ""),
    ("GET POST", r"/instances/assets", ""),
    ("DELETE", r"/instances/assets/.+", ""),
    ("GET", r"/instances/([^/]+)", "get"),
    ("PATCH", r"/instances/([^/]+)", "patch"),
    ("DELETE", r"/instances/([^/]+)", "delete"),
    ("GET", r"/instances/([^/]+)/debug", "debug"),
    ("POST DELETE", r"/instances/([^/]+)/debug", ""),
    ("GET PATCH", r"/instances/([^/]+)/feature/flags", "flags"),
    ("GET PUT", r"/instances/([^/]+)/feature/sets", "sets"),
    ("GET", r"/instances/([^/]+)/last-activity", "last_activity"),
    ("GET", r"/instances/([^/]+)/disk-usage", "disk_usage"),
    ("GET", r"/instances/([^/]+)/prefix", "prefix"),
    ("GET", r"/instances/([^/]+)/fsck", "fsck"),
    ("POST", r"/instances/([^/]+)/checks/(triggers|shared|sharings)", "checks"),
    ("POST", r"/instances/([^/]+)/fixers/.+", ""),
    ("GET POST DELETE", r"/instances/([^/]+)/(swift-prefix|export|exports/.+|import|notifications|auth-mode)", ""),
    (
        "POST DELETE",
        r"/instances/([^/]+)/(magic_link|session_code|session_code/check|email_verified_code|sessions)",
        "",
    ),
    ("GET", r"/konnectors/maintenance", "maintenance"),
    ("PUT DELETE", r"/konnectors/maintenance/.+", ""),
    ("DELETE", r"/oauth/[^/]+/clients", ""),
    ("POST", r"/oidc/[^/]+/[^/]+/code", ""),
    ("GET PUT DELETE", r"/swift/.+", ""),
    ("GET", r"/version/?", "version"),
    ("GET", r"/metrics", "metrics"),
    ("GET", r"/connection_check", "connection_check"),
    ("GET", r"/realtime/", ""),
    ("GET", r"/tools/pprof/.*", ""),
]


class Admin:
    """Routes and answers of the admin port."""

    def __init__(self, stack: Stack, environ: dict[str, str]) -> None:
        self.stack, self.environ = stack, environ
        self.routes = [(methods.split(), re.compile(path), name) for methods, path, name in ROUTES]

    def handle(self, request: Request) -> Response:
        path = "/" + "/".join(request.parts)
        methods, arguments, name = self._match(request.method, path)
        if not methods:
            return text_error(request, TextError(404, "Not Found"))
        if not name and request.method not in methods:
            return text_error(request, TextError(405, "Method Not Allowed"))
        try:
            self._authenticate(request)
            if not name:
                return not_played(request)
            handler: Callable[..., Response] = getattr(self, "do_" + name)
            return handler(request, *arguments)
        except TextError as error:
            return text_error(request, error)
        except ApiError as error:
            return api_error(error)
        except CouchError as error:
            return api_error(ApiError(error.status, error.reason, title=error.name))

    def _match(self, method: str, path: str) -> tuple[list[str], tuple[str, ...], str]:
        allowed: list[str] = []
        for methods, pattern, name in self.routes:
            found = pattern.fullmatch(path)
            if found and method in methods:
                return methods, found.groups(), name
            allowed += methods if found else []
        return allowed, (), ""

    def _authenticate(self, request: Request) -> None:
        """Basic auth against the secret file, which is read anew each time. Raises TextError."""
        scheme, _, given = request.header("Authorization").partition(" ")
        try:
            password = base64.b64decode(given, validate=True).partition(b":")[2] if scheme.lower() == "basic" else None
        except ValueError:
            password = None
        if password is None:
            raise TextError(401, "missing basic auth")
        try:
            line = find_file(self.stack.config.secret_filename, self.environ).read_text()
        except ConfigError as error:
            raise TextError(500, str(error)) from error
        except (OSError, UnicodeDecodeError):
            line = ""
        if not keys.check_secret(line, password):
            raise TextError(403, "bad passphrase")

    def _instance(self, domain: str) -> dict[str, Any]:
        return lookup(self.stack, instances.clean_domain(self.stack, domain))

    def _instance_unmapped(self, domain: str) -> dict[str, Any]:
        """For the routes that do not map errors: an unknown domain is a 500 there."""
        try:
            return self._instance(domain)
        except UnknownInstanceError as error:
            raise ApiError(500, error.detail) from error

    # ------------------------------------------------------------------------------------------------ instances

    def do_list(self, request: Request) -> Response:
        docs = self.stack.couch.docs(INSTANCES)
        docs = [doc for doc in docs if doc["_id"] >= request.first("page[cursor]")]
        docs = docs[int(request.first("page[skip]") or "0") :]
        limit = int(request.first("page[limit]") or "100")
        shown: dict[str, Any] = {"data": [resource(doc) for doc in docs[:limit]]}
        if len(docs) > limit:
            shown["links"] = {"next": f"/instances?page[limit]={limit}&page[cursor]={docs[limit]['_id']}"}
        return jsonapi(shown | {"meta": {"count": len(docs[:limit])}})

    def do_count(self, _: Request) -> Response:
        return json_answer({"count": len(self.stack.couch.docs(INSTANCES))})

    def do_create(self, request: Request) -> Response:
        doc = instances.create(self.stack, request)
        if request.first("Apps"):
            apps.install_quietly(self.stack, doc, request.first("Apps"))
        log(f'level=info msg="instance created" domain={doc["domain"]} nspace=instance')
        return jsonapi({"data": resource(doc)}, 201)

    def do_get(self, _: Request, domain: str) -> Response:
        return jsonapi({"data": resource(self._instance(domain))})

    def do_patch(self, request: Request, domain: str) -> Response:
        doc = self._instance(domain)
        instances.patch(self.stack, doc, request)
        return jsonapi({"data": resource(doc, with_secrets=True)})

    def do_delete(self, _: Request, domain: str) -> Response:
        doc = self._instance(domain)
        if doc.get("deleting"):
            raise ApiError(500, "The deletion has already been requested")
        instances.delete(self.stack, doc)
        return Response(204)

    def do_token(self, request: Request) -> Response:
        domain = instances.clean_domain(self.stack, request.first("Domain"))
        try:
            doc = lookup(self.stack, domain)
        except UnknownInstanceError:
            # the real stack waits for an instance that may be about to come
            time.sleep(1)
            doc = lookup(self.stack, domain)
        wanted = request.first("Audience")
        if wanted in ("access-token", "refresh-token"):
            return not_played(request)
        if wanted not in AUDIENCES:
            return text(400, "Unknown audience %s")
        audience = AUDIENCES[wanted]
        log(f'level=info msg="{audience} token created from admin API" domain={doc["domain"]} nspace=loginaudit')
        return text(200, keys.make_token(doc, audience, request.first("Subject"), request.first("Scope")))

    # ------------------------------------------------------------------------------------------ one instance more

    def do_debug(self, _: Request, _domain: str) -> Response:
        raise ApiError(404, "Debug is disabled on this domain")

    def do_flags(self, request: Request, domain: str) -> Response:
        doc = self._instance(domain)
        flags = doc.get("feature_flags")
        if request.method == "PATCH":
            flags = merge_flags(flags, self._object(request))
            doc["feature_flags"] = flags
            self.stack.couch.put(INSTANCES, doc)
        return json_answer(flags or None)

    def do_sets(self, request: Request, domain: str) -> Response:
        doc = self._instance(domain)
        if request.method == "PUT":
            wanted = self._json(request)
            if not isinstance(wanted, list) or not all(isinstance(item, str) for item in wanted):
                raise ApiError(400, "json: cannot unmarshal into Go value of type []string")
            doc["feature_sets"] = sorted(wanted)
            self.stack.couch.put(INSTANCES, doc)
        return json_answer(doc.get("feature_sets"))

    def do_last_activity(self, _: Request, domain: str) -> Response:
        doc = self._instance(domain)
        return json_answer({"last-activity": doc.get("last_activity") or datetime.now(UTC).strftime("%Y-%m-%d")})

    def do_disk_usage(self, _: Request, domain: str) -> Response:
        return json_answer(files.disk_usage(self.stack, self._instance_unmapped(domain)))

    def do_prefix(self, _: Request, domain: str) -> Response:
        return json_answer(self._instance_unmapped(domain)["prefix"])

    def do_fsck(self, _: Request, domain: str) -> Response:
        return files.fsck_answer(self.stack, self._instance(domain))

    def do_checks(self, _: Request, domain: str, _kind: str) -> Response:
        self._instance(domain)
        return json_answer([])

    # --------------------------------------------------------------------------------------------------- the rest

    def do_contexts(self, _: Request) -> Response:
        return json_answer([self._context(name) for name in sorted(self.stack.config.contexts)])

    def do_context(self, _: Request, name: str) -> Response:
        return json_answer(self._context(name)) if name in self.stack.config.contexts else Response(404)

    def _context(self, name: str) -> dict[str, Any]:
        config = self.stack.config
        return {
            "config": config.contexts[name] or {},
            "context": name,
            "registries": config.registries_of(name),
            "oidc": None,
        }

    def do_feature_defaults(self, request: Request) -> Response:
        return self._stored_flags(request, DEFAULT_FLAGS)

    def do_feature_context(self, request: Request, name: str) -> Response:
        return self._stored_flags(request, f"io.cozy.settings.flags.{name}")

    def _stored_flags(self, request: Request, doc_id: str) -> Response:
        doc = self.stack.couch.get(FEATURES, doc_id) or {"_id": doc_id, "flags": None}
        if request.method == "PATCH":
            doc["flags"] = merge_flags(doc["flags"], self._object(request))
            self.stack.couch.ensure(FEATURES)
            self.stack.couch.put(FEATURES, doc)
        return json_answer(doc["flags"])

    def do_feature_config(self, _: Request, name: str) -> Response:
        contexts = self.stack.config.contexts
        context = contexts.get(name, contexts.get("default"))
        if context is None:
            raise ApiError(500, f"Unable to get the context {name} from config")
        return json_answer(dict.fromkeys(context.get("features", []), True))

    def do_with_app_version(self, _: Request, slug: str, version: str) -> Response:
        found = []
        for doc in self.stack.couch.docs(INSTANCES):
            app = apps.load(self.stack, doc, "apps", slug) or apps.load(self.stack, doc, "konnectors", slug)
            if app and app["version"] == version:
                found.append(doc["domain"])
        return json_answer({"instances": found or None})

    def do_maintenance(self, _: Request) -> Response:
        return jsonapi({"data": [], "meta": {"count": 0}})

    def do_version(self, _: Request) -> Response:
        return json_answer(BUILD)

    def do_metrics(self, _: Request) -> Response:
        count = len(self.stack.couch.docs(INSTANCES))
        lines = (
            "# HELP inner_data_instances_count Number of instances.\n# TYPE inner_data_instances_count gauge\n"
            # the real one counts the design documents too
            f"inner_data_instances_count {count + 5}\n"
        )
        return Response(200, [lines.encode()], "text/plain; version=0.0.4; charset=utf-8")

    def do_connection_check(self, _: Request) -> Response:
        return Response(204)

    def _json(self, request: Request) -> Any:
        try:
            return request.json()
        except ValueError as error:
            raise ApiError(400, f"invalid JSON: {error}") from error

    def _object(self, request: Request) -> dict[str, Any]:
        value = self._json(request)
        if not isinstance(value, dict):
            raise ApiError(400, "json: cannot unmarshal into Go value of type map[string]interface {}")
        return value


def merge_flags(flags: dict[str, Any] | None, change: dict[str, Any]) -> dict[str, Any]:
    """Flags after a PATCH: null removes one."""
    merged = (flags or {}) | change
    return {key: value for key, value in sorted(merged.items()) if value is not None}
