"""Everything that makes a page false, gathered until the end of the build.

Sphinx reports what is wrong as warnings, whose exit status is zero and which a second
build forgets, because it does not read the page again. Here each warning is a failure:
it is kept until the build ends, ends it with a non-zero status, and its page is
remembered, so that the next build reads (and, since only successful executions
are cached, executes) it again.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sphinx.util import logging as sphinx_logging

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    place: str  # "book/x.md:12", or "" when no page is to blame
    message: str


class FailureLog(logging.Handler):
    """Listens to Sphinx's log and keeps every warning that is not suppressed."""

    def __init__(self, app: Any) -> None:
        super().__init__(logging.WARNING)
        self.app = app
        self.failures: list[Failure] = []
        self.addFilter(sphinx_logging.WarningLogRecordTranslator(app))

    def emit(self, record: logging.LogRecord) -> None:
        kind, subtype = getattr(record, "type", ""), getattr(record, "subtype", "")
        suppressed = self.app.config.suppress_warnings
        if sphinx_logging.is_suppressed_warning(kind, subtype, suppressed):
            return
        if (kind, subtype) == ("mystnb", "exec"):
            return  # told again, with its cell and line, by `execution_failure`
        place = str(getattr(record, "location", "") or "")
        message = ANSI.sub("", record.getMessage())
        # docutils says the place, too
        message = (
            message.removeprefix(f"{place}: ")
            .removeprefix("WARNING: ")
            .removeprefix("ERROR: ")
        )
        failure = Failure(self._relative(place), message)
        if (kind, subtype) == ("ref", "doc") and self._is_left_out(failure):
            return
        if failure not in self.failures:
            self.failures.append(failure)

    def _relative(self, place: str) -> str:
        return place.removeprefix(f"{self.app.srcdir}/").removesuffix(":")

    def _is_left_out(self, failure: Failure) -> bool:
        """Whether a page leads to one that exists, in a build of some pages only."""
        contents = Path(self.app.srcdir, self.app.config.external_toc_path)
        if contents == Path(self.app.srcdir, "_toc.yml"):
            return False
        target = failure.message.split("'")[1]  # unknown document: 'target'
        return Path(self.app.srcdir, failure.place).with_name(f"{target}.md").is_file()

    def pages(self) -> dict[str, list[Failure]]:
        """The failures by page; those without a page under an empty name."""
        found: dict[str, list[Failure]] = {}
        for failure in self.failures:
            found.setdefault(failure.place.partition(":")[0], []).append(failure)
        return found

    def report(self) -> str:
        """What the build says at its end: each false page, each place, each reason."""
        lines = []
        for page, failures in sorted(self.pages().items()):
            lines.append(page or "the book")
            # The cell that failed first: what it did not glue fails because of it.
            failures.sort(key=lambda failure: not failure.message.startswith("cell "))
            for failure in failures:
                first, *rest = failure.message.splitlines() or [""]
                lines.append(f"  {failure.place or page}: {first}")
                lines.extend(f"      {line}" for line in rest)
        return "\n".join(lines)


def remember(file: Path, pages: set[str]) -> None:
    """Keep the false pages for the next build; none deletes the note."""
    if pages:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(sorted(pages)), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def remembered(file: Path) -> set[str]:
    return set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()


def execution_failure(notebook: Any) -> tuple[int, int, str]:
    """Where and why an execution stopped: code cell from 1, its line from 1, reason."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                trace = ANSI.sub("", "\n".join(output.traceback))
                here = rf"Cell In\[{cell.execution_count}\], line (\d+)"
                found = re.search(here, trace)
                line = int(found.group(1)) if found else 1
                return number, line, f"{output.ename}: {output.evalue}"
    # A kernel that died or ran out of time leaves no error: blame the first cell
    # that did not finish.
    for number, cell in enumerate(cells, 1):
        if cell.execution_count is None:
            return number, 1, "did not finish (the kernel died or ran out of time)"
    return len(cells), 1, "did not finish (the kernel died or ran out of time)"
