"""Promise 2: what did not change is not run again, and what changed is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bookkit.freshness import CodeGraph
from tinybook import ROOT, TinyBook, cell


@pytest.fixture
def book(tiny_book: TinyBook) -> TinyBook:
    """Pages `deep` (uses toy.top, so toy.base), `flat` (uses toy.other), `alone`."""
    tiny_book.write("code/toy/base.py", "import fakelib\nVALUE = 1\n")
    tiny_book.write("code/toy/top.py", "from toy import base\nVALUE = base.VALUE\n")
    tiny_book.write("code/toy/other.py", "VALUE = 10\n")
    tiny_book.write("libs/fakelib.py", "")
    install(tiny_book, "1.0")
    tiny_book.write("data/numbers.txt", "7")
    claim = (
        "\nfrom bookkit import claim\nclaim('a value', measured=v, above=0)\nprint(v)"
    )
    tiny_book.page("deep", cell("from toy.top import VALUE as v" + claim))
    tiny_book.page("flat", cell("import toy.other\nv = toy.other.VALUE" + claim))
    tiny_book.page(
        "alone",
        cell("v = int(open('../data/numbers.txt').read())" + claim),
        data="data/*.txt",
    )
    tiny_book.contents("deep", "flat", "alone")
    first = tiny_book.build()
    assert first.status == 0, first.output
    assert first.executed == ["alone", "deep", "flat"]
    return tiny_book


def install(book: TinyBook, version: str) -> None:
    """A distribution that provides the module `fakelib`, in the given version."""
    folder = "libs/fakelib.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: fakelib\nVersion: {version}\n"
    book.write(f"{folder}/METADATA", metadata)
    book.write(f"{folder}/top_level.txt", "fakelib\n")
    book.write(f"{folder}/RECORD", "fakelib.py,,\n")


def test_pages_depend_on_what_they_import_of_bookkit_and_not_on_the_extension(
    tmp_path: Path,
) -> None:
    graph = CodeGraph(ROOT, tmp_path)
    modules, libraries = graph.reached_from({"bookkit.claim", "bookkit"})
    assert modules == {"bookkit", "bookkit.claims", "bookkit.figures"}
    assert "sphinx" not in libraries


def test_nothing_changed_executes_and_writes_nothing(book: TinyBook) -> None:
    site = book.root / "_build/html"
    kinds = ("book/*.html", "book/*.ipynb", "search-data.js")
    files = [file for kind in kinds for file in site.glob(kind)]
    assert len(files) == 4 + 3 + 1
    written = {file: file.stat().st_mtime_ns for file in files}
    again = book.build()
    assert again.status == 0
    assert again.executed == []
    assert written == {file: file.stat().st_mtime_ns for file in files}


def test_a_site_that_was_deleted_is_written_whole_again(book: TinyBook) -> None:
    site = book.root / "_build/html"
    files = {file.relative_to(site) for file in site.rglob("*") if file.is_file()}
    shutil.rmtree(site)
    again = book.build()
    assert again.executed == []
    found = {file.relative_to(site) for file in site.rglob("*") if file.is_file()}
    assert found == files


def test_edit_of_a_module_used_transitively_executes_exactly_its_chapters(
    book: TinyBook,
) -> None:
    book.write("code/toy/base.py", "import fakelib\nVALUE = 2\n")
    edited = book.build()
    assert edited.executed == ["deep"]
    assert "<pre>2\n" in book.html("deep").replace("<span></span>", "")


def test_reverted_edit_hits_the_earlier_entry(book: TinyBook) -> None:
    before = (book.root / "code/toy/base.py").read_text()
    book.write("code/toy/base.py", "import fakelib\nVALUE = 2\n")
    assert book.build().executed == ["deep"]
    book.write("code/toy/base.py", before)
    assert book.build().executed == []
    assert "<pre>1\n" in book.html("deep").replace("<span></span>", "")


def test_edit_elsewhere_executes_nothing(book: TinyBook) -> None:
    book.write("code/toy/unused.py", "VALUE = 3\n")
    book.write("tests/test_toy.py", "assert True\n")
    assert book.build().executed == []


def test_prose_edit_executes_nothing_and_shows(book: TinyBook) -> None:
    page = book.root / "book/deep.md"
    page.write_text(page.read_text() + "\nA new sentence.\n")
    assert book.build().executed == []
    assert "A new sentence." in book.html("deep")


def test_style_edit_executes_nothing_and_shows(book: TinyBook) -> None:
    book.write("book/_static/book.css", "p { color: blue }\n")
    assert book.build().executed == []
    assert "blue" in (book.root / "_build/html/_static/book.css").read_text()


def test_cell_edit_executes_its_page(book: TinyBook) -> None:
    page = book.root / "book/flat.md"
    page.write_text(page.read_text().replace("print(v)", "print(v + 1)"))
    assert book.build().executed == ["flat"]
    assert "<pre>11\n" in book.html("flat").replace("<span></span>", "")


def test_declared_data_executes_its_page(book: TinyBook) -> None:
    book.write("data/numbers.txt", "8")
    assert book.build().executed == ["alone"]
    book.write("data/more.txt", "a new file under the declared glob")
    assert book.build().executed == ["alone"]


def test_library_version_executes_the_pages_that_use_it(book: TinyBook) -> None:
    install(book, "1.1")
    assert book.build().executed == ["deep"]


def test_another_device_executes_everything(book: TinyBook) -> None:
    tool = book.write("bin/nvidia-smi", "#!/bin/sh\necho 'A Fast GPU'\n")
    tool.chmod(0o755)
    path = f"{tool.parent}:{book.environment['PATH']}"
    book.environment = {**book.environment, "PATH": path}
    book.environment.pop("CUDA_VISIBLE_DEVICES", None)
    assert book.build().executed == ["alone", "deep", "flat"]
    book.environment["CUDA_VISIBLE_DEVICES"] = ""
    assert book.build().executed == []


def test_failed_chapter_is_executed_again(book: TinyBook) -> None:
    book.write("code/toy/base.py", "import fakelib\nVALUE = -1\n")
    for _ in range(2):
        failed = book.build()
        assert failed.status != 0
        assert failed.executed == ["deep"]
        assert "deep.md:11: cell 1, line 3: ClaimFailed" in failed.report
