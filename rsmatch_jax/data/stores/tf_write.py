"""Writes TFDS dataset folders: a real dataset, or a pool with a `pool.json`."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import os
import re
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
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
    """One image to be written."""

    image: bytes | np.ndarray  # a PNG or JPEG file, or uint8 [H, W, 3] to store as PNG
    label: int  # -1 if it is unknown
    id: str  # unique; readers sort by it in natural order
    generator: int | None = None  # None for a real dataset

    def fields(self) -> dict[str, Any]:
        """Returns the features to be stored."""
        image = self.image
        if not isinstance(image, bytes):
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(image, np.uint8)).save(buffer, format="PNG")
            image = buffer.getvalue()
        fields = {**vars(self), "image": image}
        return {key: value for key, value in fields.items() if value is not None}


def write(
    folder: str,
    splits: Mapping[str, Iterable[Example]],
    *,
    class_names: Sequence[str],
    size: tuple[int | None, int | None],
    generator_names: Sequence[str] = (),
    pool: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
    description: str = "",
    licence: str = "",
    name: str | None = None,
    digest_names: bool = False,
):
    """Writes a dataset folder completely or not at all; OSError if the disk fails.

    The files depend only on the arguments, and on `folder` only if `name` is None.

    Args:
        splits: each is read once, in order, so generators can stream.
        size: height and width of all images, (None, None) if they differ.
        pool: content of pool.json, written after the last example has been read.
        origins: content of origins.json, {split: "unknown"}.
        name: the dataset's name. None: the folder's name, or for NAME/1.0.0 the NAME.
        digest_names: puts a digest of the content into the shards' names, so that two
            versions can lie in one folder.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    name = _dataset_name(name, folder)
    if os.path.lexists(folder):
        raise RequestError(
            f"--out={folder} exists already; choose another folder, or delete it first"
        )
    features = {
        "id": tfds.features.Text(),
        # No encoding_format: each image is decoded by what its bytes say.
        "image": tfds.features.Image(shape=(*size, 3)),
        "label": _class_label("class", class_names),
    }
    if generator_names:
        features["generator"] = _class_label("generator", generator_names)
    with _new_folder(folder) as temporary:
        version = tfds.core.Version("1.0.0")
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(name, version, temporary, "rsmatch_jax"),
            description=description or name,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            license=licence,
        )
        _write_splits(folder, splits, info)
        if digest_names:
            _put_digests_in_names(temporary)
        for file, content in (
            (dataset_folder.POOL_REPORT, pool),
            (dataset_folder.ORIGINS, origins),
        ):
            if content is not None:
                files.write_json(os.path.join(temporary, file), content)


@contextlib.contextmanager
def _new_folder(folder: str) -> Generator[str]:
    """Yields a temporary folder, which becomes `folder` if the block succeeds."""
    parent, base = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = os.path.join(parent, f".{base}.partial-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process of this number
    os.mkdir(temporary)
    try:
        yield temporary
        os.rename(temporary, folder)
    except tf.errors.OpError as e:  # TensorFlow writes the shards
        full = isinstance(e, tf.errors.ResourceExhaustedError)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"cannot be written: {e.message}", folder) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _class_label(kind: str, names: Sequence[str]) -> tfds.features.ClassLabel:
    wrong = {n for n in names if list(names).count(n) > 1 or not n or "\n" in n}
    if wrong:
        reason = f"names must be single lines that differ, not {sorted(wrong)}"
        raise RequestError(f"{kind} {reason}")
    return tfds.features.ClassLabel(names=list(names))


def _write_splits(
    folder: str, splits: Mapping[str, Iterable[Example]], info: tfds.core.DatasetInfo
):
    writer = tfds.core.SequentialWriter(info, _EXAMPLES_PER_SHARD)
    writer.initialize_splits(list(splits))
    # TFDS leaves the order of an example's features to a seed of the process.
    serializer = writer._serializer
    serializer.serialize_example = lambda example: serializer.get_tf_example(
        example
    ).SerializeToString(deterministic=True)
    for split, examples in splits.items():
        fields, count = (example.fields() for example in examples), 0
        # In chunks, because the writer rewrites its description at every call.
        while chunk := list(itertools.islice(fields, _CHUNK)):
            writer.add_examples({split: chunk})
            count += len(chunk)
        if not count:
            raise RequestError(f"there are no images for {folder} in {split}")
    writer.close_all()


def _put_digests_in_names(folder: str):
    """Renames shards, such as NAME-train.tfrecord-* to NAME-train-DIGEST.tfrecord-*."""
    path = os.path.join(folder, dataset_folder.INFO)
    info = files.read_json(path) or {}
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
    """Makes a TFDS name (letters, digits, underscores) of a name or a folder's."""
    if not name:
        parent, base = os.path.split(folder)
        name = os.path.basename(parent) if dataset_folder.is_version(base) else base
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return name if name[:1].isalpha() else f"set_{name}"
