# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The trials of the Cozy on a finished site: what a household does with it, and what it has to live through."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lab import store
from lab.model import DOMAIN, INGRESS, MACHINES, state_dir
from tests.site import knock, leaks, machines, playbook
from tests.site.playbook import Ran, TrialError

BIG = 300_000_000
"""Bytes of a file that a household calls big."""

_COZY = "playbooks/cozy.yml"
_FILES = "var/lib/kubecozy/volumes/cozy"
_BROWSER = "tests.site.browser"
_INSIDE = "tests.site.inside"
_CONTROLLER = ["localhost"]
_SECRETS = ("cozy-admin-passphrase", "cozy-couchdb", "cozy-operator", "cozy-tls", "cozy-vault-keys")


def _run(name: str, *arguments: str) -> Ran:
    """Run the Cozy's half of the site."""
    return playbook.play(name, *arguments, book=_COZY)


@contextmanager
def _variables(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The arguments that give a run further variables, from a file that only root reads: they may be secret."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=state_dir()) as file:
        json.dump(values, file)
        file.flush()
        yield "--extra-vars", f"@{file.name}"


def must(what: str, seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """See that each thing that is wanted is among what was seen.

    Raises:
        TrialError: it is not.
    """
    if wrong := {key: seen.get(key) for key, value in wanted.items() if seen.get(key) != value}:
        raise TrialError(f"{what}: {wrong}, expected {dict(wanted)}; error: {seen.get('error', 'none')}")
    machines.say(f"{what}: {json.dumps(dict(wanted))}")


def _inside(*words: str, secret: Mapping[str, str] | None = None) -> Any:
    return machines.ask("controller", str(machines.kubeconfig()), *words, module=_INSIDE, secret=secret)


def _passphrase() -> dict[str, str]:
    """The person's, as the inventory has it."""
    inventory = yaml.safe_load((playbook.TOP / playbook.INVENTORY / "group_vars" / "all.yml").read_text())
    return {"passphrase": inventory["homelab_instances"][0]["passphrase"]}


def _browse(*words: str, secret: Mapping[str, str] | None = None) -> Any:
    """What the client's browser sees, of a person who is logged in, or of one with another secret."""
    return machines.ask("client", *words, module=_BROWSER, secret=secret or _passphrase())


def _login() -> None:
    """The person logs in with the passphrase of the inventory, and lands on the page with the apps."""
    home = {"refused": 401, "status": 303, "location": f"https://home.{DOMAIN}/", "home": 200}
    must("login from the client at home", _browse("login", DOMAIN), {"salt": f"me@{DOMAIN}", **home})


def _there_and_back(size: int) -> None:
    """A file goes from the client at home to the Cozy and comes back the same."""
    up = _browse("upload", DOMAIN, f"trial-{secrets.token_hex(4)}.bin", str(size))
    must("upload", up, {"status": 201})
    down = _browse("download", DOMAIN, up["id"])
    must("download", down, {"status": 200, "size": size, "sha256": up["sha256"]})
    must("removal", _browse("remove", DOMAIN, up["id"]), {"trash": 200, "destroy": 204})
    machines.say(f"{size / 1e6:.0f} MB: up in {up['seconds']:.1f} s, down in {down['seconds']:.1f} s")


def browser() -> None:
    """As a browser at home: log in, upload and download a big file, listen to events."""
    machines.cozy_answers(60)
    _login()
    _there_and_back(BIG)
    heard = {"status": 101, "accepted": True, "alive": True, "error": ""}
    must("events", _browse("websocket", DOMAIN), heard)
    # The same with what is no token: so what was sent above did reach cozy-stack.
    refused = {"status": 101, "alive": False, "error": "The authentication has failed"}
    must("events for a stranger", _browse("websocket", DOMAIN, secret={"token": "no token"}), refused)


Door = tuple[str, int, str]
"""An address, a port, and a path to ask for."""

Table = dict[Door, tuple[str, ...]]
"""How doors may answer (tests/site/knock.py)."""

_SHUT = ("refused", "silent", "no way")


def _in_pod(pod: Mapping[str, Any], doors: list[Door]) -> list[str]:
    """How doors answer to a pod: knocked at from its network, whatever programs its image may lack."""
    find = f"grep -l {pod['uid']} /proc/[0-9]*/cgroup 2>/dev/null | head -n 1 | cut -d / -f 3"
    knocks = f"nsenter --net=/proc/$process/ns/net python3 - '{json.dumps(doors)}'"
    script = f'process=$({find}); test -n "$process" && {knocks}'
    found: list[str] = json.loads(machines.on_machine(pod["machine"], script, Path(knock.__file__).read_bytes()))
    return found


def wrong_doors(where: str, table: Table, answers: list[str]) -> list[str]:
    """What is wrong with how doors answered somewhere, in words."""
    seen = [
        (f"{a}:{p}{path}", good, answer) for ((a, p, path), good), answer in zip(table.items(), answers, strict=True)
    ]
    machines.say(f"from {where}: " + ", ".join(f"{door} {answer}" for door, _, answer in seen))
    return [
        f"from {where}: {door} is {answer}, not {' or '.join(good)}"
        for door, good, answer in seen
        if answer not in good
    ]


def wrong_services(services: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Services that lead to what only a port-forward may reach, or that are open to the house, in words."""
    return [
        f"Service {name} is of type {one['type']} and leads to {one['ports']}"
        for name, one in services.items()
        if one["type"] != "ClusterIP" or {6060, 8025} & set(one["ports"])
    ]


def reach() -> None:
    """What pods and devices of the house reach of the Cozy beside its pages: nothing without a key.

    Each closed door is knocked at from inside, too, where it opens: so it is there, and was not just missed.
    """
    stack, couchdb, smtp = (machines.pod(name) for name in ("cozy-stack", "cozy-couchdb", "cozy-smtp"))
    services = machines.cluster("services", "cozy")
    page: Door = (stack["address"], 8080, "/version")
    admin: Door = (stack["address"], 6060, "/version")
    mails: Door = (smtp["address"], 8025, "/")
    data: Door = (couchdb["address"], 5984, "/_all_dbs")
    service: Door = (services["cozy-couchdb"]["address"], 5984, "/_all_dbs")
    closed: Table = {page: ("200",), admin: ("refused",), mails: ("refused",), data: ("401",), service: ("401",)}
    (stranger,) = machines.cluster("pods", "cert-manager", "app.kubernetes.io/component=controller").values()
    inside: Table = {("127.0.0.1", 6060, "/version"): ("401",), (services["cozy-smtp"]["address"], 25, ""): ("open",)}
    views: list[tuple[str, Mapping[str, Any], Table]] = [
        ("a pod of another namespace", stranger, closed),
        ("the mailbox's pod", smtp, {**closed, ("127.0.0.1", 8025, "/"): ("200",)}),
        ("cozy-stack's pod", stack, {**closed, **inside}),
    ]
    wrong = wrong_services(services)
    for where, pod, table in views:
        wrong += wrong_doors(where, table, _in_pod(pod, list(table)))
    house: Table = {(INGRESS, 443, ""): ("open",), **dict.fromkeys((page, admin, mails, data, service), _SHUT)}
    for address in (*(host.address for host in MACHINES.values()), INGRESS):
        house |= {(address, port, ""): _SHUT for port in (25, 1025, 5984, 6060, 8025, 8080)}
    answers = machines.ask("client", json.dumps(list(house)), module="tests.site.knock")
    wrong += wrong_doors("the client at home", house, answers)
    if wrong:
        raise TrialError("\n  ".join(["doors that are not as they must be:", *wrong]))
    admin_page = machines.ask("client", "http", f"https://{DOMAIN}/instances")
    must("the admin API's path at the Cozy's name", admin_page, {"status": 404})


def _kept() -> dict[str, str]:
    """Everything that a run could make anew: objects of the Cozy, its documents, its pods and their restarts."""
    objects: dict[str, dict[str, str]] = machines.cluster("objects")
    found = {
        name: json.dumps(item, sort_keys=True)
        for name, item in objects.items()
        if " cozy/" in name or name.startswith("PersistentVolume /cozy-")
    }
    if missing := [name for name in _SECRETS if f"Secret cozy/{name}" not in found]:
        raise TrialError(f"there should be the Secrets {', '.join(missing)}")
    documents = _inside("revisions")
    databases = {name.partition(" ")[0].rpartition("/")[2] for name in documents}
    if not {"instances", "io-cozy-apps", "io-cozy-settings"} <= databases:
        raise TrialError(f"CouchDB should know the instance and its apps; it has documents in: {databases}")
    pods = machines.cluster("pods", "cozy", "app.kubernetes.io/part-of=cozy")
    restarts = {f"restarts of {name}": str(pod["restarts"]) for name, pod in pods.items()}
    return {**found, **documents, **restarts}


def repeats(times: int) -> None:
    """The Cozy's half is run again and again: nothing is made anew, no document gets a new revision.

    Args:
        times: how many runs.
    """
    before, seconds = _kept(), 0.0
    for number in range(1, times + 1):
        with machines.step(f"run {number} of {times}"):
            ran = _run(f"repeat-{number}")
        playbook.changed_nothing(ran, _CONTROLLER)
        seconds += ran.seconds
    machines.same(f"{times} runs should have left all as it was", before, _kept())
    machines.say(f"{times} runs of the Cozy's half: {seconds:.0f} s, {seconds / times:.1f} s each")


def _replica_sets() -> set[str]:
    """One for each form that cozy-stack's pod has ever had."""
    return {name for name in machines.cluster("objects") if name.startswith("ReplicaSet cozy/cozy-stack-")}


def new_passphrase() -> None:
    """The admin passphrase is replaced: the pod goes on, the old one is refused, the new one taken."""
    before = machines.pod("cozy-stack")
    old = machines.cluster("secrets")["Secret cozy/cozy-operator passphrase"]
    new = secrets.token_urlsafe(24)
    must("the old passphrase, before", _inside("admin", secret={"passphrase": old}), {"status": 200})
    must("the new passphrase, before", _inside("admin", secret={"passphrase": new}), {"status": 403})
    with machines.step("a run with a new passphrase"), _variables({"cozy_stack_admin_passphrase": new}) as arguments:
        # It ends when cozy-stack takes the new one: Kubernetes renews the folder of a Secret about once a minute.
        ran = _run("new-passphrase", *arguments)
    playbook.ended_well(ran, _CONTROLLER)
    must("the old passphrase, after", _inside("admin", secret={"passphrase": old}), {"status": 403})
    must("the new passphrase, after", _inside("admin", secret={"passphrase": new}), {"status": 200})
    must("cozy-stack's pod", machines.pod("cozy-stack"), {key: before[key] for key in ("uid", "restarts")})
    if leaks.search(ran.output.encode(), leaks.needles({"new": new, "old": old})):
        raise TrialError("the run told a passphrase")


class _Held:
    """An upload from the client at home that has begun and does not end before it is told to."""

    def __init__(self, size: int) -> None:
        command = machines.program(
            "client", _BROWSER, "upload", DOMAIN, f"held-{secrets.token_hex(4)}", str(size), "held"
        )
        self._process = subprocess.Popen(
            command, cwd=playbook.TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(json.dumps(_passphrase()))
        if (said := self._hear()) != "under way\n":
            raise TrialError(f"the upload should be under way, it said: {said!r}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for: this tells mypy
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - as above
        return self._process.stdout.readline()

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def finish(self) -> Any:
        """Let it send the rest; returns what it saw."""
        self._say("go on")
        return json.loads(self._hear() or '{"error": "it ended without a word"}')


def new_config() -> None:
    """A setting is changed while somebody uploads: one new pod in place of the old one, and the upload arrives."""
    before, forms = machines.pod("cozy-stack"), _replica_sets()
    setting = {"jobs": {"workers": {"thumbnail": {"concurrency": len(forms) + 1}}}}
    with (
        _variables({"cozy_stack_config": setting}) as arguments,
        ThreadPoolExecutor(1) as pool,
        _Held(20_000_000) as upload,
    ):
        run = pool.submit(_run, "new-config", *arguments)
        machines.wait_for(
            "the old pod is told to end",
            lambda: machines.cluster("pods", "cozy", "app.kubernetes.io/name=cozy-stack"),
            lambda pods: any(pod["ending"] for pod in pods.values()),
            120,
        )
        # The door is closed to new visitors, and the one who is inside goes on.
        machines.wait_for(
            "no new visitor is let in",
            lambda: machines.ask("client", "http", f"https://{DOMAIN}/version"),
            lambda seen: seen.get("status") in (502, 503),
            30,
        )
        if not upload.under_way:
            raise TrialError("the upload ended before it was told to")
        seen = upload.finish()
        must("the upload during the change", seen, {"status": 201})
        playbook.ended_well(run.result(), _CONTROLLER)
    after = machines.pod("cozy-stack")
    must("the new pod", after | {"new": after["uid"] != before["uid"]}, {"new": True, "restarts": 0, "ending": False})
    if len(_replica_sets() - forms) != 1:
        raise TrialError(f"the change should have made one new form of the pod, it made {_replica_sets() - forms}")
    must("what was uploaded", _browse("download", DOMAIN, seen["id"]), {"sha256": seen["sha256"]})


def rotation() -> None:
    """A new admin passphrase needs no restart; a new setting needs one, and nobody is cut off by it."""
    new_passphrase()
    new_config()


def half_created(moment: str) -> None:
    """cozy-stack is killed while it makes an instance: the next run repairs that, or says what it needs.

    Args:
        moment: `document` (the instance is known, its folder missing) or `databases` (some of them, and no instance).
    """
    before = machines.pod("cozy-stack")
    arguments = {"domain": DOMAIN, "state": "absent", "kubeconfig": str(machines.kubeconfig())}
    gone = playbook.module("no-instance", "kubecozy.homelab.cozy_instance", arguments)
    if gone.code:
        raise TrialError(f"the instance should be gone, yet the module ended with {gone.code}")
    order = store.disk(before["machine"]) / _FILES / "double-halt"
    order.write_text(moment)
    with machines.step(f"a run in which cozy-stack is killed: {moment}"):
        killed = _run(f"killed-{moment}")
    if not killed.code or "no answer from cozy-stack's admin port" not in killed.output or order.exists():
        raise TrialError(f"cozy-stack should have been killed; the run ended with {killed.code}, {order.exists()=}")
    with machines.step("the run after it"):
        ran = _run(f"repaired-{moment}")
    if moment == "databases":
        if not ran.code or "left databases behind" not in ran.output or "remove_leftovers=true" not in ran.output:
            raise TrialError(f"the run should have said what it needs, it ended with {ran.code}")
        with _variables({"cozy_instance_remove_leftovers": True}) as words, machines.step("the run with what it needs"):
            ran = _run("leftovers", *words)
    playbook.ended_well(ran, _CONTROLLER)
    _login()
    _there_and_back(1_000_000)
