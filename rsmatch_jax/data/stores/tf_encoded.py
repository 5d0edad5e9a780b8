"""The encoded bytes of a TFDS dataset folder's pictures. Imports TensorFlow."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from rsmatch_jax.data.stores import dataset_folder
from rsmatch_jax.data.stores.tf_import import tf
from rsmatch_jax.errors import RequestError

_BATCH = 512


def read(
    folder: str, split: str, *, with_generators: bool
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Batches of (picture files as they are stored, generators int32 [B]), in file
    order. Without generators their positions are -1.

    Raises: RequestError naming a damaged shard.
    """
    dataset_folder.check_shards(dataset_folder.inspect(folder), [split])
    builder = tfds.builder_from_directory(folder)
    dataset = builder.as_dataset(
        split,
        decoders={"image": tfds.decode.SkipDecoding()},
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    keys = ["image"] + ["generator"] * with_generators
    dataset = dataset.map(lambda example: {key: example[key] for key in keys})
    try:
        for batch in dataset.batch(_BATCH).prefetch(1).as_numpy_iterator():
            files = batch["image"].tolist()
            generators = batch.get("generator", np.full(len(files), -1))
            yield files, generators.astype(np.int32)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
        raise RequestError(
            f"{folder}: a shard of {split} is damaged ({e.message.splitlines()[0]}); "
            "copy or prepare the dataset again (a synthetic pool: import it again)"
        ) from e
