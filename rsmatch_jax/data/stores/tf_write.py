"""Images to TFDS dataset folders, by TFDS's own writer. Imports TensorFlow.

`tfds.builder_from_directory` reads what is written here: real datasets of one's own,
and synthetic pools, whose `pool.json` says how they were made.
"""

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RequestError

POOL_REPORT = "pool.json"
_CHUNK = 2000
_EXAMPLES_PER_SHARD = 10_000


@dataclasses.dataclass(frozen=True)
class Example:
    """One image to be written.

    image: PNG or JPEG bytes, kept byte for byte, or uint8 [H, W, 3], stored as PNG.
    id: unique text; readers sort by it in natural order. label, generator: positions
    in the class and generator names; generator None for a real dataset.
    """

    image: bytes | np.ndarray
    label: int
    id: str
    generator: int | None = None


def write(
    folder: str,
    splits: Mapping[str, Iterable[Example]],
    *,
    class_names: Sequence[str],
    size: tuple[int | None, int | None],
    generator_names: Sequence[str] = (),
    pool: Mapping[str, Any] | None = None,
    description: str = "",
    licence: str = "",
    version: str = "1.0.0",
    name: str | None = None,
    digest_names: bool = False,
) -> dict[str, int]:
    """Writes a dataset folder wholly or not at all; returns images per split.

    splits: usually `train` and `test`, for a pool `train` alone; read once, in order,
    so that generators can stream. size: height and width of every image, (None, None)
    where they differ.
    pool: content of pool.json; it is written after the last example, so that a caller
    may fill in counts while it yields. name: the dataset's, by default the folder's,
    or where that is a version (NAME/1.0.0) the one's above.
    digest_names: shards carry a digest of their content in their names, so that two
    versions can lie in one folder. The files depend on the arguments alone, but for
    `folder` where a name is given. Raises: RequestError where `folder` is taken, a name
    is doubled, or a split stays empty; OSError on a full disk.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    refuse_existing(folder)
    for kind, names in (("class", class_names), ("generator", generator_names)):
        doubled = {n for n in names if list(names).count(n) > 1}
        if doubled or any(not n or "\n" in n for n in names):
            raise RequestError(
                f"{kind} names must be single lines, each once: {sorted(doubled)}"
            )
    parent, base = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = os.path.join(parent, f".{base}.partial-{os.getpid()}")
    os.mkdir(temporary)
    try:
        counts = _write_splits(
            temporary,
            splits,
            _info(
                temporary,
                _dataset_name(name or _plain_name(folder)),
                version,
                _features(class_names, generator_names, size),
                description,
                licence,
            ),
        )
        empty = [split for split, count in counts.items() if not count]
        if empty:
            raise RequestError(f"no images for {folder} in {', '.join(empty)}")
        if digest_names:
            _put_digests_in_names(temporary)
        if pool is not None:
            with open(os.path.join(temporary, POOL_REPORT), "w") as f:
                json.dump(pool, f, indent=1, ensure_ascii=False)
                f.write("\n")
        refuse_existing(folder)
        os.rename(temporary, folder)
    except tf.errors.OpError as e:
        # A full disk, most likely: TensorFlow writes the shards.
        full = isinstance(e, tf.errors.ResourceExhaustedError)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"cannot be written: {e.message}", folder) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def refuse_existing(folder: str):
    """Raises RequestError where something already has this name."""
    if os.path.lexists(folder):
        raise RequestError(
            f"--out={folder} exists already; choose another folder, or delete it first"
        )


def _features(
    class_names: Sequence[str],
    generator_names: Sequence[str],
    size: tuple[int | None, int | None],
) -> tfds.features.FeaturesDict:
    features = {
        "id": tfds.features.Text(),
        # No encoding_format: decoding goes by each image's own bytes.
        "image": tfds.features.Image(shape=(*size, 3)),
        "label": tfds.features.ClassLabel(names=list(class_names)),
    }
    if generator_names:
        features["generator"] = tfds.features.ClassLabel(names=list(generator_names))
    return tfds.features.FeaturesDict(features)


def _info(
    folder: str,
    name: str,
    version: str,
    features: tfds.features.FeaturesDict,
    description: str,
    licence: str,
) -> tfds.core.DatasetInfo:
    identity = tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version(version),
        data_dir=folder,
        module_name="rsmatch_jax",
    )
    return tfds.core.DatasetInfo(
        builder=identity,
        description=description or name,
        features=features,
        supervised_keys=("image", "label"),
        license=licence,
    )


def _write_splits(
    folder: str,
    splits: Mapping[str, Iterable[Example]],
    info: tfds.core.DatasetInfo,
) -> dict[str, int]:
    writer = tfds.core.SequentialWriter(info, _EXAMPLES_PER_SHARD)
    writer.initialize_splits(list(splits))
    # TFDS leaves the order of an example's features to a seed of the process.
    serializer = writer._serializer
    serializer.serialize_example = lambda example: serializer.get_tf_example(
        example
    ).SerializeToString(deterministic=True)
    counts = {}
    for split, examples in splits.items():
        counts[split] = 0
        examples = iter(examples)
        # In chunks: the writer rewrites its description at every call.
        while chunk := list(itertools.islice(examples, _CHUNK)):
            writer.add_examples({split: [_fields(e) for e in chunk]})
            counts[split] += len(chunk)
    writer.close_all()
    return counts


def _put_digests_in_names(folder: str):
    """NAME-train.tfrecord-00000 becomes NAME-train-DIGEST.tfrecord-00000."""
    path = os.path.join(folder, dataset_folder.INFO)
    with open(path) as f:
        info = json.load(f)
    for split in info["splits"]:
        start = f"{info['name']}-{split['name']}."
        shards = sorted(n for n in os.listdir(folder) if n.startswith(start))
        total = hashlib.sha256()
        for shard in shards:
            with open(os.path.join(folder, shard), "rb") as f:
                total.update(hashlib.file_digest(f, "sha256").digest())
        tag = f"-{total.hexdigest()[:12]}."
        for shard in shards:
            new = start.removesuffix(".") + tag + shard.removeprefix(start)
            os.rename(os.path.join(folder, shard), os.path.join(folder, new))
        template = split["filepathTemplate"]
        split["filepathTemplate"] = template.replace("{SPLIT}.", "{SPLIT}" + tag)
    with open(path, "w") as f:
        json.dump(info, f, indent=2)
        f.write("\n")


def _fields(example: Example) -> dict[str, Any]:
    image = example.image
    fields = {
        "id": example.id,
        "image": image if isinstance(image, bytes) else encode_png(image),
        "label": int(example.label),
    }
    if example.generator is not None:
        fields["generator"] = int(example.generator)
    return fields


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 [H, W, 3] image."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _plain_name(folder: str) -> str:
    parent, base = os.path.split(folder)
    return os.path.basename(parent) if dataset_folder.is_version(base) else base


def _dataset_name(base: str) -> str:
    """A TFDS dataset name (letters, digits, underscores) from a folder's name."""
    name = re.sub(r"[^a-z0-9]+", "_", base.lower()).strip("_")
    return name if name[:1].isalpha() else f"set_{name}"
