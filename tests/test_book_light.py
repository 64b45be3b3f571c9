"""What the build does so that browsers have less to do: formulas, drawings."""

from __future__ import annotations

import re
import shutil

import pytest
from bs4 import BeautifulSoup

from bookkit.figures import _svg_of_figure
from bookkit.pictures import DRAWING, _lighter
from tinybook import TinyBook, cell

CLAIM = """
from bookkit import claim
claim("two and two make four", measured=2 + 2, expected=4)
"""
FORMULAS = r"""
A root $\sqrt{d} < 2$ and, alone,

$$
\begin{aligned} a &= b \\ c &= d \end{aligned}
$$ (numbered)

as {eq}`numbered` says.
"""
NUMBER = re.compile(r"-?\d+\.?\d*")


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_formulas_are_drawn_by_the_build_and_a_wrong_one_fails_it(
    tiny_book: TinyBook,
) -> None:
    tiny_book.page("right", cell(CLAIM) + FORMULAS)
    tiny_book.page("wrong", cell(CLAIM) + r"$\frac{a$ and $\nocommand$")
    tiny_book.contents("right", "wrong")
    for _ in range(2):  # and so does the next build
        built = tiny_book.build()
        assert built.status == 1
        assert r"formula: Missing close brace: \frac{a" in built.report
        assert r"formula: Undefined control sequence \nocommand" in built.report
        assert "right.md" not in built.report
    page = BeautifulSoup(tiny_book.html("right"), "html.parser")
    drawn = page.select(".math mjx-container")
    assert [each.get("display") for each in drawn] == [None, "true"]
    # What a screen reader reads.
    assert [each.math.name for each in drawn] == ["math", "math"]
    assert page.select_one(".math .eqno") and not page.find(
        string=re.compile(r"\\sqrt")
    )
    scripts = " ".join(str(script) for script in page.select("script[src]"))
    assert "mathjax" not in scripts
    theme = tiny_book.root / "_build/html/_static/scripts/pydata-sphinx-theme.js"
    assert "/* tab stops: see site.js */" in theme.read_text(encoding="utf-8")


def test_a_lighter_drawing_is_the_same_drawing() -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([0, 1, 2, 3], [1e-3, 2 / 3, 0.5, 1], marker="o")
    axes.set_title("two  words")
    with plt.rc_context({"svg.fonttype": "none"}):
        svg = _svg_of_figure(figure)
    lighter = DRAWING.sub(_lighter, svg)
    assert len(lighter) < 0.9 * len(svg)
    assert "<style" in svg and "<style" not in lighter
    assert 'stroke-linejoin="round"' in lighter
    before, after = (BeautifulSoup(each, "html.parser") for each in (svg, lighter))
    assert after.get_text("|", strip=True) in before.get_text("|", strip=True)
    for tag in ("path", "use", "text"):
        old, new = before.find_all(tag), after.find_all(tag)
        assert len(old) == len(new) > 0
        for one, other in zip(old, new, strict=True):
            for name in ("d", "x", "y"):
                places, moved = (
                    NUMBER.findall(each.get(name, "")) for each in (one, other)
                )
                assert len(places) == len(moved)
                for place, there in zip(places, moved, strict=True):
                    assert float(place) == pytest.approx(float(there), abs=0.00501)
            assert one.get("transform") == other.get("transform")


def test_a_drawing_of_another_hand_stays_as_it_is() -> None:
    svg = '<svg viewBox="0 0 9 9"> <path d="M 0.12345 1"/> </svg>'
    assert DRAWING.sub(_lighter, svg) == svg
