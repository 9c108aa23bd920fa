# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knock at doors from where one stands; how each answered is one line of JSON.

    python -m lab exec HOST -- python -m tests.site.knock '[["10.77.0.200", 443, ""], …]'
    nsenter --net=/proc/PID/ns/net python3 - '[…]' < tests/site/knock.py

A door is an address, a port, and a path to ask for; with an empty path it is enough that somebody opens. The standard
library is all it needs: it is run on machines and in the networks of their pods, too.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

SECONDS = 3.0
"""After which nobody is at home."""


def knock(address: str, port: int, path: str) -> str:
    """How a door answers: `refused`, `silent`, `no way`, `open`, or the HTTP status of the path."""
    try:
        sock = socket.create_connection((address, port), SECONDS)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError:
        return "no way"
    with sock:
        if not path:
            return "open"
        connection = http.client.HTTPConnection(address, port)
        connection.sock = sock
        try:
            connection.request("GET", path, headers={"Host": "localhost"})
            return str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            return f"open, then {type(error).__name__}"


def main() -> None:
    """Knock at all doors of the command line, side by side."""
    doors = json.loads(sys.argv[1])
    with ThreadPoolExecutor(max_workers=32) as pool:
        print(json.dumps(list(pool.map(lambda door: knock(*door), doors))))


if __name__ == "__main__":
    main()
