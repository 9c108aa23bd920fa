# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The internet of the lab: DNS, the servers that carry the well-known host names, and the way to Debian's packages.

BIND is authoritative for everything (it serves the root zone), a web server answers for the download hosts, one
registry for the image hosts, one server for the APIs of the DNS provider and of Let's Encrypt; all with certificates of
the lab CA. Only packages come from the real outside, through a caching proxy whose listening socket lies in the lab and
whose own traffic does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path

from lab import ca, netns, publicdns
from lab.artefacts import REGISTRY_HOSTS, WEB_HOSTS, Artefacts
from lab.model import (
    ACME_HOSTS,
    APT_PROXY_PORT,
    CLOUDFLARE_HOST,
    ELSEWHERE,
    HOSTS,
    OUTSIDE_APIS,
    OUTSIDE_DNS,
    OUTSIDE_REGISTRY,
    OUTSIDE_WEB,
    PREFIX,
    ROUTER_LAN,
    LabError,
    cache_dir,
    state_dir,
)
from lab.process import Service, run, wait_until

_OUTSIDE = HOSTS["outside"].namespace
_START_SECONDS = 20
_PEBBLE_PORTS = {"production": 14000, "staging": 14002}
"""On the outside's own loopback; the port after each is that of its management."""
_SERVICES = (
    "outside-dns",
    "outside-packages",
    "outside-web",
    "outside-registry",
    "router-dns",
    *(f"outside-acme-{name}" for name in _PEBBLE_PORTS),
    "outside-apis",
)


def _folder(name: str) -> Path:
    folder = state_dir() / "outside" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _addresses() -> None:
    """The outside's further addresses: a lab that was started by an older version gets them, too."""
    for address in (OUTSIDE_WEB, OUTSIDE_REGISTRY, OUTSIDE_APIS):
        run("ip", "-n", _OUTSIDE, "addr", "replace", f"{address}/24", "dev", "eth0")


def _dns(web_hosts: list[str]) -> Service:
    hosts = dict.fromkeys([*web_hosts, ELSEWHERE], OUTSIDE_WEB) | dict.fromkeys(REGISTRY_HOSTS, OUTSIDE_REGISTRY)
    hosts |= dict.fromkeys((*ACME_HOSTS.values(), CLOUDFLARE_HOST), OUTSIDE_APIS)
    folder = _folder("dns")
    configuration, *others = publicdns.configure(folder, hosts)
    service = _fresh("dns", configuration, *others)
    if service.pid is None:
        publicdns.begin(folder)
        run("named-checkconf", "-z", configuration)
        # What the provider knows of its zones is what was in them when it began.
        Service("outside-apis").stop()
    service.start(["ip", "netns", "exec", _OUTSIDE, "named", "-g", "-c", configuration])
    return service


def _fresh(name: str, *configuration: Path) -> Service:
    """The service, stopped if what it was configured with is not what lies there now."""
    service = Service(f"outside-{name}")
    stamp = _folder("stamps") / name
    key = hashlib.sha256(b"\0".join(path.read_bytes() for path in configuration)).hexdigest()
    if not stamp.exists() or stamp.read_text() != key:
        service.stop()
        stamp.write_text(key)
    return service


def _web(root: Path, hosts: list[str]) -> Service:
    certificate, key = ca.server("web", hosts)
    where = _folder("web") / "root"
    where.write_text(str(root))
    service = _fresh("web", certificate, where, Path(__file__).with_name("webserver.py"))
    proxy_socket = ["--relay", f"{OUTSIDE_DNS}:{APT_PROXY_PORT}:{APT_PROXY_PORT}"]
    site: list[str | Path] = [
        "--site",
        f"{OUTSIDE_WEB}:443",
        "--root",
        root,
        "--certificate",
        certificate,
        "--key",
        key,
    ]
    service.start([sys.executable, "-m", "lab.webserver", "--namespace", _OUTSIDE, *site, *proxy_socket])
    return service


def _pebble(name: str, artefacts: Artefacts) -> Service:
    """An ACME server that validates for real, each order anew: otherwise a renewal would prove nothing."""
    certificate, key = ca.server(f"acme-{name}", [ACME_HOSTS[name]])
    port = _PEBBLE_PORTS[name]
    configuration = _folder("acme") / f"{name}.json"
    configuration.write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": f"127.0.0.1:{port}",
                    "managementListenAddress": f"127.0.0.1:{port + 1}",
                    "certificate": str(certificate),
                    "privateKey": str(key),
                    "httpPort": 80,
                    "tlsPort": 443,
                    "keyAlgorithm": "ecdsa",
                    "caaIdentities": ["letsencrypt.org"],
                    "retryAfter": {"authz": 3, "order": 5},
                    "profiles": {"classic": {"description": "90 days", "validityPeriod": 7776000}},
                }
            }
        )
    )
    service = _fresh(f"acme-{name}", certificate, configuration)
    program = artefacts.programs / "pebble"
    service.start(
        ["ip", "netns", "exec", _OUTSIDE, program, "-config", configuration, "-dnsserver", f"{OUTSIDE_DNS}:53"],
        env={"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "0"},
    )
    return service


def _apis() -> Service:
    certificate, key = ca.server("apis", [*ACME_HOSTS.values(), CLOUDFLARE_HOST])
    here = Path(__file__).parent
    sources = [here / name for name in ("apis.py", "publicdns.py", "doubles/web.py", "doubles/cloudflare.py")]
    service = _fresh("apis", certificate, *sources)
    command: list[str | Path] = ["ip", "netns", "exec", _OUTSIDE, sys.executable, "-m", "lab.apis"]
    command += ["--listen", f"{OUTSIDE_APIS}:443", "--certificate", certificate, "--key", key]
    service.start([*command, *(f"--{name}={port}" for name, port in _PEBBLE_PORTS.items())])
    return service


def _registry(artefacts: Artefacts) -> Service:
    certificate, key = ca.server("registry", REGISTRY_HOSTS)
    configuration = _folder("registry") / "config.yml"
    configuration.write_text(
        f"""version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {artefacts.registry_root.resolve()}}}
  maintenance: {{readonly: {{enabled: true}}}}
http:
  addr: {OUTSIDE_REGISTRY}:443
  tls: {{certificate: {certificate}, key: {key}}}
"""
    )
    service = _fresh("registry", certificate, configuration)
    program = artefacts.programs / "registry"
    service.start(["ip", "netns", "exec", _OUTSIDE, program, "serve", configuration])
    return service


def _packages() -> Service:
    """apt-cacher-ng with a configuration folder of its own: Debian's remaps to mirrors of its choice."""
    folder, cache = _folder("apt"), cache_dir() / "apt"
    cache.mkdir(parents=True, exist_ok=True)
    logs = state_dir() / "logs" / "apt"
    logs.mkdir(parents=True, exist_ok=True)
    for path in (cache, logs, folder):
        shutil.chown(path, "apt-cacher-ng", "apt-cacher-ng")
    configuration = folder / "acng.conf"
    configuration.write_text(
        f"Port: {APT_PROXY_PORT}\nBindAddress: 127.0.0.1\nCacheDir: {cache}\nLogDir: {logs}\n"
        f"SocketPath: {folder}/socket\nForeGround: 1\nReuseConnections: 1\nPipelineDepth: 0\nVerboseLog: 0\n"
    )
    service = _fresh("packages", configuration)
    service.start(["apt-cacher-ng", "-c", folder])
    return service


def _router_dns() -> Service:
    service = Service("router-dns")
    command = ["ip", "netns", "exec", PREFIX + "router", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null"]
    command += ["--no-resolv", "--no-hosts", f"--server={OUTSIDE_DNS}", f"--listen-address={ROUTER_LAN}"]
    service.start([*command, "--bind-interfaces", "--user=root", "--pid-file"])
    return service


def up(artefacts: Artefacts) -> None:
    """Start what is not running, and restart what is not configured as wanted now."""
    web_hosts = list(WEB_HOSTS)
    _addresses()
    _wait(_dns(web_hosts), _OUTSIDE, OUTSIDE_DNS, 53)
    checks = (
        (_packages(), None, "127.0.0.1", APT_PROXY_PORT),
        (_web(artefacts.web_root.resolve(), [*web_hosts, ELSEWHERE]), _OUTSIDE, OUTSIDE_WEB, 443),
        (_registry(artefacts), _OUTSIDE, OUTSIDE_REGISTRY, 443),
        (_router_dns(), PREFIX + "router", ROUTER_LAN, 53),
        *((_pebble(name, artefacts), _OUTSIDE, "127.0.0.1", port) for name, port in _PEBBLE_PORTS.items()),
        (_apis(), _OUTSIDE, OUTSIDE_APIS, 443),
    )
    for check in checks:
        _wait(*check)


def _wait(service: Service, namespace: str | None, address: str, port: int) -> None:
    """Wait until a service answers.

    Raises:
        LabError: it does not.
    """

    def there() -> bool:
        return netns.answers(namespace, address, port) or service.pid is None

    if not wait_until(there, _START_SECONDS) or service.pid is None:
        raise LabError(f"{service.name} did not start: {service.last_words()}")


def down() -> None:
    """Stop all of it."""
    for name in reversed(_SERVICES):
        with contextlib.suppress(ProcessLookupError):
            Service(name).stop()


def services() -> dict[str, bool]:
    """Which of the outside's services run."""
    return {name: Service(name).pid is not None for name in _SERVICES}
