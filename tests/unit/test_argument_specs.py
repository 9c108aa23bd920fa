# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""A role's argument_specs say the same as its defaults: names, values and types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path.parent.parent for path in (Path(__file__).parents[2] / "roles").glob("*/tasks/main.yml"))

# What YAML must hold for each type of an option; a template is text whose type only the run knows.
TYPES: Mapping[str, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str),
    "raw": lambda value: True,  # noqa: ARG005 - the others look at it
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "dict": lambda value: isinstance(value, dict),
}


def is_template(value: object) -> bool:
    """Return whether a value is worked out at run time."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def type_faults(name: str, option: Mapping[str, Any], value: object) -> Iterator[str]:
    """Yield what is wrong with a default, given its option; lists and dictionaries are followed."""
    kind = option.get("type", "str")
    if is_template(value):
        return
    if not TYPES[kind](value):
        yield f"{name}: {value!r} is no {kind}"
    elif isinstance(value, list) and "elements" in option:
        for index, item in enumerate(value):
            yield from type_faults(f"{name}[{index}]", {**option, "type": option["elements"]}, item)
    elif isinstance(value, dict) and "options" in option:
        for key in sorted(value.keys() - option["options"].keys()):
            yield f"{name}.{key}: no such option"
        for key in sorted(value.keys() & option["options"].keys()):
            yield from type_faults(f"{name}.{key}", option["options"][key], value[key])
    if "choices" in option and kind != "list" and value not in option["choices"]:
        yield f"{name}: {value!r} is none of {option['choices']}"


def spec_faults(name: str, option: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an option lacks itself, and the options in it."""
    if not option.get("description"):
        yield f"{name}: no description"
    if option.get("type") == "list" and "elements" not in option:
        yield f"{name}: a list needs elements"
    if option.get("type", "str") not in TYPES:
        yield f"{name}: no such type: {option['type']}"
    for key, inner in option.get("options", {}).items():
        yield from spec_faults(f"{name}.{key}", inner)


def role_faults(role: str, defaults: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield every difference between the defaults of a role and the options of its main entry."""
    for name in sorted(defaults.keys() - options.keys()):
        yield f"{name}: in defaults, not in argument_specs"
    for name, option in options.items():
        yield from spec_faults(name, option)
        if not name.startswith(f"{role}_"):
            yield f"{name}: does not start with {role}_"
        if name not in defaults:
            if "default" in option:
                yield f"{name}: has a default in argument_specs, none in defaults"
            continue
        if option.get("required"):
            yield f"{name}: required, and has a default"
        elif "default" not in option:
            yield f"{name}: has a default in defaults, none in argument_specs"
        elif option["default"] != defaults[name] or type(option["default"]) is not type(defaults[name]):
            yield f"{name}: {defaults[name]!r} in defaults, {option['default']!r} in argument_specs"
        if option.get("type", "str") in TYPES:
            yield from type_faults(name, option, defaults[name])


def load(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, an empty one as {}."""
    return yaml.safe_load(path.read_text()) or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_argument_specs_equal_defaults(role: Path) -> None:
    """Whoever reads one of the two files knows the other."""
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    assert list(role_faults(role.name, load(role / "defaults" / "main.yml"), specs["main"].get("options", {}))) == []
    for entry, spec in specs.items():
        assert spec.get("short_description"), f"{entry}: no short_description"


def test_there_are_roles() -> None:
    """The test above is no test when it finds nothing."""
    assert ROLES


@pytest.mark.parametrize(
    ("defaults", "options", "fault"),
    [
        ({"r_a": 1}, {}, "r_a: in defaults, not in argument_specs"),
        (
            {},
            {"r_a": {"description": "x", "type": "int", "default": 1}},
            "r_a: has a default in argument_specs, none in",
        ),
        ({"r_a": 1}, {"r_a": {"description": "x", "type": "int"}}, "r_a: has a default in defaults, none in"),
        (
            {"r_a": 1},
            {"r_a": {"description": "x", "type": "int", "default": 2}},
            "r_a: 1 in defaults, 2 in argument_specs",
        ),
        ({"r_a": 1}, {"r_a": {"description": "x", "type": "int", "default": True}}, "r_a: 1 in defaults, True in"),
        ({"r_a": "1"}, {"r_a": {"description": "x", "type": "int", "default": "1"}}, "r_a: '1' is no int"),
        (
            {"r_a": 1},
            {"r_a": {"description": "x", "type": "int", "required": True}},
            "r_a: required, and has a default",
        ),
        ({}, {"r_a": {"type": "int", "required": True}}, "r_a: no description"),
        ({}, {"r_a": {"description": "x", "type": "list", "required": True}}, "r_a: a list needs elements"),
        ({}, {"other": {"description": "x", "required": True}}, "other: does not start with r_"),
        (
            {"r_a": ["x", 2]},
            {"r_a": {"description": "x", "type": "list", "elements": "str", "default": ["x", 2]}},
            "r_a[1]: 2 is",
        ),
        (
            {"r_a": {"b": 1}},
            {"r_a": {"description": "x", "type": "dict", "options": {"c": {"description": "y"}}, "default": {"b": 1}}},
            "r_a.b: no such option",
        ),
        ({"r_a": "z"}, {"r_a": {"description": "x", "choices": ["y"], "default": "z"}}, "r_a: 'z' is none of ['y']"),
    ],
)
def test_each_difference_is_found(defaults: dict[str, Any], options: dict[str, dict[str, Any]], fault: str) -> None:
    """A difference made on purpose is named."""
    assert any(found.startswith(fault) for found in role_faults("r", defaults, options))
