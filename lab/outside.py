# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The internet of the lab: DNS, the servers that carry the well-known host names, and the way to Debian's packages.

BIND is authoritative for everything (it serves the root zone), a web server answers for the download hosts, one
registry for the image hosts; all with certificates of the lab CA. Only packages come from the real outside, through
a caching proxy whose listening socket lies in the lab and whose own traffic does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from pathlib import Path

from lab import ca, netns
from lab.artefacts import REGISTRY_HOSTS, WEB_HOSTS, Artefacts
from lab.model import (
    APT_PROXY_PORT,
    DOMAIN,
    ELSEWHERE,
    HOSTS,
    OUTSIDE_DNS,
    OUTSIDE_REGISTRY,
    OUTSIDE_WEB,
    PREFIX,
    ROUTER_LAN,
    ROUTER_WAN,
    LabError,
    cache_dir,
    state_dir,
)
from lab.process import Service, run, wait_until

_OUTSIDE = HOSTS["outside"].namespace
_START_SECONDS = 20


def _folder(name: str) -> Path:
    folder = state_dir() / "outside" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _zone(records: dict[str, str]) -> str:
    soa = f". SOA ns.outside. hostmaster.outside. 1 3600 600 86400 60\n. NS ns.outside.\nns.outside. A {OUTSIDE_DNS}\n"
    return "$TTL 60\n" + soa + "".join(f"{name}. A {address}\n" for name, address in sorted(records.items()))


def _dns(web_hosts: list[str]) -> Service:
    records = dict.fromkeys(web_hosts, OUTSIDE_WEB) | dict.fromkeys(REGISTRY_HOSTS, OUTSIDE_REGISTRY)
    records |= {ELSEWHERE: OUTSIDE_WEB, DOMAIN: ROUTER_WAN, f"*.{DOMAIN}": ROUTER_WAN}
    folder = _folder("dns")
    (folder / "root.zone").write_text(_zone(records))
    (folder / "named.conf").write_text(
        f"""options {{
    directory "{folder}";
    listen-on {{ {OUTSIDE_DNS}; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    pid-file none;
    session-keyfile "{folder}/session.key";
}};
controls {{ }};
zone "." {{ type primary; file "root.zone"; }};
"""
    )
    run("named-checkconf", "-z", folder / "named.conf")
    service = _fresh("dns", folder / "root.zone")
    service.start(["ip", "netns", "exec", _OUTSIDE, "named", "-g", "-c", folder / "named.conf"])
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
    checks = (
        (_dns(web_hosts), _OUTSIDE, OUTSIDE_DNS, 53),
        (_packages(), None, "127.0.0.1", APT_PROXY_PORT),
        (_web(artefacts.web_root.resolve(), [*web_hosts, ELSEWHERE]), _OUTSIDE, OUTSIDE_WEB, 443),
        (_registry(artefacts), _OUTSIDE, OUTSIDE_REGISTRY, 443),
        (_router_dns(), PREFIX + "router", ROUTER_LAN, 53),
    )
    for service, namespace, address, port in checks:

        def there(namespace: str | None = namespace, address: str = address, port: int = port) -> bool:
            return netns.answers(namespace, address, port)

        if not wait_until(lambda: there() or service.pid is None, _START_SECONDS) or service.pid is None:  # noqa: B023
            raise LabError(f"{service.name} did not start: {service.last_words()}")


def down() -> None:
    """Stop all of it."""
    for name in ("router-dns", "outside-registry", "outside-web", "outside-packages", "outside-dns"):
        with contextlib.suppress(ProcessLookupError):
            Service(name).stop()


def services() -> dict[str, bool]:
    """Which of the outside's services run."""
    names = ("outside-dns", "outside-web", "outside-registry", "outside-packages", "router-dns")
    return {name: Service(name).pid is not None for name in names}
