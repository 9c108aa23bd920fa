# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""cozy-stack's admin and public HTTP APIs. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
import typing as t
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import (
    ApiError,
    CouchDownError,
    CouchRefusesError,
    CozyError,
    InputError,
    KeyFormatError,
    SecretBrokenError,
    SecretMissingError,
    StackDownError,
    WrongPassphraseError,
)
from ansible_collections.kubecozy.homelab.plugins.module_utils._keys import ScryptLine
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import (
    KUBERNETES_ARGUMENTS,
    Kubernetes,
    Pod,
)

OPERATOR_KEY = "passphrase"
ADMIN_PORT = 6060
PUBLIC_PORT = 8080
# kubelet renews mounted Secrets about once a minute; twice that is enough for a rotated passphrase to arrive.
ROTATION_SECONDS = 150
ROTATION_STEP = 5
# A token of the command line's kind is good for half an hour.
TOKEN_SECONDS = 1200
COUCH_REFUSALS = ("unauthorized", "forbidden")

# Must be in sync with plugins/doc_fragments/_cozy_api.py.
API_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "admin_passphrase": {"type": "str", "no_log": True},
    "admin_secret": {"type": "str", "default": "cozy-operator", "no_log": False},
    "admin_url": {"type": "str"},
    "public_url": {"type": "str"},
    **KUBERNETES_ARGUMENTS,
    "namespace": {"type": "str", "default": "cozy"},
    "label_selector": {"type": "str", "default": "app.kubernetes.io/name=cozy-stack"},
    "timeout": {"type": "int", "default": 300},
}
API_TOGETHER = [("admin_url", "public_url")]


class Answer(t.NamedTuple):
    """What came back."""

    status: int
    content_type: str
    body: str

    def json(self) -> t.Any:
        """The body as JSON; None for an empty one.

        :raises CozyError: if it is something else.
        """
        if not self.body.strip():
            return None
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise CozyError(f"cozy-stack answered {self.status} with something that is not JSON.") from exc

    def error(self, what: str) -> CozyError:
        """This answer as an exception of the family."""
        title, detail = "", self.body.strip()
        if "json" in self.content_type:
            try:
                first = json.loads(self.body)["errors"][0]
                title, detail = str(first.get("title", "")), str(first.get("detail", ""))
            except (ValueError, LookupError, TypeError, AttributeError):
                pass
        if title == "no_couch" or "(no_couch)" in detail:
            return CouchDownError(
                f"{what}: cozy-stack runs, but can't reach CouchDB (no_couch)."
                " Look at the CouchDB pod, and at the Secret both sides take the password from."
            )
        # cozy-stack hands on what CouchDB says, under CouchDB's own names.
        if title in COUCH_REFUSALS or any(f"CouchDB({name})" in detail for name in COUCH_REFUSALS):
            return CouchRefusesError(
                f"{what}: cozy-stack runs, but CouchDB refuses its credentials ({detail[:200]}). They were changed on"
                " one side only: run the roles couchdb and cozy_stack again. If CouchDB has locked the account, wait"
                " five minutes first."
            )
        return ApiError(self.status, title, detail[:500], what)


class Route(t.Protocol):
    """A way to reach the two ports of cozy-stack."""

    name: str

    def connect(self, admin: bool) -> http.client.HTTPConnection:
        """A new connection to the admin port, or else the public one."""

    def admin_line(self) -> str | None:
        """The passphrase line the stack should have read, if that can be known."""


class UrlRoute:
    """By plain URLs.

    :param timeout: seconds to wait for each piece of an answer.
    :raises InputError: if one is no URL with a host.
    """

    def __init__(self, admin_url: str, public_url: str, timeout: float) -> None:
        self._timeout = timeout
        self._targets = {True: self._target("admin_url", admin_url), False: self._target("public_url", public_url)}
        self.name = admin_url

    @staticmethod
    def _target(option: str, text: str) -> tuple[bool, str, int | None]:
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            # Python's own words would show a part of what may be a password.
            raise InputError(f"{option} is no URL: has it a port that is no number?") from None
        more = url.username or url.password or url.path.strip("/") or url.query or url.fragment
        if url.scheme not in ("http", "https") or not url.hostname or more:
            raise InputError(f"{option} must be http(s)://host[:port], without a path or credentials.")
        return url.scheme == "https", url.hostname, port

    def connect(self, admin: bool) -> http.client.HTTPConnection:
        tls, host, port = self._targets[admin]
        if tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def admin_line(self) -> str | None:
        return None


class PodRoute:
    """By a port-forward to the pod; the admin port listens on the pod's localhost only.

    :param timeout: seconds to wait for each piece of an answer.
    """

    def __init__(self, pod: Pod, timeout: float) -> None:
        self.name = f"pod {pod.namespace}/{pod.name}"
        self._pod = pod
        self._timeout = timeout

    def connect(self, admin: bool) -> http.client.HTTPConnection:
        return self._pod.connection(ADMIN_PORT if admin else PUBLIC_PORT, self._timeout)

    def admin_line(self) -> str | None:
        return self._pod.admin_line()


class Stack:
    """A running cozy-stack. Calls go one after the other: each admin call costs it 32 MiB of memory.

    :param route: how to reach it.
    :param passphrase: the admin passphrase.
    """

    def __init__(self, route: Route, passphrase: str) -> None:
        self._route = route
        self._passphrase = passphrase
        self._open: dict[bool, http.client.HTTPConnection] = {}
        self._tokens: dict[tuple[str, str], tuple[float, str]] = {}

    @classmethod
    def from_parameters(cls, parameters: dict[str, t.Any]) -> Stack:
        """Made from a module's parameters (`API_ARGUMENTS`).

        :raises CozyError: if the cluster can't be asked, or no pod of the stack runs.
        """
        timeout = float(parameters["timeout"])
        passphrase = parameters["admin_passphrase"]
        if parameters["admin_url"]:
            if not passphrase:
                raise InputError(
                    "admin_url is given, but no admin_passphrase: only with Kubernetes it is found by itself."
                )
            return cls(UrlRoute(parameters["admin_url"], parameters["public_url"], timeout), passphrase)
        namespace, secret = parameters["namespace"], parameters["admin_secret"]
        kubernetes = Kubernetes(parameters["kubeconfig"], parameters["kube_context"])
        pod = Pod(kubernetes, namespace, parameters["label_selector"])
        passphrase = passphrase or pod.secret(secret, OPERATOR_KEY)
        if not passphrase:
            raise InputError(
                f"There is no admin_passphrase, and no Secret {secret} with a key '{OPERATOR_KEY}' in namespace"
                f" {namespace}, where the role cozy_stack keeps it."
            )
        return cls(PodRoute(pod, timeout), passphrase)

    def close(self) -> None:
        """Close what is open."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def _exchange(
        self, admin: bool, method: str, path: str, headers: dict[str, str], body: bytes | None, what: str
    ) -> Answer:
        kept = admin in self._open
        connection = self._open.pop(admin, None) or self._route.connect(admin)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(connection, "reason_for_closing", str)() or str(exc) or type(exc).__name__
            connection.close()
            # A kept connection may have been closed by the other side meanwhile; only a read may be asked twice.
            if kept and method == "GET":
                return self._exchange(admin, method, path, headers, body, what)
            port = "admin" if admin else "public"
            raise StackDownError(
                f"{what}: no answer from cozy-stack's {port} port by {self._route.name}: {reason}."
                " Look at the pod's state and its log."
            ) from exc
        if response.will_close:
            connection.close()
        else:
            self._open[admin] = connection
        return Answer(response.status, response.headers.get("Content-Type", ""), raw.decode(errors="replace"))

    def admin(
        self,
        method: str,
        path: str,
        what: str,
        parameters: dict[str, str] | None = None,
        body: t.Any = None,
    ) -> Answer:
        """One call of the admin API, whose answer may be an error other than those of the passphrase.

        :param what: what is being done, for messages.
        :param parameters: go into the query string: cozy-stack reads them nowhere else.
        :param body: sent as JSON, if not None.
        :raises CozyError: if the stack is down or refuses the passphrase.
        """
        credentials = base64.b64encode(f":{self._passphrase}".encode()).decode()
        # The stack never asks for credentials (no WWW-Authenticate): they are sent at once.
        headers = {"Authorization": f"Basic {credentials}", "Accept": "application/vnd.api+json"}
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        if parameters:
            path = f"{path}?{urlencode(parameters, quote_via=quote)}"
        deadline = time.monotonic() + ROTATION_SECONDS
        while True:
            answer = self._exchange(True, method, path, headers, payload, what)
            if not self._refused_for_now(answer, deadline):
                break
            time.sleep(ROTATION_STEP)
        if answer.status == 500 and "Could not find config file" in answer.body:
            raise SecretMissingError(
                f"{what}: cozy-stack has no file cozy-admin-passphrase. The Secret that holds it is not mounted"
                " below /etc/cozy, or lost its key: run the role cozy_stack again."
            )
        if answer.status in (404, 405) and "json" not in answer.content_type:
            raise CozyError(
                f"{what}: {self._route.name} answers {answer.status} as if it had no such address. It is not the admin"
                " port of cozy-stack, which is 6060 by default."
            )
        return answer

    def _refused_for_now(self, answer: Answer, deadline: float) -> bool:
        """Whether a refusal will pass by itself: the Secret has the right line, the pod not yet.

        :raises CozyError: if it will not.
        """
        if answer.status == 401 and "errors" not in answer.body:
            raise CozyError(f"{self._route.name} does not see our credentials: is something else listening there?")
        if answer.status != 403 or "bad passphrase" not in answer.body:
            return False
        stored = self._route.admin_line()
        if stored is None:
            raise WrongPassphraseError(
                "cozy-stack refuses the admin passphrase. Either it is not the one the stack was given, or the stack's"
                " file cozy-admin-passphrase is empty or damaged: the answer is the same. Compare with the module"
                " cozy_admin_passphrase."
            )
        try:
            line = ScryptLine.parse(stored)
        except KeyFormatError as exc:
            raise SecretBrokenError(
                f"cozy-stack refuses every passphrase, because the Secret with its admin passphrase is broken: {exc}."
                " Run the role cozy_stack again: it writes a new line."
            ) from exc
        if not line.matches(self._passphrase):
            raise WrongPassphraseError(
                "cozy-stack refuses the admin passphrase: it is not the one whose hash lies in the stack's Secret."
                " Give the right one, or set a new one with the role cozy_stack."
            )
        if time.monotonic() > deadline:
            raise SecretBrokenError(
                f"The admin passphrase is right, but {self._route.name} still refuses it after {ROTATION_SECONDS} s:"
                " the Secret's new content does not arrive in the pod. Is it mounted by subPath?"
            )
        return True

    def token(self, domain: str, scope: str) -> str:
        """A token of the command line's kind, good for the public API of one instance.

        :raises CozyError: if it is refused.
        """
        taken, known = self._tokens.get((domain, scope), (0.0, ""))
        if known and time.monotonic() < taken + TOKEN_SECONDS:
            return known
        what = f"Taking a token for {domain}"
        answer = self.admin(
            "POST",
            "/instances/token",
            what,
            {"Domain": domain, "Audience": "cli", "Subject": "CLI", "Scope": scope},
        )
        if answer.status != 200:
            raise answer.error(what)
        token = answer.body.strip()
        self._tokens[domain, scope] = time.monotonic(), token
        return token

    def public(
        self,
        method: str,
        domain: str,
        path: str,
        what: str,
        scope: str = "",
        accept: str = "application/vnd.api+json",
        parameters: dict[str, str] | None = None,
        body: t.Any = None,
    ) -> Answer:
        """One call of the public API as the instance `domain`.

        :param scope: ask with a token for this scope; without one if empty.
        :raises CozyError: if the stack is down or has lost CouchDB.
        """
        # The stack finds the instance by the Host header to the letter, port included.
        headers = {"Host": to_ascii(domain), "Accept": accept}
        payload = None
        if scope:
            headers["Authorization"] = f"Bearer {self.token(domain, scope)}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        if parameters:
            path = f"{path}?{urlencode(parameters, quote_via=quote)}"
        answer = self._exchange(False, method, path, headers, payload, what)
        if answer.status >= 500:
            error = answer.error(what)
            if not isinstance(error, ApiError):
                raise error
        return answer


def to_ascii(domain: str) -> str:
    """A domain as a browser sends it in the Host header: each international part as punycode, nothing else changed."""
    name, colon, port = domain.partition(":")
    parts = [part if part.isascii() else "xn--" + part.encode("punycode").decode() for part in name.split(".")]
    return ".".join(parts) + colon + port


__all__ = ("API_ARGUMENTS", "API_TOGETHER", "Answer", "PodRoute", "Route", "Stack", "UrlRoute", "to_ascii")
