"""The runner of pages in a plain interpreter: what it runs, skips, and tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig

from bookkit.interpreters import find_cpythons
from bookkit.script import read_cells

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    file
    for file in (ROOT / "book").glob("*.md")
    if is_myst_markdown_notebook(file.read_text(encoding="utf-8"))
)
FRONT = "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n"


SETTINGS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
CONFIG = MdParserConfig(enable_extensions=SETTINGS["parse"]["myst_enable_extensions"])


def cells_by_myst_nb(text: str) -> list[tuple[str, list[str]]]:
    notebook = read_myst_markdown_notebook(text, config=CONFIG)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(cell.source, sorted(cell.metadata.get("tags", []))) for cell in cells]


def cells_by_script(text: str) -> list[tuple[str, list[str]]]:
    return [(cell.source, sorted(cell.tags)) for cell in read_cells(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_of_the_pages_are_those_of_myst_nb(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert cells_by_script(text) == cells_by_myst_nb(text)
    lines = text.splitlines()
    for cell in read_cells(text):
        source = cell.source.split("\n")
        assert lines[cell.line - 1 :][: len(source)] == source


BLOCKS = [
    "Some prose, with `code` and a ```span``` of it.",
    "# A heading",
    "~~~{code-cell}\nx = 1\n\n\ny = 2\n~~~",
    "```{code-cell} ipython3\nprint('''\n~~~\n''')\n```",
    "````{code-cell}\n'''\n```\n'''\n````",
    "~~~{code-cell}\n:tags: [plot, hide-input]\n\nfig = 1\n~~~",
    "~~~{code-cell}\n:tags: [\"plot\", 'a-b']\nfig = 2\n~~~",
    "~~~{code-cell}\n:other: no\n:tags: [plot,]\n\n\nafter_two_blank_lines = 1\n~~~",
    "~~~{code-cell}\n---\ntags: [needs-processes]  # why\n---\nimport os\n~~~",
    "~~~{code-cell}\n---\nother: 1\ntags:\n  - plot\n  - 'a-b'\n---\n\nz = 3\n~~~",
    "~~~{code-cell}\n---\ntags:\n- plot\nother: [x]\n---\nz = 3\n~~~",
    "~~~{code-cell}\n\n:tags: [plot]\nq = 1\n~~~",
    "~~~{code-cell}\n~~~",
    "~~~{code-cell}\nlonger_end = 1\n~~~~~  \n\n```{code-cell}\nb = 1\n````",
    "~~~{code-cell}\n:tags: []\n~~~",
    "~~~python\nnot_a_cell = 1\n~~~",
    ":::{code-cell}\nnot_a_cell = 2\n:::",
    ":::{admonition} Solution\n:class: dropdown\n~~~{code-cell}\nnested = 1\n~~~\n:::",
    "::::{tab-set}\n:::{tab-item} A\n```{code-cell}\nnested = 2\n```\n:::\n::::",
    "````markdown\n```{code-cell}\nshown = 1\n```\n````",
    "- item\n\n  ```{code-cell}\n  in_a_list = 1\n  ```",
    "- item\n~~~{code-cell}\nafter_a_list = 1\n~~~",
    "<!-- left out\n~~~{code-cell}\nhidden = 1\n~~~\n-->",
    "    ~~~{code-cell}\n    indented = 1\n    ~~~",
    "Text right above\n~~~{code-cell}\nclose = 1\n~~~",
    "$$\nx = 1\n$$",
    "---",
]


@given(st.lists(st.sampled_from(BLOCKS), max_size=6), st.booleans())
@example(BLOCKS, True)
@example(["~~~{code-cell}\nnever = 'closed'"], True)
def test_cells_of_any_page_are_those_of_myst_nb(blocks: list[str], front: bool) -> None:
    text = (FRONT if front else "Text.\n\n") + "\n\n".join(blocks)
    assert cells_by_script(text) == cells_by_myst_nb(text)


def test_tags_in_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2: tags: got '\{a: b\}'"):
        read_cells("~~~{code-cell}\n:tags: {a: b}\n~~~\n")


class Page:
    """A page in a temporary book, run by the interpreter in use or another one."""

    def __init__(self, root: Path) -> None:
        self.file = root / "book" / "page.md"
        self.file.parent.mkdir()
        (root / "_config.yml").write_text("")

    def write(self, *cells: str) -> None:
        body = "".join(f"Text.\n\n~~~{{code-cell}}\n{code}\n~~~\n\n" for code in cells)
        self.file.write_text(FRONT + body, encoding="utf-8")

    def run(
        self, *arguments: str, python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "bookkit.script", *arguments, str(self.file)]
        environment = {"PYTHONPATH": str(ROOT / "code"), "PYTHONUTF8": "1"}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )

    def line_of(self, code: str) -> int:
        return self.file.read_text(encoding="utf-8").splitlines().index(code) + 1


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


TRUE = "from bookkit import claim\nclaim('one is one', measured=1, expected=1)"
FALSE = "from bookkit import claim\nx = 1\nclaim('one is two', measured=x, expected=2)"


def test_a_true_page_tells_how_many_claims_hold(page: Page) -> None:
    page.write(TRUE, "claim('two', measured=1 + 1, expected=2)\n40 + 2")
    done = page.run()
    assert done.returncode == 0, done.stderr
    one, two, *rest = done.stdout.splitlines()
    assert one.startswith("claim: one is one [measured 1")
    assert two.startswith("claim: two [measured 2")
    assert rest == ["42", "2 claims hold"]


def test_a_false_claim_fails_with_the_line_of_the_page(page: Page) -> None:
    page.write(TRUE, FALSE, "print('never reached')")
    done = page.run()
    assert done.returncode == 1
    line = page.line_of("claim('one is two', measured=x, expected=2)")
    assert f'page.md", line {line}, in <module>' in done.stderr
    assert "ClaimFailed: one is two\n  measured 1" in done.stderr
    assert "bookkit/script.py" not in done.stderr
    assert "never reached" not in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAILED") and last.endswith("; 1 claims hold")


def test_keep_going_runs_the_cells_after_a_false_one(page: Page) -> None:
    page.write(FALSE, TRUE, "1 / 0")
    done = page.run("--keep-going")
    assert done.returncode == 1
    assert "one is two" in done.stderr and "ZeroDivisionError" in done.stderr
    assert "claim: one is one" in done.stdout
    first, last = page.line_of("from bookkit import claim"), page.line_of("1 / 0")
    assert f"cells at lines {first}, {last}; 1 claims hold" in done.stdout


@pytest.mark.parametrize("broken", ["x = 1\n\ny = (", "def f(:\n  pass"])
def test_an_error_of_syntax_names_the_line_of_the_page(page: Page, broken: str) -> None:
    page.write("z = 1", broken)
    done = page.run()
    assert done.returncode == 1
    wrong = next(line for line in broken.split("\n") if "(" in line)
    assert f'page.md", line {page.line_of(wrong)}\n' in done.stderr


def test_an_error_in_a_function_of_an_earlier_cell_names_both_lines(page: Page) -> None:
    page.write("def divide(n):\n    return n / 0", "import bookkit\n\ndivide(3)")
    done = page.run()
    called, raised = page.line_of("divide(3)"), page.line_of("    return n / 0")
    assert f"line {called}, in <module>\n    divide(3)\n" in done.stderr
    assert f"line {raised}, in divide\n    return n / 0\n" in done.stderr


@pytest.mark.parametrize("stop", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_page_cannot_end_early(page: Page, stop: str) -> None:
    page.write(TRUE, stop, FALSE)
    assert page.run().returncode == 1


def test_skipped_cells_are_named_with_their_claims(page: Page) -> None:
    page.write(
        ":tags: [plot]\n\nimport matplotlib_is_not_there",
        ":tags: [needs-processes, hide-input]\n\nclaim('a child runs', holds=False)",
        TRUE,
    )
    done = page.run("--skip-tag", "needs-processes")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    plot = page.line_of("import matplotlib_is_not_there")
    child = page.line_of("claim('a child runs', holds=False)")
    assert lines[0] == f"skipped: {page.file}, line {plot}: plot"
    assert lines[1] == f"skipped: {page.file}, line {child}: needs-processes"
    assert lines[2] == "  its claim: 'a child runs'"
    assert lines[-1] == "1 claims hold"


def test_a_tag_is_skipped_only_where_it_is_asked_for(page: Page) -> None:
    page.write(f":tags: [needs-processes]\n\n{FALSE}")
    assert page.run().returncode == 1
    assert page.run("--skip-tag", "needs-processes").returncode == 0


def test_a_cell_may_raise_where_it_says_so_but_no_claim_may_fail(page: Page) -> None:
    page.write(":tags: [raises-exception]\n\n1 / 0", TRUE)
    done = page.run()
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stdout
    page.write(f":tags: [raises-exception]\n\n{FALSE}")
    assert page.run().returncode == 1


def test_cells_run_as_in_a_notebook(page: Page) -> None:
    """`__main__`, in the folder of the page, one statement compiled at a time."""
    page.write(
        "import os, sys\nassert os.path.exists('page.md')",
        "assert __name__ == '__main__'",
        "assert sys.modules['__main__'].__dict__ is globals()",
        "a = 1000\nb = 1000\nassert a is not b",
        "def f():\n    return f.__code__.co_firstlineno\nassert f() == 1",
        "import inspect\nassert inspect.getsource(f).startswith('def f():')",
    )
    done = page.run()
    assert done.returncode == 0, done.stderr


def test_a_claim_that_is_false_on_one_version_is_red_there_alone(page: Page) -> None:
    """The same page under every interpreter; the table is CPython's own history."""
    page.write(
        "import sys\nfrom bookkit import claim\n"
        "claim('monitoring exists', holds=hasattr(sys, 'monitoring'))"
    )
    for interpreter in find_cpythons():
        done = page.run(python=interpreter.command[0])
        expected = 0 if interpreter.version >= (3, 12) else 1
        assert done.returncode == expected, interpreter
        assert ("ClaimFailed: monitoring exists" in done.stderr) == bool(expected)
