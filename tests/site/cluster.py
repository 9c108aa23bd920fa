# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the cluster's API, from the controller's namespace; the answer is one line of JSON.

python -m lab exec controller -- python -m tests.site.cluster KUBECONFIG objects
python -m lab exec controller -- python -m tests.site.cluster KUBECONFIG secrets
python -m lab exec controller -- python -m tests.site.cluster KUBECONFIG pods NAMESPACE SELECTOR
python -m lab exec controller -- python -m tests.site.cluster KUBECONFIG services NAMESPACE
python -m lab exec controller -- python -m tests.site.cluster KUBECONFIG unready
"""

from __future__ import annotations

import base64
import hashlib
import http
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes

# What moves by itself all the time.
_MOVING_KINDS = frozenset({"Event", "Lease", "PodMetrics", "NodeMetrics", "ComponentStatus"})
# Their status moves, and with it the version of the object.
_MOVING_VERSIONS = frozenset(
    {"Node", "Pod", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "EndpointSlice", "Endpoints", "APIService"}
)

# Of kubeadm's tokens, of CouchDB's credentials, and of the way that mails go.
_PUBLIC_KEYS = frozenset(
    {"auth-extra-groups", "description", "expiration", "token-id", "username"}
    | {"from", "host", "password_secret", "port", "tls"}
)

Get = Callable[[str], dict[str, Any]]


def getter(kubeconfig: str) -> Get:
    """What reads a path of the API of the cluster that a kubeconfig leads to."""
    kubernetes.config.load_kube_config(config_file=kubeconfig)
    client = kubernetes.client.ApiClient()

    def get(path: str) -> dict[str, Any]:
        answer = client.call_api("GET", f"{client.configuration.host}{path}", _request_timeout=30)
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"GET {path}: {answer.status} {answer.reason}")
        found: dict[str, Any] = json.loads(answer.data)
        return found

    return get


def _resources(get: Get) -> Iterator[tuple[str, str]]:
    """Path and kind of everything that can be listed, each kind in one version."""
    yield from _listable(get, "/api/v1")
    for group in get("/apis")["groups"]:
        yield from _listable(get, f"/apis/{group['preferredVersion']['groupVersion']}")


def _listable(get: Get, base: str) -> Iterator[tuple[str, str]]:
    for resource in get(base)["resources"]:
        if "list" in resource["verbs"] and "/" not in resource["name"] and resource["kind"] not in _MOVING_KINDS:
            yield f"{base}/{resource['name']}", resource["kind"]


def fingerprint(kind: str, item: dict[str, Any]) -> dict[str, str]:
    """Who an object is (`uid`), what it says (`content`, hashed: it may be secret), its `version` if that holds."""
    metadata = {
        key: value for key, value in item["metadata"].items() if key not in ("managedFields", "resourceVersion")
    }
    said = {key: value for key, value in item.items() if key not in ("status", "metadata")}
    text = json.dumps([metadata, said], sort_keys=True)
    return {
        "uid": item["metadata"].get("uid", ""),
        "content": hashlib.sha256(text.encode()).hexdigest(),
        "version": "" if kind in _MOVING_VERSIONS else item["metadata"].get("resourceVersion", ""),
    }


def objects(get: Get) -> dict[str, dict[str, str]]:
    """The fingerprint of every object, by kind, namespace and name."""
    found = {}
    for path, kind in _resources(get):
        for item in get(path).get("items") or []:
            metadata = item["metadata"]
            found[f"{kind} {metadata.get('namespace', '')}/{metadata['name']}"] = fingerprint(kind, item)
    return found


def secrets(get: Get) -> dict[str, str]:
    """The value of every key of every Secret (base64 when it is no text); helm's notes are no secrets and left out."""
    found = {}
    for item in get("/api/v1/secrets")["items"]:
        if item.get("type") == "helm.sh/release.v1":
            continue
        for key, encoded in (item.get("data") or {}).items():
            try:
                value = base64.b64decode(encoded).decode()
            except UnicodeDecodeError:
                value = encoded
            if key in _PUBLIC_KEYS:
                continue
            found[f"Secret {item['metadata']['namespace']}/{item['metadata']['name']} {key}"] = value
    return found


def pods(get: Get, namespace: str, selector: str) -> dict[str, dict[str, Any]]:
    """The pods that a label selects: `uid`, `machine`, `address`, `restarts`, and whether each is `ending`."""
    found = {}
    for pod in get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]:
        metadata, status = pod["metadata"], pod["status"]
        found[metadata["name"]] = {
            "uid": metadata["uid"],
            "machine": pod["spec"].get("nodeName", ""),
            "address": status.get("podIP", ""),
            "restarts": sum(one["restartCount"] for one in status.get("containerStatuses", [])),
            "ending": "deletionTimestamp" in metadata,
        }
    return found


def services(get: Get, namespace: str) -> dict[str, dict[str, Any]]:
    """The Services of a namespace: `type`, `address`, and the `ports` of the Service and of its pods."""
    found = {}
    for item in get(f"/api/v1/namespaces/{namespace}/services")["items"]:
        spec = item["spec"]
        ports = [port.get(key) for port in spec["ports"] for key in ("port", "targetPort", "nodePort") if key in port]
        found[item["metadata"]["name"]] = {"type": spec["type"], "address": spec["clusterIP"], "ports": ports}
    return found


def unready(get: Get) -> list[str]:
    """Machines and pods that are not Ready; pods that have done their work count as ready."""
    found = []
    for path in ("nodes", "pods"):
        for item in get(f"/api/v1/{path}")["items"]:
            conditions = {one["type"]: one["status"] for one in item["status"].get("conditions", [])}
            if conditions.get("Ready") != "True" and item["status"].get("phase") != "Succeeded":
                found.append(f"{item['metadata'].get('namespace', path)}/{item['metadata']['name']}")
    return found


def main() -> None:
    """Do what the command line says and print the answer."""
    kubeconfig, what, *rest = sys.argv[1:]
    asked: dict[str, Callable[..., object]] = {
        "objects": objects,
        "secrets": secrets,
        "pods": pods,
        "services": services,
        "unready": unready,
    }
    print(json.dumps(asked[what](getter(kubeconfig), *rest)))


if __name__ == "__main__":
    main()
