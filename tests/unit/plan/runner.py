# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Judges many inventories with one start of Ansible.

python runner.py judge INVENTORY...
    The first stage's own expression, on Ansible's own inventory and variables. Prints a JSON list that has the list of
    problems of each inventory.
python runner.py play FOLDER INVENTORY...
    The real ``ansible-playbook playbooks/plan.yml``, two at a time, each in a child that has a copy of the imported
    program. Prints a JSON list of return codes; leaves each output in FOLDER/NUMBER.out and ssh
    commands in FOLDER/NUMBER.ssh.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import typing as t

from ansible.cli.playbook import PlaybookCLI
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins import loader as plugins
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

AT_A_TIME = 2
TOP = pathlib.Path(__file__).parents[3]


def judge(inventories: list[str]) -> list[list[str]]:
    """Return the problems of every inventory, as the first task of the plan finds them."""
    plugins.init_plugin_loader()
    found: list[list[str]] = []
    for inventory in inventories:
        loader = DataLoader()
        manager = InventoryManager(loader, sources=[inventory])
        variables = VariableManager(loader, manager)
        seen = {
            **loader.load_from_file(str(TOP / "roles/plan/defaults/main.yml")),
            **variables.get_vars(host=manager.get_host("localhost")),
            "hostvars": HostVars(manager, variables, loader),
            "groups": manager.get_groups_dict(),
        }
        task = loader.load_from_file(str(TOP / "roles/plan/tasks/main.yml"), trusted_as_template=True)[0]
        found.append([str(problem) for problem in Templar(loader, seen).template(task["vars"]["__plan_problems"])])
    return found


def play(folder: pathlib.Path, inventories: list[str]) -> list[int]:
    """Run the playbook for every inventory and return the return codes."""
    _import_what_runs_use()
    running: dict[int, int] = {}
    codes: dict[int, int] = {}
    for number, inventory in enumerate(inventories):
        running[_begin(number, folder, inventory)] = number
        while len(running) >= AT_A_TIME or (running and number == len(inventories) - 1):
            pid, status = os.wait()
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
    return [codes[number] for number in sorted(codes)]


def _begin(number: int, folder: pathlib.Path, inventory: str) -> int:
    """Start one run and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 250
    try:
        output = os.open(folder / f"{number}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["SSH_MARKER"] = str(folder / f"{number}.ssh")
        playbook = str(TOP / "playbooks/plan.yml")
        code = t.cast(int, PlaybookCLI(["ansible-playbook", "-i", inventory, playbook]).run())
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        # Not the parent's way out: its output is not written twice and nothing of it is taken down.
        sys.stdout.flush()
        os._exit(code)


def _import_what_runs_use() -> None:
    """Import what every run imports, so that the children have it in their copy."""
    plugins.init_plugin_loader()
    for loader in (plugins.cache_loader, plugins.callback_loader, plugins.strategy_loader):
        list(loader.all(class_only=True))
    for loader, name in (
        (plugins.inventory_loader, "yaml"),
        (plugins.connection_loader, "local"),
        (plugins.action_loader, "assert"),
        (plugins.action_loader, "validate_argument_spec"),
        (plugins.filter_loader, "kubecozy.homelab.inventory_problems"),
    ):
        loader.get(name, class_only=True)


if __name__ == "__main__":
    answer = judge(sys.argv[2:]) if sys.argv[1] == "judge" else play(pathlib.Path(sys.argv[2]), sys.argv[3:])
    sys.stdout.write(json.dumps(answer))
