# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The table of variables in each role's README, made from the role's argument_specs.

tools/run -m tools.role_readme --check            say which tables are out of date
tools/run -m tools.role_readme --write [ROLE…]    write them
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.bootstrap import TOP

BEGIN = "<!-- variables: begin -->"
END = "<!-- variables: end -->"
LONGEST_DEFAULT = 60


class ReadmeError(Exception):
    """A README without the place for its table."""


def cell(text: str) -> str:
    """Return text as the cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def default_cell(option: Mapping[str, Any]) -> str:
    """Return what the table says about the value of an option that the user leaves out."""
    if "default" not in option:
        return "required" if option.get("required") else ""
    value = option["default"]
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{cell(text)}`" if len(text) <= LONGEST_DEFAULT else "see defaults"


def rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """Yield one row for each option, and one for each option inside it."""
    for name, option in options.items():
        kind = option.get("type", "str")
        description = option.get("description", "")
        meaning = " ".join(description) if isinstance(description, list) else description
        if "choices" in option:
            meaning += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
        shown = f"list of {option['elements']}" if kind == "list" and "elements" in option else kind
        yield f"| `{prefix}{name}` | {shown} | {default_cell(option)} | {cell(meaning)} |"
        if "options" in option:
            yield from rows(option["options"], f"{prefix}{name}{'[]' if kind == 'list' else ''}.")


def table(specs: Path) -> str:
    """Return the table of the main entry of an argument_specs file."""
    options = yaml.safe_load(specs.read_text())["argument_specs"]["main"].get("options", {})
    if not options:
        return "This role takes no variables."
    return "\n".join(["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *rows(options)])


def with_table(readme: str, content: str) -> str:
    """Return a README with the table between its markers.

    Raises:
        ReadmeError: the markers are not there, once each and in order.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, foot = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in foot:
        raise ReadmeError(f"the lines {BEGIN} and {END} are needed, once each")
    return f"{head}{BEGIN}\n{content}\n{END}{foot}"


def main() -> int:
    """Compare or write the tables; return 1 when one is out of date."""
    parser = argparse.ArgumentParser(prog="tools/run -m tools.role_readme", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="say which tables are out of date")
    what.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("roles", nargs="*", help="names of roles; without one, all of them")
    arguments = parser.parse_args()
    faults = 0
    for specs in sorted((TOP / "roles").glob("*/meta/argument_specs.yml")):
        role = specs.parent.parent
        if arguments.roles and role.name not in {Path(name).name for name in arguments.roles}:
            continue
        readme = role / "README.md"
        try:
            was = readme.read_text()
            wanted = with_table(was, table(specs))
        except (ReadmeError, FileNotFoundError) as error:
            print(f"{readme.relative_to(TOP)}: {error}")
            faults += 1
            continue
        if was == wanted:
            continue
        if arguments.write:
            readme.write_text(wanted)
        else:
            cure = f"tools/run -m tools.role_readme --write {role.name}"
            print(f"{readme.relative_to(TOP)}: the table is out of date: {cure}")
            faults += 1
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
