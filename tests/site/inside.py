# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask cozy-stack and CouchDB inside their pods, by port-forwards; the answer is one line of JSON.

    python -m lab exec controller -- python -m tests.site.inside KUBECONFIG admin
    python -m lab exec controller -- python -m tests.site.inside KUBECONFIG revisions

`admin` takes a line of JSON with a `passphrase` on standard input.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kubernetes
import kubernetes.stream

from tests.site import cluster

NAMESPACE = "cozy"
_SECONDS = 60.0
_KEPT = ("instances", "io-cozy-apps", "io-cozy-konnectors", "io-cozy-settings", "io-cozy-files")


class Inside:
    """The Cozy's pods, through a cluster's API.

    Args:
        kubeconfig: path of the key to the cluster.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._get = cluster.getter(kubeconfig)
        self._api = kubernetes.client.CoreV1Api()

    @contextmanager
    def _way(self, name: str, port: int) -> Iterator[http.client.HTTPConnection]:
        """A connection to a port of the pod with that name label, its localhost included."""
        pods = cluster.pods(self._get, NAMESPACE, f"app.kubernetes.io/name={name}")
        (pod,) = [found for found, state in pods.items() if not state["ending"]]
        forward = kubernetes.stream.portforward(
            self._api.connect_get_namespaced_pod_portforward, pod, NAMESPACE, ports=str(port)
        )
        connection = http.client.HTTPConnection("localhost", port, timeout=_SECONDS)
        connection.sock = forward.socket(port)
        connection.sock.settimeout(_SECONDS)
        try:
            yield connection
        finally:
            connection.close()
            forward.close()

    def _secret(self, name: str) -> dict[str, str]:
        data = self._get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def admin(self, passphrase: str) -> dict[str, Any]:
        """What the admin API says to a passphrase: the `status`."""
        with self._way("cozy-stack", 6060) as connection:
            return {"status": _ask(connection, "/version", "", passphrase)[0]}

    def revisions(self) -> dict[str, str]:
        """The revision of every document about instances, their apps, settings and files, by database and name."""
        known = self._secret("cozy-couchdb")
        found = {}
        with self._way("cozy-couchdb", 5984) as connection:

            def read(path: str) -> Any:
                status, body = _ask(connection, path, known["username"], known["password"])
                if status != 200:
                    raise OSError(f"GET {path}: {status}")
                return json.loads(body)

            for database in read("/_all_dbs"):
                if database.rpartition("/")[2] in _KEPT:
                    for row in read(f"/{urllib.parse.quote(database, safe='')}/_all_docs")["rows"]:
                        found[f"{database} {row['id']}"] = row["value"]["rev"]
        return found


def _ask(connection: http.client.HTTPConnection, path: str, user: str, password: str) -> tuple[int, bytes]:
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    connection.request("GET", path, headers={"Host": "localhost", "Authorization": f"Basic {credentials}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def main() -> None:
    """Do what the command line says and print the answer."""
    kubeconfig, what = sys.argv[1:]
    inside = Inside(kubeconfig)
    if what == "admin":
        print(json.dumps(inside.admin(json.loads(sys.stdin.readline())["passphrase"])))
    else:
        print(json.dumps({"revisions": inside.revisions}[what]()))


if __name__ == "__main__":
    main()
