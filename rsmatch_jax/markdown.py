"""Markdown tables that can be read as plain text, too."""

from collections.abc import Sequence


def table(
    head: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: bool = False
) -> str:
    """A table with aligned columns; numbers: all but the first are set right."""
    rows = [head, *lines]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def right(i):
        return numbers and i > 0

    aligned = [
        [c.rjust(w) if right(i) else c.ljust(w) for i, (c, w) in cells]
        for cells in (enumerate(zip(row, widths, strict=True)) for row in rows)
    ]
    rule = ["-" * (w - 1) + (":" if right(i) else "-") for i, w in enumerate(widths)]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]]
    )
