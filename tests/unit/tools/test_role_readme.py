# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""The table of variables in a role's README."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.role_readme import BEGIN, END, ReadmeError, table, with_table

SPECS = """
argument_specs:
  main:
    options:
      r_name: {type: str, required: true, description: [A name., "This | that."]}
      r_size: {type: int, default: 3, description: How big., choices: [1, 3]}
      r_empty: {type: str, default: "", description: Nothing.}
      r_list:
        type: list
        elements: dict
        default: []
        description: Some.
        options:
          inner: {type: bool, default: true, description: Inside.}
"""


def test_table(tmp_path: Path) -> None:
    """Each option has its row, also those inside others."""
    (tmp_path / "specs.yml").write_text(SPECS)
    assert table(tmp_path / "specs.yml").splitlines()[2:] == [
        "| `r_name` | str | required | A name. This \\| that. |",
        "| `r_size` | int | `3` | How big. One of `1`, `3`. |",
        '| `r_empty` | str | `""` | Nothing. |',
        "| `r_list` | list of dict | `[]` | Some. |",
        "| `r_list[].inner` | bool | `true` | Inside. |",
    ]


def test_only_what_is_between_the_markers_is_replaced() -> None:
    """The rest of a README is its author's."""
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


@pytest.mark.parametrize("readme", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_markers_are_needed(readme: str) -> None:
    """A README without a place for the table is an error, not an empty table."""
    with pytest.raises(ReadmeError):
        with_table(readme, "new")
