# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public port: pages, login, settings, apps, files, the websocket, and the health routes."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote

from ..web import Request, Response
from . import BUILD, apps, files, instances, jobs, keys, pages, realtime
from .answers import (
    CSP_API,
    HTML,
    JSON,
    ApiError,
    TextError,
    api_error,
    duration,
    json_answer,
    jsonapi,
    not_played,
    text_error,
)
from .core import Stack
from .couch import INSTANCES, CouchError
from .instances import UnknownInstanceError, lookup

COMMON = [("Strict-Transport-Security", "max-age=31536000; includeSubDomains"), ("X-Content-Type-Options", "nosniff")]
KNOWN = [
    "accounts",
    "ai",
    "assets",
    "auth",
    "bitwarden",
    "compat",
    "connection_check",
    "contacts",
    "data",
    "device_connection",
    "intents",
    "jobs",
    "move",
    "nextcloud",
    "notes",
    "notifications",
    "office",
    "oidc",
    "permissions",
    "photos",
    "public",
    "remote",
    "search",
    "sharings",
    "shortcuts.json",
    ".well-known",
]
SESSION_SECONDS = 315360000

Doc = dict[str, Any]


class Visit:
    """One request to one instance: the instance, and the domain by which it was called."""

    def __init__(self, stack: Stack, request: Request, doc: Doc, domain: str) -> None:
        self.stack, self.request, self.doc, self.domain = stack, request, doc, domain

    @property
    def home(self) -> str:
        host = apps.app_host("home", self.domain, self.stack.config.subdomains)
        return f"https://{host}/"

    def cookie(self, name: str) -> str:
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(self.request.header("Cookie"))
        except CookieError:
            return ""
        return jar[name].value if name in jar else ""

    def session(self) -> bool:
        """True when the browser is logged in."""
        session_id = keys.read_session(self.doc, self.cookie(self._session_cookie))
        return session_id is not None and self.stack.couch.get(self._sessions, session_id) is not None

    @property
    def _sessions(self) -> str:
        return f"{self.doc['prefix']}/io-cozy-sessions"

    @property
    def _session_cookie(self) -> str:
        """With flat subdomains all instances of a domain share it, and so each has a name of its own."""
        return f"sess-{self.doc['prefix']}" if self.stack.config.subdomains == "flat" else "cozysessid"

    def open_session(self, long_run: bool) -> tuple[str, str]:
        """Log the browser in; returns the header with its cookie, which without ``long_run`` ends with the browser."""
        self.stack.couch.ensure(self._sessions)
        session = {"created_at": time.time(), "ip": self.request.header("X-Forwarded-For").split(",")[0].strip()}
        self.stack.couch.put(self._sessions, session)
        value = keys.make_session(self.doc, str(session["_id"]))
        domain = self.domain.partition(":")[0]
        if self.stack.config.subdomains == "flat":
            domain = domain.partition(".")[2]
        age = f"Max-Age={SESSION_SECONDS}; " if long_run else ""
        rest = f"Path=/; Domain={domain}; {age}HttpOnly; Secure; SameSite=Lax"
        return "Set-Cookie", f"{self._session_cookie}={value}; {rest}"

    def token(self, doctype: str | None) -> keys.Claims:
        """The claims of the bearer token. Raises TextError 401, 400 or 403."""
        scheme, _, given = self.request.header("Authorization").partition(" ")
        if scheme != "Bearer" or not given:
            raise TextError(401, "No token in request")
        try:
            claims = keys.read_token(self.doc, given)
        except keys.TokenError as error:
            raise TextError(400, str(error), [("Www-Authenticate", 'Bearer error="invalid_token"')]) from error
        if doctype is not None and not claims.allows(doctype, self.request.method):
            raise TextError(403, "Forbidden")
        return claims


class Public:
    """Routes and answers of the public port."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def handle(self, request: Request) -> Response:
        response = self._guarded(request)
        if response.takeover is None:
            names = {name for name, _ in response.headers}
            if "Content-Security-Policy" not in names:
                response.headers.append(("Content-Security-Policy", CSP_API))
            response.headers += COMMON
        return response

    def _guarded(self, request: Request) -> Response:
        try:
            return self._first_routing(request)
        except TextError as error:
            return text_error(request, error)
        except UnknownInstanceError:
            return text_error(request, TextError(404, "Instance not found"))
        except ApiError as error:
            return api_error(error)
        except (CouchError, UnicodeError) as error:
            return text_error(request, TextError(500, str(error)))

    def _first_routing(self, request: Request) -> Response:
        """A host with a dot may be the page of an app: its parent is looked up before anything else."""
        slug, parent = self._split(instances.to_unicode(request.host.lower()))
        if slug:
            try:
                doc = lookup(self.stack, parent)
            except (UnknownInstanceError, CouchError):
                return self._route(request)
            response = self._app(Visit(self.stack, request, doc, parent), slug)
            response.headers.append(("Content-Security-Policy", pages.app_csp(parent, self._apps_below(parent))))
            return response
        return self._route(request)

    def _apps_below(self, domain: str) -> str:
        return domain.partition(".")[2] if self.stack.config.subdomains == "flat" else domain

    def _split(self, host: str) -> tuple[str, str]:
        first, dot, rest = host.partition(".")
        if not dot:
            return "", host
        if self.stack.config.subdomains == "nested":
            return first, rest
        user, dash, slug = first.partition("-")
        return (slug, f"{user}.{rest}") if dash else ("", host)

    # ------------------------------------------------------------------------------------------------------ routes

    def _route(self, request: Request) -> Response:
        parts = request.parts
        head = parts[0]
        path = request.path.rstrip("/") or "/"
        if path == "/version":
            return json_answer(BUILD)
        if path == "/status":
            return self._status()
        if request.path == "/connection_check":
            return Response(204)
        host = instances.to_unicode(request.host.lower())
        visit = Visit(self.stack, request, lookup(self.stack, host), host)
        if path == "/":
            return self._root(visit)
        if head == "auth":
            return self._auth(visit, parts)
        if head == "settings":
            return self._settings(visit, parts)
        if head in ("apps", "konnectors") and len(parts) == 2:
            return self._apps(visit, head, parts[1])
        if head == "files":
            return self._files(visit, parts)
        if head == "jobs":
            return self._jobs(visit, parts)
        if request.path == "/realtime/":
            return realtime.upgrade(request, lambda token: self._good_token(visit.doc, token))
        if head == "registry":
            visit.token("io.cozy.apps.registry")
            return not_played(request)
        if path == "/.well-known/change-password":
            host = apps.app_host("settings", visit.domain, self.stack.config.subdomains)
            return Response(302, headers=[("Location", f"https://{host}/#/profile/password")])
        if head in KNOWN:
            return not_played(request)
        raise TextError(404, "Not Found")

    def _good_token(self, doc: Doc, token: str) -> bool:
        try:
            keys.read_token(doc, token)
        except keys.TokenError:
            return False
        return True

    def _status(self) -> Response:
        start = time.monotonic()
        problem = self.stack.couch.up()
        couch_time = time.monotonic() - start
        start = time.monotonic()
        fs = "healthy" if (self.stack.root / "dyn-assets").exists() else "stat: no such file or directory"
        latency = {"cache": "0s"} | ({} if problem else {"couchdb": duration(couch_time)})
        latency["fs"] = duration(time.monotonic() - start)
        good = not problem and fs == "healthy"
        word = "OK" if good else "KO"
        shown: Doc = {"cache": "healthy", "couchdb": problem or "healthy", "fs": fs, "latency": latency}
        return json_answer(shown | {"message": word, "status": word}, 200 if good else 502)

    # ------------------------------------------------------------------------------------------------------- pages

    def _html(self, content: bytes, status: int = 200, frame: str = "'none'", streamed: bool = False) -> Response:
        headers = [("Content-Security-Policy", pages.csp(frame))]
        return Response(status, [content] if streamed else content, HTML, headers)

    def _blocked(self, visit: Visit) -> Response | None:
        if not visit.doc.get("blocked"):
            return None
        locale = visit.doc["locale"]
        if JSON in visit.request.header("Accept"):
            detail = pages.words(locale, "blocked")
            entry = {"status": "402", "title": "Blocked", "code": "UNKNOWN", "detail": detail, "source": {}}
            return json_answer([entry], 402)
        return self._html(pages.message(locale, visit.domain, "blocked"), 402)

    def _activate(self, visit: Visit) -> Response:
        return self._html(pages.message(visit.doc["locale"], visit.domain, "activate"))

    def _redirect(self, target: str, status: int = 303) -> Response:
        return Response(status, headers=[("Location", target)])

    def _register_token(self, visit: Visit, given: str) -> bool:
        stored = visit.doc.get("register_token")
        if not stored:
            raise ApiError(400, "Empty register token")
        return hmac.compare_digest(base64.b64decode(stored).hex(), given)

    def _root(self, visit: Visit) -> Response:
        blocked = self._blocked(visit)
        if blocked is not None:
            return blocked
        if not visit.doc.get("onboarding_finished"):
            token = visit.request.first("registerToken")
            if token and visit.doc.get("register_token") and self._register_token(visit, token):
                return self._redirect(f"https://{visit.domain}/auth/passphrase?registerToken={token}")
            return self._activate(visit)
        return self._redirect(visit.home if visit.session() else f"https://{visit.domain}/auth/login")

    def _app(self, visit: Visit, slug: str) -> Response:
        blocked = self._blocked(visit)
        if blocked is not None:
            return blocked
        if not visit.doc.get("onboarding_finished"):
            return self._redirect(f"https://{visit.domain}/", 302)
        if apps.load(self.stack, visit.doc, "apps", slug) is None:
            return text_error(visit.request, TextError(404, "Application is not installed"))
        if not visit.session():
            # even the redirect to the login page updates the app first
            apps.refresh(self.stack, visit.doc, "apps", slug)
            here = f"https://{apps.app_host(slug, visit.domain, self.stack.config.subdomains)}{visit.request.path}"
            return self._redirect(f"https://{visit.domain}/auth/login?redirect={quote(here, safe='')}", 302)
        try:
            return apps.page(self.stack, visit.doc, slug, visit.request.path)
        except TextError as error:
            return text_error(visit.request, error)

    # ------------------------------------------------------------------------------------------------------- login

    def _auth(self, visit: Visit, parts: list[str]) -> Response:
        blocked = self._blocked(visit)
        if blocked is not None:
            return blocked
        csrf = visit.cookie("_csrf") or secrets.token_urlsafe(24)
        if parts == ["auth", "login"] and visit.request.method in ("GET", "HEAD"):
            response = self._login_page(visit, csrf)
        elif parts == ["auth", "login"] and visit.request.method == "POST":
            response = self._login(visit, csrf)
        elif parts == ["auth", "passphrase"] and visit.request.method == "GET":
            token = visit.request.first("registerToken")
            if not self._register_token(visit, token):
                return self._redirect(f"https://{visit.domain}/")
            salt = "me@" + visit.doc["domain"].partition(":")[0]
            content = pages.onboarding(visit.doc["locale"], visit.domain, csrf, salt, keys.KDF_ITERATIONS, token)
            response = self._html(content, streamed=True)
        else:
            return not_played(visit.request)
        if response.status != 403:
            rest = "Path=/auth; Max-Age=3600; HttpOnly; Secure; SameSite=Strict"
            response.headers.insert(0, ("Set-Cookie", f"_csrf={csrf}; {rest}"))
        return response

    def _login_page(self, visit: Visit, csrf: str, failed: bool = False) -> Response:
        if not visit.doc.get("onboarding_finished"):
            return self._activate(visit)
        if visit.session():
            return self._redirect(visit.home)
        doc = visit.doc
        salt, redirect = "me@" + doc["domain"].partition(":")[0], visit.request.first("redirect")
        iterations = doc.get("kdf_iterations", 0)
        content = pages.login(doc["locale"], visit.domain, csrf, salt, iterations, redirect, failed)
        host = apps.app_host("dataproxy", visit.domain, self.stack.config.subdomains)
        return self._html(content, 401 if failed else 200, f"https://{host}/reset ", streamed=True)

    def _login(self, visit: Visit, csrf: str) -> Response:
        request, wants_json = visit.request, JSON in visit.request.header("Accept")
        form = {key: values[0] for key, values in parse_qs(request.body().decode(), keep_blank_values=True).items()}
        if not visit.cookie("_csrf") or not hmac.compare_digest(form.get("csrf_token", ""), csrf):
            return text_error(request, TextError(403, "invalid csrf token"))
        if not instances.check_hash(visit.doc, form.get("passphrase", "").encode()):
            if wants_json:
                return json_answer({"error": pages.words(visit.doc["locale"], "wrong")}, 401)
            return self._login_page(visit, csrf, failed=True)
        target = form.get("redirect") or visit.home
        own = visit.domain.partition(":")[0]
        host = target.partition("//")[2].partition("/")[0].partition(":")[0]
        if host != own and not host.endswith("." + own) and target != visit.home:
            raise ApiError(400, "bad url: should be a subdomain")
        cookie = visit.open_session(form.get("long-run-session") == "1")
        response = json_answer({"redirect": target}) if wants_json else self._redirect(target)
        response.headers.append(cookie)
        return response

    # ---------------------------------------------------------------------------------------------------- settings

    def _settings(self, visit: Visit, parts: list[str]) -> Response:
        request, doc = visit.request, visit.doc
        route = (request.method, *parts[1:])
        if route == ("GET", "instance"):
            visit.token(None)
            shown, rev = instances.settings_attributes(self.stack, doc)
            return self._setting("instance", shown, {"rev": rev})
        if route == ("GET", "passphrase"):
            visit.token("io.cozy.settings")
            salt = "me@" + doc["domain"].partition(":")[0]
            return self._setting("passphrase", {"salt": salt, "kdf": 0, "iterations": doc.get("kdf_iterations", 0)}, {})
        if route == ("POST", "passphrase"):
            return self._onboard(visit)
        if route == ("PUT", "passphrase"):
            return self._change_passphrase(visit)
        if route == ("POST", "passphrase", "check"):
            visit.token("io.cozy.settings")
            if not instances.check_hash(doc, str(self._json(request).get("passphrase", "")).encode()):
                raise ApiError(403, "Invalid passphrase")
            return Response(204)
        return not_played(request)

    def _setting(self, name: str, shown: Doc, meta: Doc) -> Response:
        data = {"type": "io.cozy.settings", "id": f"io.cozy.settings.{name}", "attributes": shown, "meta": meta}
        return jsonapi({"data": data | {"links": {"self": f"/settings/{name}"}}})

    def _json(self, request: Request) -> Doc:
        try:
            value = request.json()
        except ValueError as error:
            raise ApiError(400, f"invalid JSON: {error}") from error
        if not isinstance(value, dict):
            raise ApiError(400, "invalid JSON: not an object")
        return value

    def _store_passphrase(self, visit: Visit, passphrase: str, iterations: Any) -> None:
        """With iterations given the passphrase comes hashed, as from a browser; else the server derives."""
        if iterations:
            instances.set_hash(visit.doc, passphrase.encode(), int(iterations))
        else:
            instances.set_passphrase(visit.doc, passphrase)
        self.stack.couch.put(INSTANCES, visit.doc)

    def _onboard(self, visit: Visit) -> Response:
        wants_json = visit.request.header("Content-Type").startswith(JSON)
        if wants_json:
            body = self._json(visit.request)
        else:
            body = {key: values[0] for key, values in parse_qs(visit.request.body().decode()).items()}
        if not self._register_token(visit, str(body.get("register_token", ""))):
            raise ApiError(400, "Invalid register token")
        self._store_passphrase(visit, str(body.get("passphrase", "")), body.get("iterations"))
        visit.doc.pop("register_token")
        visit.doc["onboarding_finished"] = True
        self.stack.couch.put(INSTANCES, visit.doc)
        cookie = visit.open_session(long_run=True)
        response = json_answer({"redirect": visit.home}) if wants_json else self._redirect(visit.home)
        response.headers.append(cookie)
        return response

    def _change_passphrase(self, visit: Visit) -> Response:
        claims = visit.token("io.cozy.settings")
        body = self._json(visit.request)
        wanted = str(body.get("new_passphrase", ""))
        if not wanted:
            raise ApiError(500, "Missing new passphrase")
        forced = body.get("force") is True and claims.audience == "cli"
        if not forced and not instances.check_hash(visit.doc, str(body.get("current_passphrase", "")).encode()):
            raise ApiError(400, "Invalid passphrase")
        self._store_passphrase(visit, wanted, body.get("iterations"))
        return Response(204)

    # ------------------------------------------------------------------------------------------------ apps, files

    def _apps(self, visit: Visit, kind: str, slug: str) -> Response:
        visit.token(apps.doctype(kind))
        request, stack, doc = visit.request, self.stack, visit.doc
        if request.method == "GET" and not slug:
            return apps.listing(stack, doc, kind)
        if request.method == "GET":
            app = apps.refresh(stack, doc, kind, slug)
            return jsonapi({"data": apps.resource(app, kind, doc["domain"])})
        source = request.first("Source")
        if request.method == "POST" and slug:
            return apps.run(apps.install(stack, doc, kind, slug, source), kind, request)
        if request.method == "PUT" and slug:
            acked = request.first("PermissionsAcked") == "true"
            return apps.run(apps.update(stack, doc, kind, slug, source, acked), kind, request)
        if request.method == "DELETE" and slug:
            return apps.delete(stack, doc, kind, slug)
        raise TextError(405, "Method Not Allowed")

    def _jobs(self, visit: Visit, parts: list[str]) -> Response:
        visit.token(jobs.DOCTYPE)
        request, stack, doc = visit.request, self.stack, visit.doc
        if request.method == "POST" and len(parts) == 3 and parts[1] == "queue":
            return jobs.push(stack, doc, parts[2], request)
        if request.method == "GET" and len(parts) == 2 and parts[1] != "triggers":
            return jobs.get(stack, doc, parts[1])
        return not_played(request)

    def _files(self, visit: Visit, parts: list[str]) -> Response:
        claims = visit.token(files.DOCTYPE)
        request, stack, doc = visit.request, self.stack, visit.doc
        method, rest = request.method, parts[1:]
        if method == "POST" and len(rest) <= 1:
            return files.post(stack, doc, (rest or [""])[0] or files.ROOT, request)
        if method in ("GET", "HEAD") and rest == ["download"]:
            return files.download(stack, doc, files.by_path(stack, doc, request.first("Path")), request)
        if method in ("GET", "HEAD") and len(rest) == 2 and rest[0] == "download":
            return files.download(stack, doc, files.load(stack, doc, rest[1]), request)
        if method == "GET" and len(rest) == 1 and rest[0] not in ("metadata", "_all_docs", "_changes"):
            return files.get(stack, doc, rest[0])
        if method == "DELETE" and len(rest) == 2 and rest[0] == "trash":
            return files.destroy(stack, doc, rest[1])
        if method == "DELETE" and len(rest) == 1 and rest[0] != "trash":
            settings, _ = instances.settings_attributes(stack, doc)
            owner = str(settings.get("public_name") or doc["domain"]) if claims.audience == "cli" else claims.subject
            return files.trash(stack, doc, rest[0], owner)
        return not_played(request)
