"""Two repairs of how MyST-NB 1 executes a page, and what its kernels inherit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def set_kernel_environment(root: Path) -> None:
    """Our code, our figure style, and a fixed order of sets."""
    paths = [str(root / "code"), str(Path(__file__).parents[1])]
    paths += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ["BOOK_ROOT"] = str(root)
    os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))
    os.environ["MPLBACKEND"] = "agg"
    os.environ["PYTHONHASHSEED"] = "0"


def survive_dead_kernels() -> None:
    """A kernel that dies fails its own page, not the whole build.

    MyST-NB catches errors of cells and timeouts, but not `DeadKernelError`.
    """
    from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
    from myst_nb.core.execute import cache
    from nbclient.exceptions import DeadKernelError

    def execute(notebook: Any, cwd: str | None, **options: Any) -> ExecutionResult:
        try:
            return single_nb_execution(notebook, cwd, **options)
        except DeadKernelError as error:
            return ExecutionResult(notebook, cwd, 0.0, error, str(error))

    cache.single_nb_execution = execute


def keep_cached_outputs() -> None:
    """A page taken from the cache also has its outputs in `jupyter_execute/`.

    MyST-NB shows the outputs that it merged from the cache, but writes the notebook as
    it was before: without outputs, so without the claims that the ledger gathers.
    """
    from myst_nb.core.execute.cache import NotebookClientCache

    start_client = NotebookClientCache.start_client
    if hasattr(start_client, "repaired"):
        return

    def start_and_merge(self: Any) -> None:
        given = self.notebook
        start_client(self)
        if self.notebook is not given:
            given.clear()
            given.update(self.notebook)
            self._notebook = given

    start_and_merge.repaired = True  # type: ignore[attr-defined]
    NotebookClientCache.start_client = start_and_merge
