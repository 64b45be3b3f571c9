"""Pictures of hierarchies and of the C3 merge, as SVG text that follows the theme."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import inf
from statistics import fmean

from underhood.inheritance.linearization import (
    Hierarchy,
    MergeStep,
    linearize,
    merge_steps,
)
from underhood.inheritance.lookup import find_attribute

COLORS = ("#2e9e6b", "#d9762b", "#3d85c6")  # one for each rule
REFUSED = "#d1495b"
LABELS = {
    "c3": "C3",
    "depth_first": "depth first",
    "breadth_first": "breadth first",
    "python22": "Python 2.2",
    "python22_documented": "2.2, as documented",
}
FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
LETTER = 9.8  # width of one letter at 16 px, monospaced, rounded up
NODE_HEIGHT, ROW, GAP = 30.0, 86.0, 22.0


@dataclass(frozen=True)
class Picture:
    """An image; `svg` is its text, which a notebook shows as it is."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


def draw_hierarchy(
    name: str, bases: Hierarchy, rules: Sequence[str] = ("c3",)
) -> Picture:
    """Draw `name` and its ancestors, bases above, with the place of each in the order.

    Each rule has a color; under each class stands one number per rule, a filled one
    where the rules disagree.
    """
    orders = [linearize(name, bases, rule) for rule in rules]
    rows = _rows(name, bases, set().union(*orders))
    gap = max(GAP, 26.0 * len(rules) - 36)
    middle = _places(rows, bases, gap)
    left = min(middle[each] - _node_width(each) / 2 for each in middle) - gap
    right = max(middle[each] + _node_width(each) / 2 for each in middle) + gap
    width = max(right - left, 26 + sum(map(_legend_width, rules)), 240)
    left -= (width - (right - left)) / 2
    centers = {
        each: (middle[each] - left, 62 + ROW * (len(rows) - 1 - number))
        for number, row in enumerate(rows)
        for each in row
    }
    height = 42 + ROW * len(rows)
    parts = [_legend(rules)]
    parts += [_edge(centers, child, parent) for child, parent in _edges(bases, centers)]
    for each, (x, y) in centers.items():
        parts.append(_box(x, y, _node_width(each), each))
        places = [order.index(each) if each in order else None for order in orders]
        parts.append(_badges(x, y + 34, places))
    return Picture(_svg(width, height, parts))


def draw_merge(name: str, bases: Hierarchy) -> Picture:
    """Draw the C3 merge for `name`, a row for each step.

    On the left what was taken, on the right what was left to merge: the head that is
    taken is green, a head that is refused is red and struck through. `object` is
    written as `o`, unless a class has that name.
    """
    parents = list(bases[name]) or ["object"]
    root = "object" if "o" in bases else "o"
    sequences = [
        [root if each == "object" else each for each in sequence]
        for sequence in [*(linearize(parent, bases) for parent in parents), parents]
    ]
    titles = [*(f"L[{parent}]" for parent in parents), "bases"]
    steps = list(merge_steps(sequences))
    widths = [
        max(len(title), len(" ".join(sequence))) * LETTER + 26
        for title, sequence in zip(titles, sequences, strict=True)
    ]
    first = 24 + LETTER * max(5, *(len(step.taken or "none") for step in steps))
    parts = [_text(8, 22, "taken", size=13, anchor="start", faded=True)]
    x = first
    for title, column in zip(titles, widths, strict=True):
        parts.append(_text(x, 22, title, size=13, anchor="start", faded=True))
        x += column
    left = [list(sequence) for sequence in sequences]
    for number, step in enumerate(steps):
        y = 52 + 34.0 * number
        parts.append(_rule_line(y - 21, first + sum(widths)))
        parts += _merge_row(step, left, widths, first, y)
        for sequence in left:
            if sequence and sequence[0] == step.taken:
                del sequence[0]
    return Picture(_svg(first + sum(widths), 52 + 34.0 * len(steps) - 12, parts))


def draw_lookup(instance: object, name: str) -> Picture:
    """Draw which of the four steps of `instance.name` answers, and in which class."""
    found = find_attribute(instance, name)
    cls = type(instance)
    classes = [each.__name__ for each in cls.__mro__]
    owner = found.owner.__name__ if found.owner else ""
    places = {
        "data descriptor": ("1. data descriptor in a class", classes),
        "instance": ("2. the instance's own", [f"{cls.__name__.lower()}.__dict__"]),
        "class": ("3. anything else in a class", classes),
        "__getattr__": ("4. __getattr__ in a class", classes),
    }
    answering = found.step if found.step in places else "class"
    parts, width = [], max(360.0, 44 + (len(" ".join(classes)) + 1) * LETTER)
    for row, (step, (label, names)) in enumerate(places.items()):
        y = 8 + 62.0 * row
        answers = step == answering
        later = row > list(places).index(answering)
        parts.append(_frame(8, y, width - 16, 52, COLORS[0] if answers else ""))
        note = "answers" if answers else "not asked" if later else "no"
        parts.append(_text(20, y + 20, label, size=13, anchor="start", faded=True))
        parts.append(_text(width - 20, y + 20, note, size=13, anchor="end"))
        x = 22.0
        for each in names:
            if answers and each == (owner or names[0]):
                parts.append(_mark(x, y + 42, len(each) * LETTER, COLORS[0]))
            parts.append(_text(x, y + 42, each, anchor="start", faded=not answers))
            x += (len(each) + 1) * LETTER
    return Picture(_svg(width, 8 + 62.0 * len(places), parts))


def _merge_row(
    step: MergeStep,
    left: list[list[str]],
    widths: list[float],
    x: float,
    y: float,
) -> list[str]:
    shown = step.taken if step.taken is not None else "none"
    color = COLORS[0] if step.taken is not None else REFUSED
    parts = [_text(8, y, shown, anchor="start", fill=color, bold=True)]
    for sequence, column in zip(left, widths, strict=True):
        cursor = x
        for place, each in enumerate(sequence):
            length = len(each) * LETTER
            if place == 0 and each == step.taken:
                parts.append(_mark(cursor, y, length, COLORS[0]))
            if place == 0 and each in step.rejected:
                parts.append(_mark(cursor, y, length, REFUSED))
                parts.append(_line(cursor - 2, y - 5, cursor + length, y - 5, REFUSED))
            parts.append(_text(cursor, y, each, anchor="start"))
            cursor += length + LETTER
        x += column
    return parts


def _rows(name: str, bases: Hierarchy, shown: Collection[str]) -> list[list[str]]:
    """The classes in rows, `name` alone in the first; each above all its children."""
    row = dict.fromkeys(shown, 0)
    for child, parent in _edges(bases, _topological(name, bases, shown)):
        row[parent] = max(row[parent], row[child] + 1)
    rows: list[list[str]] = [[] for _ in range(max(row.values()) + 1)]
    for each in _topological(name, bases, shown):
        rows[row[each]].append(each)
    return rows


def _topological(name: str, bases: Hierarchy, shown: Collection[str]) -> list[str]:
    """Children before parents, in the order of a walk to the left first."""
    seen: dict[str, None] = {}

    def visit(each: str) -> None:
        for parent in reversed(_parents(each, bases, rooted="object" in shown)):
            if parent not in seen:
                visit(parent)
        seen[each] = None

    visit(name)
    return list(reversed(seen))


def _parents(name: str, bases: Hierarchy, rooted: bool) -> tuple[str, ...]:
    if name == "object":
        return ()
    return tuple(bases[name]) or (("object",) if rooted else ())


def _edges(bases: Hierarchy, shown: Collection[str]) -> Iterator[tuple[str, str]]:
    for child in shown:
        for parent in _parents(child, bases, rooted="object" in shown):
            yield child, parent


def _places(rows: list[list[str]], bases: Hierarchy, gap: float) -> dict[str, float]:
    """Each class over the middle of its children, as far as its neighbors allow."""
    shown = [each for row in rows for each in row]
    children: dict[str, list[str]] = {each: [] for each in shown}
    for child, parent in _edges(bases, shown):
        children[parent].append(child)
    x: dict[str, float] = {rows[0][0]: 0.0}
    for row in rows[1:]:
        wish = {each: fmean(x[child] for child in children[each]) for each in row}
        right = -inf
        for each in sorted(row, key=wish.__getitem__):
            half = _node_width(each) / 2
            x[each] = max(wish[each], right + gap + half)
            right = x[each] + half
        shift = fmean(x[each] - wish[each] for each in row)
        x.update({each: x[each] - shift for each in row})
    return x


def _node_width(name: str) -> float:
    return max(44.0, len(name) * LETTER + 22)


def _edge(centers: dict[str, tuple[float, float]], child: str, parent: str) -> str:
    (x1, y1), (x2, y2) = centers[child], centers[parent]
    # From the top of the child to below the numbers of the parent.
    return _line(x1, y1 - NODE_HEIGHT / 2, x2, y2 + 43, "currentColor", faded=True)


def _box(x: float, y: float, width: float, label: str) -> str:
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - NODE_HEIGHT / 2:.1f}" '
        f'width="{width:.1f}" height="{NODE_HEIGHT:.0f}" rx="6" fill="none" '
        f'stroke="currentColor" stroke-width="1.4"/>{_text(x, y + 5.5, label)}'
    )


def _badges(x: float, y: float, places: Sequence[int | None]) -> str:
    agreed = len(set(places)) == 1
    start = x - 13.0 * (len(places) - 1)
    parts = []
    for number, (place, color) in enumerate(zip(places, COLORS, strict=False)):
        if place is None:
            continue
        fill = f'fill="{color}"' if not agreed else 'fill="none"'
        center = start + 26.0 * number
        parts.append(
            f'<circle cx="{center:.1f}" cy="{y - 5:.1f}" r="11" {fill} '
            f'stroke="{color}" stroke-width="1.6"/>'
        )
        ink = "#ffffff" if not agreed else "currentColor"
        parts.append(_text(center, y - 0.2, str(place + 1), size=14, fill=ink))
    return "".join(parts)


def _legend(rules: Sequence[str]) -> str:
    parts, x = [], 20.0
    for rule, color in zip(rules, COLORS, strict=False):
        parts.append(f'<circle cx="{x:.1f}" cy="20" r="7" fill="{color}"/>')
        parts.append(_text(x + 13, 25, LABELS[rule], size=14, anchor="start"))
        x += _legend_width(rule)
    return "".join(parts)


def _legend_width(rule: str) -> float:
    return len(LABELS[rule]) * 8.5 + 44


def _frame(x: float, y: float, width: float, height: float, color: str) -> str:
    stroke = (
        f'stroke="{color}" stroke-width="2"'
        if color
        else 'stroke="currentColor" stroke-opacity="0.35"'
    )
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="6" fill="none" {stroke}/>'
    )


def _mark(x: float, y: float, length: float, color: str) -> str:
    return (
        f'<rect x="{x - 4:.1f}" y="{y - 17:.1f}" width="{length + 7:.1f}" height="24" '
        f'rx="4" fill="{color}" fill-opacity="0.22" stroke="{color}"/>'
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, color: str, faded: bool = False
) -> str:
    opacity = ' stroke-opacity="0.55"' if faded else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{color}" stroke-width="1.4"{opacity}/>'
    )


def _rule_line(y: float, width: float) -> str:
    return (
        f'<line x1="6" y1="{y:.1f}" x2="{width - 6:.1f}" y2="{y:.1f}" '
        f'stroke="currentColor" stroke-opacity="0.18"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 16,
    anchor: str = "middle",
    fill: str = "currentColor",
    faded: bool = False,
    bold: bool = False,
) -> str:
    extra = (' fill-opacity="0.75"' if faded else "") + (
        ' font-weight="bold"' if bold else ""
    )
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
        f'fill="{fill}"{extra} style="font-family:{FONT}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" style="width:100%;max-width:{width:.0f}px;height:auto">'
        f"{''.join(parts)}</svg>"
    )
