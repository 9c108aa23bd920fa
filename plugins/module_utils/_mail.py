# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mails that cozy-stack sends. Private: not for use outside of this collection."""

from __future__ import annotations

import time
from urllib.parse import quote

from ansible_collections.kubecozy.homelab.plugins.module_utils._admin_api import Stack
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError

SCOPE = "io.cozy.jobs"
#: cozy-stack gives a mail ten seconds, once there is a free worker.
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.5


def send_test(stack: Stack, domain: str, subject: str, text: str) -> str:
    """Let cozy-stack send a mail to the person of an instance, and wait until the mail server has taken it.

    The worker "sendmail" and its message are described in cozy-stack's docs/workers.md. A mail without a template
    needs no Node.

    :param domain: the instance's domain.
    :param text: the mail's only part, plain.
    :return: id of the job.
    :raises CozyError: if cozy-stack does not take the job, the mail server does not take the mail, or nothing happens.
    """
    what = f"Sending a test mail as {domain}"
    message = {"mode": "noreply", "subject": subject, "parts": [{"type": "text/plain", "body": text}]}
    body = {"data": {"attributes": {"arguments": message}}}
    answer = stack.public("POST", domain, "/jobs/queue/sendmail", what, SCOPE, body=body)
    if answer.status != 202:
        raise answer.error(what)
    job = str(answer.json()["data"]["id"])
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        answer = stack.public("GET", domain, f"/jobs/{quote(job, safe='')}", what, SCOPE)
        if answer.status != 200:
            raise answer.error(what)
        attributes = answer.json()["data"]["attributes"]
        state = str(attributes.get("state"))
        if state == "done":
            return job
        if state == "errored":
            raise CozyError(
                f"{what}: the mail did not leave cozy-stack: {attributes.get('error') or 'no reason given'}."
                " Look at what the role mail says of the mail server (mail_kind, mail_relay_*)."
            )
        if time.monotonic() > deadline:
            raise CozyError(
                f"{what}: the job is still '{state}' after {WAIT_SECONDS:.0f} s."
                " Does the mail server answer on its port? Is the worker sendmail switched off?"
            )
        time.sleep(POLL_SECONDS)


__all__ = ("send_test",)
