# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of jobs, and its one worker that is played: sendmail.

After web/jobs/jobs.go, worker/mails/mail.go and the library gomail of the real stack: there is no recording of it, but
the tests of the contract ask both.
"""

from __future__ import annotations

import json
import smtplib
import socket
import ssl
import threading
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from pathlib import Path
from typing import Any

from ..web import Request, Response, log
from .answers import ZERO_DATE, ApiError, jsonapi, not_played, now
from .core import Stack
from .couch import CouchError
from .instances import SETTINGS_ID, settings_db

DOCTYPE = "io.cozy.jobs"
# Those the real stack has besides sendmail.
WORKERS = (
    "antivirus",
    "clean-clients",
    "clean-old-trashed",
    "export",
    "import",
    "konnector",
    "log",
    "migrations",
    "notes-save",
    "push",
    "rag-index",
    "rag-query",
    "service",
    "share-autoaccept",
    "share-group",
    "share-replicate",
    "share-track",
    "share-update",
    "share-upload",
    "sms",
    "thumbnail",
    "thumbnailck",
    "trash-files",
    "unzip",
    "zip",
)
JOB_SECONDS = 10.0
# OpenSSL's numbers for what Go has one sentence for.
UNKNOWN_AUTHORITY = (18, 19, 20, 21)
# Where Go's library looks for authorities on Debian; Python's looks into the folder beside it.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

Doc = dict[str, Any]


class JobError(Exception):
    """Why a job ended badly, in the real program's words."""


def database(doc: Doc) -> str:
    return f"{doc['prefix']}/io-cozy-jobs"


def resource(job: Doc) -> Doc:
    """A job as the API shows it: its attributes have the id and the revision too."""
    links = {"self": f"/jobs/{job['worker']}/{job['_id']}"}
    return {"type": DOCTYPE, "id": job["_id"], "attributes": job, "meta": {"rev": job["_rev"]}, "links": links}


def push(stack: Stack, instance: Doc, worker: str, request: Request) -> Response:
    """Queue a job and answer at once. Raises ApiError."""
    if worker in WORKERS:
        return not_played(request)
    try:
        sent = request.json()
    except ValueError as error:
        raise ApiError(500, str(error)) from error
    data = sent.get("data") if isinstance(sent, dict) else None
    if not isinstance(data, dict):
        raise ApiError(400, "JSON input is malformed or is missing mandatory fields")
    if worker != "sendmail":
        raise ApiError(404, "jobs: could not find worker")
    attributes = data.get("attributes") or {}
    job: Doc = {
        "domain": instance["domain"],
        "prefix": instance["prefix"],
        "worker": worker,
        "message": attributes.get("arguments"),
        "event": None,
        "state": "queued",
        "queued_at": now(),
        "started_at": ZERO_DATE,
        "finished_at": ZERO_DATE,
    }
    stack.couch.put(database(instance), job)
    answer = jsonapi({"data": resource(job)}, 202)
    thread = threading.Thread(target=run, args=(stack, instance, job, "arguments" in attributes), daemon=True)
    stack.jobs.append(thread)
    thread.start()
    return answer


def get(stack: Stack, instance: Doc, job_id: str) -> Response:
    job = stack.couch.get(database(instance), job_id)
    if job is None:
        # the real one does not map this error either
        raise ApiError(500, "jobs: not found")
    return jsonapi({"data": resource(job)})


def run(stack: Stack, instance: Doc, job: Doc, has_message: bool) -> None:
    """Do the job, and note in its document how it goes."""
    try:
        job |= {"state": "running", "started_at": now()}
        stack.couch.put(database(instance), job)
        try:
            if not has_message:
                raise JobError("jobs: message is nil")
            send_mail(stack, instance, job["message"] or {})
            job |= {"state": "done"}
        except JobError as error:
            log(f'level=warning msg="sendmail has failed: {error}" domain={instance["domain"]} nspace=jobs')
            job |= {"state": "errored", "error": str(error)}
        job |= {"finished_at": now()}
        stack.couch.put(database(instance), job)
    except CouchError as error:
        log(f'level=error msg="double: a job is lost: {error}" domain={instance["domain"]} nspace=jobs')


def send_mail(stack: Stack, instance: Doc, options: Doc) -> None:
    """Send one mail to the instance's person. Raises JobError."""
    settings = stack.couch.get(settings_db(instance), SETTINGS_ID) or {}
    mode = options.get("mode", "")
    if mode in ("pending", "from", "support", "campaign"):
        raise JobError(f"double: mails of mode {mode} are not played")
    if mode != "noreply":
        raise JobError(f"Mail sent with unknown mode {mode}")
    if not settings.get("email"):
        raise JobError(f"Domain {instance['domain']} has no email in its settings")
    if any(options.get(name) for name in ("template_name", "attachments", "dialer", "date")):
        raise JobError("double: mails with templates, attachments or a dialer of their own are not played")
    if not options.get("subject"):
        raise JobError("Missing mail subject")
    if stack.config.mail["host"] == "-":
        return
    deliver(stack.config.mail, compose(stack, instance, settings, options))


def compose(stack: Stack, instance: Doc, settings: Doc, options: Doc) -> EmailMessage:
    """The mail as it goes out. Raises JobError."""
    contexts = stack.config.contexts
    context = contexts.get(instance.get("context", "")) or contexts.get("default") or {}
    sender = {
        key: context.get(key) or stack.config.mail[key] for key in ("noreply_address", "noreply_name", "reply_to")
    }
    mail = EmailMessage(SMTP)
    try:
        address = sender["noreply_address"] or f"noreply@{instance['domain'].partition(':')[0]}"
        mail["From"] = Address(sender["noreply_name"], addr_spec=address)
        mail["To"] = Address(settings.get("public_name") or "", addr_spec=settings["email"].strip())
        if sender["reply_to"]:
            mail["Reply-To"] = Address(sender["noreply_name"], addr_spec=sender["reply_to"])
    except ValueError as error:
        raise JobError(f"gomail: invalid address: {error}") from error
    mail["Subject"] = options["subject"]
    mail["X-Cozy"] = instance["domain"]
    mail["Date"] = formatdate()
    for number, part in enumerate(options.get("parts") or []):
        if part.get("type") not in ("text/plain", "text/html"):
            raise JobError(f"Unknown body content-type {part.get('type', '')}")
        add = mail.add_alternative if number else mail.set_content
        add(part.get("body", ""), subtype=part["type"].partition("/")[2], cte="quoted-printable")
    return mail


def deliver(config: Doc, mail: EmailMessage) -> None:
    """Hand a mail to the server of the configuration. Raises JobError."""
    host, port = config["host"], config["port"]
    if config["disable_tls"] and config["use_ssl"]:
        raise JobError("gomail: bad options (asking for disable and native TLS is not permitted)")
    try:
        with connect(config, host, port) as server:
            server.ehlo()
            if not config["use_ssl"] and not config["disable_tls"]:
                if not server.has_extn("starttls"):
                    raise JobError("gomail: server does not offer the STARTTLS extension")
                server.starttls(context=tls(config))
                server.ehlo()
            log_in(config, server)
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        raise JobError(said(*next(iter(error.recipients.values())))) from error
    except smtplib.SMTPResponseException as error:
        raise JobError(said(error.smtp_code, error.smtp_error)) from error
    except (OSError, smtplib.SMTPException) as error:
        raise JobError(words(error, host, port)) from error


def said(code: int, text: bytes | str) -> str:
    """What the server said, in quotation marks as Go 1.26 shows it."""
    return f"{code:03} {json.dumps(text.decode(errors='replace') if isinstance(text, bytes) else text)}"


def connect(config: Doc, host: str, port: int) -> smtplib.SMTP:
    name = config["local_name"] or "localhost"
    if config["use_ssl"]:
        return smtplib.SMTP_SSL(host, port, name, timeout=JOB_SECONDS, context=tls(config))
    return smtplib.SMTP(host, port, name, timeout=JOB_SECONDS)


def tls(config: Doc) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if AUTHORITIES.is_file():
        context.load_verify_locations(AUTHORITIES)
    if config["skip_certificate_validation"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def log_in(config: Doc, server: smtplib.SMTP) -> None:
    """As gomail does it: not at all when the server does not ask for it. Raises JobError."""
    username, password = config["username"], config["password"]
    if not username and not password:
        return
    if not server.has_extn("auth"):
        return
    offered = server.esmtp_features["auth"].split()
    server.user, server.password = username, password
    # their types say less than they take
    ways: dict[str, Any] = {
        "CRAM-MD5": server.auth_cram_md5,
        "LOGIN": server.auth_login,
        "PLAIN": server.auth_plain,
    }
    way = "CRAM-MD5" if "CRAM-MD5" in offered else "LOGIN" if "LOGIN" in offered and "PLAIN" not in offered else "PLAIN"
    clear = not isinstance(server.sock, ssl.SSLSocket)
    if way == "PLAIN" and clear and config["host"] not in ("localhost", "127.0.0.1", "::1"):
        raise JobError("unencrypted connection")
    server.auth(way, ways[way])


def words(error: Exception, host: str, port: int) -> str:
    """What went wrong on the way, as Go words it."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    if isinstance(error, ssl.SSLCertVerificationError):
        unknown = error.verify_code in UNKNOWN_AUTHORITY
        reason = "certificate signed by unknown authority" if unknown else error.verify_message
        return f"tls: failed to verify certificate: x509: {reason}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "tls: first record does not look like a TLS handshake"
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {socket.gethostbyname(host)}:{port}: connect: connection refused"
    if isinstance(error, TimeoutError):
        return f"dial tcp {socket.gethostbyname(host)}:{port}: i/o timeout"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return "EOF"
    return str(error)
