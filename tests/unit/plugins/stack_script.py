# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cozy-stack that follows a script: each call must be the next one of the script, and gets its recorded answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import unquote

from ansible_collections.kubecozy.homelab.plugins.module_utils import _admin_api

FIXTURES = Path(__file__).parents[2] / "fixtures"
# Those the double is held against, and those it can't play: a read-only volume, a moment of a race.
RECORDINGS = {path.stem: path for path in [*FIXTURES.glob("contract/*.json"), *FIXTURES.glob("contract_more/*.json")]}
PASSPHRASE = "adm1n-Secret"


class Answer:
    """What a call of the script gets.

    :param recording: name of a recorded exchange.
    """

    def __init__(self, recording: str) -> None:
        response = json.loads(RECORDINGS[recording].read_text())["response"]
        self.status: int = response["status"]
        self.headers = Message()
        for name, value in response["headers"]:
            self.headers[name] = value
        self.body: str = response["body"] or ""
        self.will_close = False

    def read(self) -> bytes:
        return self.body.encode()

    def getheader(self, name: str) -> str | None:
        return self.headers.get(name)


class Plain(Answer):
    """An answer that was not recorded."""

    def __init__(self, status: int, body: str, content_type: str = "application/vnd.api+json") -> None:
        self.status = status
        self.headers = Message()
        self.headers["Content-Type"] = content_type
        self.body = body
        self.will_close = False


class Script:
    """The script, and the route that leads to it.

    :param steps: pairs of a call, such as `GET admin /instances`, and its answer: the name of a recording, an `Answer`,
        or an exception of the connection.
    """

    name = "the script"

    def __init__(self, *steps: tuple[str, str | Answer | Exception]) -> None:
        self.steps = list(steps)
        self.bodies: list[Any] = []
        self.hosts: list[str] = []
        self.lines: list[str | None] = []

    def connect(self, admin: bool) -> HTTPConnection:
        connection = mock.create_autospec(HTTPConnection, instance=True)
        port = "admin" if admin else "public"
        connection.request.side_effect = lambda *args, **kwargs: self._asked(port, *args, **kwargs)
        connection.getresponse.side_effect = self._answer
        assert isinstance(connection, HTTPConnection)
        return connection

    def admin_line(self) -> str | None:
        return self.lines.pop(0) if self.lines else None

    def _asked(self, port: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        call = f"{method} {port} {unquote(path)}"
        assert self.steps, f"a call beyond the script: {call}"
        assert call == self.steps[0][0]
        assert (
            headers["Authorization"].startswith("Basic " if port == "admin" else "Bearer ")
            if ("Authorization" in headers)
            else port == "public"
        )
        self.hosts.append(headers.get("Host", ""))
        self.bodies.append(json.loads(body) if body else None)

    def _answer(self) -> Answer:
        answer = self.steps.pop(0)[1]
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer) if isinstance(answer, str) else answer

    @contextmanager
    def played(self) -> Iterator[list[float]]:
        """Lead all modules to this script, without ever sleeping; afterwards it must be used up.

        :returns: the seconds that would have been slept.
        """
        clock = SimpleNamespace(now=0.0)
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            clock.now += seconds

        stack = _admin_api.Stack(self, PASSPHRASE)
        with (
            mock.patch.object(_admin_api.Stack, "from_parameters", return_value=stack),
            mock.patch("time.sleep", sleep),
            mock.patch("time.monotonic", side_effect=partial(getattr, clock, "now")),
        ):
            yield slept
        assert self.steps == [], "the script was not used up"
