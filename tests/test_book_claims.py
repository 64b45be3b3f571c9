"""Promise 3: claims hold or raise, and the ledger is what the pages show."""

from __future__ import annotations

import math
import shutil

import numpy
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from bookkit import ClaimFailed, claim, claims
from tinybook import TinyBook, cell

NAN = math.nan


@pytest.fixture(autouse=True)
def new_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_stated", set())


@pytest.mark.parametrize(
    "condition",
    [
        {"measured": 4, "expected": 4},
        {"measured": 1.0, "expected": 1.1, "abs": 0.11},
        {"measured": 99.0, "expected": 100.0, "rel": 0.01},
        {"measured": math.inf, "expected": math.inf},
        {"measured": numpy.float32(0.5), "expected": 0.5},
        {"measured": torch.tensor(3), "expected": 3},
        {"measured": (1, [2.0, 3.0]), "expected": (1, [2.0, 3.0 + 1e-9]), "abs": 1e-8},
        {"measured": {"a": 1}, "expected": {"a": 1}},
        {"measured": {1, 2}, "expected": {2, 1}},
        {"measured": "SIGSEGV", "expected": "SIGSEGV"},
        {"measured": 1e-7, "below": 1e-6},
        {"measured": 5, "above": 4},
        {"measured": 5, "above": 4, "below": 6},
        {"holds": True},
        {"holds": numpy.bool_(True)},
        {"holds": torch.tensor(True)},
        {"cited": "dao2022"},
    ],
)
def test_holds(condition: dict, capsys: pytest.CaptureFixture[str]) -> None:
    claim("it is so", **condition)
    assert "it is so" in capsys.readouterr().out


@pytest.mark.parametrize(
    "condition",
    [
        {"measured": 4, "expected": 5},
        {"measured": 1.0, "expected": 1.1, "abs": 0.09},
        {"measured": 98.0, "expected": 100.0, "rel": 0.01},
        {"measured": True, "expected": 1},
        {"measured": (1, 2), "expected": [1, 2]},
        {"measured": (1, 2), "expected": (1, 2, 3)},
        {"measured": {"a": 1}, "expected": {"b": 1}},
        {"measured": 1e-6, "below": 1e-6},
        {"measured": 4, "above": 4},
        {"measured": 7, "above": 4, "below": 6},
        {"holds": False},
        # NaN holds under nothing, wherever it hides.
        {"measured": NAN, "expected": NAN},
        {"measured": NAN, "expected": 1.0, "abs": math.inf},
        {"measured": (NAN,), "expected": (NAN,)},
        {"measured": {"a": NAN}, "expected": {"a": NAN}},
        {"measured": 1.0, "expected": NAN, "rel": 1.0},
        {"measured": NAN, "below": 1.0},
        {"measured": NAN, "above": 1.0},
        {"measured": 1.0, "below": NAN},
        {"measured": math.inf, "expected": 1.0, "abs": math.inf},
    ],
)
def test_does_not_hold(condition: dict) -> None:
    with pytest.raises(ClaimFailed, match="it is so"):
        claim("it is so", **condition)


@pytest.mark.parametrize(
    ("statement", "condition", "message"),
    [
        ("", {"holds": True}, "statement: empty"),
        ("  ", {"holds": True}, "statement: empty"),
        ("x", {}, "nothing to compare"),
        ("x", {"measured": 1}, "nothing to compare"),
        ("x", {"measured": 1, "cited": "k"}, "nothing to compare"),
        ("x", {"expected": 1}, "need `measured`"),
        ("x", {"below": 1}, "need `measured`"),
        ("x", {"measured": 1, "expected": 1, "below": 2}, "give one of"),
        ("x", {"holds": True, "above": 2}, "give one of"),
        ("x", {"measured": 1, "below": 2, "rel": 0.1}, "need `expected`"),
    ],
)
def test_is_no_claim(statement: str, condition: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claim(statement, **condition)


@pytest.mark.parametrize(
    "condition",
    [
        {"holds": [False]},
        {"holds": 1},
        {"holds": None, "measured": numpy.zeros(3), "expected": 0},
        {"measured": "a", "below": 2},
        {"measured": True, "below": 2},
        {"measured": object(), "expected": 1},
    ],
)
def test_cannot_be_compared(condition: dict) -> None:
    with pytest.raises(TypeError):
        claim("x", **condition)


def test_said_twice_is_an_error() -> None:
    claim("once", holds=True)
    with pytest.raises(ValueError, match="claimed twice"):
        claim(" once ", holds=True)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-9, 9)


@given(numbers, numbers, st.floats(0, 2), st.floats(0, 10))
def test_closeness_is_that_of_the_standard_library(
    found: float, wanted: float, rel: float, abs_: float
) -> None:
    ours = claims._close(found, wanted, rel, abs_)
    # math.isclose is symmetric, ours relative to what is expected.
    gap = rel * abs(wanted) if rel else 0.0
    finite = math.isfinite(found) and math.isfinite(wanted)
    theirs = math.isclose(
        found, wanted, rel_tol=0.0, abs_tol=max(gap, abs_) if finite else 0.0
    )
    assert ours == theirs


def shown_claims(html: str) -> list[tuple[str, str]]:
    """What a reader sees: the anchor and the text of each claim of a page."""
    page = BeautifulSoup(html, "html.parser")
    return [
        (line["id"], line.select_one(".claim-text").get_text())
        for line in page.select("p.claim")
    ]


def ledger_rows(html: str) -> list[tuple[str, str]]:
    page = BeautifulSoup(html, "html.parser")
    return [
        (row.a["href"].partition("#")[2], row.a.get_text())
        for row in page.select(".ledger-table tbody tr")
    ]


def test_ledger_is_what_the_pages_show_also_from_the_cache(
    tiny_book: TinyBook,
) -> None:
    body = """
    from bookkit import claim
    for n in range(3):
        said = f"{0} {n} < 3 is `true` & shown"
        claim(said, measured=n, below=3, corrects="it isn't")
    claim("{0}, 中文 says a book", cited="known2020")
    """
    for name in ("one", "two"):
        tiny_book.page(name, cell(body.replace("{0}", name)))
    tiny_book.write("book/claims.md", "# Claims\n\n:::{ledger}\n:::\n")
    tiny_book.contents("one", "two", "claims")

    def compare() -> None:
        chapters = tiny_book.ledger()["chapters"]
        assert [chapter["chapter"] for chapter in chapters] == ["book/one", "book/two"]
        in_file = [c["anchor"] for chapter in chapters for c in chapter["claims"]]
        on_pages = shown_claims(tiny_book.html("one"))
        on_pages += shown_claims(tiny_book.html("two"))
        assert len(on_pages) == 8
        assert ledger_rows(tiny_book.html("claims")) == on_pages
        assert in_file == [anchor for anchor, _ in on_pages]
        assert tiny_book.ledger()["counts"] == {
            "claims": 8,
            "measured": 6,
            "recorded": 0,
            "cited": 2,
            "corrections": 6,
        }

    first = tiny_book.build()
    assert first.status == 0, first.output
    compare()
    for made in ("html", ".doctrees"):
        shutil.rmtree(tiny_book.root / "_build" / made)
    again = tiny_book.build()
    assert again.status == 0, again.output
    assert again.executed == []
    compare()
    # One page changed, the other untouched: the ledger still has both.
    tiny_book.page("one", cell(body.replace("{0}", "uno")))
    assert tiny_book.build().executed == ["one"]
    assert [row[1] for row in ledger_rows(tiny_book.html("claims"))][:1] == [
        "uno 0 < 3 is true & shown"
    ]
    assert len(ledger_rows(tiny_book.html("claims"))) == 8
