# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few calls to CouchDB that cozy-stack has no own for. Private: not for use outside of this collection."""

from __future__ import annotations

import base64
import http.client
import json
import typing as t
from urllib.parse import quote, unquote, urlencode, urlsplit

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CouchDownError, CozyError, InputError
from ansible_collections.kubecozy.homelab.plugins.module_utils._port_forward import Kubernetes, Pod

PORT = 5984


class CouchDB:
    """A CouchDB and the credentials of its administrator.

    :param connect: makes a new connection.
    """

    def __init__(self, connect: t.Callable[[], http.client.HTTPConnection], username: str, password: str) -> None:
        self._connect = connect
        self._credentials = base64.b64encode(f"{username}:{password}".encode()).decode()

    @classmethod
    def from_parameters(cls, parameters: dict[str, t.Any]) -> CouchDB:
        """Made from the parameters of the module cozy_instance.

        :raises CozyError: if it can't be found.
        """
        timeout = float(parameters["timeout"])
        if parameters["couchdb_url"]:
            try:
                url = urlsplit(parameters["couchdb_url"])
                port = url.port or PORT
            except ValueError:
                # Python's own words would show a part of what may be the password.
                raise InputError("couchdb_url is no URL: has it a port that is no number?") from None
            if url.scheme != "http" or not url.hostname or not url.username or not url.password:
                raise InputError("couchdb_url must be http://user:password@host[:port].")
            host = url.hostname
            return cls(
                lambda: http.client.HTTPConnection(host, port, timeout=timeout),
                unquote(url.username),
                unquote(url.password),
            )
        if parameters["admin_url"]:
            raise InputError("remove_leftovers together with admin_url needs couchdb_url too.")
        kubernetes = Kubernetes(parameters["kubeconfig"], parameters["kube_context"])
        pod = Pod(kubernetes, parameters["namespace"], parameters["couchdb_label_selector"])
        secret = parameters["couchdb_secret"]
        username, password = pod.secret(secret, "username"), pod.secret(secret, "password")
        if not username or not password:
            raise InputError(f"The Secret {secret} in namespace {pod.namespace} has no username and password.")
        return cls(lambda: pod.connection(PORT, timeout), username, password)

    def _call(self, method: str, path: str) -> t.Any:
        connection = self._connect()
        try:
            headers = {"Authorization": f"Basic {self._credentials}", "Accept": "application/json"}
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise CouchDownError(f"CouchDB does not answer: {exc}. Look at its pod.") from exc
        finally:
            connection.close()
        # Never asked again with what may be a wrong password: newer releases lock the account after five tries.
        if response.status in (401, 403):
            raise CozyError("CouchDB refuses the credentials in the Secret. Run the role couchdb again.")
        if response.status != 200:
            raise CozyError(f"CouchDB answered {response.status}: {body.decode(errors='replace').strip()[:200]}")
        return json.loads(body)

    def databases(self, prefix: str) -> list[str]:
        """Names of all databases below a prefix.

        :raises CozyError: if CouchDB does not say.
        """
        wanted = urlencode({"start_key": json.dumps(f"{prefix}/"), "end_key": json.dumps(f"{prefix}0")})
        return [name for name in self._call("GET", f"/_all_dbs?{wanted}") if name.startswith(f"{prefix}/")]

    def remove(self, name: str) -> None:
        """Remove a database for good.

        :raises CozyError: if CouchDB does not do it.
        """
        self._call("DELETE", f"/{quote(name, safe='')}")


__all__ = ("CouchDB",)
