# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables that the roles of this collection take, read from their argument_specs.

Private to this collection: names and behaviour may change at any time.
"""

from __future__ import annotations

import collections.abc as c
import functools
import pathlib
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load

Option = c.Mapping[str, t.Any]
ROLES = pathlib.Path(__file__).parents[2] / "roles"


@functools.cache
def role_options(roles: pathlib.Path = ROLES) -> c.Mapping[str, Option]:
    """Return the options of all roles by the names of their variables, each with its type and choices."""
    options: dict[str, Option] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry in (yaml_load(path.read_text(encoding="utf-8")) or {}).get("argument_specs", {}).values():
            options.update(entry.get("options", {}))
    return options


@functools.cache
def role_names(roles: pathlib.Path = ROLES) -> c.Sequence[str]:
    """Return the names of all roles, with which the names of their variables begin."""
    return sorted(path.name for path in roles.iterdir() if path.is_dir())


def option_fault(name: str, option: Option, value: object) -> str | None:
    """Judge a value as Ansible will when the role begins; return what is expected when Ansible would refuse it."""
    kind, elements = option.get("type", "str"), option.get("elements")
    # Ansible would write a list or a mapping out as text.
    written_out = kind == "str" and isinstance(value, (list, dict))
    spec = {name: {**option, "required": False}}
    if not written_out and not ArgumentSpecValidator(spec).validate({name: value}).error_messages:
        return None
    if option.get("choices"):
        return f"one of {', '.join(str(choice) for choice in option['choices'])}"
    what = {"str": "text", "int": "a whole number", "bool": "true or false", "dict": "a mapping", "list": "a list"}
    wanted = what.get(kind, f"a value of type {kind}")
    if elements and isinstance(value, list):
        wanted += f", each entry {what.get(elements, f'of type {elements}')}"
    if "options" in option:
        wanted += f" of {', '.join(sorted(option['options']))}"
    return wanted
