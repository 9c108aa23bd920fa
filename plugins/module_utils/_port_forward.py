# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way into a pod through the Kubernetes API. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import http.client
import json
import typing as t
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import env_fallback
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, StackDownError

try:
    from kubernetes import config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.stream.ws_client import portforward_call
    from urllib3.exceptions import HTTPError
except ImportError as exc:
    IMPORT_ERROR: ImportError | None = exc
else:
    IMPORT_ERROR = None

ADMIN_FILE = "cozy-admin-passphrase"

# Must be in sync with plugins/doc_fragments/_kubernetes.py.
KUBERNETES_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "kubeconfig": {"type": "path", "fallback": (env_fallback, ["K8S_AUTH_KUBECONFIG", "KUBECONFIG"])},
    "kube_context": {"type": "str", "fallback": (env_fallback, ["K8S_AUTH_CONTEXT"])},
}


class _ForwardedConnection(http.client.HTTPConnection):
    """HTTP over one port of a port-forward."""

    def __init__(self, forward: t.Any, port: int, timeout: float) -> None:
        super().__init__("localhost", port, timeout=timeout)
        self._forward = forward
        self._port = port

    def connect(self) -> None:
        self.sock = self._forward.socket(self._port)
        self.sock.settimeout(self.timeout)

    def reason_for_closing(self) -> str:
        """What Kubernetes said about this port, or ""."""
        return str(self._forward.error(self._port) or "").strip()

    def close(self) -> None:
        super().close()
        self._forward.close()


class RefusedError(CozyError):
    """The Kubernetes API answered, but not with what was asked for."""


class Kubernetes:
    """The few calls that are needed, without the generated classes: importing those takes longer than all the calls.

    :param kubeconfig: path of the kubeconfig; None for the client's own default.
    :param context: name of a context in it; None for the current one.
    :raises CozyError: if the library or the kubeconfig can't be used.
    """

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        if IMPORT_ERROR is not None:
            raise CozyError(
                "The Python library 'kubernetes' is needed where this module runs, and can't be imported:"
                f" {IMPORT_ERROR}"
            )
        try:
            self._client: t.Any = config.new_client_from_config(config_file=kubeconfig, context=context)
        except (ConfigException, OSError) as exc:
            raise CozyError(f"The kubeconfig {kubeconfig or '(default)'} can't be used: {exc}") from exc
        settings = self._client.configuration.auth_settings().values()
        self._headers = {setting["key"]: setting["value"] for setting in settings if setting["in"] == "header"}

    def _url(self, path: str, **query: str) -> str:
        return f"{self._client.configuration.host}{path}{'?' + urlencode(query) if query else ''}"

    def get(self, path: str, **query: str) -> dict[str, t.Any]:
        """Read an object or a list.

        :raises RefusedError: if the API says no.
        :raises CozyError: if it says nothing.
        """
        return self._request("GET", self._url(path, **query))

    def patch(self, path: str, changes: dict[str, t.Any]) -> None:
        """Change an object by a merge patch (RFC 7386).

        :raises RefusedError: if the API says no.
        :raises CozyError: if it says nothing.
        """
        self._request("PATCH", self._url(path), changes)

    def _request(self, method: str, url: str, changes: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        headers = {**self._headers, "Accept": "application/json"}
        body: dict[str, t.Any] = {}
        if changes is not None:
            headers["Content-Type"] = "application/merge-patch+json"
            body["body"] = json.dumps(changes).encode()
        try:
            answer = self._client.rest_client.pool_manager.request(method, url, headers=headers, **body)
        except HTTPError as exc:
            raise CozyError(f"The Kubernetes API does not answer: {exc}") from exc
        if answer.status != 200:
            raise RefusedError(f"{answer.status} {answer.reason or ''}".strip())
        found = json.loads(answer.data)
        return t.cast("dict[str, t.Any]", found)

    def forward(self, path: str, port: int) -> t.Any:
        """Open a port-forward.

        :raises RefusedError: if that can't be done.
        """
        try:
            return portforward_call(
                self._client.configuration,
                "GET",
                self._url(path),
                query_params=[("ports", str(port))],
                headers=self._headers,
            )
        except ApiException as exc:
            raise RefusedError(str(exc.reason)) from exc


class Pod:
    """One running pod, found by its labels.

    :param kubernetes: where to look.
    :param namespace: where to look there.
    :param label_selector: which pods to look for.
    :raises StackDownError: if there is none, with what Kubernetes knows about the reason.
    :raises CozyError: if Kubernetes can't be asked.
    """

    def __init__(self, kubernetes: Kubernetes, namespace: str, label_selector: str) -> None:
        self.namespace = namespace
        self._kubernetes = kubernetes
        self._path = f"/api/v1/namespaces/{quote(namespace, safe='')}"
        try:
            pods = kubernetes.get(f"{self._path}/pods", labelSelector=label_selector)["items"]
        except RefusedError as exc:
            raise CozyError(f"Kubernetes refuses to list pods in namespace {namespace}: {exc}") from exc
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        running = [pod for pod in alive if self._runs(pod)]
        if not running:
            raise StackDownError(
                f"No pod with labels {label_selector} is running in namespace {namespace}"
                f"{self._troubles(alive)}. Look at: kubectl -n {namespace} get pods; kubectl -n {namespace} logs"
                f" -l {label_selector} --tail=20"
            )
        self._pod = max(running, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        self.name: str = self._pod["metadata"]["name"]

    @staticmethod
    def _runs(pod: dict[str, t.Any]) -> bool:
        statuses = pod["status"].get("containerStatuses", [])
        return bool(statuses) and all("running" in status.get("state", {}) for status in statuses)

    @staticmethod
    def _troubles(pods: list[dict[str, t.Any]]) -> str:
        if not pods:
            return " (there is none at all)"
        found = []
        for pod in pods:
            reasons = [str(pod["status"].get("phase", "unknown"))]
            for kind in ("initContainerStatuses", "containerStatuses"):
                for status in pod["status"].get(kind, []):
                    waiting = status.get("state", {}).get("waiting", {}).get("reason")
                    ended = status.get("lastState", {}).get("terminated", {}).get("exitCode")
                    reasons += [waiting] if waiting else []
                    reasons += [] if ended is None else [f"ended before with code {ended}"]
            found.append(f"{pod['metadata']['name']}: {', '.join(reasons)}")
        return f" ({'; '.join(found)})"

    def connection(self, port: int, timeout: float) -> _ForwardedConnection:
        """A new HTTP connection to a port of the pod, its localhost included.

        :param timeout: seconds to wait for each piece of an answer.
        :raises StackDownError: if Kubernetes can't reach the pod.
        """
        try:
            forward = self._kubernetes.forward(f"{self._path}/pods/{self.name}/portforward", port)
        except RefusedError as exc:
            raise StackDownError(f"No port-forward to port {port} of pod {self.namespace}/{self.name}: {exc}") from exc
        return _ForwardedConnection(forward, port, timeout)

    def secret(self, name: str, key: str) -> str | None:
        """A value of a Secret in the pod's namespace.

        :returns: None if the Secret can't be read; "" if it has no such key.
        """
        try:
            secret = self._kubernetes.get(f"{self._path}/secrets/{quote(name, safe='')}")
        except RefusedError:
            return None
        return base64.b64decode((secret.get("data") or {}).get(key, "")).decode(errors="replace")

    def admin_line(self) -> str | None:
        """The admin passphrase line as the Secret that is mounted into the pod has it now.

        :returns: None if it can't be read; "" if the Secret has no such key.
        """
        for name, key in self._admin_secrets():
            return self.secret(name, key)
        return None

    def _admin_secrets(self) -> t.Iterator[tuple[str, str]]:
        for volume in self._pod["spec"].get("volumes", []):
            secrets = [
                source["secret"] for source in volume.get("projected", {}).get("sources", []) if "secret" in source
            ]
            secrets += [volume["secret"]] if "secret" in volume else []
            for secret in secrets:
                for item in secret.get("items", []):
                    if item["path"].rsplit("/", 1)[-1] == ADMIN_FILE:
                        yield secret.get("name") or secret["secretName"], item["key"]


__all__ = ("Kubernetes", "Pod")
