# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way into a pod, with a Kubernetes API that is played."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import kubernetes.config
import pytest
from ansible_collections.kubecozy.homelab.plugins.module_utils import _port_forward
from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import PodRoute, Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError, InputError, StackDownError
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import Kubernetes, Pod, RefusedError
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_instance
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from tests.unit.plugins.module_helper import run_module

PARAMETERS = {
    "admin_passphrase": None,
    "admin_secret": "cozy-operator",
    "admin_url": None,
    "public_url": None,
    "kubeconfig": "/nowhere",
    "kube_context": None,
    "namespace": "cozy",
    "label_selector": "app.kubernetes.io/name=cozy-stack",
    "timeout": 5,
}


def status(running: bool = True, waiting: str = "", ended: int | None = None) -> dict[str, Any]:
    """State of a container."""
    state: dict[str, Any] = {"running": {}} if running else {}
    state |= {"waiting": {"reason": waiting}} if waiting else {}
    return {"state": state, "lastState": {} if ended is None else {"terminated": {"exitCode": ended}}}


def pod(name: str, age: int, *statuses: dict[str, Any], leaving: bool = False) -> dict[str, Any]:
    """A pod with the volumes the role gives it."""
    secret = {
        "name": "cozy-admin-passphrase",
        "items": [{"key": "cozy-admin-passphrase", "path": "cozy-admin-passphrase"}],
    }
    keys = {"name": "cozy-vault-keys", "items": [{"key": "vault.enc", "path": "keys/vault.enc"}]}
    metadata = {"name": name, "creationTimestamp": f"2026-11-2{age}T00:00:00Z"}
    return {
        "metadata": metadata | ({"deletionTimestamp": "2026-11-29T00:00:00Z"} if leaving else {}),
        "spec": {
            "volumes": [
                {"emptyDir": {}},
                {"projected": {"sources": [{"configMap": {}}, {"secret": keys}, {"secret": secret}]}},
                {"secret": {"secretName": "other"}},
            ]
        },
        "status": {"phase": "Running", "containerStatuses": list(statuses)},
    }


def answer(status_code: int, body: Any, reason: str = "") -> SimpleNamespace:
    return SimpleNamespace(status=status_code, data=json.dumps(body).encode(), reason=reason)


@pytest.fixture
def api() -> Iterator[mock.Mock]:
    """The connection to the Kubernetes API: what it answers is set by each test."""
    client = mock.Mock()
    client.configuration.host = "https://api"
    client.configuration.auth_settings.return_value = {
        "BearerToken": {"in": "header", "key": "authorization", "value": "Bearer t"}
    }
    with mock.patch("kubernetes.config.new_client_from_config", return_value=client):
        yield client.rest_client.pool_manager.request


def find(api: mock.Mock, *pods: dict[str, Any]) -> Pod:
    api.return_value = answer(200, {"items": list(pods)})
    return Pod(Kubernetes(None, None), "cozy", "app.kubernetes.io/name=cozy-stack")


def test_pods_are_asked_for_by_their_labels(api: mock.Mock) -> None:
    assert find(api, pod("p", 1, status())).name == "p"
    api.assert_called_once_with(
        "GET",
        "https://api/api/v1/namespaces/cozy/pods?labelSelector=app.kubernetes.io%2Fname%3Dcozy-stack",
        headers={"authorization": "Bearer t", "Accept": "application/json"},
    )


def test_newest_running_pod_is_taken(api: mock.Mock) -> None:
    pods = [pod("old", 1, status()), pod("new", 2, status()), pod("leaving", 3, status(), leaving=True)]
    assert find(api, *pods).name == "new"


def test_no_pod_says_so_and_why(api: mock.Mock) -> None:
    with pytest.raises(StackDownError, match="there is none at all"):
        find(api)
    crashing = pod("cozy-stack-1", 1, status(running=False, waiting="CrashLoopBackOff", ended=1))
    with pytest.raises(StackDownError, match="cozy-stack-1: Running, CrashLoopBackOff, ended before with code 1"):
        find(api, crashing)
    with pytest.raises(StackDownError, match="cozy-stack-2: Running"):
        find(api, pod("cozy-stack-2", 1))


def test_changes_are_merged_in(api: mock.Mock) -> None:
    api.return_value = answer(200, {})
    Kubernetes(None, None).patch("/api/v1/namespaces/cozy", {"metadata": {"finalizers": None}})
    kind = {"Content-Type": "application/merge-patch+json"}
    api.assert_called_once_with(
        "PATCH",
        "https://api/api/v1/namespaces/cozy",
        headers={"authorization": "Bearer t", "Accept": "application/json", **kind},
        body=b'{"metadata": {"finalizers": null}}',
    )
    api.return_value = answer(409, {}, "Conflict")
    with pytest.raises(RefusedError, match="409 Conflict"):
        Kubernetes(None, None).patch("/api/v1/namespaces/cozy", {})


def test_api_that_refuses_or_is_away(api: mock.Mock) -> None:
    api.return_value = answer(403, {}, "Forbidden")
    with pytest.raises(CozyError, match="refuses to list pods in namespace cozy: 403 Forbidden"):
        Pod(Kubernetes(None, None), "cozy", "a=b")
    api.side_effect = HTTPError("connection refused")
    with pytest.raises(CozyError, match="The Kubernetes API does not answer: connection refused"):
        Pod(Kubernetes(None, None), "cozy", "a=b")


def test_kubeconfig_that_is_not_there() -> None:
    with (
        mock.patch("kubernetes.config.new_client_from_config", side_effect=ConfigException("no such file")),
        pytest.raises(CozyError, match="kubeconfig /nowhere can't be used: no such file"),
    ):
        Kubernetes("/nowhere", None)


def test_missing_library_is_named() -> None:
    with (
        mock.patch.object(_port_forward, "IMPORT_ERROR", ImportError("No module named 'kubernetes'")),
        pytest.raises(CozyError, match="library 'kubernetes' is needed"),
    ):
        Kubernetes(None, None)


def secret(**data: str) -> SimpleNamespace:
    encoded = {key.replace("_", "-"): base64.b64encode(text.encode()).decode() for key, text in data.items()}
    return answer(200, {"data": encoded})


def test_admin_line_is_read_from_the_secret_that_is_mounted(api: mock.Mock) -> None:
    found = find(api, pod("p", 1, status()))
    api.return_value = secret(cozy_admin_passphrase="scrypt$line")
    assert found.admin_line() == "scrypt$line"
    assert api.call_args.args[1] == "https://api/api/v1/namespaces/cozy/secrets/cozy-admin-passphrase"
    api.return_value = answer(200, {})
    assert found.admin_line() == ""
    api.return_value = answer(403, {}, "Forbidden")
    assert found.admin_line() is None


def test_admin_passphrase_is_found_in_its_secret(api: mock.Mock) -> None:
    pods = answer(200, {"items": [pod("p", 1, status())]})
    api.side_effect = [pods, secret(passphrase="from the Secret"), pods, pods, answer(200, {})]
    assert Stack.from_parameters(PARAMETERS)._passphrase == "from the Secret"
    assert Stack.from_parameters({**PARAMETERS, "admin_passphrase": "given"})._passphrase == "given"
    with pytest.raises(InputError, match="no Secret cozy-operator with a key 'passphrase'"):
        Stack.from_parameters(PARAMETERS)


def test_context_of_an_instance_is_not_the_one_of_the_kubeconfig(api: mock.Mock) -> None:
    api.return_value = answer(200, {"items": []})
    result = run_module(cozy_instance.main, domain="alice.cozy.test", context="family", kubeconfig="/nowhere")
    assert "there is none at all" in result["msg"]
    kubernetes.config.new_client_from_config.assert_called_once_with(config_file="/nowhere", context=None)


def test_urls_are_checked() -> None:
    urls = {"admin_url": "http://127.0.0.1:6060", "public_url": "http://127.0.0.1:8080"}
    with pytest.raises(InputError, match="no admin_passphrase"):
        Stack.from_parameters({**PARAMETERS, **urls})
    for wrong in ("127.0.0.1:8080", "ftp://127.0.0.1", "http://127.0.0.1:8080/path"):
        with pytest.raises(InputError, match="public_url must be"):
            Stack.from_parameters({**PARAMETERS, **urls, "public_url": wrong, "admin_passphrase": "x"})


class Forward:
    """A port-forward: each answers by turns from a list; None closes the connection."""

    def __init__(self, *answers: bytes | None, error: str | None = None) -> None:
        self._error = error
        self.here, self._there = socket.socketpair()
        self.thread = threading.Thread(target=self._serve, args=[answers])
        self.thread.start()

    def _serve(self, answers: tuple[bytes | None, ...]) -> None:
        with self._there:
            for answer in answers:
                while not self._there.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                if answer is None:
                    break
                self._there.sendall(answer)

    def socket(self, _port: int) -> socket.socket:
        return self.here

    def error(self, _port: int) -> str | None:
        return self._error

    def close(self) -> None:
        self.here.close()


def reply(code: str, body: str) -> bytes:
    return f"HTTP/1.1 {code}\r\nContent-Length: {len(body)}\r\nContent-Type: text/plain\r\n\r\n{body}".encode()


def stack_over(api: mock.Mock, *forwards: Forward | Exception) -> Stack:
    """A stack in a pod that these port-forwards lead to, one after the other."""
    steps = mock.patch.object(_port_forward, "portforward_call", side_effect=list(forwards))
    steps.start()
    return Stack(PodRoute(find(api, pod("p", 1, status())), 5.0), "x")


@pytest.fixture(autouse=True)
def _unpatch() -> Iterator[None]:
    yield
    mock.patch.stopall()


def test_calls_share_a_connection(api: mock.Mock) -> None:
    forward = Forward(reply("200 OK", "one"), reply("200 OK", "two"))
    stack = stack_over(api, forward)
    assert [stack.admin("GET", "/version", "Asking").body for _ in range(2)] == ["one", "two"]
    stack.close()
    forward.thread.join()


def test_read_is_asked_again_when_a_kept_connection_was_closed(api: mock.Mock) -> None:
    forwards = [Forward(reply("200 OK", "one"), None), Forward(reply("200 OK", "two"))]
    stack = stack_over(api, *forwards)
    assert [stack.admin("GET", "/version", "Asking").body for _ in range(2)] == ["one", "two"]
    stack.close()
    for forward in forwards:
        forward.thread.join()


def test_write_is_never_sent_twice(api: mock.Mock) -> None:
    forward = Forward(reply("200 OK", "one"), None)
    stack = stack_over(api, forward)
    stack.admin("GET", "/version", "Asking")
    with pytest.raises(StackDownError, match="no answer from cozy-stack's admin port by pod cozy/p"):
        stack.admin("POST", "/instances", "Creating")
    forward.thread.join()


def test_closed_port_is_told_in_kubernetes_words(api: mock.Mock) -> None:
    forward = Forward(None, error="connect: connection refused inside namespace")
    with pytest.raises(StackDownError, match="connection refused inside namespace"):
        stack_over(api, forward).admin("GET", "/version", "Asking")
    forward.thread.join()


def test_port_forward_that_is_refused(api: mock.Mock) -> None:
    stack = stack_over(api, ApiException(status=0, reason="Handshake status 403 Forbidden"))
    with pytest.raises(StackDownError, match="No port-forward to port 6060 of pod cozy/p: Handshake status 403"):
        stack.admin("GET", "/version", "Asking")
