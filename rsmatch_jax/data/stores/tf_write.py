"""Writes images to TFDS dataset folders with TFDS's writer. Imports TensorFlow.

`tfds.builder_from_directory` reads the result: a real dataset, or a synthetic pool with
a `pool.json` that says how it was made.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from rsmatch_jax import files
from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RequestError

_CHUNK = 2000  # examples
_EXAMPLES_PER_SHARD = 10_000


@dataclasses.dataclass(frozen=True)
class Example:
    """One image to be written.

    image: PNG or JPEG bytes, kept byte for byte, or uint8 [H, W, 3], stored as PNG.
    id: unique text; readers sort by it in natural order. label, generator: positions
    in the class and generator names; generator is None for a real dataset.
    """

    image: bytes | np.ndarray
    label: int
    id: str
    generator: int | None = None

    def fields(self) -> dict[str, Any]:
        """Returns the features to be stored."""
        is_file = isinstance(self.image, bytes)
        image = self.image if is_file else encode_png(self.image)
        fields = {"id": self.id, "image": image, "label": int(self.label)}
        if self.generator is not None:
            fields["generator"] = int(self.generator)
        return fields


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
    name: str | None = None,
    digest_names: bool = False,
) -> dict[str, int]:
    """Writes a dataset folder completely or not at all; returns images per split.

    The files depend only on the arguments, and on `folder` only if `name` is None.

    Args:
        splits: usually `train` and `test`, for a pool only `train`. Each is read once,
            in order, so generators can stream.
        size: height and width of all images, (None, None) if they differ.
        pool: content of pool.json. It is written after the last example, so the caller
            may fill in counts while it yields examples.
        name: the dataset's name. None: the folder's name, or for NAME/1.0.0 the NAME.
        digest_names: puts a digest of the content into the shards' names, so that two
            versions can lie in one folder.

    Raises:
        RequestError: the folder exists, a name occurs twice, or a split is empty.
        OSError: the disk is full or fails.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    dataset_folder.refuse_existing(folder)
    features = {
        "id": tfds.features.Text(),
        # No encoding_format: each image is decoded by what its bytes say.
        "image": tfds.features.Image(shape=(*size, 3)),
        "label": _class_label("class", class_names),
    }
    if generator_names:
        features["generator"] = _class_label("generator", generator_names)
    with _new_folder(folder) as temporary:
        info = tfds.core.DatasetInfo(
            builder=_identity(_dataset_name(name, folder), temporary),
            description=description or _dataset_name(name, folder),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            license=licence,
        )
        counts = _write_splits(splits, info)
        empty = [split for split, count in counts.items() if not count]
        if empty:
            raise RequestError(f"no images for {folder} in {', '.join(empty)}")
        if digest_names:
            _put_digests_in_names(temporary)
        if pool is not None:
            files.write_json(os.path.join(temporary, dataset_folder.POOL_REPORT), pool)
    return counts


def encode_png(image: np.ndarray) -> bytes:
    """Returns a uint8 [H, W, 3] image as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _new_folder(folder: str) -> Iterator[str]:
    """A temporary folder, which becomes `folder` if the block succeeds."""
    parent, base = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = os.path.join(parent, f".{base}.partial-{os.getpid()}")
    os.mkdir(temporary)
    try:
        yield temporary
        dataset_folder.refuse_existing(folder)
        os.rename(temporary, folder)
    except tf.errors.OpError as e:  # TensorFlow writes the shards
        full = isinstance(e, tf.errors.ResourceExhaustedError)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"cannot be written: {e.message}", folder) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _identity(name: str, data_dir: str) -> tfds.core.DatasetIdentity:
    return tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version("1.0.0"),
        data_dir=data_dir,
        module_name="rsmatch_jax",
    )


def _class_label(kind: str, names: Sequence[str]) -> tfds.features.ClassLabel:
    wrong = {n for n in names if list(names).count(n) > 1 or not n or "\n" in n}
    if wrong:
        raise RequestError(
            f"{kind} names must be single lines that differ, not {sorted(wrong)}"
        )
    return tfds.features.ClassLabel(names=list(names))


def _write_splits(
    splits: Mapping[str, Iterable[Example]], info: tfds.core.DatasetInfo
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
        # In chunks, because the writer rewrites its description at every call.
        while chunk := list(itertools.islice(examples, _CHUNK)):
            writer.add_examples({split: [e.fields() for e in chunk]})
            counts[split] += len(chunk)
    writer.close_all()
    return counts


def _put_digests_in_names(folder: str):
    """Renames NAME-train.tfrecord-00000 to NAME-train-DIGEST.tfrecord-00000."""
    path = os.path.join(folder, dataset_folder.INFO)
    info = files.read_json(path)
    for split in info["splits"]:
        start = f"{info['name']}-{split['name']}."
        shards = sorted(n for n in os.listdir(folder) if n.startswith(start))
        total = hashlib.sha256()
        for shard in shards:
            with open(os.path.join(folder, shard), "rb") as f:
                total.update(hashlib.file_digest(f, "sha256").digest())
        tag = f"-{total.hexdigest()[:12]}."
        for shard in shards:
            name = start.removesuffix(".") + tag + shard.removeprefix(start)
            os.rename(os.path.join(folder, shard), os.path.join(folder, name))
        template = split["filepathTemplate"]
        split["filepathTemplate"] = template.replace("{SPLIT}.", "{SPLIT}" + tag)
    files.write_json(path, info)


def _dataset_name(name: str | None, folder: str) -> str:
    """A TFDS dataset name (letters, digits, underscores) of a name or a folder."""
    if not name:
        parent, base = os.path.split(folder)
        name = os.path.basename(parent) if dataset_folder.is_version(base) else base
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return name if name[:1].isalpha() else f"set_{name}"
