"""Writes the pool that training reads from everything that is staged.

The old pool stays readable until the new one is in place: the shards of the two have
different names, the old generators come first in the new pool, and `dataset_info.json`,
which names the shards, is replaced last. A process killed at any moment leaves a
complete pool. Only if a generator was deleted from the staging folder, the old pool is
removed first, because the numbers of its generators change.
"""

import dataclasses
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rsmatch_jax import files
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.generate import staging
from rsmatch_jax.synthesis.generate.staging import Part

_NEW, _WRITTEN = "new", "written"
_BESIDE = (dataset_folder.INFO, "features.json", "pool.json")  # files beside the shards
_SHARD = re.compile(r".+-train-[0-9a-f]{12}\.tfrecord-\d{5}")


@dataclasses.dataclass
class Tally:
    """Counts of one written pool: images and duplicates by generator, per_class by
    (generator, class)."""

    images: Counter = dataclasses.field(default_factory=Counter)
    per_class: Counter = dataclasses.field(default_factory=Counter)
    duplicates: Counter = dataclasses.field(default_factory=Counter)
    two_classes: int = 0


def is_current(out: str) -> bool:
    """Returns whether the pool holds everything that is staged."""
    try:
        with open(os.path.join(staging.folder_of(out), _WRITTEN)) as f:
            written = f.read()
    except FileNotFoundError:
        return False
    complete = all(os.path.isfile(os.path.join(out, name)) for name in _BESIDE)
    return complete and written == staging.state(out)


def write(out: str) -> Tally:
    """Writes the pool from the staged pictures of all generators.

    Order: generators as they were added, then prompts. Of equal pictures in a class
    only the first stays. On any error the old pool stays.

    Raises:
        RequestError: a batch is damaged.
        RunFailed: all pictures were dropped.
        OSError: the disk is full.
    """
    tf_write = checks.tfds_writer()
    parts = staging.parts(out)
    if all(entry.dropped for part in parts for entry in part.entries):
        raise RunFailed(
            "there is no picture to write: the safety checker dropped all of them; use "
            "other prompts"
        )
    folder = staging.folder_of(out)
    for name in os.listdir(folder):  # a killed process leaves such folders
        if name == _NEW or name.startswith(f".{_NEW}."):
            shutil.rmtree(os.path.join(folder, name))
    tally, report = Tally(), {}
    licence, source = (
        "\n".join(f"{part.name}: {part.header[key]}" for part in parts)
        for key in ("licence", "source")
    )
    shared, names = parts[0].header, tuple(part.name for part in parts)
    tf_write.write(
        os.path.join(folder, _NEW),
        {"train": _examples(tf_write, parts, tally, report)},
        class_names=shared["class_names"],
        size=(shared["size"], shared["size"]),
        generator_names=names,
        pool=report,
        description=f"Pictures drawn for {shared['dataset']}.\n{source}",
        licence=licence,
        name=f"{shared['dataset']}_pool",
        digest_names=True,
    )
    if dataset_folder.is_dataset(out):
        old = dataset_folder.label_names(out, "generator")
        if old != names[: len(old)]:
            os.remove(os.path.join(out, dataset_folder.INFO))
    _install(os.path.join(folder, _NEW), out)
    files.write_text(os.path.join(folder, _WRITTEN), staging.state(out))
    return tally


def _examples(
    tf_write, parts: list[Part], tally: Tally, report: dict[str, Any]
) -> Iterator:
    """Yields the pool's pictures; fills the report after the last one."""
    seen: dict[str, set[int]] = {}
    for position, part in enumerate(parts):
        for entry, png in part.pictures():
            classes = seen.setdefault(entry.pixels, set())
            if entry.label in classes:
                tally.duplicates[part.name] += 1
                continue
            tally.two_classes += bool(classes)
            classes.add(entry.label)
            tally.images[part.name] += 1
            tally.per_class[part.name, entry.label] += 1
            yield tf_write.Example(
                image=png,
                label=entry.label,
                id=f"{part.name}/{entry.prompt:07d}",
                generator=position,
            )
    report.update(_report(parts, tally))


def _report(parts: list[Part], tally: Tally) -> dict[str, Any]:
    """Returns the content of pool.json."""
    shared = ("dataset", "class_names", "size")
    dataset, class_names, size = (parts[0].header[key] for key in shared)
    resized = any(part.header["native_size"] != size for part in parts)
    generators = {}
    for part in parts:
        header = {
            k: v for k, v in part.header.items() if k not in (*shared, "position")
        }
        dropped = Counter(e.dropped for e in part.entries if e.dropped)
        generators[part.name] = {
            **header,
            "images": tally.images[part.name],
            "exact_duplicates_dropped": tally.duplicates[part.name],
            "dropped": dict(sorted(dropped.items())),
            "prompts": {**header["prompts"], "drawn": len(part.entries)},
        }
    duplicates = sum(tally.duplicates.values())
    return {
        "dataset": dataset,
        "class_names": class_names,
        "generators": generators,
        "resize": {"kernel": staging.KERNEL if resized else None, "size": size},
        "exact_duplicates": duplicates,
        "exact_duplicates_dropped": duplicates,
        "same_pixels_in_two_classes": tally.two_classes,
        "licence": {part.name: part.header["licence"] for part in parts},
        "source": {part.name: part.header["source"] for part in parts},
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
