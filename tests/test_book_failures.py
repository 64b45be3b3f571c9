"""Promise 1: a false page fails the build, and fails it again until it is mended."""

from __future__ import annotations

import os

from bs4 import BeautifulSoup

from tinybook import TinyBook, cell

CLAIM = """
from bookkit import claim, glue
claim("two and two make four", measured=2 + 2, expected=4)
"""

# Each page is false in its own way: the body, and what the report must say of it.
# The code of the claim's cell has lines 9 and 10 of the page; that of the next cell
# starts at line 14.
FALSE_PAGES = {
    "raises": (
        cell(CLAIM) + cell("x = 1\n1 / 0"),
        "raises.md:15: cell 2, line 2: Zero",
    ),
    "untrue": (
        cell("from bookkit import claim\nclaim('one is two', measured=1, expected=2)"),
        "untrue.md:10: cell 1, line 2: ClaimFailed: one is two",
    ),
    "twice": (cell(CLAIM + CLAIM), "ValueError: statement: claimed twice"),
    "late": (  # the cause stands before what follows from it
        cell("1 / 0") + "{glue:text}`later`",
        "late.md:9: cell 1, line 1: ZeroDivisionError: division by zero\n"
        "  book/late.md:12: No key 'later' found",
    ),
    "syntax": (cell(CLAIM) + cell("def"), "syntax.md:14: cell 2, line 1: SyntaxError"),
    "dies": (cell(CLAIM) + cell("import os; os._exit(1)"), "cell 2, line 1: did not"),
    "unglued": (cell(CLAIM) + "{glue:text}`nowhere`", "No key 'nowhere' found"),
    "unlinked": (cell(CLAIM) + "{doc}`nowhere`", "unlinked.md:13: unknown document"),
    "unlisted": (cell(CLAIM) + ":::{listing} toy.nothing\n:::\n", "no 'nothing'"),
    "uncited": (cell(CLAIM) + "{cite}`nobody1900`", "nobody1900"),
    "claimless": (cell("x = 1"), "a chapter without a claim"),
    "copied": (
        cell(CLAIM) + cell("def helper():\n    return 1"),
        "copied.md:14: cell 2: defines `helper`, which code/toy/__init__.py defines",
    ),
    "unfounded": (
        cell("from bookkit import claim\nclaim('said so', cited='nobody1901')"),
        "cited: no entry 'nobody1901'",
    ),
}


def make_false_book(book: TinyBook) -> None:
    book.write("code/toy/__init__.py", "def helper():\n    return 2\n")
    book.page("good", cell(CLAIM))
    for name, (body, _) in FALSE_PAGES.items():
        book.page(name, body)
    book.page("datum", cell(CLAIM), data="data/missing.json")
    book.contents("good", *FALSE_PAGES, "datum")


def test_one_build_names_every_false_page_and_so_does_the_next(
    tiny_book: TinyBook,
) -> None:
    make_false_book(tiny_book)
    for attempt in ("first", "second"):
        build = tiny_book.build()
        assert build.status != 0, attempt
        for name, (_, said) in FALSE_PAGES.items():
            assert f"book/{name}.md" in build.report, (attempt, name, build.report)
            assert said in build.report, (attempt, name, build.report)
        assert "no file matches 'data/missing.json'" in build.report, attempt
        assert "book/good.md" not in build.report, attempt

    for name in FALSE_PAGES:
        tiny_book.page(name, cell(CLAIM))
    tiny_book.write("data/missing.json", "{}")
    mended = tiny_book.build()
    assert mended.status == 0, mended.output
    assert tiny_book.build().executed == []


def test_link_to_a_page_that_was_removed_fails_though_the_linking_page_is_unchanged(
    tiny_book: TinyBook,
) -> None:
    tiny_book.page("one", cell(CLAIM) + "See {doc}`two`.")
    tiny_book.page("two", cell(CLAIM))
    tiny_book.contents("one", "two")
    assert tiny_book.build().status == 0
    (tiny_book.root / "book/two.md").unlink()
    tiny_book.contents("one")
    broken = tiny_book.build()
    assert broken.status != 0
    assert "book/one.md" in broken.report
    assert tiny_book.build().status != 0


def test_a_build_of_one_page_accepts_links_to_the_others(tiny_book: TinyBook) -> None:
    tiny_book.page("one", cell(CLAIM) + "See {doc}`two`.")
    tiny_book.page("two", cell(CLAIM))
    part = "format: jb-book\nroot: book/one\n"
    toc = str(tiny_book.write("part/_toc.yml", part))
    alone = tiny_book.build("--toc", toc, "--path-output", "part")
    assert alone.status == 0, alone.output
    tiny_book.page("one", cell(CLAIM) + "See {doc}`nowhere`.")
    broken = tiny_book.build("--toc", toc, "--path-output", "part")
    assert broken.status != 0
    assert "one.md:13: unknown document: 'nowhere'" in broken.report
    tiny_book.page("one", cell(CLAIM) + "See {doc}`two`.")
    tiny_book.contents("one")  # all of the book: the other page is not in it
    assert "unknown document: 'two'" in tiny_book.build().report


def test_a_reference_that_came_while_a_build_ran_is_found_by_the_next(
    tiny_book: TinyBook,
) -> None:
    entry = "@misc{{known{0}, title={{T}}, year={{{0}}}}}\n"
    references = "# References\n\n:::{bibliography}\n:::\n"
    tiny_book.write("book/references.md", references)
    tiny_book.page("one", cell(CLAIM) + "Known {cite}`known2020`.")
    tiny_book.page("two", cell(CLAIM))
    tiny_book.contents("one", "two", "references")
    assert tiny_book.build().status == 0
    file = tiny_book.root / "book/references.bib"
    before = file.stat().st_mtime
    tiny_book.write("book/references.bib", entry.format(2020) + entry.format(2021))
    os.utime(file, (before + 0.001, before + 0.001))
    tiny_book.page("two", cell(CLAIM) + "New {cite}`known2021`.")
    build = tiny_book.build()
    assert build.status == 0, build.output
    assert "2021" in tiny_book.html("references")


def test_recording_must_be_declared_and_say_where_it_is_from(
    tiny_book: TinyBook,
) -> None:
    tiny_book.write(
        "benchmarks/results/gpu/speed.json",
        """{"device": "a GPU", "versions": {"torch": "2"}, "date": "2026-01-01",
            "command": "python bench.py", "data": {"tflops": 500}}""",
    )
    tiny_book.write("benchmarks/results/gpu/bare.json", '{"data": {"tflops": 500}}')
    use = """
    from bookkit import claim, recorded
    record = recorded("gpu/{0}.json")
    claim("it was fast", measured=record["tflops"], above=400, recorded=record)
    """
    tiny_book.page("silent", cell(use.format("speed")))
    tiny_book.page("bare", cell(use.format("bare")), data="benchmarks/results/gpu/*")
    tiny_book.page("open", cell(use.format("speed")), data="benchmarks/results/gpu/*")
    tiny_book.contents("silent", "bare", "open")
    build = tiny_book.build()
    assert build.status != 0
    assert "speed.json is not declared under `bookkit: data:`" in build.report
    assert "bare.json: a recording must say its device, versions" in build.report
    assert "book/open.md" not in build.report
    page = BeautifulSoup(tiny_book.html("open"), "html.parser")
    link = page.select_one("p.claim-recorded .claim-evidence a")
    assert link["href"] == "../benchmarks/results/gpu/speed.json"
    assert (tiny_book.root / "_build/html/book" / link["href"]).is_file()


def test_module_that_does_not_parse_fails_the_pages_that_import_it(
    tiny_book: TinyBook,
) -> None:
    tiny_book.write("code/toy/broken.py", "def f(:\n")
    tiny_book.page("one", cell(CLAIM + "import toy.broken\n"))
    tiny_book.page("two", cell(CLAIM))
    tiny_book.contents("one", "two")
    build = tiny_book.build()
    assert build.status != 0
    assert "one.md:11: cell 1, line 3: SyntaxError" in build.report, build.report
    assert "broken.py" in build.report
    assert "book/two.md" not in build.report
