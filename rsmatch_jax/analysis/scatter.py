"""Embedded images as points: a panel a network, coloured by class, marked by origin."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.features import Embedded

# Ten that colour-blind readers tell apart (Petroff, arXiv 2107.02270).
TEN = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
NAMED = 20  # classes whose names are written, at most
REAL, SYNTHETIC = "o", "^"  # as the paper's Fig. 2 has them
_OUTLINE = 0.35  # points, around triangles


def draw(
    found: Mapping[str, Embedded], chosen: Chosen, names: Sequence[str], title: str
) -> bytes:
    """A PNG. Names of classes stand in the legend, and in the classifier at the median
    of their points."""
    from matplotlib.figure import Figure  # lazy: half a second

    figure = Figure(figsize=(6.6 * len(found), 7.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    shown = np.unique(chosen.labels)
    colours = _colours(shown)
    for axes, (part, embedded) in zip(panels, found.items(), strict=True):
        _points(axes, embedded.points, chosen, colours)
        # In the detector's features classes lie anywhere.
        if part == "classifier" and len(shown) <= NAMED:
            _names(axes, embedded.points, chosen.labels, names)
        axes.set_title(_saying(part, embedded.figures), fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title, fontsize=10, parse_math=False)
    _legend(figure, colours, names, chosen.synthetic.any())
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _colours(labels: np.ndarray) -> dict[int, tuple]:
    from matplotlib import colormaps, colors  # lazy: half a second

    if len(labels) <= len(TEN):
        return {k: colors.to_rgba(TEN[i]) for i, k in enumerate(labels)}
    # More than can be told apart; the names at the medians help.
    return {k: colormaps["turbo"](i / len(labels)) for i, k in enumerate(labels)}


def _points(axes, points: np.ndarray, chosen: Chosen, colours: Mapping[int, tuple]):
    each = np.asarray([colours[label] for label in chosen.labels])
    size = float(np.clip(20_000 / len(points), 4, 30))  # square points
    for origin, marker, outline in ((False, REAL, 0), (True, SYNTHETIC, _OUTLINE)):
        own = chosen.synthetic == origin
        axes.scatter(
            *points[own].T,
            s=size * (1.6 if origin else 1),
            marker=marker,
            c=each[own],
            linewidths=outline,
            edgecolors="black" if origin else "none",
            alpha=0.9,
        )


def _names(axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]):
    from matplotlib import patheffects  # lazy: half a second

    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        text = axes.text(
            x, y, names[label], ha="center", va="center", parse_math=False, fontsize=9
        )
        text.set(path_effects=halo, weight="bold")


def _saying(part: str, figures: Mapping) -> str:
    said = [part]
    if figures["probe_balanced_accuracy"] is not None:
        said.append(
            "linear probe, real or synthetic: balanced accuracy "
            f"{figures['probe_balanced_accuracy']:.3f} (0.5 = cannot tell)"
        )
    if figures["centroid_distance"] is not None:
        said.append(
            "real to synthetic centroid of a class: "
            f"{figures['centroid_distance']:.3f} of the distance between classes"
        )
    return "\n".join(said)


def _legend(figure, colours: Mapping[int, tuple], names: Sequence[str], both: bool):
    from matplotlib.lines import Line2D  # lazy: half a second

    def handle(marker, colour, edge="none"):
        return Line2D(
            [], [], linestyle="", marker=marker, color=colour, markeredgecolor=edge
        )

    handles, labels = [handle(REAL, "grey")], ["real"]
    if both:
        handles.append(handle(SYNTHETIC, "grey", "black"))
        labels.append("synthetic")
    if len(colours) <= NAMED:
        handles += [handle("s", colour) for colour in colours.values()]
        labels += [names[label] for label in colours]
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 12),
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
