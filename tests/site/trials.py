# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trials of the whole story, from bare machines on; each goes on where the one before it ended."""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from lab import credentials, store
from lab.model import DOMAIN, ELSEWHERE, INGRESS, MACHINES, OUTSIDE_DNS, ROUTER_WAN, cache_dir, state_dir
from tests.site import cozy, leaks, machines, playbook
from tests.site.playbook import Moment, TrialError

BACK_SECONDS = 180
"""Within which the Cozy has to answer again after a power cut."""

KILLS = {
    "containerd is being installed": Moment(r"TASK \[kubecozy\.homelab\.containerd : Fetch the releases", 2),
    "kubeadm init runs": Moment(r"TASK \[kubecozy\.homelab\.kubernetes : Run kubeadm init", 4),
    "a machine joins": Moment(r"TASK \[kubecozy\.homelab\.kubernetes : Run kubeadm join", 1),
    "helm installs cert-manager": Moment(r"TASK \[kubecozy\.homelab\.cert_manager : Install", 3),
    "the instance is being made": Moment(r"TASK \[kubecozy\.homelab\.cozy_instance : ", 1.5),
}
"""Moments at which a first run is killed."""
SAMPLE = "kubeadm init runs"
_SECRET_WORDS = ("passphrase", "password", "secret", "token")


def bare_check() -> None:
    """A check of bare machines ends well and writes nothing."""
    machines.bare()
    before = machines.pictures()
    playbook.ended_well(playbook.play("bare-check", "--check", "--diff"), MACHINES)
    machines.same("a check of bare machines wrote files", before, machines.pictures())


def killed_run(moment: str = SAMPLE) -> None:
    """A first run is killed in the middle; the next one ends well, and the Cozy answers."""
    machines.bare()
    with machines.step(f"a first run, killed when {moment}"):
        ran = playbook.play("killed", kill=KILLS[moment])
        if ran.code != -9:
            raise TrialError(f"the run should have been killed, it ended with {ran.code}")
    with machines.step("the run after it"):
        playbook.ended_well(playbook.play("after-kill"), MACHINES)
    machines.cozy_answers(30)


def first_run() -> None:
    """What later trials start from is there: a site, made by the run before, and kept."""
    machines.save()


def second_run() -> float:
    """A second run changes nothing; returns its seconds."""
    with machines.step("a second run"):
        ran = playbook.play("second")
    playbook.changed_nothing(ran, MACHINES)
    machines.say(f"second run: {ran.seconds:.1f} s")
    return ran.seconds


def check_run() -> float:
    """A check of the finished site reports no change and writes neither objects nor files; returns its seconds."""
    objects, files = machines.cluster("objects"), machines.pictures()
    with machines.step("a check"):
        ran = playbook.play("check", "--check", "--diff")
    playbook.changed_nothing(ran, MACHINES)
    machines.same("a check changed objects", objects, machines.cluster("objects"))
    machines.same("a check wrote files", files, machines.pictures())
    machines.say(f"check: {ran.seconds:.1f} s")
    return ran.seconds


def _see(host: str, look: tuple[str, ...], must: Mapping[str, Any]) -> str | None:
    """What is wrong with what a host sees; None when nothing is."""
    seen = machines.ask(host, *look)
    wrong = {key: seen.get(key) for key, value in must.items() if seen.get(key) != value}
    words = f"{host}: {' '.join(look)}"
    if not wrong:
        machines.say(f"{words}: {json.dumps(dict(must))}")
        return None
    return f"{words}: {wrong}, expected {dict(must)}; error: {seen.get('error', 'none')}"


def views() -> list[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Who looks at what and must see what."""
    certificate = {"issuer": _house_ca(), "names": [f"*.{DOMAIN}", DOMAIN]}
    door: dict[str, Any] = {"status": "NOERROR", "answers": [INGRESS]}
    nothing: dict[str, Any] = {"status": "NOERROR", "answers": []}
    elsewhere = machines.ask("roamer", "dns", ELSEWHERE, "A")
    names = (DOMAIN, f"home.{DOMAIN}")
    found: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
    for name in names:
        found += [
            ("client", ("dns", name, "A"), door),
            ("client", ("dns", name, "AAAA"), nothing),
            ("client", ("dns", name, "HTTPS"), nothing),
            ("client", ("http", f"http://{name}/"), {"status": 308, "address": INGRESS, "location": f"https://{name}"}),
            ("roamer", ("dns", name, "A"), {"status": "NOERROR", "answers": [ROUTER_WAN]}),
        ]
    login = f"https://{DOMAIN}/auth/login"
    return [
        *found,
        (
            "client",
            ("http", f"https://{DOMAIN}/"),
            {"status": 303, "location": login, "address": INGRESS, **certificate},
        ),
        ("client", ("http", login), {"status": 200, **certificate}),
        ("client", ("http", f"https://home.{DOMAIN}/"), {"address": INGRESS, **certificate}),
        ("client", ("dns", ELSEWHERE, "A"), elsewhere),
        ("client", ("http", f"https://{ELSEWHERE}/"), {"address": elsewhere["answers"][0]}),
        # Outside, the same name leads to the router, which passes it on.
        ("roamer", ("http", login), {"status": 200, "address": ROUTER_WAN, **certificate}),
        # No hairpin: at home the public address leads nowhere, which is why the house has its own DNS server.
        ("client", ("http", login, ROUTER_WAN), {"error": "TimeoutError: timed out"}),
        ("client", ("dns", DOMAIN, "A", OUTSIDE_DNS), {"status": "NOERROR", "answers": [ROUTER_WAN]}),
    ]


def _house_ca() -> str:
    """The name of the authority that the house's certificates are signed by."""
    certificate = x509.load_pem_x509_certificate((state_dir() / "ca" / "house.crt").read_bytes())
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def client() -> None:
    """The client at home and the one outside get what a household expects, by name and over verified TLS."""
    machines.cozy_answers(60)
    if wrong := [text for view in views() if (text := _see(*view))]:
        raise TrialError("\n  ".join(["not what must be seen:", *wrong]))
    home = machines.ask("client", "http", f"https://home.{DOMAIN}/")
    target = urllib.parse.urlsplit(home.get("location", "")).hostname
    if home.get("status") != 302 or target != DOMAIN:
        raise TrialError(f"https://home.{DOMAIN}/ gives {home.get('status')} and sends to {home.get('location')!r}")


def _lasting(objects: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The identity of every object that people and roles make; those that follow pods or run out come and go."""
    passing = (
        *("Pod ", "EndpointSlice ", "Endpoints ", "CSIStorageCapacity ", "VolumeAttachment ", "ServiceL2Status "),
        *("CertificateSigningRequest ", "Secret kube-system/bootstrap-token-"),
    )
    return {name: item["uid"] for name, item in objects.items() if not name.startswith(passing)}


def power_cut(name: str = "") -> float:
    """A machine's plug is pulled and put in again: the Cozy answers again, nothing was made anew; returns the seconds.

    Args:
        name: of the machine; empty for the one that carries cozy-stack.
    """
    if not name:
        name = machines.pod("cozy-stack")["machine"]
    machines.cozy_answers(60)
    before = _lasting(machines.cluster("objects"))
    with machines.step(f"power cut of {name}"):
        machines.lab("power-cut", name)
        machines.lab("start", name)
        seconds = machines.cozy_answers(BACK_SECONDS)
    machines.say(f"the Cozy answered {seconds:.1f} s after {name} had booted")
    machines.wait_for(
        "every pod ready again", lambda: machines.cluster("unready"), lambda unready: not unready, BACK_SECONDS
    )
    machines.same(f"the power cut of {name} made objects anew", before, _lasting(machines.cluster("objects")))
    return seconds


def _inventory_secrets(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The values in an inventory whose names say that they are secret."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _inventory_secrets(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _inventory_secrets(inner, name)
    elif isinstance(value, str) and "{{" not in value and any(word in name for word in _SECRET_WORDS):
        yield f"inventory: {name}", value


def _machine_keys() -> Iterator[tuple[str, str]]:
    """Private keys and kubeconfigs on the machines' disks."""
    places = (
        "etc/kubernetes/pki/**/*.key",
        "var/lib/kubelet/pki/*.pem",
        "etc/kubernetes/*.conf",
        "etc/ssh/ssh_host_*_key",
    )
    for machine, place in itertools.product(MACHINES, places):
        for file in (path for path in store.disk(machine).glob(place) if not path.is_symlink()):
            text = file.read_text()
            if file.suffix == ".conf":
                users = (yaml.safe_load(text) or {}).get("users", [])
                for user in users:
                    for key in {"client-key-data", "token"} & user["user"].keys():
                        yield f"{machine} {file.name} {key}", user["user"][key]
            else:
                yield f"{machine} {file.name}", text


def _secrets() -> dict[str, str]:
    inventory = [
        yaml.safe_load(file.read_text()) for file in (playbook.TOP / playbook.INVENTORY).glob("group_vars/*.yml")
    ]
    found = dict(_inventory_secrets(inventory)) | dict(_machine_keys())
    found.update(machines.cluster("secrets"))
    found["house CA"] = (state_dir() / "ca" / "house.key").read_text()
    found["lab key"] = (state_dir() / "id_ed25519").read_text()
    found.update({f"lab secret {file.name}": file.read_text() for file in credentials.folder().iterdir()})
    return found


def no_secret_told() -> None:
    """No secret is in any log of these runs: Ansible's output, the machines' journals, the pods' logs."""
    secrets = _secrets()
    wanted = leaks.needles(secrets)
    if len(wanted) < 50 or not any("passphrase" in name for name in secrets):
        raise TrialError(
            f"only {len(wanted)} things to search for, of {', '.join(sorted(secrets))}: that cannot be all"
        )
    journals = state_dir() / "logs" / "journals"
    journals.mkdir(parents=True, exist_ok=True)
    files = [
        path for top in (cache_dir() / "logs", state_dir() / "logs") for path in top.rglob("*.log") if path.is_file()
    ]
    for name in MACHINES:
        kept = journals / f"{name}.txt"
        kept.write_bytes(machines.on_machine(name, "journalctl --no-pager --quiet --output cat --all"))
        files.append(kept)
        files += [path for path in (store.disk(name) / "var/log/pods").rglob("*.log") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size < 1 << 20:
        raise TrialError(f"only {size} bytes of logs in {len(files)} files: that cannot be all")
    if found := leaks.search_files(files, wanted):
        lines = [f"{file}: {', '.join(sorted(names))}" for file, names in sorted(found.items())]
        raise TrialError("secrets were told:\n  " + "\n  ".join(lines))
    machines.say(f"{len(wanted)} forms of {len(secrets)} secrets not found in {len(files)} files, {size >> 20} MiB")


TRIALS: dict[str, Callable[[], object]] = {
    "bare-check": bare_check,
    "killed-run": killed_run,
    "keep": first_run,
    "second-run": second_run,
    "check-run": check_run,
    "client": client,
    "browser": cozy.browser,
    "reach": cozy.reach,
    # Before a secret is made anew, and before the power cut, which takes the journals that are kept in memory.
    "secrets": no_secret_told,
    "rotation": cozy.rotation,
    "power-cut": power_cut,
}
"""The `site` scenario, in its order."""
