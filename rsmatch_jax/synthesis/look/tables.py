"""The figures of a look at a pool as tables for the terminal, and what they say."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import terminal

MAX_ROWS = 100  # of classes; look.json has all
GREY_GAP = 0.10  # of a class's share of near-grey pictures, from here on it is told
TWIN_GAP = 0.05
FORMAT_GAP = 0.05
BLOCK_GAP = 0.05  # of the real set's blockiness
_READINGS = (
    (0.55, "near chance, no shortcut seen"),
    (0.70, "some difference"),
    (0.90, "a clear difference: look for what it is before trusting a run"),
    (1.01, "trivially told: a network may learn this in place of the classes"),
)
_SKIPPED = "-"


def text(figures: Mapping[str, Any]) -> str:
    """All tables and readings. figures: the content of look.json."""
    counts = figures["counts"]
    height, width = figures["size"]
    parts = [
        f"{figures['pool']}: {sum(counts['pool'])} pictures of {height}x{width} by "
        f"{', '.join(figures['generator_names'])}; --real={figures['real']}: "
        f"{sum(counts['real'])} training pictures",
        "Pictures a class\n" + _by_class(figures, counts, str),
        "Duplicates\n" + _duplicates(figures),
    ]
    grey = figures["near_grey"]
    if grey is None:
        parts.append("Near-grey pictures: skipped, all pictures are grey")
    else:
        parts.append("Near-grey pictures a class\n" + _by_class(figures, grey, _share))
    parts.append(
        "Colours (levels 0 to 255), JPEG's traces and files\n" + _sets(figures)
    )
    for name, whose in (("real", "the real set"), ("pool", "the pool")):
        if "unseen" in figures["encoding"][name]:
            why = figures["encoding"][name]["unseen"]
            parts.append(f"Files of {whose} not looked at: {why}")
    parts.append("Told from real by a plain classifier\n" + _probe(figures))
    found = stands_out(figures) or ["nothing of the above"]
    parts.append("What stands out\n" + "\n".join(f"- {line}" for line in found))
    return "\n\n".join(parts) + "\n"


def stands_out(figures: Mapping[str, Any]) -> list[str]:
    """Sentences on figures that differ by more than the limits of this file."""
    lines = []
    duplicates, names = figures["duplicates"], figures["class_names"]
    for generator, of in _generators(figures):
        counts = of(figures["counts"])
        empty = [n for n, k in zip(names, counts, strict=True) if not k]
        if empty:
            what = ", ".join(empty) if any(counts) else "any class"
            lines.append(f"{generator}: no pictures of {what}")
    for count, what in (
        (duplicates["pool"]["in_their_class"], "exact duplicates in the pool"),
        (
            duplicates["pool"]["pixels_in_several_classes"],
            "pictures that are in several classes",
        ),
        (duplicates["copies_of_training_pictures"], "copies of real training pictures"),
        (duplicates["copies_of_test_pictures"], "copies of real test pictures"),
    ):
        if count:
            lines.append(f"{count} {what}")
    twins = figures["near_twins"]
    shares = [twins[f"{kind}_equal_numbers"]["share"] for kind in ("pool", "real")]
    if None not in shares and shares[0] - shares[1] > TWIN_GAP:
        lines.append(
            f"{_share(shares[0])} of the pool have a near twin, {_share(shares[1])} of "
            "the real pictures"
        )
    if figures["near_grey"]:
        grey = figures["near_grey"]
        for name, p, r in zip(names, grey["pool"], grey["real"], strict=True):
            if None not in (p, r) and abs(p - r) > GREY_GAP:
                lines.append(f"near-grey {name}: {_share(p)} against {_share(r)} real")
    lines += _set_differences(figures)
    for name in ("pixels", "statistics"):
        verdict = figures["probe"][name]
        if verdict and verdict["balanced_accuracy"] > _READINGS[0][0]:
            value = verdict["balanced_accuracy"]
            lines.append(f"told from real by {name}: {value:.3f}, {_reading(value)}")
    return lines


def _set_differences(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    real_blocks = figures["blockiness"]["real"]
    real_files = figures["encoding"]["real"]
    for name, of in _generators(figures):
        if not any(of(figures["counts"])):
            continue
        blocks = of(figures["blockiness"])
        known = None not in (blocks, real_blocks)
        if known and abs(blocks - real_blocks) > BLOCK_GAP * real_blocks:
            lines.append(
                f"{name}: blockiness {blocks:.3f} against {real_blocks:.3f} real"
            )
        files = of(figures["encoding"])
        if "unseen" in files or "unseen" in real_files:
            continue
        jpeg, real_jpeg = _jpeg_share(files), _jpeg_share(real_files)
        if abs(jpeg - real_jpeg) > FORMAT_GAP:
            lines.append(
                f"{name}: {_share(jpeg)} stored as JPEG, {_share(real_jpeg)} of the "
                "real pictures"
            )
        elif jpeg and _commonest(files) != _commonest(real_files):
            lines.append(
                f"{name}: JPEG mostly of {_commonest(files)}, real of "
                f"{_commonest(real_files)}"
            )
    return lines


def _generators(figures: Mapping[str, Any]):
    """(name, function that picks its entry) for each generator."""
    for g, name in enumerate(figures["generator_names"]):
        yield name, lambda entry, g=g: entry["generators"][g]


def _groups(figures: Mapping[str, Any]):
    """(name, function that picks its entry): real, pool, several generators."""
    yield "real", lambda entry: entry["real"]
    yield "pool", lambda entry: entry["pool"]
    if len(figures["generator_names"]) > 1:
        yield from _generators(figures)


def _by_class(figures: Mapping[str, Any], entry: Mapping[str, Any], show) -> str:
    groups = list(_groups(figures))
    names = figures["class_names"]
    rows = [
        [name, *(show(of(entry)[i]) for _, of in groups)]
        for i, name in enumerate(names[:MAX_ROWS])
    ]
    table = terminal.table(["class", *(n for n, _ in groups)], rows, numbers=True)
    more = len(names) - MAX_ROWS
    return table + (f"\nand {more} classes more, in look.json" if more > 0 else "")


def _duplicates(figures: Mapping[str, Any]) -> str:
    duplicates, twins = figures["duplicates"], figures["near_twins"]
    imported = figures["imported"]
    whole, pool, real = (
        twins[k] for k in ("pool", "pool_equal_numbers", "real_equal_numbers")
    )
    rows = [
        ["exact, found when it was made", imported["duplicates_found"], None],
        ["exact, dropped then", imported["duplicates_dropped"], None],
        *(
            [what, duplicates["pool"][key], duplicates["real"][key]]
            for what, key in (
                ("exact, left in their class", "in_their_class"),
                ("pixels in several classes", "pixels_in_several_classes"),
            )
        ),
        ["copies of real training pictures", *_copies(duplicates, "training")],
        ["copies of real test pictures", *_copies(duplicates, "test")],
        ["near twins in a class, pairs", whole["pairs"], None],
        ["pictures with a near twin", whole["with_a_twin"], None],
        [
            f"the same, of {pool['pictures']} each",
            pool["with_a_twin"],
            real["with_a_twin"],
        ],
        ["as a share", _share(pool["share"]), _share(real["share"])],
    ]
    cells = [[_SKIPPED if c is None else str(c) for c in row] for row in rows]
    return terminal.table(["", "pool", "real"], cells, numbers=True)


def _copies(duplicates: Mapping[str, Any], which: str) -> list:
    return [duplicates[f"copies_of_{which}_pictures"], None]


def _sets(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, of in _groups(figures):
        colour, blocks = of(figures["colour"]), of(figures["blockiness"])
        files = of(figures["encoding"])
        seen = "unseen" not in files
        rows.append(
            [
                name,
                _levels(colour["mean"]),
                _levels(colour["std"]),
                _SKIPPED if blocks is None else f"{blocks:.3f}",
                _formats(files) if seen else _SKIPPED,
                str(files["jpeg_settings"]) if seen else _SKIPPED,
                (_commonest(files) or _SKIPPED) if seen else _SKIPPED,
            ]
        )
    head = ["", "mean", "std", "blockiness", "files", "JPEG settings", "commonest"]
    return terminal.table(head, rows, numbers=True)


def _probe(figures: Mapping[str, Any]) -> str:
    probe = figures["probe"]
    names = figures["generator_names"]
    shown = names if len(names) > 1 else ()
    rows, lines = [], []
    for name in ("pixels", "statistics"):
        verdict = probe[name]
        if not verdict:
            lines.append(f"{name}: too few different pictures to tell")
            continue
        value = verdict["balanced_accuracy"]
        by_generator = verdict["by_generator"] if shown else ()
        rows.append(
            [
                name,
                f"{value:.3f} ± {verdict['error']:.3f}",
                *(_SKIPPED if v is None else f"{v:.3f}" for v in by_generator),
            ]
        )
        lines.append(f"{name}: {_reading(value)}")
    head = ["seen", "balanced accuracy", *shown]
    table = [terminal.table(head, rows, numbers=True)] if rows else []
    lines.append(
        f"{probe['pictures']} pictures, half of them real, cross-validated; 0.5 is "
        "guessing. A network may still see what it does not."
    )
    return "\n".join([*table, *lines])


def _reading(value: float) -> str:
    return next(reading for limit, reading in _READINGS if value < limit)


def _share(value: float | None) -> str:
    return _SKIPPED if value is None else f"{100 * value:.1f} %"


def _levels(values: Sequence[float]) -> str:
    return " ".join(f"{v:.1f}" for v in values)


def _formats(files: Mapping[str, Any]) -> str:
    total = sum(files["formats"].values())
    return ", ".join(f"{k} {_share(n / total)}" for k, n in files["formats"].items())


def _jpeg_share(files: Mapping[str, Any]) -> float:
    total = sum(files["formats"].values())
    return files["formats"].get("JPEG", 0) / total if total else 0.0


def _commonest(files: Mapping[str, Any]) -> str:
    return files["commonest"][0]["setting"] if files["commonest"] else ""
