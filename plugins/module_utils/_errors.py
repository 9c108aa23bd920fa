# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception family of this collection. Private: not for use outside of it."""

from __future__ import annotations


class CozyError(Exception):
    """Base of all errors a module turns into `fail_json`. The text is the whole message for the user."""


class InputError(CozyError):
    """A value given by the user can't be used."""


class KeyFormatError(CozyError):
    """A stored key or passphrase line is not what it should be."""


class UnreachableError(CozyError):
    """Nothing could be asked: no pod, no connection, no answer in time."""


class StackDownError(UnreachableError):
    """cozy-stack does not answer."""


class CouchDownError(CozyError):
    """cozy-stack answers, but can't reach CouchDB."""


class CouchRefusesError(CozyError):
    """cozy-stack answers, but CouchDB refuses its credentials."""


class WrongPassphraseError(CozyError):
    """cozy-stack refuses the admin passphrase."""


class SecretMissingError(CozyError):
    """cozy-stack does not find its admin passphrase file."""


class SecretBrokenError(CozyError):
    """The admin passphrase file is there, but no passphrase can ever match it."""


class ApiError(CozyError):
    """cozy-stack answered with an error.

    :param status: HTTP status code.
    :param title: the error's title as cozy-stack gives it, or "".
    :param detail: the error's own words.
    :param what: what was asked, in words, without parameters.
    """

    def __init__(self, status: int, title: str, detail: str, what: str) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        super().__init__(f"{what}: cozy-stack answered {status}: {detail or title or 'no reason given'}")


__all__ = (
    "ApiError",
    "CouchDownError",
    "CouchRefusesError",
    "CozyError",
    "InputError",
    "KeyFormatError",
    "SecretBrokenError",
    "SecretMissingError",
    "StackDownError",
    "UnreachableError",
    "WrongPassphraseError",
)
