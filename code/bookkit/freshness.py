"""The key of a chapter: everything, besides its cells, that its outputs depend on.

jupyter-cache knows an executed page by its code cells and its `kernelspec`. We add
a digest to the `kernelspec`: the modules of `code/` that the cells import, directly or
not, the files that the page declares, the versions of Python and of the libraries
that all of these import, and the device.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bookkit.cells import Page, imported_names, parse_cell


class MissingData(FileNotFoundError):
    """A page declares a file that does not exist."""


class CodeGraph:
    """Which module of `code/` imports which, and which libraries."""

    def __init__(self, root: Path, cache_dir: Path) -> None:
        self.root = root
        self.source_root = root / "code"
        self.cache_dir = cache_dir
        own = {file.parent.name for file in self.source_root.glob("*/__init__.py")}
        self.packages = sorted(own | {"bookkit"})
        self.error = ""  # why the graph could not be made: a module does not parse

    @cached_property
    def graph(self) -> Any:
        import grimp
        from grimp.exceptions import GrimpException

        if str(self.source_root) not in sys.path:
            sys.path.append(str(self.source_root))
        try:
            return grimp.build_graph(
                *self.packages,
                include_external_packages=True,
                cache_dir=str(self.cache_dir),
            )
        except GrimpException as error:
            self.error = str(error)
            return None

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file of each module, by its dotted name."""
        found = {}
        for package in self.packages:
            folder = self.source_root / package
            if not folder.is_dir():  # bookkit, used by a book that has no copy of it
                folder = Path(__file__).parent
            for file in sorted(folder.rglob("*.py")):
                parts = (package, *file.relative_to(folder).with_suffix("").parts)
                name = ".".join(parts).removesuffix(".__init__")
                found[name] = file
        return found

    def reached_from(self, names: set[str]) -> tuple[set[str], set[str]]:
        """The own modules and the libraries that an import of `names` loads."""
        own, libraries = set(), set()
        for name in names:
            if name.partition(".")[0] not in self.packages:
                libraries.add(name.partition(".")[0])
                continue
            while name not in self.files and "." in name:
                name = name.rpartition(".")[0]  # a function or a class of a module
            own.add(name)
        if self.graph is None:
            return set(self.files), libraries
        pending, seen = list(own), set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if "." in name:  # importing a.b runs a/__init__.py first
                pending.append(name.rpartition(".")[0])
            if name not in self.graph.modules:
                continue
            for target in self.graph.find_modules_directly_imported_by(name):
                if target in self.files:
                    pending.append(target)
                else:
                    libraries.add(target.partition(".")[0])
        return seen & set(self.files), libraries


def chapter_key(page: Page, root: Path, code: CodeGraph) -> str:
    """A digest that changes when the outputs of the page may change.

    Raises:
        MissingData: the page declares a file that is not there.
    """
    names: set[str] = set()
    for cell in page.cells:
        names |= imported_names(parse_cell(cell.source))
    modules, libraries = code.reached_from(names)
    parts = {
        "modules": {name: _digest(code.files[name]) for name in sorted(modules)},
        "data": {
            file.relative_to(root).as_posix(): _digest(file)
            for file in declared_files(page, root)
        },
        "versions": library_versions(libraries, code.cache_dir)
        | declared_packages(page),
        "python": sys.version,
        "device": device(),
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def declared_files(page: Page, root: Path) -> list[Path]:
    """The files under `bookkit: data:`, each glob resolved from the root."""
    files: set[Path] = set()
    for pattern in page.data_patterns():
        found = {file for file in root.glob(pattern) if file.is_file()}
        if not found:
            raise MissingData(f"bookkit data: no file matches {pattern!r}")
        files |= found
    return sorted(files)


def declared_packages(page: Page) -> dict[str, str]:
    """Versions of the distributions whose files the page reads without an import."""
    declared = (page.metadata.get("bookkit") or {}).get("packages") or []
    try:
        return {name: metadata.version(name) for name in declared}
    except metadata.PackageNotFoundError as error:
        raise MissingData(f"bookkit packages: {error} is not installed") from error


def library_versions(names: set[str], cache_dir: Path) -> dict[str, str]:
    """Versions of the distributions that provide the given top-level modules."""
    versions = {}
    for name in sorted(names - sys.stdlib_module_names):
        for distribution in _distributions(cache_dir).get(name, []):
            versions[distribution] = metadata.version(distribution)
    return versions


@lru_cache(maxsize=1)
def _distributions(cache_dir: Path) -> dict[str, list[str]]:
    """The distributions by module; kept while the same ones are installed."""
    folders = [Path(folder) for folder in sys.path]
    installed = sorted(str(f) for each in folders for f in each.glob("*.dist-info"))
    file = cache_dir / "distributions.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    if kept.get("installed") != installed:
        modules = metadata.packages_distributions()
        kept = {"installed": installed, "modules": modules}
        cache_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept), encoding="utf-8")
    found: dict[str, list[str]] = kept["modules"]
    return found


@lru_cache(maxsize=1)
def device() -> str:
    """The name of the GPU that CUDA would use, else the kind of CPU.

    Asked of the driver: importing torch here would cost a no-op build seconds.
    """
    cpu = f"cpu {platform.system()} {platform.machine()}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return cpu
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return cpu
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    names = answer.stdout.strip().splitlines() if answer.returncode == 0 else []
    return f"cuda {names[0]}" if names else cpu


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
