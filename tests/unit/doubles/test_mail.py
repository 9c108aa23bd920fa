# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack double's own way to send a mail: the queue, the worker, and a real SMTP conversation."""

from __future__ import annotations

import base64
import contextlib
import email.policy
import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubecozy.homelab.plugins.modules import cozy_test_mail

from lab import ca
from lab.doubles.cozy_stack import jobs
from tests.unit.doubles.world import PASSPHRASE, World, free_port
from tests.unit.plugins.module_helper import run_module

DOMAIN = "alice.cozy.test"
MAIL = {"mode": "noreply", "subject": "A täst", "parts": [{"type": "text/plain", "body": "Does it arrive?\n"}]}


class Mailbox(socketserver.ThreadingTCPServer):
    """A small SMTP server.

    :param offers: extensions besides those of the protocol itself.
    :param tls: for STARTTLS, or from the first byte if `at_once`.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, offers: tuple[str, ...] = (), tls: ssl.SSLContext | None = None, at_once: bool = False) -> None:
        super().__init__(("127.0.0.1", free_port()), Conversation)
        self.offers, self.tls, self.at_once = offers, tls, at_once
        self.mails: list[EmailMessage] = []
        self.said: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Conversation(socketserver.BaseRequestHandler):
    """One of them."""

    server: Mailbox

    def handle(self) -> None:
        # a client that does not trust us hangs up
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            if self.server.at_once:
                self._secure()
            self._read_on()
            self._say("220 here")
            while line := self.lines.readline():
                text = line.decode(errors="replace").strip()
                self.server.said.append(text)
                if not self._answer(text):
                    break

    def finish(self) -> None:
        self.request.close()

    def _read_on(self) -> None:
        self.lines = self.request.makefile("rb")

    def _secure(self) -> None:
        assert self.server.tls is not None
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)

    def _say(self, text: str) -> None:
        self.request.sendall(f"{text}\r\n".encode())

    def _answer(self, text: str) -> bool:
        verb = text.partition(" ")[0].upper()
        if verb == "EHLO":
            for offer in ("here", *self.server.offers):
                self._say(f"250-{offer}")
            self._say("250 8BITMIME")
        elif verb == "STARTTLS":
            self._say("220 go on")
            self._secure()
            self._read_on()
        elif verb == "AUTH":
            good = base64.b64encode(b"\0user\0secret").decode()
            self._say("235 welcome" if text.endswith(good) else "535 5.7.8 Authentication failed")
        elif verb == "DATA":
            self._say("354 go on")
            lines = list(iter(self.lines.readline, b".\r\n"))
            parsed = email.message_from_bytes(b"".join(lines), policy=email.policy.SMTP)
            assert isinstance(parsed, EmailMessage)
            self.server.mails.append(parsed)
            self._say("250 taken")
        elif verb == "RCPT" and "nobody" in text:
            self._say("550 5.1.1 no such user")
        else:
            self._say("221 bye" if verb == "QUIT" else "250 ok")
        return verb != "QUIT"


@contextlib.contextmanager
def mailbox(**how: Any) -> Iterator[Mailbox]:
    with Mailbox(**how) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def settings(port: int, **more: Any) -> dict[str, Any]:
    """What the configuration says of mail."""
    plain = {"host": "127.0.0.1", "port": port, "username": "", "password": "", "use_ssl": False, "disable_tls": True}
    return plain | {"skip_certificate_validation": False, "local_name": ""} | more


def a_mail(to: str = "alice@example.test") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "noreply@cozy.test", to, "x"
    mail.set_content("x")
    return mail


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world") as world:
        yield world


def with_mail(world: World, **mail: Any) -> None:
    with (world.etc / "cozy.yaml").open("a") as config:
        config.write(f"mail: {json.dumps(mail)}\n")


def post(world: World, arguments: dict[str, Any], worker: str = "sendmail", scope: str = "io.cozy.jobs") -> Any:
    body = json.dumps({"data": {"attributes": {"arguments": arguments}}}).encode()
    headers = {"Host": DOMAIN, "Authorization": f"Bearer {world.token(DOMAIN, scope)}"}
    return world.call(world.public_port, "POST", f"/jobs/queue/{worker}", headers, body)


def ended(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Send a mail by the queue; the job as it ended."""
    answer = post(world, arguments)
    assert answer.status == 202
    data = json.loads(answer.body)["data"]
    assert (data["attributes"]["state"], data["meta"]["rev"][:2]) == ("queued", "1-")
    headers = {"Host": DOMAIN, "Authorization": f"Bearer {world.token(DOMAIN, 'io.cozy.jobs')}"}
    end = time.monotonic() + 20
    while data["attributes"]["state"] in ("queued", "running"):
        assert time.monotonic() < end
        data = json.loads(world.call(world.public_port, "GET", f"/jobs/{data['id']}", headers).body)["data"]
    found: dict[str, Any] = data["attributes"]
    return found


def test_mail_by_the_stack_s_own_route(world: World) -> None:
    with mailbox() as server:
        with_mail(world, host="127.0.0.1", port=server.port, noreply_address="cozy@example.test", local_name="cellar")
        world.start()
        path = f"/instances?Domain={DOMAIN}&Email=alice%40example.test&PublicName=Al%C3%A9ce"
        assert world.admin("POST", path).status == 201
        assert ended(world, MAIL)["state"] == "done"
        assert world.admin("POST", "/instances?Domain=none.cozy.test").status == 201
        assert server.said[0] == "ehlo cellar"
        mail = server.mails[0]
        assert (mail["From"], mail["To"]) == ("My Cozy <cozy@example.test>", "Aléce <alice@example.test>")
        assert (mail["Subject"], mail["X-Cozy"]) == ("A täst", DOMAIN)
        assert mail.get_content().strip() == "Does it arrive?"
        for wrong, reason in (
            (MAIL | {"mode": "loud"}, "Mail sent with unknown mode loud"),
            (MAIL | {"subject": ""}, "Missing mail subject"),
            (MAIL | {"parts": [{"type": "text/odd"}]}, "Unknown body content-type text/odd"),
            (MAIL | {"template_name": "x"}, "are not played"),
        ):
            job = ended(world, wrong)
            assert job["state"] == "errored"
            assert reason in job["error"]
        assert world.admin("PATCH", f"/instances/{DOMAIN}?Email=nobody%40example.test").status == 200
        assert ended(world, MAIL)["error"] == '550 "5.1.1 no such user"'
    assert ended(world, MAIL)["error"] == f"dial tcp 127.0.0.1:{server.port}: connect: connection refused"
    assert post(world, MAIL, scope="io.cozy.files").status == 403
    assert post(world, MAIL, worker="konnector").status == 501
    assert post(world, MAIL, worker="nothing").status == 404
    headers = {"Host": DOMAIN, "Authorization": f"Bearer {world.token(DOMAIN, 'io.cozy.jobs')}"}
    assert world.call(world.public_port, "POST", "/jobs/queue/sendmail", headers, b"{}").status == 400
    assert world.call(world.public_port, "GET", "/jobs/none", headers).status == 500
    assert world.call(world.public_port, "GET", "/jobs/none", {"Host": DOMAIN}).status == 401


def test_module_sends_its_mail(world: World) -> None:
    with mailbox() as server:
        with_mail(world, host="127.0.0.1", port=server.port)
        world.start()
        assert world.admin("POST", f"/instances?Domain={DOMAIN}&Email=alice%40example.test").status == 201
        urls = {f"{name}_url": f"http://127.0.0.1:{getattr(world, f'{name}_port')}" for name in ("admin", "public")}
        arguments: dict[str, Any] = {
            "admin_passphrase": PASSPHRASE,
            "domain": DOMAIN,
            "subject": "Anybody there?",
            **urls,
        }
        assert run_module(cozy_test_mail.main, **arguments)["changed"]
        assert [mail["Subject"] for mail in server.mails] == ["Anybody there?"]
    assert "connect: connection refused" in run_module(cozy_test_mail.main, **arguments)["msg"]


def test_person_without_an_address_and_no_server(world: World) -> None:
    with_mail(world, host="-")
    world.start()
    assert world.admin("POST", f"/instances?Domain={DOMAIN}").status == 201
    assert ended(world, MAIL)["error"] == f"Domain {DOMAIN} has no email in its settings"
    assert world.admin("PATCH", f"/instances/{DOMAIN}?Email=a%40example.test").status == 200
    assert ended(world, MAIL)["state"] == "done"


@pytest.mark.parametrize("at_once", [True, False])
def test_encrypted_ways(at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECOZY_LAB", str(tmp_path))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*ca.server("mail", ["localhost"]))
    offers = ("AUTH PLAIN LOGIN",) if at_once else ("STARTTLS", "AUTH PLAIN LOGIN")
    with mailbox(offers=offers, tls=tls, at_once=at_once) as server:
        config = settings(server.port, host="localhost", use_ssl=at_once, disable_tls=False)
        login = {"username": "user", "password": "secret"}
        with pytest.raises(jobs.JobError, match="x509: certificate signed by unknown authority"):
            jobs.deliver(config, a_mail())
        jobs.deliver(config | {"skip_certificate_validation": True}, a_mail())
        monkeypatch.setattr(jobs, "AUTHORITIES", ca.root())
        jobs.deliver(config | login, a_mail())
        with pytest.raises(jobs.JobError, match=r'535 "5\.7\.8 Authentication failed"'):
            jobs.deliver(config | login | {"password": "wrong"}, a_mail())
        assert len(server.mails) == 2


def test_what_the_mail_library_refuses() -> None:
    with mailbox(offers=("AUTH PLAIN",)) as server:
        for more, reason in (
            ({"use_ssl": True}, "bad options"),
            ({"disable_tls": False}, "does not offer the STARTTLS extension"),
            ({"use_ssl": True, "disable_tls": False}, "does not look like a TLS handshake"),
            ({"host": "127.1", "username": "u"}, "unencrypted connection"),
        ):
            with pytest.raises(jobs.JobError, match=reason):
                jobs.deliver(settings(server.port, **more), a_mail())
        jobs.deliver(settings(server.port, username="user", password="secret"), a_mail())
        assert len(server.mails) == 1
    with mailbox() as server:
        # a server that asks for no login gets none
        jobs.deliver(settings(server.port, username="user", password="wrong"), a_mail())
        assert len(server.mails) == 1


def test_job_that_runs_holds_up_the_end(world: World) -> None:
    with mailbox() as server:
        with_mail(world, host="127.0.0.1", port=server.port)
        world.start()
        assert world.admin("POST", f"/instances?Domain={DOMAIN}&Email=a%40example.test").status == 201
        assert post(world, MAIL).status == 202
        assert world.stop_stack() == 0
        assert len(server.mails) == 1
