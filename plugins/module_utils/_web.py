# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a web server by name at an address of one's choice. Private: not for use outside of this collection."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import typing as t
from urllib.parse import urlsplit

from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import InputError

LONGEST_BODY = 1 << 20
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0


class Check(t.NamedTuple):
    """One question, and what counts as the right answer.

    :param status: accepted HTTP status codes.
    :param location: where the answer must redirect to, if not None.
    :param contains: what the body must contain, if not None.
    """

    url: str
    status: list[int]
    location: str | None
    contains: str | None


class Outcome(t.NamedTuple):
    """What was seen last; `problem` is "" if it was right."""

    url: str
    status: int | None
    location: str
    problem: str


class _Connection(http.client.HTTPConnection):
    """Knows the server by its name in the URL, but may connect to another address."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address = address
        self._context = context

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._context.wrap_socket(sock, server_hostname=self.host) if self._context else sock


class Prober:
    """Asks questions.

    :param address: connect to it instead of what the URL's host resolves to.
    :param ca_path: trust the authorities in this file instead of the system's.
    :param validate_certs: whether the certificate must be trusted.
    :raises InputError: if the file can't be used.
    """

    def __init__(self, address: str | None, ca_path: str | None, validate_certs: bool = True) -> None:
        self._address = address
        try:
            self._context = ssl.create_default_context(cafile=ca_path)
        except (OSError, ssl.SSLError) as exc:
            raise InputError(f"ca_path {ca_path} can't be used: {exc}") from exc
        if not validate_certs:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE

    def ask(self, check: Check, timeout: float) -> Outcome:
        """Ask once.

        :param timeout: seconds for each step.
        :raises InputError: if the URL is none.
        """
        url = urlsplit(check.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(f"{check.url} is no http or https URL.")
        context = self._context if url.scheme == "https" else None
        port = url.port or (443 if context else 80)
        connection = _Connection(url.hostname, port, self._address or url.hostname, context, timeout)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            # The host as the URL names it: http.client would add the port, and cozy-stack knows no such instance then.
            headers = {"Host": url.netloc.rpartition("@")[2], "Accept": "text/html, */*;q=0.8"}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read(LONGEST_BODY).decode(errors="replace")
        except (OSError, http.client.HTTPException) as exc:
            return Outcome(check.url, None, "", self._explain(exc, url.hostname))
        finally:
            connection.close()
        location = response.headers.get("Location", "")
        problem = ""
        if response.status not in check.status:
            wanted = " or ".join(map(str, check.status))
            problem = f"answered {response.status} instead of {wanted}: {' '.join(body.split())[:200] or 'empty page'}"
        elif check.location is not None and location != check.location:
            problem = f"redirects to '{location}' instead of '{check.location}'"
        elif check.contains is not None and check.contains not in body:
            problem = f"has no '{check.contains}' in its answer: {' '.join(body.split())[:200] or 'empty page'}"
        return Outcome(check.url, response.status, location, problem)

    def _explain(self, exc: Exception, host: str) -> str:
        where = self._address or host
        if isinstance(exc, ssl.SSLCertVerificationError):
            return f"shows a certificate that can't be trusted: {exc.verify_message}"
        if isinstance(exc, ssl.SSLError):
            return f"does not speak TLS properly: {exc.reason or exc}"
        if isinstance(exc, socket.gaierror):
            return f"is not found: the name {where} does not resolve here"
        if isinstance(exc, TimeoutError):
            return f"does not answer in time at {where}"
        return f"can't be reached at {where}: {exc or type(exc).__name__}"

    def until_right(self, checks: list[Check], seconds: float) -> list[Outcome]:
        """Ask everything again until all is right, or the time is over.

        :returns: one outcome for each check, in order.
        """
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        outcomes: dict[int, Outcome] = {}
        while True:
            for index, check in enumerate(checks):
                left = deadline - time.monotonic()
                if index not in right(outcomes):
                    outcomes[index] = self.ask(check, max(1.0, min(10.0, left)))
            if len(right(outcomes)) == len(checks) or time.monotonic() + pause > deadline:
                return [outcomes[index] for index in range(len(checks))]
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def right(outcomes: dict[int, Outcome]) -> set[int]:
    """Which of them need not be asked again."""
    return {index for index, outcome in outcomes.items() if not outcome.problem}


__all__ = ("Check", "Outcome", "Prober")
