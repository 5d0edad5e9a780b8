"""Formats the figures of look.json as tables, and lists what stands out."""

from collections.abc import Callable, Mapping
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.synthesis.look import conditions

# A figure is listed if pool and real set differ by more than this.
GREY_GAP = 0.10  # of a class's share of near-grey pictures
TWIN_GAP = 0.05  # of the share of pictures with a near twin
FORMAT_GAP = 0.05  # of the share of JPEG files
BLOCK_GAP = 0.05  # of the real set's blockiness
_READINGS = (
    (0.55, "near chance, no shortcut seen"),
    (0.70, "some difference"),
    (0.90, "a clear difference: look for what it is before trusting a run"),
    (1.01, "trivially told: a network may learn this in place of the classes"),
)
_DUPLICATES = {
    "in_their_class": "exact duplicates in a class",
    "pixels_in_several_classes": "pictures in several classes",
    "copies_of_training_pictures": "copies of real training pictures",
    "copies_of_test_pictures": "copies of real test pictures",
}
_NONE = "-"


def text(figures: Mapping[str, Any]) -> str:
    """Returns all tables and what stands out. figures: the content of look.json."""
    height, width = figures["size"]
    lines = stands_out(figures) or ["nothing of the above"]
    parts = [
        f"{figures['pool']}: pictures of {height}x{width} by "
        f"{', '.join(figures['generator_names'])}; --real={figures['real']}",
        "Pictures and colours (levels 0 to 255)\n" + _colours(figures),
        *conditions.lines(figures["conditions"]),
        "JPEG's traces and files\n" + _files(figures),
        "Duplicates\n" + _duplicates(figures),
        "Told from real by a plain classifier\n" + _probe(figures),
        "What stands out\n" + "\n".join(f"- {line}" for line in lines),
    ]
    return "\n\n".join(parts) + "\n"


def stands_out(figures: Mapping[str, Any]) -> list[str]:
    """Returns sentences on figures that differ by more than the limits above."""
    lines = []
    names = figures["class_names"]
    for name, pick in _generators(figures):
        counts = pick(figures["counts"])
        empty = [n for n, k in zip(names, counts, strict=True) if not k]
        if empty:
            classes = ", ".join(empty) if any(counts) else "any class"
            lines.append(f"{name}: no pictures of {classes}")
    for key, what in _DUPLICATES.items():
        if count := figures["duplicates"]["pool"][key]:
            lines.append(f"{count} {what}")
    pool, real = (figures["near_twins"][k] for k in ("pool", "real"))
    if None not in (pool, real) and pool - real > TWIN_GAP:
        lines.append(f"near twins: {_share(pool)} against {_share(real)} real")
    if grey := figures["near_grey"]:
        for name, p, r in zip(names, grey["pool"], grey["real"], strict=True):
            if None not in (p, r) and abs(p - r) > GREY_GAP:
                lines.append(f"near-grey {name}: {_share(p)} against {_share(r)} real")
    for name, pick in _generators(figures):
        if any(pick(figures["counts"])):
            lines += [f"{name}: {line}" for line in _differences(figures, pick)]
    for name in ("pixels", "statistics"):
        verdict = figures["probe"][name]
        if verdict and verdict["balanced_accuracy"] > _READINGS[0][0]:
            value = verdict["balanced_accuracy"]
            lines.append(f"told from real by {name}: {value:.3f}, {_reading(value)}")
    return lines


def _differences(figures: Mapping[str, Any], pick: Callable) -> list[str]:
    """Returns how the files of one generator differ from the real set's."""
    lines = []
    blocks, real_blocks = pick(figures["blockiness"]), figures["blockiness"]["real"]
    both = None not in (blocks, real_blocks)
    if both and abs(blocks - real_blocks) > BLOCK_GAP * real_blocks:
        lines.append(f"blockiness {blocks:.3f} against {real_blocks:.3f} real")
    files, real_files = pick(figures["encoding"]), figures["encoding"]["real"]
    if "unseen" in files or "unseen" in real_files:
        return lines
    jpeg, real_jpeg = (f.get("JPEG", 0.0) for f in map(_formats, (files, real_files)))
    setting, real_setting = _commonest(files), _commonest(real_files)
    if abs(jpeg - real_jpeg) > FORMAT_GAP:
        lines.append(
            f"{_share(jpeg)} stored as JPEG, {_share(real_jpeg)} of the real pictures"
        )
    elif jpeg and setting != real_setting:
        lines.append(f"JPEG mostly of {setting}, real of {real_setting}")
    return lines


def _generators(figures: Mapping[str, Any]):
    """Yields (name, function that picks its entry) for each generator."""
    for g, name in enumerate(figures["generator_names"]):
        yield name, lambda entry, g=g: entry["generators"][g]


def _groups(figures: Mapping[str, Any]):
    """Yields the same for the real set, the pool and each of several generators."""
    yield "real", lambda entry: entry["real"]
    yield "pool", lambda entry: entry["pool"]
    if len(figures["generator_names"]) > 1:
        yield from _generators(figures)


def _colours(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, pick in _groups(figures):
        counts, colour = pick(figures["counts"]), pick(figures["colour"])
        grey = _NONE
        if figures["near_grey"] and sum(counts):
            pairs = zip(pick(figures["near_grey"]), counts, strict=True)
            grey = _share(sum(share * n for share, n in pairs if n) / sum(counts))
        levels = [" ".join(f"{v:.1f}" for v in colour[k]) for k in ("mean", "std")]
        a_class = f"{min(counts)} to {max(counts)}"
        rows.append([name, str(sum(counts)), a_class, grey, *levels])
    head = ["", "pictures", "a class", "near grey", "mean", "std"]
    return terminal.table(head, rows, numbers=True)


def _files(figures: Mapping[str, Any]) -> str:
    rows, reasons = [], []
    for name, pick in _groups(figures):
        blocks, files = pick(figures["blockiness"]), pick(figures["encoding"])
        cells = [_NONE] * 3
        if "unseen" in files:
            reasons.append(f"files of {name} not read: {files['unseen']}")
        else:
            formats = [f"{k} {_share(v)}" for k, v in _formats(files).items()]
            settings = str(files["jpeg_settings"])
            cells = [", ".join(formats), settings, _commonest(files) or _NONE]
        rows.append([name, _NONE if blocks is None else f"{blocks:.3f}", *cells])
    head = ["", "blockiness", "files", "JPEG settings", "commonest"]
    return "\n".join([terminal.table(head, rows, numbers=True), *reasons])


def _duplicates(figures: Mapping[str, Any]) -> str:
    duplicates, imported = figures["duplicates"], figures["imported"]
    rows = [
        ["found when the pool was made", imported["duplicates_found"], None],
        ["dropped when the pool was made", imported["duplicates_dropped"], None],
    ]
    for key, what in _DUPLICATES.items():
        rows.append([what, *(duplicates[k].get(key) for k in ("pool", "real"))])
    twins = [_share(figures["near_twins"][k]) for k in ("pool", "real")]
    rows.append(["near twins, of equally many", *twins])
    cells = [[_NONE if c is None else str(c) for c in row] for row in rows]
    return terminal.table(["", "pool", "real"], cells, numbers=True)


def _probe(figures: Mapping[str, Any]) -> str:
    probe, names = figures["probe"], figures["generator_names"]
    shown = names if len(names) > 1 else ()
    rows, lines = [], []
    for name in ("pixels", "statistics"):
        verdict = probe[name]
        if not verdict:
            lines.append(f"{name}: too few different pictures to tell")
            continue
        value = verdict["balanced_accuracy"]
        by_generator = verdict["by_generator"] if shown else ()
        cells = [_NONE if v is None else f"{v:.3f}" for v in by_generator]
        rows.append([name, f"{value:.3f} ± {verdict['error']:.3f}", *cells])
        lines.append(f"{name}: {_reading(value)}")
    head = ["input", "balanced accuracy", *shown]
    table = [terminal.table(head, rows, numbers=True)] if rows else []
    lines.append(
        f"{probe['pictures']} pictures, half of them real, cross-validated; 0.5 is "
        "guessing. A network may still see what this classifier does not."
    )
    return "\n".join([*table, *lines])


def _reading(value: float) -> str:
    return next(reading for limit, reading in _READINGS if value < limit)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _formats(files: Mapping[str, Any]) -> dict[str, float]:
    """Returns the share of each file format."""
    total = sum(files["formats"].values())
    return {name: count / total for name, count in files["formats"].items()}


def _commonest(files: Mapping[str, Any]) -> str:
    return files["commonest"][0]["setting"] if files["commonest"] else ""
