# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's main() in this process, as Ansible would, and gives back its result."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from typing import Any

from ansible.module_utils.testing import patch_module_args


def run_module(main: Callable[[], None], check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run with arguments; the result has `failed` if it failed."""
    output = io.StringIO()
    arguments |= {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": tempfile.gettempdir()}
    with patch_module_args(arguments), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main()
    result = json.loads(output.getvalue())
    assert isinstance(result, dict)
    return result


def four_steps(run: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Foretold, done, and then neither again."""
    foretold, done = run(True, **arguments), run(**arguments)
    assert [foretold.get("msg"), done.get("msg")] == [None, None]
    assert [foretold["changed"], done["changed"]] == [True, True]
    assert foretold["changes"] == done["changes"]
    for side in ("before", "after"):
        assert set(foretold["diff"][side]) == set(done["diff"][side])
    assert foretold["diff"]["before"] != foretold["diff"]["after"]
    assert [run(True, **arguments)["changed"], run(**arguments)["changed"]] == [False, False]
    return done
