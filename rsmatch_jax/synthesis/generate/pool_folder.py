"""Writes the pool that training reads from everything that is staged.

The old pool stays readable until the new one is in place: the shards of the two have
different names, the old generators come first in the new pool, and `dataset_info.json`,
which names the shards, is replaced last. A process killed at any moment leaves a
complete pool. If a generator was deleted from the staging folder, the old pool is
removed first, because the numbers of its generators change.
"""

import os
import pathlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rsmatch_jax import files
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import batches

_NEW, _WRITTEN = "new", "written"
_BESIDE = (dataset_folder.INFO, "features.json", "pool.json")  # files beside the shards
_SHARD = re.compile(r".+-train-[0-9a-f]{12}\.tfrecord-\d{5}")


def is_current(out: str) -> bool:
    """Returns whether the pool holds everything that is staged."""
    mark = pathlib.Path(batches.folder_of(out), _WRITTEN)
    complete = all(os.path.isfile(os.path.join(out, name)) for name in _BESIDE)
    return complete and mark.is_file() and mark.read_text() == batches.state(out)


def write(out: str) -> tuple[dict[str, Any], Counter[tuple[str, int]]]:
    """Writes the pool from the staged pictures of all generators.

    Order: generators as they were added, then prompts. Of equal pictures in a class
    only the first stays. On any error the old pool stays.

    Returns:
        The content of pool.json, and the number of pictures by (generator, class).
    """
    tf_write = checks.tfds_writer()
    parts = batches.parts(out)
    if not (first := _first_of_equals(parts)):
        raise RunFailed(
            "there is no picture to write: the safety checker dropped all of them; use "
            "other prompts"
        )
    folder = batches.folder_of(out)
    new = os.path.join(folder, _NEW)
    for name in os.listdir(folder):  # a killed process leaves such folders
        if name == _NEW or name.startswith(f".{_NEW}."):
            shutil.rmtree(os.path.join(folder, name))
    per_class = Counter((name, label) for (label, _), (name, _) in first.items())
    in_two_classes = len(first) - len({pixels for _, pixels in first})
    report = _report(parts, per_class, in_two_classes)
    chosen = set(first.values())
    licence, source = (
        "\n".join(f"{name}: {text}" for name, text in report[key].items())
        for key in ("licence", "source")
    )
    names = tuple(part.name for part in parts)
    examples = (
        tf_write.Example(png, entry.label, f"{part.name}/{entry.prompt:07d}", position)
        for position, part in enumerate(parts)
        for entry, png in part.pictures()
        if (part.name, entry.prompt) in chosen
    )
    tf_write.write(
        new,
        {"train": examples},
        class_names=report["class_names"],
        size=(report["resize"]["size"],) * 2,
        generator_names=names,
        pool=report,
        description=f"Pictures drawn for {report['dataset']}.\n{source}",
        licence=licence,
        name=f"{report['dataset']}_pool",
        digest_names=True,
    )
    if dataset_folder.is_dataset(out):
        old = dataset_folder.label_names(out, "generator")
        if old != names[: len(old)]:
            os.remove(os.path.join(out, dataset_folder.INFO))
    _install(new, out)
    files.write_text(os.path.join(folder, _WRITTEN), batches.state(out))
    return report, per_class


def _first_of_equals(
    parts: Sequence[batches.Part],
) -> dict[tuple[int, str], tuple[str, int]]:
    """Returns (generator, prompt) of the first picture by (label, digest of pixels)."""
    first: dict[tuple[int, str], tuple[str, int]] = {}
    for part in parts:
        for entry in part.entries:
            if not entry.dropped:
                first.setdefault((entry.label, entry.pixels), (part.name, entry.prompt))
    return first


def _report(
    parts: Sequence[batches.Part],
    per_class: Counter[tuple[str, int]],
    in_two_classes: int,
) -> dict[str, Any]:
    """Returns the content of pool.json."""
    shared = ("dataset", "class_names", "size")
    dataset, class_names, size = (parts[0].header[key] for key in shared)
    resized = any(part.header["native_size"] != size for part in parts)
    generators: dict[str, dict[str, Any]] = {}
    for part in parts:
        header = dict(part.header)
        for key in (*shared, "position"):
            del header[key]
        dropped = Counter(e.dropped for e in part.entries if e.dropped)
        images = sum(per_class[part.name, label] for label in range(len(class_names)))
        generators[part.name] = {
            **header,
            "images": images,
            "exact_duplicates_dropped": len(part.entries) - dropped.total() - images,
            "dropped": dict(sorted(dropped.items())),
            "prompts": {**header["prompts"], "drawn": len(part.entries)},
        }
    duplicates = sum(g["exact_duplicates_dropped"] for g in generators.values())
    return {
        "dataset": dataset,
        "class_names": class_names,
        "generators": generators,
        "resize": {"kernel": batches.KERNEL if resized else None, "size": size},
        "exact_duplicates": duplicates,
        "exact_duplicates_dropped": duplicates,
        "same_pixels_in_two_classes": in_two_classes,
        "licence": {name: g["licence"] for name, g in generators.items()},
        "source": {name: g["source"] for name, g in generators.items()},
    }


def _install(new: str, out: str):
    """Moves the files of `new` into the pool, then removes the pool's old shards."""
    info = dataset_folder.INFO
    names = sorted(os.listdir(new), key=lambda n: (n == info, not _SHARD.fullmatch(n)))
    for name in names:
        files.sync(os.path.join(new, name))
    for name in names:
        if name == info:  # the files that it names must be there first
            files.sync(out)
        os.replace(os.path.join(new, name), os.path.join(out, name))
    files.sync(out)
    for name in os.listdir(out):
        if _SHARD.fullmatch(name) and name not in names:
            os.remove(os.path.join(out, name))
    os.rmdir(new)
