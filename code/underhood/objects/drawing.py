"""The drawing of an object graph: names on the left, objects in columns."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from underhood.objects.layout import Layout
from underhood.objects.referents import cut, width

if TYPE_CHECKING:
    from underhood.objects.graph import Node, ObjectGraph, Slot

CHAR = 7.9  # width of a character, in pixels at the font size below
FONT = 13
SMALL = 11  # font size of the reference counts
ROW = 20.0
HEAD = 24.0
PAD = 8.0
CHANNEL = 36.0  # between two columns, where the references run
MARGIN = 8.0
NAME_HEIGHT = 26.0
NAME = 18  # characters of a name that are shown
TYPEFACE = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
MUTABLE, IMMUTABLE, CUT = "#d9762b", "#3d85c6", "#d1495b"


def draw(graph: ObjectGraph) -> str:
    """SVG text: `currentColor` for ink, so that it suits a light or a dark page."""
    layout, boxes, names = _arranged(graph)
    height = layout.place()
    left, total = _columns(graph, layout, boxes)
    parts = [_line(layout, left, k) for k in range(len(layout.links))]
    parts += [_lane(layout, left, k) for k in dict.fromkeys(layout.lanes.values())]
    for k, name in zip(names, graph.names, strict=True):
        top = layout.items[k].top
        parts.append(_name(name.text, not name.target, left[0][1], top))
    for node in graph.nodes:
        item = layout.items[boxes[node.label]]
        parts.append(_box(node, _arrivals(graph, node), left[item.column], item.top))
    if graph.hidden_names:
        text = f"… {graph.hidden_names:,} more names"
        parts.append(_text(left[0][0], height + ROW, text, fill=CUT))
        total = max(total, MARGIN + CHAR * len(text))
        height += ROW + 6
    view = f"0 0 {total + MARGIN:.0f} {height + 2 * MARGIN:.0f}"
    size = f'width="{total + MARGIN:.0f}" height="{height + 2 * MARGIN:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" {size} '
        f'style="max-width:100%;min-width:{0.65 * total:.0f}px;height:auto" '
        f'font-size="{FONT}">'
        f'<g transform="translate(0 {MARGIN:.0f})">{"".join(parts)}</g></svg>'
    )


def _arranged(graph: ObjectGraph) -> tuple[Layout, dict[str, int], list[int]]:
    """Names, boxes and references as a layout, still without positions."""
    layout = Layout()
    column = columns_of(graph)
    names = [layout.add(0, NAME_HEIGHT, NAME_HEIGHT / 2) for _ in graph.names]
    boxes = {
        node.label: layout.add(column[node.label], _height(node), HEAD / 2 + 2)
        for node in graph.nodes
    }
    for k, name in zip(names, graph.names, strict=True):
        if name.target:
            layout.connect(k, NAME_HEIGHT / 2, boxes[name.target])
    for node in graph.nodes:
        for k, slot in enumerate(node.slots):
            if slot.target and not slot.cycle:
                layout.connect(boxes[node.label], _row(node, k), boxes[slot.target])
    return layout, boxes, names


def columns_of(graph: ObjectGraph) -> dict[str, int]:
    """The longest way from a name to each object, closing no cycle."""
    column = {node.label: 1 for node in graph.nodes}
    for _ in graph.nodes:
        changed = False
        for node in graph.nodes:
            for slot in node.slots:
                if slot.target and not slot.cycle:
                    right = column[node.label] + 1
                    if right > column[slot.target]:
                        column[slot.target] = right
                        changed = True
        if not changed:
            break
    return column


def _columns(
    graph: ObjectGraph, layout: Layout, boxes: dict[str, int]
) -> tuple[list[tuple[float, float]], float]:
    """Left and right edge of each column, and the right end of the whole."""
    count = max((item.column for item in layout.items), default=0) + 1
    widths = [0.0] * count
    for name in graph.names:
        widths[0] = max(widths[0], 2 * PAD + CHAR * width(cut(name.text, NAME)))
    for node in graph.nodes:
        k = layout.items[boxes[node.label]].column
        widths[k] = max(widths[k], _width(node))
    edges, x = [], MARGIN
    for wide in widths:
        edges.append((x, x + wide))
        x += wide + CHANNEL
    return edges, x - CHANNEL


def _rows(node: Node) -> list[tuple[str, str]]:
    """(text, color) of each row below the head of a box."""
    rows = [(node.value, "currentColor")] if node.value else []
    rows += [_slot_row(slot) for slot in node.slots]
    if node.hidden:
        rows.append((f"… {node.hidden:,} more", CUT))
    return rows


def _slot_row(slot: Slot) -> tuple[str, str]:
    if slot.cycle:
        return f"{slot.label} ↺ {slot.target}", CUT
    return (slot.label, "currentColor") if slot.target else (f"{slot.label} …", CUT)


def _row(node: Node, k: int) -> float:
    """Middle of the row of slot k, from the top of the box."""
    return HEAD + ROW * (k + bool(node.value)) + ROW / 2


def _height(node: Node) -> float:
    rows = len(_rows(node))
    return HEAD + ROW * rows + 4 * bool(rows)


def _refs(node: Node) -> str:
    return "refs ∞" if node.immortal else f"refs {node.refcount}"


def _width(node: Node) -> float:
    head = len(node.label) + 1 + width(cut(node.type, NAME)) + 1
    wide = CHAR * head + CHAR * SMALL / FONT * len(_refs(node))
    rows = [CHAR * (width(text) + 2) for text, _ in _rows(node)]
    return 2 * PAD + max(wide, *rows, 0.0)


def _arrivals(graph: ObjectGraph, node: Node) -> int:
    return sum(target == node.label for _, _, target in graph.edges)


def _box(node: Node, arrivals: int, edges: tuple[float, float], top: float) -> str:
    left, right = edges
    color = MUTABLE if node.mutable else IMMUTABLE
    stroke = 2.4 if arrivals > 1 else 1.2
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{_height(node):.1f}" rx="7" fill="{color}" fill-opacity="0.1" '
        f'stroke="{color}" stroke-width="{stroke}"/>',
        _text(left + PAD, top + 17, node.label, weight="bold", fill=color),
        _text(
            left + PAD + CHAR * (len(node.label) + 1),
            top + 17,
            cut(node.type, NAME),
            weight="bold",
        ),
        _text(
            right - PAD, top + 17, _refs(node), anchor="end", opacity=0.7, size=SMALL
        ),
    ]
    for k, (text, fill) in enumerate(_rows(node)):
        y = top + HEAD + ROW * k + ROW / 2 + 4.5
        parts.append(_text(left + PAD, y, text, fill=fill))
    return "".join(parts)


def _name(text: str, hidden: bool, right: float, top: float) -> str:
    shown = cut(text, NAME)
    fill = CUT if hidden else "currentColor"
    return _text(right - PAD, top + 17.5, shown, anchor="end", fill=fill, weight="bold")


def _line(layout: Layout, left: list[tuple[float, float]], k: int) -> str:
    """A reference through one channel: level at both ends, so it leaves no channel."""
    link = layout.links[k]
    source, target = layout.items[link.source], layout.items[link.target]
    x0, y0 = left[source.column][1], source.top + link.port
    x1, y1 = left[target.column][0], target.top + target.entry
    bend = (x1 - x0) / 2
    path = (
        f'<path d="M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} '
        f'{y1:.1f} {x1:.1f} {y1:.1f}" fill="none" stroke="currentColor" '
        f'stroke-opacity="0.65" stroke-width="1.3"/>'
    )
    if source.height > 2:
        path += f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="3" fill="currentColor"/>'
    if target.height > 2:
        path += (
            f'<path d="M{x1:.1f} {y1:.1f}l-8 -4.2v8.4z" fill="currentColor" '
            f'fill-opacity="0.85"/>'
        )
    return path


def _lane(layout: Layout, left: list[tuple[float, float]], k: int) -> str:
    item = layout.items[k]
    x0, x1 = left[item.column]
    return (
        f'<path d="M{x0:.1f} {item.top + 1:.1f}H{x1:.1f}" stroke="currentColor" '
        f'stroke-opacity="0.65" stroke-width="1.3"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = "currentColor",
    weight: str = "",
    anchor: str = "",
    opacity: float = 1.0,
    size: int = FONT,
) -> str:
    extra = f' font-weight="{weight}"' if weight else ""
    extra += f' text-anchor="{anchor}"' if anchor else ""
    extra += f' fill-opacity="{opacity}"' if opacity < 1 else ""
    extra += f' font-size="{size}"' if size != FONT else ""
    # On each text, because a page may set a typeface for all text in pictures.
    place = f'x="{x:.1f}" y="{y:.1f}" style="{TYPEFACE}"'
    shown = "".join(c if c.isprintable() else "·" for c in text)  # XML allows few else
    return f'<text {place} fill="{fill}"{extra}>{escape(shown)}</text>'
