"""Draws embedded images as points: a panel per network, coloured by class."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from rsmatch_jax import contact_sheet
from rsmatch_jax.analysis.choice import Chosen
from rsmatch_jax.analysis.features import Embedded
from rsmatch_jax.contact_sheet import Theme

# Ten colours that colour-blind readers tell apart (Petroff, arXiv 2107.02270).
TEN = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
NAMED = 20  # classes with a written name, at most
ROOM = (0.1, 0.04)  # width and height of a name, in shares of the map
NEIGHBOURS = 0.25  # share of a class whose distances say how dense a place is
MEMBERS = 500  # of a class that are compared with each other, about
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
    embedded: Mapping[str, Embedded],
    chosen: Chosen,
    names: Sequence[str],
    title: str,
    *,
    theme: Theme = contact_sheet.LIGHT,
) -> bytes:
    """Returns a PNG; legend and panels name the classes."""
    import matplotlib  # lazy: half a second
    from matplotlib.figure import Figure

    inks = ("text.color", "axes.edgecolor", "axes.titlecolor", "legend.labelcolor")
    papers = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    themed = dict.fromkeys(inks, theme.ink) | dict.fromkeys(papers, theme.paper)
    with matplotlib.rc_context(themed):
        width = 6.6 * len(embedded)
        figure = Figure(figsize=(width, 7.2), dpi=120, layout="constrained")
        panels = figure.subplots(1, len(embedded), squeeze=False)[0]
        colours = _colours(np.unique(chosen.labels))
        for axes, (part, panel) in zip(panels, embedded.items(), strict=True):
            _points(axes, panel.points, chosen, colours, theme)
            if len(colours) <= NAMED:
                _names(axes, panel.points, chosen.labels, names, theme)
            axes.set_title(_caption(part, panel.figures), fontsize=9, loc="left")
            axes.set_xticks([])
            axes.set_yticks([])
        figure.suptitle(title, fontsize=10, parse_math=False)
        _legend(figure, colours, names, chosen, theme)
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


def _points(
    axes,
    points: np.ndarray,
    chosen: Chosen,
    colours: Mapping[int, tuple],
    theme: Theme,
):
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
            edgecolors=theme.ink if is_synthetic else "none",
            alpha=0.9,
        )


def _names(
    axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str], theme: Theme
):
    from matplotlib import patheffects  # lazy: half a second

    halo = [patheffects.withStroke(linewidth=2.5, foreground=theme.paper)]
    centred = {"ha": "center", "va": "center"}
    for label, (x, y) in anchors(points, labels).items():
        text = axes.text(x, y, names[label], parse_math=False, fontsize=11, **centred)
        text.set(path_effects=halo, weight="bold")


def anchors(points: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """Returns a place for the name of each class: its densest point that is not near
    another name. A class may lie in several places, so a mean could lie beside it."""
    room = ROOM * np.ptp(points, axis=0)
    places: dict[int, np.ndarray] = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        members = points[labels == label]
        members = members[:: 1 + len(members) // MEMBERS]
        distances = np.linalg.norm(members[:, None] - members, axis=-1)
        count = 1 + int(NEIGHBOURS * len(members))
        near = np.sort(distances, axis=1)[:, :count].mean(1)
        ordered = members[np.argsort(near, kind="stable")]
        taken = np.asarray([*places.values()]).reshape(-1, 2)
        overlap = (np.abs(ordered[:, None] - taken) < room).all(-1).any(1)
        places[label] = ordered[np.argmin(overlap)]  # the first that is False
    return places


def _caption(part: str, figures: Mapping) -> str:
    shown = {k: text for k, text in CAPTIONS.items() if figures[k] is not None}
    return "\n".join([part, *(text.format(figures[k]) for k, text in shown.items())])


def _legend(
    figure,
    colours: Mapping[int, tuple],
    names: Sequence[str],
    chosen: Chosen,
    theme: Theme,
):
    from matplotlib.lines import Line2D  # lazy: half a second

    def handle(marker, colour, edge="none"):
        style = {"color": colour, "markeredgecolor": edge}
        return Line2D([], [], linestyle="", marker=marker, **style)

    entries = {"real": handle(REAL, "grey")}
    if chosen.synthetic.any():
        entries["synthetic"] = handle(SYNTHETIC, "grey", theme.ink)
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
