# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack that the contract is tested on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.unit.contract.site import Site, opened


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real stack, or the doubles."""
    with opened(os.environ, tmp_path_factory.mktemp("site") / "world") as found:
        yield found
