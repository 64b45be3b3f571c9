"""Figure 1 of the paper, drawn from the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field

BLUE, ORANGE, GREEN, PURPLE = "#3d85c6", "#d9762b", "#2e9e6b", "#b565c2"
BOX_WIDTH, BOX_HEIGHT, STEP = 172, 32, 50
EMBED = [("embedding · √d", PURPLE), ("+ positions", PURPLE)]
NORM, FEED_FORWARD = ("add, then norm", GREEN), ("feed-forward", ORANGE)
ENCODER = [*EMBED, ("self-attention", BLUE), NORM, FEED_FORWARD, NORM]
DECODER = [
    *EMBED,
    ("causal self-attention", BLUE),
    NORM,
    ("attention to memory", BLUE),
    NORM,
    FEED_FORWARD,
    NORM,
    ("embeddingᵀ, softmax", PURPLE),
]


@dataclass
class _Drawing:
    """Boxes and arrows, in the order in which they are drawn."""

    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, text: str, color: str) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" '
            f'fill="{color}" fill-opacity="0.16" stroke="{color}"/>'
            f'<text x="{x + BOX_WIDTH // 2}" y="{y + 22}" text-anchor="middle">'
            f"{text}</text>"
        )

    def arrow(self, points: list[tuple[int, int]]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="currentColor" '
            f'marker-end="url(#transformer-tip)"/>'
        )

    def label(self, x: int, y: int, text: str, anchor: str = "middle") -> None:
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>')

    def column(self, x: int, bottom: int, rows: list[tuple[str, str]]) -> list[int]:
        """Boxes from the bottom up, with an arrow into each; the y of each box."""
        places = [bottom - STEP * number for number in range(len(rows))]
        for y, (text, color) in zip(places, rows, strict=True):
            middle = x + BOX_WIDTH // 2
            self.arrow([(middle, y + STEP - 1), (middle, y + BOX_HEIGHT + 3)])
            self.box(x, y, text, color)
        return places


def draw_transformer() -> str:
    """The encoder–decoder as SVG: what feeds what, read from the bottom up."""
    left, right, bottom = 30, 330, 480
    drawing = _Drawing()
    encoder = drawing.column(left, bottom, ENCODER)
    decoder = drawing.column(right, bottom, DECODER)
    drawing.label(left + BOX_WIDTH // 2, bottom + 66, "source, as it is")
    drawing.label(right + BOX_WIDTH // 2, bottom + 66, "target, shifted right")
    top = decoder[-1]
    middle = right + BOX_WIDTH // 2
    drawing.arrow([(middle, top - 1), (middle, top - 22)])
    drawing.label(middle, top - 30, "next token, everywhere")
    # The memory: the output of the last encoder layer, to every decoder layer.
    exit_y, entry_y = encoder[-1] - 1, decoder[4] + BOX_HEIGHT // 2
    start = left + BOX_WIDTH // 2
    between = (left + BOX_WIDTH + right) // 2
    drawing.arrow(
        [
            (start, exit_y),
            (start, exit_y - 22),
            (between, exit_y - 22),
            (between, entry_y),
            (right - 4, entry_y),
        ]
    )
    drawing.label(start, exit_y - 30, "memory")
    for x, y in ((left, encoder[-1]), (right, decoder[7])):
        height = encoder[2] + BOX_HEIGHT - y + 16
        drawing.parts.append(
            f'<rect x="{x - 10}" y="{y - 8}" width="{BOX_WIDTH + 20}" '
            f'height="{height}" rx="8" fill="none" stroke="currentColor" '
            f'stroke-dasharray="4 4" stroke-opacity="0.6"/>'
        )
    drawing.label(left - 14, encoder[3] - 20, "N ×", "end")
    drawing.label(right + BOX_WIDTH + 16, encoder[3] - 20, "× N", "start")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 28 582 524" '
        'font-family="sans-serif" font-size="14" fill="currentColor">'
        '<defs><marker id="transformer-tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker></defs>'
        + "".join(drawing.parts)
        + "</svg>"
    )
