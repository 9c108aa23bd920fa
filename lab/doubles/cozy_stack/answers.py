# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms in which the stack answers: JSON:API, plain text, events, and its security headers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ..web import Request, Response, go_json, log

JSONAPI = "application/vnd.api+json"
JSON = "application/json"
TEXT = "text/plain; charset=UTF-8"
HTML = "text/html; charset=UTF-8"
ZERO_DATE = "0001-01-01T00:00:00Z"
CSP_API = "default-src 'none';frame-src 'none';frame-ancestors 'none';base-uri 'none';"
TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    422: "Invalid Parameter",
    500: "Unqualified error",
}


class ApiError(Exception):
    """An error of the JSON:API kind."""

    def __init__(self, status: int, detail: str, parameter: str = "", title: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.parameter = status, detail, parameter
        self.title = title or TITLES[status]


class TextError(Exception):
    """An error that the stack answers as plain text (as JSON to Accept: application/json)."""

    def __init__(self, status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, list(headers)


def now() -> str:
    """The time as Go writes it, with nanoseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "001Z"


def duration(seconds: float) -> str:
    """A duration as Go prints it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{round(seconds / size, 6):g}{unit}"
    return "0s"


def json_answer(value: Any, status: int = 200, content_type: str = JSON) -> Response:
    return Response(status, go_json(value), content_type)


def jsonapi(value: Any, status: int = 200) -> Response:
    return json_answer(value, status, JSONAPI)


def text(status: int, message: str) -> Response:
    return Response(status, message.encode(), TEXT)


def api_error(error: ApiError) -> Response:
    source = {"parameter": error.parameter} if error.parameter else {}
    entry = {"status": str(error.status), "title": error.title, "detail": error.detail, "source": source}
    return jsonapi({"errors": [entry]}, error.status)


def text_error(request: Request, error: TextError) -> Response:
    if JSON in request.header("Accept"):
        # an unknown instance loses its text in JSON
        shown: Any = {} if error.text == "Instance not found" else error.text
        response = json_answer({"error": shown}, error.status)
    else:
        response = text(error.status, error.text)
    response.headers += error.headers
    return response


def not_played(request: Request) -> Response:
    """The honest answer for what the real stack knows and this double does not."""
    log(f'level=error msg="501: the double does not play {request.method} {request.path}" nspace=double')
    return text(501, f"The cozy-stack double does not play {request.method} {request.path}")


def event(name: str, value: Any) -> bytes:
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\r\ndata: {data}\r\n\r\n".encode()
