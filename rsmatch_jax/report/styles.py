"""Colours, dashes and marks of lines, which readers without colour vision tell apart.

The colours are those of Okabe and Ito, "Color Universal Design" (2008), without the
ones whose contrast to a white or a dark page is below 3 (WCAG 2.1, 1.4.11), and a grey.
"""

from typing import NamedTuple

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B8629A", "#7F7F7F")
# {name in plotly: stroke-dasharray of SVG}
DASHES = {"solid": "none", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
# {name in plotly: path of SVG around 0, 0}
MARKS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "square": "M-3.5,-3.5h7v7h-7z",
    "triangle-up": "M0,-4.5L4.5,3.5H-4.5z",
    "diamond": "M0,-5L5,0L0,5L-5,0z",
    "x": "M-4.5,-2.5l2,-2l2.5,2.5l2.5,-2.5l2,2l-2.5,2.5l2.5,2.5l-2,2l-2.5,-2.5"
    "l-2.5,2.5l-2,-2l2.5,-2.5z",
    "triangle-down": "M0,4.5L4.5,-3.5H-4.5z",
    "cross": "M-1.5,-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
}


class Style(NamedTuple):
    """dash, mark: names in DASHES and MARKS; mark None = none."""

    colour: str
    dash: str
    mark: str | None

    @property
    def dasharray(self) -> str:
        return DASHES[self.dash]

    @property
    def path(self) -> str | None:
        return MARKS[self.mark] if self.mark else None


def of(number: int) -> Style:
    """Returns the style of a line; the first 140 differ."""
    return Style(
        COLOURS[number % len(COLOURS)],
        tuple(DASHES)[number // len(COLOURS) % len(DASHES)],
        tuple(MARKS)[number % len(MARKS)],
    )
