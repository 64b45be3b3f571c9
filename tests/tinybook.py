"""A tiny book in a temporary folder, to be built and broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

CONFIG = f"""
title: Tiny
only_build_toc_files: true
execute: {{execute_notebooks: cache, timeout: 20, show_tb: false}}
bibtex_bibfiles: [book/references.bib]
sphinx:
  local_extensions: {{bookkit.extension: "{ROOT / "code"}"}}
  config: {{suppress_warnings: [myst.domains], html_static_path: [book/_static]}}
"""

FRONT = """\
---
file_format: mystnb
kernelspec: {name: python3, display_name: Python 3}
bookkit: {data: [%s]}
---
"""


@dataclass
class Build:
    """What one run of `jupyter-book build` said and did."""

    status: int
    output: str

    @property
    def executed(self) -> list[str]:
        """The pages whose cells ran, by name."""
        found = re.findall(r"book/(\w+)\.md: Executing notebook", self.output)
        return sorted(found)

    @property
    def report(self) -> str:
        """The list of what is false, at the end of the build."""
        return self.output.partition("This book is not true")[2]


class TinyBook:
    """A book with the real bookkit and its own `code/toy` package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # This checkout's bookkit, wherever an installed one comes from.
        paths = os.pathsep.join([str(ROOT / "code"), str(root / "libs")])
        self.environment = {**os.environ, "PYTHONPATH": paths}
        self.write("_config.yml", CONFIG)
        self.write("book/index.md", "# Home\n")
        self.write("book/_static/book.css", "p { color: red }\n")
        self.write("book/references.bib", "@misc{known2020, title={T}, year={2020}}\n")
        self.write("code/toy/__init__.py", '"""Toy."""\n')

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def page(self, name: str, body: str, data: str = "") -> Path:
        """A chapter; `body` is MyST, its cells between ~~~{code-cell} and ~~~."""
        return self.write(
            f"book/{name}.md", FRONT % data + f"# {name.title()}\n\n" + body
        )

    def contents(self, *names: str) -> None:
        lines = "".join(f"  - file: book/{name}\n" for name in names)
        self.write("_toc.yml", f"format: jb-book\nroot: book/index\nchapters:\n{lines}")

    def build(self, *options: str) -> Build:
        program = str(Path(sys.executable).with_name("jupyter-book"))
        command = [program, "build", ".", *options]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Build(done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))

    def html(self, name: str) -> str:
        return (self.root / f"_build/html/book/{name}.html").read_text(encoding="utf-8")

    def ledger(self) -> dict:
        file = self.root / "_build/html/book/claims.json"
        return json.loads(file.read_text(encoding="utf-8"))


def cell(code: str) -> str:
    return f"~~~{{code-cell}}\n{textwrap.dedent(code).strip()}\n~~~\n\n"
