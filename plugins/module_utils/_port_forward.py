# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way into a pod through the Kubernetes API. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import http.client
import typing as t

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, StackDownError

try:
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.stream import portforward
    from urllib3.exceptions import HTTPError
except ImportError as exc:
    IMPORT_ERROR: ImportError | None = exc
else:
    IMPORT_ERROR = None

ADMIN_FILE = "cozy-admin-passphrase"


class _ForwardedConnection(http.client.HTTPConnection):
    """HTTP over one port of a port-forward."""

    def __init__(self, forward: t.Any, port: int, what: str, timeout: float) -> None:
        super().__init__("localhost", port, timeout=timeout)
        self._forward = forward
        self._port = port
        self._what = what

    def connect(self) -> None:
        self.sock = self._forward.socket(self._port)
        self.sock.settimeout(self.timeout)

    def reason_for_closing(self) -> str:
        """What Kubernetes said about this port, or ""."""
        return str(self._forward.error(self._port) or "").strip()

    def close(self) -> None:
        super().close()
        self._forward.close()


class Pod:
    """One running pod, found by its labels.

    :param kubeconfig: path of the kubeconfig; None for the client's own default.
    :param context: name of a context in it; None for the current one.
    :param namespace: where to look.
    :param label_selector: which pods to look for.
    :raises StackDownError: if there is none, with what Kubernetes knows about the reason.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str, label_selector: str) -> None:
        if IMPORT_ERROR is not None:
            raise CozyError(
                "The Python library 'kubernetes' is needed where this module runs, and can't be imported:"
                f" {IMPORT_ERROR}"
            )
        self.namespace = namespace
        try:
            self._api = client.CoreV1Api(config.new_client_from_config(config_file=kubeconfig, context=context))
        except (ConfigException, OSError) as exc:
            raise CozyError(f"The kubeconfig {kubeconfig or '(default)'} can't be used: {exc}") from exc
        try:
            pods = self._api.list_namespaced_pod(namespace, label_selector=label_selector).items
        except ApiException as exc:
            raise CozyError(f"Kubernetes refuses to list pods in namespace {namespace}: {exc.reason}") from exc
        except HTTPError as exc:
            raise CozyError(f"The Kubernetes API does not answer: {exc}") from exc
        alive = [pod for pod in pods if pod.metadata.deletion_timestamp is None]
        running = [pod for pod in alive if self._runs(pod)]
        if not running:
            raise StackDownError(
                f"No pod with labels {label_selector} is running in namespace {namespace}"
                f"{self._troubles(alive)}. Look at: kubectl -n {namespace} get pods; kubectl -n {namespace} logs"
                f" -l {label_selector} --tail=20"
            )
        self._pod = max(running, key=lambda pod: pod.metadata.creation_timestamp)
        self.name: str = self._pod.metadata.name

    @staticmethod
    def _runs(pod: t.Any) -> bool:
        statuses = pod.status.container_statuses or []
        return bool(statuses) and all(status.state and status.state.running for status in statuses)

    @staticmethod
    def _troubles(pods: list[t.Any]) -> str:
        if not pods:
            return " (there is none at all)"
        found = []
        for pod in pods:
            reasons = [str(pod.status.phase)]
            for status in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
                waiting = status.state.waiting if status.state else None
                ended = status.last_state.terminated if status.last_state else None
                if waiting and waiting.reason:
                    reasons.append(waiting.reason)
                if ended:
                    reasons.append(f"ended before with code {ended.exit_code}")
            found.append(f"{pod.metadata.name}: {', '.join(reasons)}")
        return f" ({'; '.join(found)})"

    def connection(self, port: int, timeout: float) -> _ForwardedConnection:
        """A new HTTP connection to a port of the pod, its localhost included.

        :param timeout: seconds to wait for each piece of an answer.
        :raises StackDownError: if Kubernetes can't reach the pod.
        """
        what = f"port {port} of pod {self.namespace}/{self.name}"
        try:
            forward = portforward(
                self._api.connect_get_namespaced_pod_portforward, self.name, self.namespace, ports=str(port)
            )
        except ApiException as exc:
            raise StackDownError(f"No port-forward to {what}: {exc.reason}") from exc
        return _ForwardedConnection(forward, port, what, timeout)

    def secret(self, name: str, key: str) -> str | None:
        """A value of a Secret in the pod's namespace.

        :returns: None if the Secret can't be read; "" if it has no such key.
        """
        try:
            secret = self._api.read_namespaced_secret(name, self.namespace)
        except ApiException:
            return None
        return base64.b64decode((secret.data or {}).get(key, "")).decode(errors="replace")

    def admin_line(self) -> str | None:
        """The admin passphrase line as the Secret that is mounted into the pod has it now.

        :returns: None if it can't be read; "" if the Secret has no such key.
        """
        for name, key in self._admin_secrets():
            return self.secret(name, key)
        return None

    def _admin_secrets(self) -> t.Iterator[tuple[str, str]]:
        for volume in self._pod.spec.volumes or []:
            if volume.secret:
                sources = [(volume.secret.secret_name, volume.secret.items)]
            elif volume.projected:
                sources = [(s.secret.name, s.secret.items) for s in volume.projected.sources or [] if s.secret]
            else:
                sources = []
            for name, items in sources:
                for item in items or []:
                    if item.path.rsplit("/", 1)[-1] == ADMIN_FILE:
                        yield name, item.key


__all__ = ("Pod",)
