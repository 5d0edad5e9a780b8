"""The image files in a TFDS dataset folder, byte for byte. Imports TensorFlow."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from rsmatch_jax.data.stores import dataset_folder, tf_read

_BATCH = 512


def read(
    folder: str, split: str, *, with_generators: bool
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yields batches of (image files, generators int32 [B]) in file order.

    Generators are -1 if with_generators is False.

    Raises:
        RequestError: a shard is damaged.
    """
    dataset_folder.check_shards(dataset_folder.inspect(folder), [split])
    builder = tfds.builder_from_directory(folder)
    keys = ["image"] + ["generator"] * with_generators
    decoders = {"image": tfds.decode.SkipDecoding()}
    for batch in tf_read.batches(builder, split, keys, _BATCH, decoders):
        files = batch["image"].tolist()
        generators = batch.get("generator", np.full(len(files), -1))
        yield files, generators.astype(np.int32)
