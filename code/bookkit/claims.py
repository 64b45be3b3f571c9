"""Claims: statements of a page that its build measures.

A claim that does not hold raises, so the cell fails, the chapter fails, the build
fails. One that holds shows one quiet line on the page and, through the cell's
output, reaches the ledger. Standard library only: a page's claims also run in a
plain interpreter, where the line is printed instead.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CLAIM_KEY = "bookkit_claim"  # in the metadata of a cell's output
_MISSING: Any = object()
_stated: set[str] = set()


class ClaimFailed(AssertionError):
    """A claim of a page does not hold."""


@dataclass(frozen=True)
class Record:
    """A measurement made earlier: `data` as stored, and where it is from."""

    path: str  # relative to the root of the book
    data: dict[str, Any]
    device: str
    versions: dict[str, str]
    date: str
    command: str

    def __getitem__(self, key: str) -> Any:
        return self.data[key]


@dataclass(frozen=True)
class Claim:
    """One line of the ledger. `measured` and `expected` are text, ready to be read."""

    statement: str
    kind: str  # "measured" | "recorded" | "cited"
    measured: str
    expected: str  # with its relation: "= 65520", "< 1e-06", "holds"
    corrects: str
    source: str
    anchor: str

    def to_html(self) -> str:
        """The quiet line on the page, with an anchor that the ledger links to."""
        evidence = [html.escape(self.evidence()), source_to_html(asdict(self))]
        shown = " · ".join(part for part in evidence if part)
        parts = [
            f'<span class="claim-text">{inline_code(self.statement)}</span>',
            f'<span class="claim-evidence">{shown}</span>',
            f'<a class="claim-link" href="#{self.anchor}" '
            f'aria-label="Link to this claim">#</a>',
        ]
        if self.corrects:
            said = f"The article: {inline_code(self.corrects)}"
            parts.append(f'<span class="claim-corrects">{said}</span>')
        kind = f"claim claim-{self.kind}"
        return f'<p class="{kind}" id="{self.anchor}">{" ".join(parts)}</p>'

    def evidence(self) -> str:
        """What was measured, and what was expected."""
        if self.expected == f"= {self.measured}":
            return f"measured {self.measured}, as expected"
        measured = f"measured {self.measured}" if self.measured else ""
        expected = self.expected.removeprefix("= ")
        if expected and expected != "holds":
            expected = f"expected {expected}"
        return " · ".join(part for part in (measured, expected) if part)

    def to_text(self) -> str:
        """The same line for a terminal."""
        return f"claim: {self.statement} [{self.evidence() or self.kind}]"


def claim(
    statement: str,
    *,
    measured: Any = _MISSING,
    expected: Any = _MISSING,
    rel: float = 0.0,
    abs: float = 0.0,
    below: float | None = None,
    above: float | None = None,
    holds: Any = None,
    corrects: str = "",
    recorded: Record | None = None,
    cited: str = "",
) -> None:
    """State something and prove it.

    Args:
        statement: what is true, as one sentence without a period; `code` in backticks.
        measured: the value that this build found; a number, a string, or a
            tuple, list or dict of those.
        expected: what it must equal, from a source independent of the code that
            measured it; numbers within `rel` or `abs` (default: exactly).
        below, above: strict bounds on `measured`; both together make an interval.
        holds: a plain condition, instead of the four above; `measured` may be
            given beside it, to be shown.
        corrects: what the article says instead.
        recorded: the `Record` that `measured` comes from, if not from this build.
        cited: a key of `references.bib`; alone, for a statement that the build
            cannot measure, or beside `expected`, to say where that is from.

    Raises:
        ClaimFailed: the claim does not hold. NaN never holds.
        TypeError, ValueError: the claim is none: no statement, said twice in this
            chapter, nothing to compare, or a value that cannot be compared.
    """
    statement = " ".join(statement.split())
    ways = (expected is not _MISSING) + bool(below is not None or above is not None)
    ways += holds is not None
    _check_arguments(statement, ways, measured, holds, cited)
    if (rel or abs) and expected is _MISSING:
        raise ValueError("`rel` and `abs` need `expected`")

    found = None if measured is _MISSING else _plain(measured, "measured")
    if holds is not None:
        true, relation = _as_bool(holds), "holds"
    elif expected is not _MISSING:
        wanted = _plain(expected, "expected")
        true = _close(found, wanted, rel, abs)
        relation = f"= {_show(wanted)}" + _tolerance(rel, abs)
    elif ways:
        true, relation = _within(found, below, above)
    else:
        true, relation = True, ""

    made = Claim(
        statement=statement,
        kind="recorded" if recorded else "measured" if ways else "cited",
        measured="" if measured is _MISSING else _show(found),
        expected=relation,
        corrects=" ".join(corrects.split()),
        source=recorded.path if recorded else cited,
        anchor=anchor_of(statement),
    )
    if not true:
        why = made.evidence() if holds is None else "it does not hold"
        raise ClaimFailed(f"{statement}\n  {why}")
    _stated.add(statement)
    _publish(made)


def _check_arguments(
    statement: str, ways: int, measured: Any, holds: Any, cited: str
) -> None:
    """Refuse what is no claim; `ways` counts the conditions that were given."""
    if not statement:
        raise ValueError("statement: empty; a claim must say what it claims")
    if statement in _stated:
        raise ValueError(f"statement: claimed twice in this chapter: {statement!r}")
    if ways > 1:
        raise ValueError("give one of `expected`, `below`/`above`, `holds`")
    if ways == 0 and not (cited and measured is _MISSING):
        raise ValueError(
            "nothing to compare: give `expected`, `below`, `above` or `holds`, "
            "or `cited` alone"
        )
    if ways and holds is None and measured is _MISSING:
        raise ValueError("`expected`, `below` and `above` need `measured`")


def _within(found: Any, below: float | None, above: float | None) -> tuple[bool, str]:
    """Strict bounds, and how they read. NaN is within none: it compares false."""
    number = _as_number(found, "measured")
    true, relations = True, []
    if above is not None:
        true = true and number > _as_number(above, "above")
        relations.append(f"> {_show(above)}")
    if below is not None:
        true = true and number < _as_number(below, "below")
        relations.append(f"< {_show(below)}")
    return true, " and ".join(relations)


def recorded(path: str) -> Record:
    """Read `benchmarks/results/<path>`, a JSON file with its provenance.

    The file holds an object with `device`, `versions`, `date`, `command` and the
    measurements under `data`. The page names it under `bookkit: data:` in its front
    matter, so that a new recording makes a new page.

    Raises:
        FileNotFoundError: there is no such recording.
        ValueError: it does not say where it is from.
    """
    relative = f"benchmarks/results/{path}"
    file = book_root() / relative
    if not file.is_file():
        raise FileNotFoundError(f"path: no recording at {relative}")
    stored = json.loads(file.read_text(encoding="utf-8"))
    needed = ("device", "versions", "date", "command", "data")
    missing = [key for key in needed if not stored.get(key)]
    if missing:
        raise ValueError(f"{relative}: a recording must say its {', '.join(missing)}")
    return Record(path=relative, **{key: stored[key] for key in needed})


def glue(name: str, value: Any) -> None:
    """Store a value under a name, for prose: ``{glue:text}`name:.2f` ``.

    The output has the form that MyST-NB reads; a page needs no import of it.
    """
    value = _plain(value, "value")
    prefix = "application/papermill.record/"
    _display(
        {f"{prefix}text/plain": repr(value)},
        {"scrapbook": {"name": name, "mime_prefix": prefix}},
    )


def book_root() -> Path:
    """The folder with `_config.yml`: named by the build, or above the working folder,
    or the one that this file is in."""
    named = os.environ.get("BOOK_ROOT")
    if named:
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[2]):
        if (folder / "_config.yml").is_file():
            return folder
    raise FileNotFoundError(f"no _config.yml in {here} or above: not inside a book")


def anchor_of(statement: str) -> str:
    """An id for the place of a claim: readable, and different for each statement."""
    words = re.sub(r"[^a-z0-9]+", "-", statement.lower()).strip("-")[:48].strip("-")
    digest = hashlib.sha256(statement.encode()).hexdigest()[:6]
    return f"claim-{words}-{digest}" if words else f"claim-{digest}"


def inline_code(text: str) -> str:
    """Escape for HTML; `backticks` become code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def source_to_html(made: dict[str, str]) -> str:
    """Where a claim's number is from; the build turns the span into a link."""
    if not made["source"]:
        return ""
    how = "recorded" if made["kind"] == "recorded" else "cited"
    source = html.escape(made["source"])
    return f'{how}: <span data-{how}="{source}">{source}</span>'


def _publish(made: Claim) -> None:
    data = {"text/html": made.to_html(), "text/plain": made.to_text()}
    _display(data, {CLAIM_KEY: asdict(made)})


def _display(data: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Emit a cell's output; in a plain interpreter, print it."""
    try:
        from IPython import get_ipython
        from IPython.display import publish_display_data
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        if "text/plain" in data:
            print(data["text/plain"])
        return
    publish_display_data(data, metadata)


def _plain(value: Any, name: str) -> Any:
    """Scalars of numpy and torch as Python's own; refuse what cannot be compared."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, Mapping):
        return {_plain(k, name): _plain(v, name) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(v, name) for v in value)
    if isinstance(value, list):
        return [_plain(v, name) for v in value]
    if isinstance(value, (set, frozenset)):
        return frozenset(_plain(v, name) for v in value)
    raise TypeError(
        f"{name}: got {type(value).__name__}; allowed are numbers, strings and "
        f"tuples, lists, sets and dicts of those (reduce an array to a number first)"
    )


def _as_bool(value: Any) -> bool:
    value = _plain(value, "holds")
    if not isinstance(value, bool):
        raise TypeError(f"holds: got {type(value).__name__}, a bool is needed")
    return value


def _as_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {type(value).__name__}, a number is needed")
    return value


def _close(found: Any, wanted: Any, rel: float, abs_: float) -> bool:
    """Equality that recurses, because `(nan,) == (nan,)` may be true in Python."""
    numbers = (int, float, complex)
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, numbers) and isinstance(wanted, numbers):
        if found == wanted:
            return True
        gap = abs(found - wanted)
        # An infinite gap is within no tolerance, and NaN is below nothing.
        return gap < math.inf and gap <= max(rel * abs(wanted), abs_)
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        same_keys = found.keys() == wanted.keys()
        return same_keys and all(_close(found[k], wanted[k], rel, abs_) for k in wanted)
    if isinstance(wanted, (tuple, list)) and isinstance(found, Sequence):
        return (
            type(found) is type(wanted)
            and len(found) == len(wanted)
            and all(_close(f, w, rel, abs_) for f, w in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def _tolerance(rel: float, abs_: float) -> str:
    parts = [f"{rel:.3g} relative"] * bool(rel) + [f"{abs_:.3g}"] * bool(abs_)
    return f" ± {' or '.join(parts)}" if parts else ""


def _show(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, float):
        return (
            f"{value:.4g}"
            if not value.is_integer() or abs(value) >= 1e15
            else f"{value:.0f}"
        )
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_show, value)) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_show, value)) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{_show(k)}: {_show(v)}" for k, v in value.items())
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(_show, value))) + "}"
    return str(value)
