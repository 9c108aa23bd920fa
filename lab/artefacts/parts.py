# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Parts: things built once from recipes and kept under a key made of everything that went into them."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from lab.model import LabError

Report = Callable[[str], None]
Lane = Literal["compile", "fetch", "debian", "pack"]

HEARTBEAT = 30.0
"""A line at least this often (seconds) while something is being built."""


class ArtefactError(LabError):
    """A part could not be built; the message says which and why."""


class Recipe(ABC):
    """How one part is made. Subclasses are frozen dataclasses: their fields are part of the key."""

    lane: ClassVar[Lane]
    """Recipes of one lane run one after the other, lanes run side by side."""

    def files(self) -> Iterable[Path]:
        """Files and folders whose content goes into the key."""
        return ()

    def code(self) -> str:
        """The source code that goes into the key."""
        return inspect.getsource(type(self))

    @abstractmethod
    def build(self, target: Path, parts: Mapping[str, Path]) -> None:
        """Fill the empty folder `target`; `parts` maps the names of the needed parts to their folders."""


@dataclass(frozen=True)
class Part:
    """A named recipe and the names of the parts it is made from."""

    name: str
    recipe: Recipe
    needs: tuple[str, ...] = ()


def tree_digest(path: Path) -> str:
    """The sha256 (hex) of a file, or of a folder's file names, modes and contents."""
    digest = hashlib.sha256()
    for item in [path] if not path.is_dir() else sorted(path.rglob("*")):
        if "__pycache__" in item.parts or item.is_dir():
            continue
        executable = os.access(item, os.X_OK)
        digest.update(f"{item.relative_to(path)}\0{executable}\0".encode())
        digest.update(hashlib.sha256(item.read_bytes()).digest())
    return digest.hexdigest()


def keys(parts: Sequence[Part]) -> dict[str, str]:
    """The key (16 hex digits) of each part, which depends on its recipe and on the keys of what it needs.

    Raises ArtefactError for a part that needs an unknown part or one that comes later.
    """
    found: dict[str, str] = {}
    for part in parts:
        missing = [name for name in part.needs if name not in found]
        if missing:
            raise ArtefactError(f"part {part.name} needs {', '.join(missing)}, which must be declared before it")
        digest = hashlib.sha256()
        for piece in (part.name, part.recipe.code(), repr(part.recipe), *(found[name] for name in part.needs)):
            digest.update(piece.encode() + b"\0")
        for path in part.recipe.files():
            digest.update(path.name.encode() + b"\0" + tree_digest(path).encode())
        found[part.name] = digest.hexdigest()[:16]
    return found


def closure(parts: Sequence[Part], wanted: Iterable[str]) -> list[Part]:
    """The wanted parts and all that they need, in the order of `parts`. Raises ArtefactError for an unknown name."""
    by_name = {part.name: part for part in parts}
    todo, chosen = list(wanted), set[str]()
    while todo:
        name = todo.pop()
        if name not in by_name:
            raise ArtefactError(f"there is no part {name}; there are: {', '.join(by_name)}")
        if name not in chosen:
            chosen.add(name)
            todo.extend(by_name[name].needs)
    return [part for part in parts if part.name in chosen]


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command that ends when this process ends; return its output.

    Raises ArtefactError with the end of what it printed when it fails.
    """
    words = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise ArtefactError(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{last}")
    return done.stdout


class Store:
    """The folder of finished parts: `parts/NAME-KEY`, each filled as `tmp/NAME` and renamed.

    Several builds may run at a time: one of them builds a part, the others wait for it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parts = root / "parts"
        self._tmp = root / "tmp"
        for folder in (self._parts, self._tmp, root / "locks"):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str, key: str) -> Path:
        """Where the part lies when it is finished."""
        return self._parts / f"{name}-{key}"

    def size(self) -> int:
        """Bytes on disk of all finished parts, files with several names counted once."""
        return int(run(["du", "-s", "--block-size=1", self._parts]).split()[0])

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.root / "locks" / name).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def make(self, part: Part, key: str, needed: Mapping[str, Path]) -> Path:
        """Build the part and put it in its place, all or nothing, unless another build has done so meanwhile."""
        final, draft = self.path(part.name, key), self._tmp / part.name
        with self._lock(part.name):
            if final.is_dir():
                return final
            if draft.exists():
                shutil.rmtree(draft)
            draft.mkdir()
            draft.chmod(0o755)
            part.recipe.build(draft, needed)
            return draft.rename(final)

    def point(self, name: str, target: Path) -> Path:
        """Let the link NAME in the store's folder lead to `target`, in one step; return the link."""
        link, draft = self.root / name, self._tmp / f"link-{name}"
        with self._lock(f"link-{name}"):
            if not link.is_symlink() or link.resolve() != target.resolve():
                draft.unlink(missing_ok=True)
                draft.symlink_to(target.relative_to(self.root))
                draft.replace(link)
        return link


class Builder:
    """Builds the missing parts, lane beside lane, and says how far it is."""

    def __init__(self, store: Store, parts: Sequence[Part], report: Report) -> None:
        self._store = store
        self._parts = parts
        self._keys = keys(parts)
        self._report = report
        self._ready: dict[str, Path] = {}
        self._running: dict[str, float] = {}
        self._failures: list[str] = []
        self._done = 0
        self._last_line = time.monotonic()
        self._changed = threading.Condition()

    def missing(self, wanted: Iterable[str]) -> list[Part]:
        """The parts that would have to be built."""
        chosen = closure(self._parts, wanted)
        return [part for part in chosen if not self._store.path(part.name, self._keys[part.name]).is_dir()]

    def build(self, wanted: Iterable[str], fetch: Callable[[Part], None]) -> dict[str, Path]:
        """Build the wanted parts with all they need; return the folder of each.

        `fetch` is called for each missing part, in order, beside the compiler: it downloads what the part will need.
        Raises ArtefactError naming every part that failed.
        """
        wanted = list(wanted)
        missing = self.missing(wanted)
        for part in closure(self._parts, wanted):
            if part not in missing:
                self._ready[part.name] = self._store.path(part.name, self._keys[part.name])
        if not missing:
            return self._ready
        self._say(f"{len(missing)} parts to build, {len(self._ready)} are there")
        lanes = sorted({part.recipe.lane for part in missing})
        threads = [
            threading.Thread(
                target=self._lane, args=([part for part in missing if part.recipe.lane == lane], len(missing))
            )
            for lane in lanes
        ]
        threads.append(threading.Thread(target=self._fetch, args=(missing, fetch), daemon=True))
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads[: len(lanes)]:
            while thread.is_alive():
                thread.join(1.0)
                self._heartbeat()
        if self._failures:
            raise ArtefactError("\n".join(self._failures))
        return self._ready

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._report(line)

    def _heartbeat(self) -> None:
        with self._changed:
            now = time.monotonic()
            if now - self._last_line >= HEARTBEAT and self._running:
                still = ", ".join(f"{name} ({now - start:.0f} s)" for name, start in self._running.items())
                self._say(f"     … still building {still}")

    def _fetch(self, missing: Sequence[Part], fetch: Callable[[Part], None]) -> None:
        for part in missing:
            if self._failures:
                return
            try:
                fetch(part)
            except ArtefactError:
                return  # the build itself will meet the same trouble and report it

    def _make(self, part: Part, needed: Mapping[str, Path]) -> Path:
        try:
            return self._store.make(part, self._keys[part.name], needed)
        except ArtefactError:
            # Most often a download that was cut off; a real mistake fails again and is reported then.
            with self._changed:
                self._say(f"     {part.name} failed, trying once more")
            return self._store.make(part, self._keys[part.name], needed)

    def _lane(self, parts: Sequence[Part], total: int) -> None:
        for part in parts:
            with self._changed:
                while not self._failures and not all(name in self._ready for name in part.needs):
                    self._changed.wait()
                if self._failures:
                    return
                start = self._running[part.name] = time.monotonic()
                needed = {name: self._ready[name] for name in part.needs}
            problem, path = "", Path()
            try:
                path = self._make(part, needed)
            except (ArtefactError, OSError) as error:
                problem = f"{part.name}: {error}"
            except BaseException as error:  # a lane that dies silently would leave the others waiting for ever
                problem = f"{part.name}: {error!r}"
                raise
            finally:
                with self._changed:
                    del self._running[part.name]
                    self._done += 1
                    seconds = time.monotonic() - start
                    if problem:
                        self._failures.append(problem)
                        self._say(f"[{self._done:2}/{total}] {part.name} failed after {seconds:.1f} s")
                    else:
                        self._ready[part.name] = path
                        self._say(f"[{self._done:2}/{total}] {part.name} {seconds:.1f} s")
                    self._changed.notify_all()
