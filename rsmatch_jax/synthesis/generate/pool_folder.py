"""The pool that training reads, written anew from all that is staged.

The old pool stays readable until the new one is in place. The shards of the two have
different names, the generators of the old come first in the new, and
`dataset_info.json`, which names the shards, is replaced last: a process killed at any
moment leaves a whole pool.
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
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.generate import staging
from rsmatch_jax.synthesis.generate.staging import Part, PoolHeader

_NEW, _WRITTEN = "new", "written"
_BESIDE = (dataset_folder.INFO, "features.json", "pool.json")  # the shards
_SHARD = re.compile(r".+-train-[0-9a-f]{12}\.tfrecord-\d{5}")


@dataclasses.dataclass
class Tally:
    """Counts of one writing, per generator; kept also per (generator, class)."""

    kept: Counter = dataclasses.field(default_factory=Counter)
    per_class: Counter = dataclasses.field(default_factory=Counter)
    duplicates: Counter = dataclasses.field(default_factory=Counter)
    two_classes: int = 0


def is_current(out: str) -> bool:
    """Whether the pool holds all that is staged."""
    try:
        with open(os.path.join(staging.folder_of(out), _WRITTEN)) as f:
            written = f.read()
    except FileNotFoundError:
        return False
    whole = all(os.path.isfile(os.path.join(out, name)) for name in _BESIDE)
    return whole and written == staging.state(out)


def write(out: str) -> Tally:
    """Writes the pool from the staged pictures of all generators, in the order in which
    these came and of their prompts; of equal pictures of a class the first stays.

    Raises: RequestError on a damaged picture, RunFailed where there is no picture,
    OSError on a full disk; the old pool stays then.
    """
    tf_write = load_writer()
    pool = staging.read_pool(out)
    parts = [Part(out, name) for name in pool.generators]
    if not any(entry.file for part in parts for entry in part.entries):
        raise RunFailed(
            "no picture is staged: the safety checker dropped all of them; use other "
            "prompts"
        )
    new = os.path.join(staging.folder_of(out), _NEW)
    _clear(out)
    tally, report = Tally(), {}
    licences = {part.name: part.header["licence"] for part in parts}
    sources = {part.name: part.header["source"] for part in parts}
    licence, source = (
        "\n".join(f"{name}: {text}" for name, text in texts.items())
        for texts in (licences, sources)
    )
    tf_write.write(
        new,
        {"train": _examples(tf_write, pool, parts, tally, report)},
        class_names=pool.class_names,
        size=(pool.size, pool.size),
        generator_names=pool.generators,
        pool=report,
        description=f"Pictures drawn for {pool.dataset}.\n{source}",
        licence=licence,
        name=f"{pool.dataset}_pool",
        digest_names=True,
    )
    _install(new, out)
    mark = staging.state(out).encode()
    files.write_bytes(os.path.join(staging.folder_of(out), _WRITTEN), mark)
    return tally


def load_writer():
    """The module that needs TensorFlow. Raises RequestError where that is missing."""
    try:
        from rsmatch_jax.data.stores import (
            tf_write,  # lazy: drawing needs no TensorFlow
        )
    except ImportError as e:
        raise RequestError(
            f"writing a pool needs TensorFlow and tensorflow-datasets ({e}): "
            "pip install -r requirements.txt"
        ) from e
    return tf_write


def _examples(
    tf_write, pool: PoolHeader, parts: list[Part], tally: Tally, report: dict[str, Any]
) -> Iterator:
    """The pool's pictures; the last one completes the report."""
    seen: dict[str, set[int]] = {}
    for position, part in enumerate(parts):
        for entry in part.entries:
            if entry.file is None:
                continue
            classes = seen.setdefault(entry.pixels, set())
            if entry.label in classes:
                tally.duplicates[part.name] += 1
                continue
            tally.two_classes += bool(classes)
            classes.add(entry.label)
            tally.kept[part.name] += 1
            tally.per_class[part.name, entry.label] += 1
            yield tf_write.Example(
                image=part.picture(entry),
                label=entry.label,
                id=f"{part.name}/{entry.prompt:07d}",
                generator=position,
            )
    report.update(_report(pool, parts, tally))


def _report(pool: PoolHeader, parts: list[Part], tally: Tally) -> dict[str, Any]:
    """The content of pool.json."""
    resized = any(part.header["native_size"] != pool.size for part in parts)
    generators = {}
    for part in parts:
        header = dict(part.header)
        prompts = header.pop("prompts")
        dropped = Counter(e.dropped for e in part.entries if e.dropped)
        generators[part.name] = {
            "how": header.pop("how"),
            "images": tally.kept[part.name],
            "exact_duplicates_dropped": tally.duplicates[part.name],
            "dropped": dict(sorted(dropped.items())),
            **header,
            "prompts": {**prompts, "drawn": len(part.entries)},
        }
    duplicates = sum(tally.duplicates.values())
    return {
        "dataset": pool.dataset,
        "class_names": pool.class_names,
        "generators": generators,
        "resize": {"kernel": staging.KERNEL if resized else None, "size": pool.size},
        "exact_duplicates": duplicates,
        "exact_duplicates_dropped": duplicates,
        "same_pixels_in_two_classes": tally.two_classes,
        "licence": {part.name: part.header["licence"] for part in parts},
        "source": {part.name: part.header["source"] for part in parts},
    }


def _clear(out: str):
    """Removes what a killed writing has left in the staging folder."""
    folder = staging.folder_of(out)
    for name in os.listdir(folder):
        if name == _NEW or name.startswith(f".{_NEW}."):
            shutil.rmtree(os.path.join(folder, name))


def _install(new: str, out: str):
    """Moves the files of `new` into the pool, then removes the shards it had before."""
    info = dataset_folder.INFO
    names = sorted(os.listdir(new), key=lambda n: (n == info, not _SHARD.fullmatch(n)))
    for name in names:
        files.sync(os.path.join(new, name))
    for name in names:
        if name == info:  # all it names has to be there before
            files.sync(out)
        os.replace(os.path.join(new, name), os.path.join(out, name))
    files.sync(out)
    for name in os.listdir(out):
        if _SHARD.fullmatch(name) and name not in names:
            os.remove(os.path.join(out, name))
    os.rmdir(new)
