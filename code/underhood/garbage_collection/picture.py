"""Pictures of a heap, and of one collection step by step, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from underhood.garbage_collection.collector import Snapshot
from underhood.garbage_collection.heap import Heap

WIDTH, HEADING, RADIUS = 300, 44, 21
GREEN, ORANGE, RED = "#2e9e6b", "#d9762b", "#d1495b"

Point = tuple[float, float]


@dataclass
class Panel:
    """A graph with a number in each node.

    `numbers` are shown under the names; `colors` default to the color of the text;
    `dashed` are outlined so, and `gone` are faint.
    """

    title: str
    subtitle: str
    links: dict[str, list[str]]
    variables: dict[str, str]
    numbers: dict[str, str]
    colors: dict[str, str] = field(default_factory=dict)
    dashed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


def draw_heap(heap: Heap, places: Mapping[str, Point], title: str = "") -> str:
    """One picture of the living containers, their counts, links and variables.

    Args:
        places: where each container stands, by its name; the frame is 300 wide.

    Raises:
        ValueError: a living container has no place.
    """
    _check_places(heap, places)
    return _svg([_panel_of(heap, title, "")], places, columns=1)


def draw_collection(heap: Heap, places: Mapping[str, Point]) -> str:
    """Collect all generations of `heap`, and draw it in six panels as it happens.

    Args:
        places: as for `draw_heap`.

    Raises:
        ValueError: a living container has no place; nothing was collected.
    """
    _check_places(heap, places)
    before = _panel_of(heap, "1  Before", "each object and its reference count")
    snapshots: list[Snapshot] = []
    heap.watch = snapshots.append
    heap.collect()
    heap.watch = None
    first = snapshots[: [s.step for s in snapshots].index("done") + 1]
    rescue = next(i for i, s in enumerate(first) if s.step in ("rescue", "done"))
    done = first[-1]
    lost = ", ".join(sorted(done.unreachable))
    back = ", ".join(s.subject for s in first if s.step == "rescue")
    panels = [
        before,
        _step_of(before, first[0], "2  Copy", "gc_refs starts as the count"),
        _step_of(before, first[1], "3  Subtract", "minus references from inside"),
        _step_of(
            before,
            first[rescue - 1],
            "4  Move aside",
            "gc_refs = 0: tentatively unreachable",
        ),
        _step_of(before, done, "5  Rescue", f"reachable after all: {back or 'none'}"),
        _panel_of(heap, "6  Free", f"unreachable, cleared: {lost or 'none'}"),
    ]
    panels[-1].gone = frozenset(before.links) - frozenset(panels[-1].links)
    return _svg(panels, places, columns=2)


def _containers(heap: Heap) -> list[str]:
    return sorted(name for name in heap.alive if heap.generation(name) is not None)


def _check_places(heap: Heap, places: Mapping[str, Point]) -> None:
    missing = [name for name in _containers(heap) if name not in places]
    if missing:
        raise ValueError(
            f"places: got {sorted(places)}; a place is needed for each container: "
            f"{', '.join(missing)} missing"
        )


def _panel_of(heap: Heap, title: str, subtitle: str) -> Panel:
    names = _containers(heap)
    return Panel(
        title,
        subtitle,
        links={
            name: [target for target in heap.links(name) if target in names]
            for name in names
        },
        variables={v: name for v, name in heap.variables.items() if name in names},
        numbers={name: str(heap.refcount(name)) for name in names},
    )


def _step_of(before: Panel, snapshot: Snapshot, title: str, subtitle: str) -> Panel:
    numbers = {
        name: "✓" if refs is None else str(refs)
        for name, refs in snapshot.gc_refs.items()
    }
    colors = {name: GREEN for name, refs in snapshot.gc_refs.items() if refs != 0}
    color = RED if snapshot.step == "done" else ORANGE
    colors.update(dict.fromkeys(snapshot.unreachable, color))
    return Panel(
        title,
        subtitle,
        links=before.links,
        variables=before.variables,
        numbers=numbers,
        colors=colors if snapshot.step != "copy" else {},
        dashed=snapshot.unreachable,
    )


def _svg(panels: list[Panel], places: Mapping[str, Point], columns: int) -> str:
    rows = math.ceil(len(panels) / columns)
    below = max((y for _, y in places.values()), default=0.0) + RADIUS + 14
    heading = HEADING if any(panel.title for panel in panels) else 0
    cell = heading + below
    drawn = "".join(
        f'<g transform="translate({i % columns * WIDTH},{i // columns * cell})">'
        f"{_draw(panel, places, heading)}</g>"
        for i, panel in enumerate(panels)
    )
    width, height = columns * WIDTH, rows * cell
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" '
        f'style="max-width:{width * 1.2:.0f}px;width:100%;height:auto" '
        f'font-family="sans-serif" font-size="16" fill="currentColor">{drawn}</svg>'
    )


def _draw(panel: Panel, places: Mapping[str, Point], heading: float) -> str:
    parts = [
        f'<text x="12" y="18" font-weight="bold" font-size="17">'
        f"{escape(panel.title)}</text>",
        f'<text x="12" y="37" font-size="15">{escape(panel.subtitle)}</text>',
        f'<g transform="translate(0,{heading})">',
    ]
    for source, targets in panel.links.items():
        for index, target in enumerate(targets):
            bend = 12 + 14 * targets[:index].count(target)
            parts.append(_arrow(places[source], places[target], bend))
    for variable, name in panel.variables.items():
        parts.append(_variable(variable, places[name]))
    for name in sorted(panel.gone.union(panel.links)):
        parts.append(_node(panel, name, places[name]))
    return "".join([*parts, "</g>"])


def _node(panel: Panel, name: str, place: Point) -> str:
    x, y = place
    if name in panel.gone:
        return (
            f'<g opacity="0.35"><circle cx="{x}" cy="{y}" r="{RADIUS}" fill="none" '
            f'stroke="currentColor" stroke-dasharray="2 4"/>'
            f'<text x="{x}" y="{y + 5}" text-anchor="middle">{escape(name)}</text></g>'
        )
    color = panel.colors.get(name, "currentColor")
    tint = 0.18 if name in panel.colors else 0.05
    dash = ' stroke-dasharray="5 3"' if name in panel.dashed else ""
    return (
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="{color}" '
        f'fill-opacity="{tint}" stroke="{color}" stroke-width="2"{dash}/>'
        f'<text x="{x}" y="{y - 2}" text-anchor="middle" font-weight="bold">'
        f'{escape(name)}</text><text x="{x}" y="{y + 14}" text-anchor="middle" '
        f'font-size="15">{panel.numbers.get(name, "")}</text>'
    )


def _variable(variable: str, place: Point) -> str:
    x, y = place
    start = (x + RADIUS + 42, y)
    return (
        f'<text x="{start[0] + 6}" y="{y + 5}" font-family="monospace">'
        f"{escape(variable)}</text>{_arrow(start, place, 0, leave=0)}"
    )


def _arrow(start: Point, end: Point, bend: float, leave: float = RADIUS) -> str:
    """A curve from rim to rim, bent to its left, with a head."""
    if start == end:
        return _loop(start)
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    ux, uy = dx / length, dy / length
    middle = ((start[0] + end[0]) / 2 + uy * bend, (start[1] + end[1]) / 2 - ux * bend)
    tail = _towards(start, middle, leave)
    tip = _towards(end, middle, RADIUS + 1)
    return _stroke(f"M{_xy(tail)}Q{_xy(middle)} {_xy(tip)}", middle, tip)


def _loop(place: Point) -> str:
    x, y = place
    tip = (x - 8, y - RADIUS)
    path = f"M{_xy((x + 8, y - RADIUS))}C{_xy((x + 26, y - 52))} "
    return _stroke(path + f"{_xy((x - 26, y - 52))} {_xy(tip)}", (x - 20, y - 46), tip)


def _stroke(path: str, before: Point, tip: Point) -> str:
    angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
    wings = [
        (tip[0] - 9 * math.cos(angle + side), tip[1] - 9 * math.sin(angle + side))
        for side in (0.42, -0.42)
    ]
    head = " ".join(_xy(point) for point in (tip, *wings))
    return (
        f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.4" '
        f'opacity="0.75"/><polygon points="{head}" opacity="0.75"/>'
    )


def _towards(start: Point, end: Point, distance: float) -> Point:
    length = math.hypot(end[0] - start[0], end[1] - start[1])
    share = distance / length
    return (
        start[0] + (end[0] - start[0]) * share,
        start[1] + (end[1] - start[1]) * share,
    )


def _xy(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
