"""Promise 4: code on a page is the code that is tested."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from bookkit.cells import defined_names, parse_cell, read_page
from bookkit.listing import NoSuchObject, find_source
from tinybook import ROOT, TinyBook, cell

CODE = ROOT / "code"


def public_objects() -> list[str]:
    """Every public function and class that bookkit's own modules define."""
    names = []
    for stem in ("claims", "figures", "listing", "cells", "freshness"):
        module = importlib.import_module(f"bookkit.{stem}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__ and (
                inspect.isfunction(value) or inspect.isclass(value)
            ):
                names.append(f"{module.__name__}.{name}")
    return names


@pytest.mark.parametrize("name", public_objects())
def test_source_is_what_the_interpreter_would_show(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    shown = inspect.getsource(getattr(importlib.import_module(module), attribute))
    assert find_source(name, CODE).text == textwrap.dedent(shown).rstrip()


def test_method_constant_and_name_imported_from_another_module() -> None:
    method = find_source("bookkit.claims.Claim.to_text", CODE)
    assert method.text.startswith("def to_text(self)")
    constant = find_source("bookkit.claims.CLAIM_KEY", CODE)
    assert constant.text.startswith("CLAIM_KEY = ")
    imported = find_source("bookkit.claim", CODE)
    assert imported.file == CODE / "bookkit" / "claims.py"
    assert imported.text.startswith("def claim(")


def test_without_docstring_keeps_the_comments(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        'def f(x):\n    """Doc.\n\n    More.\n    """\n\n    # why\n    return x\n'
    )
    source = find_source("m.f", tmp_path, docstring=False)
    assert source.text == "def f(x):\n    # why\n    return x"


@pytest.mark.parametrize("name", ["nothing.here", "bookkit.claims.nothing"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(NoSuchObject, match="nothing"):
        find_source(name, CODE)


def test_listing_on_a_page_is_the_file_and_links_to_it(tiny_book: TinyBook) -> None:
    code = 'def f(x: int) -> int:\n    """Doc."""\n    return x + 1\n'
    tiny_book.write("code/toy/functions.py", f"import os\n\n\n{code}")
    body = ":::{listing} toy.functions.f\n:::\n\n"
    tiny_book.page(
        "one", body + cell("from bookkit import claim\nclaim('x', holds=True)")
    )
    tiny_book.contents("one")
    assert tiny_book.build().status == 0
    page = BeautifulSoup(tiny_book.html("one"), "html.parser")
    assert page.select_one(".listing pre").get_text() == code
    link = page.select_one(".listing-head a")["href"]
    target, _, line = link.partition("#")
    html = (tiny_book.root / "_build/html/book" / target).read_text()
    source = BeautifulSoup(html, "html.parser")
    assert source.find(id=line) is not None
    assert line == "L-4"
    # An edit of the code shows on the page, which did not import it: nothing runs.
    tiny_book.write("code/toy/functions.py", code.replace("+ 1", "+ 2"))
    again = tiny_book.build()
    assert again.executed == []
    assert "+ 2" in BeautifulSoup(tiny_book.html("one"), "html.parser").get_text()


def test_no_page_defines_what_code_defines() -> None:
    defined: dict[str, str] = {}
    for file in sorted((CODE / "underhood").rglob("*.py")):
        for name in defined_names(parse_cell(file.read_text(encoding="utf-8"))):
            defined.setdefault(name, file.name)
    for page in sorted((ROOT / "book").glob("*.md")):
        for made in read_page(page.read_text(encoding="utf-8")).cells:
            again = defined_names(parse_cell(made.source)) & defined.keys()
            assert not again, f"{page.name}:{made.line} defines {again}"
