# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Keys, the store of finished parts, and the order in which parts are built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from lab.artefacts.catalog import LAYERS, PARTS
from lab.artefacts.images import File, Layer, Packages, Tree
from lab.artefacts.parts import ArtefactError, Builder, Lane, Part, Recipe, Store, closure, keys


@dataclass(frozen=True)
class Write(Recipe):
    """Writes its word and those of the parts it needs."""

    lane: ClassVar[Lane] = "pack"
    word: str
    source: Path | None = None

    def files(self) -> Iterable[Path]:
        return (self.source,) if self.source else ()

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        words = [(path / "word").read_text() for path in parts.values()]
        (target / "word").write_text(" ".join([*words, self.word]))


@dataclass(frozen=True)
class Compile(Write):
    """The same in another lane."""

    lane: ClassVar[Lane] = "compile"


@dataclass(frozen=True)
class Fail(Recipe):
    """Leaves something half done."""

    lane: ClassVar[Lane] = "pack"

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        del parts
        (target / "half").write_text("")
        raise ArtefactError("no luck")


def nothing(part: Part) -> None:
    """Fetch nothing."""


def test_keys_follow_fields_files_and_needed_parts(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_text("one")
    chain = [Part("a", Write("x", source)), Part("b", Write("y"), ("a",)), Part("c", Write("z"))]
    before = keys(chain)
    assert keys(chain) == before
    source.write_text("two")
    after = keys(chain)
    assert (before["a"] != after["a"], before["b"] != after["b"], before["c"] != after["c"]) == (True, True, False)
    assert keys([Part("c", Write("other"))])["c"] != before["c"]


def test_a_part_must_come_after_what_it_needs() -> None:
    with pytest.raises(ArtefactError, match="part b needs a"):
        keys([Part("b", Write("y"), ("a",)), Part("a", Write("x"))])


def test_closure_names_what_there_is() -> None:
    chain = [Part("a", Write("x")), Part("b", Write("y"), ("a",)), Part("c", Write("z"))]
    assert [part.name for part in closure(chain, ["b"])] == ["a", "b"]
    with pytest.raises(ArtefactError, match="no part d; there are: a, b, c"):
        closure(chain, ["d"])


def test_builds_across_lanes_once_and_says_how_far_it_is(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    chain = [Part("a", Compile("x")), Part("b", Write("y"), ("a",)), Part("c", Compile("z"), ("b",))]
    ready = Builder(store, chain, lines.append).build(["c"], nothing)
    assert (ready["c"] / "word").read_text() == "x y z"
    assert [line.split()[:3] for line in lines[1:]] == [["[", "1/3]", "a"], ["[", "2/3]", "b"], ["[", "3/3]", "c"]]
    lines.clear()
    assert Builder(store, chain, lines.append).build(["c"], nothing) == ready
    assert lines == []


def test_a_failed_part_leaves_nothing_and_the_next_build_goes_on(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    chain = [Part("a", Write("x")), Part("b", Fail(), ("a",))]
    with pytest.raises(ArtefactError, match="b: no luck"):
        Builder(store, chain, lines.append).build(["b"], nothing)
    assert [path.name.partition("-")[0] for path in (tmp_path / "parts").iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "tmp" / "b").iterdir()] == ["half"]
    cured = [chain[0], Part("b", Write("y"), ("a",))]
    ready = Builder(store, cured, lines.append).build(["b"], nothing)
    assert [path.name for path in ready["b"].iterdir()] == ["word"]


@dataclass(frozen=True)
class Flaky(Write):
    """Fails the first time."""

    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        assert self.source is not None
        if self.source.read_text() == "cut":
            self.source.write_text("whole")
            raise ArtefactError("connection reset")
        super().build(target, parts)


def test_what_fails_once_is_tried_again(tmp_path: Path) -> None:
    source = tmp_path / "download"
    source.write_text("cut")
    lines = list[str]()
    ready = Builder(Store(tmp_path / "store"), [Part("a", Flaky("x", source))], lines.append).build(["a"], nothing)
    assert (ready["a"] / "word").read_text() == "x"
    assert "a failed, trying once more" in lines[1]


def test_link_moves_to_what_was_built_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for word in ("one", "two"):
        folder = tmp_path / "parts" / word
        folder.mkdir()
        assert store.point("web", folder).resolve() == folder
        assert store.point("web", folder) == tmp_path / "web"


def test_every_layer_declares_the_parts_it_takes_from() -> None:
    for part in LAYERS:
        if isinstance(part.recipe, Layer):
            sources = [entry.source for entry in part.recipe.entries if isinstance(entry, File | Tree)]
            sources += [entry.root for entry in part.recipe.entries if isinstance(entry, Packages)]
            assert {source.partition("/")[0] for source in sources} == set(part.needs), part.name


def test_the_catalogue_is_in_order() -> None:
    assert len(keys(PARTS)) == len(PARTS)
