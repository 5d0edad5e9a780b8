"""Draws embedded images as points: a panel per network, coloured by class."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.features import Embedded

# Ten colours that colour-blind readers tell apart (Petroff, arXiv 2107.02270).
TEN = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
NAMED = 20  # classes with a written name, at most
REAL, SYNTHETIC, UNKNOWN = "o", "^", "D"  # the first two as in the paper's Fig. 2
NO_CLASS = "#c8c8c8"  # an unknown one
_OUTLINE = 0.35  # points, around triangles
CAPTIONS = {
    "probe_balanced_accuracy": "linear probe, real or synthetic: balanced accuracy "
    "{:.3f} (0.5 = chance)",
    "centroid_distance": "real to synthetic centroid of a class: {:.3f} of the "
    "distance between classes",
}


def draw(
    embedded: Mapping[str, Embedded], chosen: Chosen, names: Sequence[str], title: str
) -> bytes:
    """Returns a PNG; legend and the classifier's panel name the classes."""
    from matplotlib.figure import Figure  # lazy: half a second

    width = 6.6 * len(embedded)
    figure = Figure(figsize=(width, 7.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(embedded), squeeze=False)[0]
    colours = _colours(np.unique(chosen.labels))
    for axes, (part, panel) in zip(panels, embedded.items(), strict=True):
        _points(axes, panel.points, chosen, colours)
        # In the detector's features a class may lie anywhere.
        if part == "classifier" and len(colours) <= NAMED:
            _names(axes, panel.points, chosen.labels, names)
        axes.set_title(_caption(part, panel.figures), fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title, fontsize=10, parse_math=False)
    _legend(figure, colours, names, chosen)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _colours(labels: np.ndarray) -> dict[int, tuple]:
    from matplotlib import colormaps, colors  # lazy: half a second

    known, table = labels[labels >= 0], {-1: colors.to_rgba(NO_CLASS)}
    for i, label in enumerate(known):
        # More than ten are more than the eye can separate; names at medians help.
        few = len(known) <= len(TEN)
        table[label] = (
            colors.to_rgba(TEN[i]) if few else colormaps["turbo"](i / len(known))
        )
    return {label: table[label] for label in labels}


def _points(axes, points: np.ndarray, chosen: Chosen, colours: Mapping[int, tuple]):
    each = np.asarray([colours[label] for label in chosen.labels])
    size = float(np.clip(20_000 / len(points), 4, 30))  # square points
    synthetic, known = chosen.synthetic, chosen.origin_known
    groups = (~known, UNKNOWN), (known & ~synthetic, REAL), (synthetic, SYNTHETIC)
    for rows, marker in groups:
        is_synthetic = marker == SYNTHETIC
        axes.scatter(
            *points[rows].T,
            s=size * (1.6 if is_synthetic else 1),
            marker=marker,
            c=each[rows],
            linewidths=_OUTLINE if is_synthetic else 0,
            edgecolors="black" if is_synthetic else "none",
            alpha=0.9,
        )


def _names(axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]):
    from matplotlib import patheffects  # lazy: half a second

    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    centred = {"ha": "center", "va": "center"}
    for label in np.unique(labels[labels >= 0]):
        x, y = np.median(points[labels == label], axis=0)
        text = axes.text(x, y, names[label], parse_math=False, fontsize=9, **centred)
        text.set(path_effects=halo, weight="bold")


def _caption(part: str, figures: Mapping) -> str:
    shown = {k: text for k, text in CAPTIONS.items() if figures[k] is not None}
    return "\n".join([part, *(text.format(figures[k]) for k, text in shown.items())])


def _legend(figure, colours: Mapping[int, tuple], names: Sequence[str], chosen: Chosen):
    from matplotlib.lines import Line2D  # lazy: half a second

    def handle(marker, colour, edge="none"):
        style = {"color": colour, "markeredgecolor": edge}
        return Line2D([], [], linestyle="", marker=marker, **style)

    entries = {"real": handle(REAL, "grey")}
    if chosen.synthetic.any():
        entries["synthetic"] = handle(SYNTHETIC, "grey", "black")
    if not chosen.origin_known.all():
        entries["unknown origin"] = handle(UNKNOWN, "grey")
    handles, titles = list(entries.values()), list(entries)
    if len(colours) <= NAMED:
        handles += [handle("s", colour) for colour in colours.values()]
        titles += [names[k] if k >= 0 else "unknown class" for k in colours]
    legend = figure.legend(
        handles,
        titles,
        loc="outside lower center",
        ncols=min(len(titles), 12),
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
