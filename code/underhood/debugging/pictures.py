"""Pictures of sessions, as SVG text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence

from underhood.debugging.transcript import Frame, Stop

COLORS = ("#3d85c6", "#d9762b", "#2e9e6b", "#b565c2", "#d1495b")
ROW, STEP, CHARACTER = 22, 13, 7.9  # pixels: of a line, from stop to stop, in 13 px


def path_of_stops(source: str, runs: Mapping[str, Sequence[Stop]]) -> str:
    """The lines of a program, and beside them where a debugger stopped, in order.

    Args:
        source: the program.
        runs: the stops of each session under its command, from left to right; the
            first is where it starts. A dot is a stop before a line, a ring one at a
            call or a return.
    """
    lines = source.rstrip().splitlines()
    left = 34 + max(map(len, lines)) * CHARACTER + 14
    parts = [
        _text(8, _height(number), f"{number:>2}  {line}")
        for number, line in enumerate(lines, start=1)
    ]
    for index, (name, stops) in enumerate(runs.items()):
        color = COLORS[index % len(COLORS)]
        points = [(left + STEP * at, _height(s.line)) for at, s in enumerate(stops)]
        path = " ".join(f"{x:.0f},{y}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" opacity=".5"/>'
        )
        for (x, y), stop in zip(points, stops, strict=True):
            fill = color if stop.event == "line" else "none"
            parts.append(
                f'<circle cx="{x:.0f}" cy="{y}" r="4.5" fill="{fill}" '
                f'stroke="{color}" stroke-width="2"/>'
            )
        label = f"{name} × {len(stops) - 1}"
        parts.append(_text(left - 5, 14, label, color=color, family="sans-serif"))
        left += max(STEP * len(stops), len(label) * CHARACTER) + 16
    return _svg(left, _height(len(lines)) + ROW // 2, parts)


def stack(frames: Sequence[Frame]) -> str:
    """The frames of a stopped program, the oldest on top, as `w` lists them."""
    parts = []
    longest = max(len(text) for f in frames for text in (f.place, f.code))
    box = 20 + longest * CHARACTER
    for index, frame in enumerate(frames):
        top = 8 + index * 52
        color = COLORS[1] if frame.selected else "currentColor"
        width = 2.5 if frame.selected else 1
        parts.append(
            f'<rect x="34" y="{top}" width="{box:.0f}" height="44" rx="4" fill="none" '
            f'stroke="{color}" stroke-width="{width}"/>'
        )
        parts.append(_text(44, top + 14, frame.place))
        parts.append(_text(44, top + 32, frame.code, opacity=0.75))
        if index == len(frames) - 1:
            parts.append(_text(8, top + 24, "->", color=COLORS[0]))
    side = 34 + box + 12
    last = 8 + (len(frames) - 1) * 52
    parts.append(_text(side, 24, "u: up", family="sans-serif"))
    parts.append(_text(side, last + 24, "d: down", family="sans-serif"))
    arrow = f"M{side + 8:.0f} {last + 8}V36m-4 8l4 -8l4 8"
    parts.append(f'<path d="{arrow}" fill="none" stroke="currentColor"/>')
    return _svg(side + 60, last + 56, parts)


def jump_map(source: str, origin: int, refusals: Mapping[int, str]) -> str:
    """The lines of a program, and for each whether a jump from `origin` gets there.

    Args:
        source: the program.
        origin: the line where it is stopped.
        refusals: pdb's answer for each line that a jump does not get to; shortened.
    """
    lines = source.rstrip().splitlines()
    left = 34 + max(map(len, lines)) * CHARACTER + 20
    parts = []
    for number, line in enumerate(lines, start=1):
        y = _height(number) - 10
        parts.append(_text(8, y, f"{number:>2}  {line}"))
        if number == origin:
            parts.append(_text(left, y, "● stopped here", color=COLORS[0]))
        elif number in refusals:
            reason = textwrap.shorten(refusals[number], 34, placeholder=" …")
            parts.append(_text(left, y, f"✗ {reason}", color=COLORS[4]))
        else:
            parts.append(_text(left, y, "✓", color=COLORS[2]))
    return _svg(left + 36 * CHARACTER, _height(len(lines)), parts)


def _height(line: int) -> int:
    return 14 + line * ROW


def _text(
    x: float,
    y: float,
    text: str,
    *,
    color: str = "currentColor",
    family: str = "monospace",
    opacity: float = 1.0,
) -> str:
    escaped = html.escape(text)
    return (
        f'<text x="{x:.0f}" y="{y}" dominant-baseline="middle" font-size="13" '
        f'style="font-family:{family}" fill="{color}" opacity="{opacity}" '
        f'xml:space="preserve">{escaped}</text>'
    )


def _svg(width: float, height: float, parts: list[str]) -> str:
    """On a phone a wide picture scrolls before its text gets too small to read."""
    size = f"max-width:{width * 1.2:.0f}px;min-width:{width * 0.75:.0f}px"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" style="{size}">{"".join(parts)}</svg>'
    )
