# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a page as the household's laptop does: by name, over verified TLS; run in the client's namespace."""

from __future__ import annotations

import html
import re
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

from lab import ca


class _Shown(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        print(f"  {code}  {req.full_url}  ->  {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def look(url: str) -> int:
    """Print the way to the page, its status and title; returns 0 when a page came, 1 when not."""
    host = url.split("/")[2].partition(":")[0]
    resolver = Path("/etc/resolv.conf").read_text().split()[1]
    try:
        address = socket.getaddrinfo(host, 443, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        print(f"{host}: {resolver} gives no address: {error}")
        return 1
    print(f"{host} is {address}, says {resolver}")
    context = ssl.create_default_context(cafile=str(ca.root()))
    opener = urllib.request.build_opener(_Shown, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=20) as answer:
            status, body = answer.status, answer.read(1 << 20).decode(errors="replace")
            url = answer.url
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read(1 << 16).decode(errors="replace")
    except OSError as error:
        print(f"{url}: {error}")
        return 1
    title = re.search(r"<title>(.*?)</title>", body, re.DOTALL)
    print(f"  {status}  {url}  {html.unescape(title[1]).strip() if title else body[:80].strip()}")
    return 0 if status < 400 else 1


if __name__ == "__main__":
    sys.exit(look(sys.argv[1]))
